"""How it is known that a day is complete: each kind of evidence in one sentence, for or against.

A manifest says complete, gaps or unknown. Here is what speaks for it: the ids, what was asked for, the
exchange's own count and volume, the checksum of an archive.
"""

from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from marketdata.errors import NoData
from marketdata.interval import INTERVALS, Interval
from marketdata.lake import Lake
from marketdata.ledger import Entry, Event, State
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata.market import Market
from marketdata.outage import Outage, exchange_outages

__all__ = [
    "Evidence",
    "Fact",
    "Outage",
    "evidence_of",
    "evidence_of_day",
    "exchange_outages",
    "outage_entry",
    "outages_of_day",
]

OUTAGE = "exchange outage"
_MINUTE, _DAY = Interval.parse("1m"), Interval.parse("1d")
_WITHIN_A_DAY = tuple(interval for interval in INTERVALS if _MINUTE <= interval <= _DAY)
# Exchanges give eight decimals; a sum of n candles may be off by n halves of the last one.
_ROUNDING, _RELATIVE = 1e-8, 1e-9
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Fact:
    """One kind of evidence.

    Attributes:
        kind: ``ids``, ``asked``, ``trade count``, ``volume``, ``archive checksum``, ``refused rows``.
        agrees: whether it says that every trade is there; ``None`` when it proves nothing either way.
        sentence: for a person.
    """

    kind: str
    agrees: bool | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that speaks for or against a day of a market.

    Attributes:
        status, reason: the verdict of its manifest.
        missing, not_served: inclusive ranges of ids, as in the manifest.
        outages: long silences that are the exchange's own.
    """

    market: Market
    day: date
    status: Status
    reason: str
    missing: tuple[tuple[int, int], ...]
    not_served: tuple[tuple[int, int], ...]
    facts: tuple[Fact, ...]
    outages: tuple[Outage, ...]

    @property
    def against(self) -> tuple[Fact, ...]:
        """The facts that contradict completeness."""
        return tuple(fact for fact in self.facts if fact.agrees is False)


@dataclass(frozen=True, slots=True)
class _Theirs:
    """The exchange's own candles of a day, and the stretch they are of."""

    candles: pl.DataFrame
    interval: Interval
    start: datetime
    end: datetime


def evidence_of_day(lake: Lake, market: Market, day: date, *, trades: pl.DataFrame | None = None) -> Evidence:
    """Gather the evidence of a day of the lake.

    Args:
        trades: those of the day, TRADE_SCHEMA, where the caller has read them already.

    Raises:
        NoData: the lake does not hold the day.
        CorruptFile: a file is cut or foreign.
    """
    manifest = lake.manifest(market, day)
    if manifest is None:
        msg = f"The lake holds no trades of {market} on {day}."
        raise NoData(msg, hint=f"Run: marketdata backfill {market} --start {day} --end ...")
    held = lake.read_trades(market, *day_window(day)) if trades is None else trades
    return evidence_of(lake, manifest, held)


def evidence_of(lake: Lake, manifest: Manifest, trades: pl.DataFrame) -> Evidence:
    """The same, of a manifest and the trades it speaks of."""
    theirs = _theirs(lake, manifest.market, manifest.day)
    facts = [_by_ids(manifest), _by_time(manifest)]
    facts += [] if theirs is None else _by_candles(trades, theirs)
    facts += _by_archive(manifest)
    if manifest.rejected:
        listed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(manifest.rejected.items()))
        facts.append(Fact("refused rows", None, f"Refused: {listed}; they are kept in the lake."))
    return Evidence(
        manifest.market,
        manifest.day,
        manifest.status,
        manifest.reason,
        manifest.missing_ids,
        manifest.not_served,
        tuple(facts),
        _outages(trades, manifest, theirs),
    )


def outages_of_day(
    lake: Lake, market: Market, day: date, *, trades: pl.DataFrame | None = None
) -> tuple[Outage, ...]:
    """The exchange's outages on a day of the lake; none where the lake does not hold the day.

    Raises:
        CorruptFile: a file is cut or foreign.
    """
    manifest = lake.manifest(market, day)
    if manifest is None:
        return ()
    held = lake.read_trades(market, *day_window(day)) if trades is None else trades
    return _outages(held, manifest, _theirs(lake, market, day))


def outage_entry(market: Market, outage: Outage, at: datetime, *, run_id: str = "") -> Entry:
    """What the ledger says of an outage: nobody has more, so nothing is asked for again."""
    return Entry(
        at,
        Event.FINDING,
        State.NOT_SERVED,
        market,
        "trades",
        OUTAGE,
        outage.start,
        outage.end,
        f"The exchange itself had no trade from {_clock(outage.start)} to {_clock(outage.end)} UTC. "
        f"{outage.evidence}",
        run_id=run_id,
    )


