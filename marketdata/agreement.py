"""The exchange's own candles of a day beside ours: stored where served, and compared."""

from datetime import date, datetime

import numpy as np
import polars as pl

from marketdata import reading
from marketdata.candle import EXCHANGE_CANDLE_SCHEMA, empty_candles
from marketdata.interval import INTERVALS, Interval
from marketdata.lake import Lake
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.reconcile import Comparison, compare
from marketdata.sources.base import CandleSource

_NONE = EXCHANGE_CANDLE_SCHEMA.to_frame()
_MINUTE, _DAY = Interval.parse("1m"), Interval.parse("1d")
# What can be compared within a day.
_WITHIN_A_DAY = tuple(interval for interval in INTERVALS if _MINUTE <= interval <= _DAY)


def fetch_exchange_candles(
    lake: Lake, source: CandleSource, market: Market, day: date, *, now: datetime
) -> dict[str, int]:
    """Store the exchange's own candles of a day: 1m as far as served, and the finest that is served whole.

    What is stored is never replaced by less: an exchange that serves only its newest candles (Kraken: 720
    an interval) forgets them. The facts in the file say what was served (``served``: whole, part, none),
    ``from`` which ``open_time`` on, and by which ``source``.

    Returns:
        Rows stored by name of the interval; 1m with 0 rows where the exchange serves none of the day.

    Raises:
        UnknownName, TransientError, PermanentError: from the source.
        StorageError: the lake cannot be written.
    """
    start, end = day_window(day)
    rows: dict[str, int] = {}
    for interval in _WITHIN_A_DAY:
        if interval not in source.intervals:
            continue
        oldest = source.candles_from(interval, now)
        first = start if oldest is None else min(max(start, oldest), end)
        if interval == _MINUTE or first == start or _is_whole(lake, market, day, interval):
            rows[interval.name] = _store(lake, source, market, interval, (first, end))
        if first == start or _is_whole(lake, market, day, interval):
            break
    return rows


def _is_whole(lake: Lake, market: Market, day: date, interval: Interval) -> bool:
    facts = lake.read_facts("exchange_candles", market, day, interval)
    return facts is not None and facts.get("served") == "whole"


def _store(
    lake: Lake, source: CandleSource, market: Market, interval: Interval, served: tuple[datetime, datetime]
) -> int:
    """Store what is served, from the first ``open_time`` to the end of the day, beside what is there."""
    (first, end), day = served, (served[1] - _DAY.width).date()
    start, _ = day_window(day)
    known = lake.read_facts("exchange_candles", market, day, interval)
    facts = known or {}
    held = _NONE
    if known is not None:
        held = lake.read_candles(market, interval, start, end, kind="exchange_candles")
    known_from = datetime.fromisoformat(facts["from"]) if "from" in facts else end
    if known_from <= first and facts:
        return len(held)
    asked = first < end
    fresh = source.candles(market, interval, first, end) if asked else _NONE
    candles = fresh
    if len(held) or (np.diff(fresh["open_time"].to_physical().to_numpy()) <= 0).any():
        candles = pl.concat([fresh, held]).unique("open_time", keep="first").sort("open_time")
    facts |= {"served": "none" if not asked else "whole" if first == start else "part"}
    facts |= {"from": first.isoformat(), "source": source.name}
    lake.write_candles(market, day, interval, candles, kind="exchange_candles", facts=facts)
    return len(candles)


def compare_day(lake: Lake, market: Market, day: date) -> Comparison:
    """Compare our candles of a day with all of the exchange's own that are stored, interval by interval.

    Ours of a wider interval are merged from 1m. ``different`` has the column ``interval`` in front.

    Raises:
        CorruptFile: a file of the lake is cut or foreign.
    """
    start, end = day_window(day)
    compared = equal = 0
    findings: list[pl.DataFrame] = []
    for interval in _WITHIN_A_DAY:
        facts = lake.read_facts("exchange_candles", market, day, interval)
        if facts is None or facts.get("served") == "none":
            continue
        theirs = lake.read_candles(market, interval, start, end, kind="exchange_candles")
        first, last = _stretch(facts, theirs, interval, start, end)
        ours = reading.candles(lake, market, interval, first, last)
        found = compare(ours, theirs, first, last)
        compared, equal = compared + found.compared, equal + found.equal
        findings.append(_named(found.different, interval))
    if not findings:
        nothing = compare(empty_candles(), _NONE, start, start)
        findings = [_named(nothing.different, _MINUTE)]
    return Comparison(compared, equal, pl.concat(findings))


def _named(findings: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    return findings.select(pl.lit(interval.name).alias("interval"), *findings.columns)


def _stretch(
    facts: dict[str, str], theirs: pl.DataFrame, interval: Interval, start: datetime, end: datetime
) -> tuple[datetime, datetime]:
    """The part of the day the exchange's candles speak of; of imported ones, from the first to the last."""
    if "from" in facts:
        return max(start, datetime.fromisoformat(facts["from"])), end
    if theirs.is_empty():
        return start, start
    return theirs["open_time"][0], theirs["open_time"][-1] + interval.width
