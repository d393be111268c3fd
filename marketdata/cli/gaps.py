"""``marketdata gaps``: what is wrong now, in the lake, in the store and live, and what was done about it."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import orjson
import polars as pl
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from marketdata import recording, story
from marketdata.cli.context import Context, context
from marketdata.cli.failures import say
from marketdata.cli.table import show, terminal_width
from marketdata.cli.times import Asked, day_range, days_between
from marketdata.completeness import Ranges
from marketdata.errors import MarketDataError, UnknownName
from marketdata.ledger import State, cases, still_open
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.repair.days import Survey, store_from, stored_hashes
from marketdata.repair.judging import Held, Reason, judge, over
from marketdata.repair.plan import SUBJECT
from marketdata.settings import Tracked

NOT_SERVED = "not served"
_DAY = timedelta(days=1)
_RANGES_SHOWN = 4
_ORDER = (*(reason.value for reason in Reason), NOT_SERVED)


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that is wrong with a stretch of time of a market.

    Attributes:
        evidence: one sentence. is_open: a repair would help, or somebody has to look.
        case: what the ledger knows of it, if anything: a row of :func:`marketdata.ledger.cases`.
    """

    market: Market
    start: datetime
    end: datetime
    subject: str
    reason: str
    evidence: str
    is_open: bool = True
    case: story.Row | None = None

    @property
    def ledger(self) -> str:
        """What the ledger says."""
        if self.case is None:
            return "" if not self.is_open else "not seen yet"
        return story.standing(self.case)


def run_gaps(texts: Sequence[str], asked: Asked, *, as_json: bool) -> int:
    """Print what is wrong; 1 when something of it is open."""
    here = context()
    tracked = _tracked(here, texts)
    chosen = day_range(asked, here.now) if asked else None
    found = sorted(
        joined(find(here, tracked, chosen)),
        key=lambda gap: (gap.market, -gap.start.timestamp(), gap.subject, gap.reason),
    )
    if as_json:
        for gap in found:
            sys.stdout.buffer.write(orjson.dumps(_as_json(gap), option=orjson.OPT_UTC_Z) + b"\n")
        sys.stdout.buffer.flush()
    elif found:
        show(table_of(found))
    else:
        print("Nothing is missing.")
    return 1 if any(gap.is_open for gap in found) else 0


def _tracked(here: Context, texts: Sequence[str]) -> list[Tracked]:
    """The markets of the market file, or those that are named.

    Raises:
        UnknownName: a market is neither in the file nor in the lake.
    """
    if not texts:
        return list(here.settings.tracked)
    by_market = {entry.market: entry for entry in here.settings.tracked}
    chosen = []
    for text in texts:
        market = Market.parse(text)
        held = [] if market in by_market else here.lake.days(market).get(market, [])
        if market not in by_market and not held:
            raise UnknownName(str(market), kind="market", known=[str(known) for known in by_market])
        chosen.append(by_market[market] if market in by_market else Tracked(market, held[0]))
    return chosen


def find(here: Context, tracked: Iterable[Tracked], chosen: tuple[date, date] | None) -> Iterator[Gap]:
    """What is wrong with these markets; without days from the first held one of each to yesterday."""
    tracked = list(tracked)
    entries = recording.entries(here.settings, here.lake)
    known = {
        (row["exchange"], row["symbol"], row["reason"], row["start"]): row
        for row in cases(entries.filter(pl.col("subject") == SUBJECT)).iter_rows(named=True)
        if row["state"] != State.REPAIRED  # what is wrong now is another case, which nobody has seen yet
    }
    from_day = store_from(here.settings, here.now)
    try:
        stored = stored_hashes(here.settings)
    except MarketDataError as error:
        say(f"warning: only the lake is looked at: {error}")
        stored, from_day = None, None
    held = Survey(here.lake).held(tracked, here.now, store=stored)
    for entry in tracked:
        days = held.get(entry.market, {})
        for day in _days(entry, days, here.now, chosen):
            gap = _of_day(
                here, entry.market, day, days.get(day), store=from_day is not None and day >= from_day
            )
            if gap is not None:
                case = known.get((entry.market.exchange, entry.market.symbol, gap.reason, gap.start))
                ended = case is not None and case["state"] == State.NOT_SERVED
                yield replace(gap, case=case, is_open=False) if ended else replace(gap, case=case)
    yield from _of_ledger(entries, {entry.market for entry in tracked}, chosen)


