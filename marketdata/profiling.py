"""A day of the lake looked at for what is odd: findings to the lake, the store and the ledger."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime

import polars as pl

from marketdata import recording
from marketdata.errors import CorruptFile, NoData
from marketdata.evidence import OUTAGE, Outage, outage_entry, outages_of_day
from marketdata.finding import FINDING_SCHEMA, nothing_odd
from marketdata.lake import Lake
from marketdata.ledger import Entry, Event, State
from marketdata.manifest import Ids, Manifest, day_window
from marketdata.market import Market
from marketdata.profile import Profile, profile
from marketdata.settings import Settings
from marketdata.thresholds import Thresholds

_GONE = "nothing any more"


@dataclass(frozen=True, slots=True)
class DayProfile:
    """What was found on a day of a market.

    Attributes:
        trades: those of the day, TRADE_SCHEMA.
        outages: silences that are the exchange's own; they are among the findings, not suspicious.
        recorded: entries that are new in the ledger.
    """

    market: Market
    day: date
    manifest: Manifest
    trades: pl.DataFrame
    profile: Profile
    outages: tuple[Outage, ...]
    recorded: int


def thresholds_of(settings: Settings, market: Market) -> Thresholds:
    """The thresholds of a market: those of the market file, else the defaults."""
    return next((entry.quality for entry in settings.tracked if entry.market == market), Thresholds())


def profile_day(
    settings: Settings, lake: Lake, market: Market, day: date, *, now: datetime, run_id: str = ""
) -> DayProfile:
    """Apply the rules to a day and keep what they find, in place of what was found before.

    The ledger gets an entry for each rule that finds something else than before: looking again at the same
    trades adds nothing.

    Args:
        now: when the entries are written (UTC). run_id: by which run.

    Raises:
        NoData: the lake does not hold the day.
        CorruptFile: its file is cut or foreign.
        StorageError, TransientError: the lake or the store cannot be written.
    """
    manifest = lake.manifest(market, day)
    if manifest is None:
        msg = f"The lake holds no trades of {market} on {day}."
        raise NoData(msg, hint=f"Run: marketdata backfill {market} --start {day} --end ...")
    window = day_window(day)
    trades = lake.read_trades(market, *window)
    refused = lake.read_rejects(market, *window) if manifest.rejected else None
    found = profile(
        trades,
        window,
        thresholds_of(settings, market),
        sequential=manifest.ids is Ids.SEQUENTIAL,
        around=(manifest.previous_id, manifest.following_id),
        not_served=manifest.not_served,
        rejected=manifest.rejected,
        refused_ids=None if refused is None else refused["trade_id"],
    )
    outages = outages_of_day(lake, market, day, trades=trades)
    if outages:
        found = found.with_findings(_as_findings(outages))
    held = _held(lake, market, day)
    before = nothing_odd() if held is None else held[1]
    entries = list(_entries(found.findings, before, market=market, day=day, now=now, run_id=run_id))
    # The ledger first: a run that is killed between the two finds the same difference again.
    recorded = recording.record(settings, lake, entries) if entries else 0
    facts = {"trades": manifest.content_hash, "findings": str(len(found.findings))}
    if held is None or held[0] != facts or not before.equals(found.findings):
        lake.write_findings(market, day, found.findings, facts=facts)
    if settings.database_url is not None:
        from marketdata.store import findings  # the store is an optional part  # noqa: PLC0415

        findings.replace_day(settings, market, day, found.findings)
    return DayProfile(market, day, manifest, trades, found, outages, recorded)


def _held(lake: Lake, market: Market, day: date) -> tuple[dict[str, str], pl.DataFrame] | None:
    """What was found before, with its facts."""
    try:
        facts = lake.findings_facts(market, day)
        return None if facts is None else (facts, lake.read_findings(market, *day_window(day)))
    except CorruptFile:  # it is written anew
        return None


def _as_findings(outages: tuple[Outage, ...]) -> pl.DataFrame:
    rows = [
        (OUTAGE, each.start, each.end, None, (each.end - each.start).total_seconds(), False, each.evidence)
        for each in outages
    ]
    return pl.DataFrame(rows, schema=FINDING_SCHEMA, orient="row")


def _entries(
    found: pl.DataFrame,
    before: pl.DataFrame,
    *,
    market: Market,
    day: date,
    now: datetime,
    run_id: str,
) -> Iterator[Entry]:
    """An entry for each rule whose findings differ from those before."""
    rules = sorted({*found["rule"].unique(), *before["rule"].unique()})
    for rule in rules:
        mine, theirs = (frame.filter(pl.col("rule") == rule) for frame in (found, before))
        if mine.equals(theirs):
            continue
        if rule == OUTAGE:
            yield from _outages(mine, theirs, market, now, run_id)
            continue
        start, end = day_window(day)
        told = f"{len(mine):,} x {rule}: {mine['detail'][0]}" if len(mine) else f"{rule}: {_GONE}."
        yield Entry(
            now,
            Event.FINDING if len(mine) else Event.OUTCOME,
            State.INFORMATION,
            market,
            "quality",
            rule,
            start,
            end,
            told,
            before={"findings": len(theirs)},
            after={"findings": len(mine), "suspicious": int(mine["suspicious"].sum())},
            run_id=run_id,
        )


def _outages(
    found: pl.DataFrame, before: pl.DataFrame, market: Market, now: datetime, run_id: str
) -> Iterator[Entry]:
    """Outages that are new, and those that hold trades by now."""
    mine, theirs = (
        {
            (start, end): Outage(start, end, told)
            for start, end, told in frame.select("time", "until", "detail").rows()
        }
        for frame in (found, before)
    )
    for stretch in sorted({*mine, *theirs}):
        if stretch not in theirs:
            yield outage_entry(market, mine[stretch], now, run_id=run_id)
        elif stretch not in mine:
            known = outage_entry(market, theirs[stretch], now, run_id=run_id)
            told = "Trades of that time are there now."
            yield replace(known, event=Event.OUTCOME, state=State.REPAIRED, detail=told)
