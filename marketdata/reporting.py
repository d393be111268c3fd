"""The daily report gathered from the lake and the ledger, and put in its place."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta

import polars as pl

from marketdata import recording, report
from marketdata.errors import CorruptFile
from marketdata.lake import Lake, files, paths, reconciliation
from marketdata.ledger import still_open
from marketdata.manifest import Manifest, Status, day_window
from marketdata.market import Market
from marketdata.reconcile import DIFFERENCE_SCHEMA, LATE, STREAM
from marketdata.reconciliation_story import EXPLAINED
from marketdata.repair.days import Survey
from marketdata.repair.judging import Held
from marketdata.report import Facts, MarketDay
from marketdata.settings import Settings, Tracked

# Days of the calendar, and of the drift plots.
CALENDAR_DAYS, DRIFT_DAYS = 182, 28
_DAY = timedelta(days=1)


def gather(settings: Settings, lake: Lake, day: date, *, now: datetime) -> Facts:
    """What is known of a UTC day of the tracked markets.

    Raises:
        StorageError: the lake cannot be read.
        CorruptFile: a file of the ledger is cut or foreign.
    """
    tracked = settings.tracked
    held = Survey(lake).held(tracked, now)
    days_held = [each for days in held.values() for each in days if each <= day]
    first = max(min(days_held, default=day), day - (CALENDAR_DAYS - 1) * _DAY)
    first = min(first, day - 7 * _DAY)
    entries = recording.entries(settings, lake, end=now)
    start, end = day_window(day)
    written = entries.filter(pl.col("at") >= start, pl.col("at") < end)["case"].unique()
    return Facts(
        day=day,
        written_at=now,
        markets=tuple(_of_market(lake, entry.market, day, held.get(entry.market, {})) for entry in tracked),
        calendars={
            entry.market: _calendar(entry, held.get(entry.market, {}), first, day) for entry in tracked
        },
        first=first,
        last=day,
        entries=entries.filter(pl.col("case").is_in(written.to_list())),
        open_cases=len(still_open(entries)),
        drift_limit=settings.drift_alert_percent,
    )


def write(settings: Settings, lake: Lake, day: date, *, now: datetime) -> tuple[Facts, str]:
    """Gather the report of a day and put it in place; returns what it is made of and where it lies.

    Raises:
        StorageError: the lake cannot be read or written.
        CorruptFile: a file of the ledger is cut or foreign.
    """
    facts = gather(settings, lake, day, now=now)
    body = report.html(facts).encode()
    key = paths.report_key(day)
    files.put(lake.storage, key, lambda stream: stream.write(body))
    return facts, lake.storage.show(key)


def _state(held: Held) -> tuple[str, str]:
    """One of the report's states, and why."""
    if held.damage:
        return "damaged", held.damage
    if held.status is Status.COMPLETE:
        return ("not-served" if held.not_served else "complete"), held.reason
    if held.outage:
        return "outage", held.reason
    return ("gaps" if held.status is Status.GAPS else "unknown"), held.reason


def _calendar(
    entry: Tracked, held: Mapping[date, Held], first: date, last: date
) -> dict[date, tuple[str, str]]:
    """Each day from the first that is held on."""
    inside = [day for day in held if day >= entry.since]
    if not inside:
        return {}
    begins = max(first, min(inside))
    days = [begins + n * _DAY for n in range((last - begins).days + 1)]
    return {
        day: _state(held[day]) if day in held else ("missing", "The lake has no such day.") for day in days
    }


def _of_market(lake: Lake, market: Market, day: date, held: Mapping[date, Held]) -> MarketDay:
    known = held.get(day)
    if known is None:
        collected = any(each < day for each in held)
        state = ("missing", "The lake has no such day.") if collected else ("none", "It was not collected.")
        return MarketDay(market, *state, drifts=_drifts(lake, market, day))
    manifest = None if known.damage else lake.manifest(market, day)
    result, differences = _compared(lake, market, day)
    drifts = _drifts(lake, market, day)
    return MarketDay(
        market,
        *_state(known),
        rows=known.rows,
        missing=known.missing,
        not_served=known.not_served,
        rejected={} if manifest is None else _rejected(manifest),
        findings=_findings(lake, market, day),
        late=_late(differences) if STREAM in result else None,
        close_drift=drifts[-1][1],
        volume_drift=_largest(differences, "volume_drift") if result else None,
        drifts=drifts,
    )


def _rejected(manifest: Manifest) -> dict[str, int]:
    return dict(manifest.rejected)


def _findings(lake: Lake, market: Market, day: date) -> dict[str, int]:
    try:
        found = lake.read_findings(market, *day_window(day))
    except CorruptFile:  # the asset that keeps them says so
        return {}
    return dict(Counter(found.filter("suspicious")["rule"].to_list()))


def _compared(lake: Lake, market: Market, day: date) -> tuple[Collection[str], pl.DataFrame]:
    """With what a day was compared (nothing: it was not), and the candles that differ.

    Where the exchange's own candle is wrong and ids prove ours, nothing has drifted.
    """
    try:
        result = reconciliation.result(lake, market, day)
        differences = reconciliation.differences(lake, market, day)
    except CorruptFile:  # the asset that keeps them says so
        return (), DIFFERENCE_SCHEMA.to_frame()
    sides = None if result is None else result.get("sides")
    return tuple(sides) if isinstance(sides, dict) else (), differences.filter(
        pl.col("state").ne_missing(EXPLAINED)
    )


def _late(differences: pl.DataFrame) -> int:
    late = (pl.col("compared_with") == STREAM) & (pl.col("finding") == LATE)
    return len(differences.filter(late))


def _drifts(lake: Lake, market: Market, day: date) -> tuple[tuple[date, float | None], ...]:
    days: Iterable[date] = (day - (DRIFT_DAYS - 1 - n) * _DAY for n in range(DRIFT_DAYS))
    found: list[tuple[date, float | None]] = []
    for each in days:
        compared, differences = _compared(lake, market, each)
        found.append((each, _largest(differences, "close_drift") if compared else None))
    return tuple(found)


def _largest(differences: pl.DataFrame, column: str) -> float:
    largest = differences[column].max()
    return float(largest) if isinstance(largest, float) else 0.0


def sentence(markets: Sequence[MarketDay]) -> str:
    """One line for a log."""
    counts = Counter(each.state for each in markets)
    return ", ".join(f"{count} {state.replace('-', ' ')}" for state, count in counts.items())