def _days(
    entry: Tracked, held: dict[date, Held], now: datetime, chosen: tuple[date, date] | None
) -> list[date]:
    if chosen is not None:
        return [
            day for day in days_between(*chosen) if day >= entry.since and (day in held or over(day, now))
        ]
    inside = [day for day in held if day >= entry.since]
    if not inside:
        say(f"warning: no day of {entry.market} is held; marketdata backfill {entry.market} begins with it.")
        return []
    return [day for day in days_between(min(inside), now.date()) if day in held or over(day, now)]


def _of_day(here: Context, market: Market, day: date, held: Held | None, *, store: bool) -> Gap | None:
    start, end = day_window(day)
    need = judge(market, day, held, store=store)
    if need is not None and not (held is not None and held.fresh and need.reason is Reason.STALE):
        return Gap(market, start, end, SUBJECT, need.reason.value, need.evidence)
    if held is None or not held.not_served:
        return None
    manifest = here.lake.manifest(market, day)
    ids = "" if manifest is None else f": ids {_ranges(manifest.not_served)}"
    count = f"{held.not_served:,} trade{'' if held.not_served == 1 else 's'}"
    told = f"The exchange does not serve {count}{ids}."
    return Gap(market, start, end, SUBJECT, NOT_SERVED, told, is_open=False)


def _of_ledger(
    entries: pl.DataFrame, markets: set[Market], chosen: tuple[date, date] | None
) -> Iterator[Gap]:
    """Open and given-up cases of anything but days of the lake, which were looked at themselves."""
    others = entries.filter(pl.col("subject") != SUBJECT)
    given_up = cases(others).filter(pl.col("state") == State.EXHAUSTED.value)
    for row in pl.concat([still_open(others), given_up]).iter_rows(named=True):
        market = Market(row["exchange"], row["symbol"])
        outside = chosen is not None and not chosen[0] <= row["start"].date() < chosen[1]
        if market in markets and not outside:
            yield Gap(
                market, row["start"], row["end"], row["subject"], row["reason"], row["detail"], case=row
            )


def joined(gaps: Iterable[Gap]) -> Iterator[Gap]:
    """The same, but missing days in a row of which the ledger knows nothing are one."""
    run: Gap | None = None
    for gap in gaps:
        if run is not None and gap.reason == Reason.MISSING and _follows(run, gap):
            run = replace(run, end=gap.end)
            continue
        if run is not None:
            yield run
        run = gap
    if run is not None:
        yield run


def _follows(run: Gap, gap: Gap) -> bool:
    same = (run.market, run.subject, run.reason) == (gap.market, gap.subject, gap.reason)
    return same and run.end == gap.start and run.case is None and gap.case is None


def table_of(gaps: Sequence[Gap]) -> RenderableType:
    """A line a gap: where, what, and how it stands in the ledger; below it the evidence."""
    cells = [
        (
            str(gap.market),
            story.stretch(gap.start, gap.end),
            gap.reason if gap.subject == SUBJECT else f"{gap.subject} {gap.reason}",
        )
        for gap in gaps
    ]
    widths = [max(map(len, column)) + 3 for column in zip(*cells, strict=True)]
    beside = sum(widths) + max(len(gap.ledger) for gap in gaps) < terminal_width()
    lines: list[RenderableType] = []
    for gap, row in zip(gaps, cells, strict=True):
        style = "" if gap.is_open else "dim"
        line = Text("".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)), style)
        told = Text(gap.ledger, "red" if gap.ledger.startswith("given up") else style)
        if beside:
            line.append_text(told)
        lines += [line] if beside or not gap.ledger else [line, Padding(told, (0, 0, 0, 4))]
        lines.append(Padding(Text(_evidence(gap), "dim"), (0, 0, 0, 4)))
    number = sum(gap.is_open for gap in gaps)
    return Group(*lines, Text(f"\n{len(gaps):,} found, {number:,} open"))


def _evidence(gap: Gap) -> str:
    days = (gap.end - gap.start) / _DAY
    return f"{days:.0f} days: {gap.evidence}" if days > 1 else gap.evidence


def _ranges(ids: Ranges) -> str:
    shown = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in ids[:_RANGES_SHOWN])
    more = len(ids) - _RANGES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _as_json(gap: Gap) -> dict[str, object]:
    case = gap.case or {}
    return {
        "exchange": gap.market.exchange,
        "symbol": gap.market.symbol,
        "subject": gap.subject,
        "reason": gap.reason,
        "start": gap.start,
        "end": gap.end,
        "open": gap.is_open,
        "evidence": gap.evidence,
        "case": case.get("case"),
        "state": case.get("state"),
        "attempts": case.get("attempts", 0),
        "found": case.get("found"),
    }