def _outages(trades: pl.DataFrame, manifest: Manifest, theirs: _Theirs | None) -> tuple[Outage, ...]:
    return exchange_outages(
        trades,
        None if theirs is None else theirs.candles,
        day_window(manifest.day),
        interval=_MINUTE if theirs is None else theirs.interval,
        served=None if theirs is None else (theirs.start, theirs.end),
        sequential=manifest.ids is Ids.SEQUENTIAL,
        previous_id=manifest.previous_id,
        following_id=manifest.following_id,
    )


def _by_ids(manifest: Manifest) -> Fact:
    if manifest.ids is Ids.FINGERPRINT:
        return Fact("ids", None, "The source has no ids: they prove nothing.")
    if manifest.ids is Ids.EXCHANGE:
        return Fact("ids", None, "The exchange's ids do not follow one another: they prove nothing.")
    if manifest.missing_ids:
        return Fact(
            "ids", False, f"{manifest.missing_count:,} ids are missing: {_ranges(manifest.missing_ids)}."
        )
    edges = {"before": manifest.previous_id, "after": manifest.following_id}
    known = " and ".join(f"{number} just {side}" for side, number in edges.items() if number is not None)
    around = f", joined to {known}" if known else ""
    but = f"; not served: {_ranges(manifest.not_served)}" if manifest.not_served else ""
    if not manifest.rows:
        return Fact("ids", True if len(known) else None, f"No id lies in the day{around}{but}.")
    return Fact(
        "ids", True, f"Ids {manifest.first_id} to {manifest.last_id} follow one another{around}{but}."
    )


def _by_time(manifest: Manifest) -> Fact:
    start, end = day_window(manifest.day)
    share = sum((until - since).total_seconds() for since, until in manifest.covered)
    if manifest.covered == ((start, end),):
        return Fact("asked", True, f"The source ({manifest.source}) was asked for the whole day.")
    percent = 100 * share / (end - start).total_seconds()
    return Fact("asked", None, f"The source ({manifest.source}) speaks of {percent:.1f} % of the day.")


def _by_candles(trades: pl.DataFrame, theirs: _Theirs) -> list[Fact]:
    ours = trades.filter(pl.col("time").is_between(theirs.start, theirs.end, closed="left"))
    whole = (theirs.start, theirs.end) == day_window(theirs.start.date())
    of = "of the day" if whole else f"from {_clock(theirs.start)} to {_clock(theirs.end)} UTC"
    said = f"The exchange's own candles ({theirs.interval}) {of}"
    facts = []
    counts = theirs.candles["trade_count"]
    if not counts.null_count():
        mine, yours = int(ours["fills"].cast(pl.Int64).sum()), int(counts.sum())
        ends = f"we hold {'the same' if mine == yours else f'{mine:,}'}."
        facts.append(Fact("trade count", mine == yours, f"{said} count {yours:,} trades; {ends}"))
    volume, total = float(ours["amount"].sum()), float(theirs.candles["volume"].sum())
    slack = _ROUNDING * (len(theirs.candles) + 1) + _RELATIVE * max(volume, total)
    same = abs(volume - total) <= slack
    off = "" if not total else f" ({100 * (volume / total - 1):+.4f} %)"
    ends = "our trades sum to the same." if same else f"our trades sum to {volume:.10g}{off}."
    facts.append(Fact("volume", same, f"{said} have volume {total:.10g}; {ends}"))
    return facts


def _by_archive(manifest: Manifest) -> list[Fact]:
    digest = manifest.evidence.get("archive_sha256")
    if digest is None:
        return []
    name = manifest.evidence.get("archive", "the archive")
    return [Fact("archive checksum", True, f"{name} has the sha256 its publisher gives, {digest[:12]}...")]


def _theirs(lake: Lake, market: Market, day: date) -> _Theirs | None:
    """The finest candles that are of the whole day, else the finest there are."""
    start, end = day_window(day)
    part: _Theirs | None = None
    for interval in _WITHIN_A_DAY:
        facts = lake.read_facts("exchange_candles", market, day, interval)
        if facts is None or facts.get("served") == "none":
            continue
        candles = lake.read_candles(market, interval, start, end, kind="exchange_candles")
        if "from" in facts:
            first, last = max(start, datetime.fromisoformat(facts["from"])), end
        elif len(candles):  # of a file, which says nothing beyond its own ends
            first, last = candles["open_time"][0], candles["open_time"][-1] + interval.width
        else:
            continue
        found = _Theirs(candles, interval, first, last)
        if (first, last) == (start, end):
            return found
        part = part or (found if first < last else None)
    return part


def _ranges(ids: tuple[tuple[int, int], ...]) -> str:
    more = f" and {len(ids) - _NAMED} more ranges" if len(ids) > _NAMED else ""
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in ids[:_NAMED]) + more


def _clock(time: datetime) -> str:
    return f"{time:%H:%M:%S}"
