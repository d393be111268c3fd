"""The lake's reading side: trades and candles of any interval, as frames."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Literal

import polars as pl

from marketdata import fold
from marketdata.errors import BadRange, UsageError
from marketdata.interval import Interval, from_us, to_us
from marketdata.lake import Lake
from marketdata.manifest import Status, day_window
from marketdata.market import Market

_STORED = Interval.parse("1m")
# How far back the close before the first candle is looked for.
_LOOK_BACK_DAYS = 30


def trades(lake: Lake, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
    """Trades with ``time`` in ``[start, end)``, TRADE_SCHEMA, in order.

    Raises:
        BadRange: reversed, or a time without zone.
        CorruptFile: a file of the lake is cut or foreign.
    """
    _check(start, end)
    return lake.read_trades(market, start, end)


def candles(
    lake: Lake,
    market: Market,
    interval: str | Interval,
    start: datetime,
    end: datetime,
    *,
    fill: Literal["previous"] | None = None,
) -> pl.DataFrame:
    """Candles with ``open_time`` in ``[start, end)``, CANDLE_SCHEMA, sorted by ``open_time``.

    A candle is never cut by the range: it is made of everything the lake holds of its interval, past
    ``end`` too. What the lake does not hold is not in it; :meth:`Lake.manifests` says what that is.

    Args:
        interval: one of the eleven. 1m is stored (and folded here where it is not, or where the trades of
            a day have changed since), wider ones are merged from it, narrower ones folded from trades.
        fill: ``previous`` adds the column ``filled`` and a row for every interval without trades, at the
            close before it, volumes 0. Only inside days known to be complete: a gap is not filled.

    Raises:
        UnknownName: there is no such interval.
        BadRange: reversed, or a time without zone.
        CorruptFile: a file of the lake is cut or foreign.
    """
    interval = Interval.parse(interval)
    _check(start, end)
    if fill not in (None, "previous"):
        msg = f"Candles cannot be filled with {fill!r}."
        raise UsageError(msg, hint="Use fill='previous', or leave it out.")
    first, last = from_us(interval.ceil_us(to_us(start))), from_us(interval.ceil_us(to_us(end)))
    found = _candles(lake, market, interval, first, last)
    return found if fill is None else _filled(lake, market, interval, found, (first, last))


def _check(start: datetime, end: datetime) -> None:
    for time in (start, end):
        if time.tzinfo is None:
            msg = f"The time {time.isoformat()} has no zone."
            raise BadRange(msg, hint="Times are UTC: datetime(2025, 6, 1, tzinfo=UTC).")
    if end < start:
        msg = f"The range from {start.isoformat()} to {end.isoformat()} is reversed."
        raise BadRange(msg, hint="The start comes first; the end is exclusive.")


def _candles(lake: Lake, market: Market, interval: Interval, start: datetime, end: datetime) -> pl.DataFrame:
    """Candles of whole intervals between two points of the interval's own grid."""
    if interval < _STORED:
        frames = [
            fold.fold(lake.read_trades(market, max(start, opens), min(end, closes)), interval)
            for opens, closes in map(day_window, _days(start, end))
        ]
        return pl.concat(frames) if frames else fold.fold(lake.read_trades(market, start, start), interval)
    minutes = _minutes(lake, market, start, end)
    return minutes if interval == _STORED else fold.widen(minutes, interval)


def _minutes(lake: Lake, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
    """Candles of one minute: the stored ones, or folded where a day's trades came after them."""
    stored = lake.read_candles(market, _STORED, start, end)
    days = lake.unfolded(market, start, end)
    if not days:
        return stored
    fresh = [fold.fold(lake.read_trades(market, *day_window(day)), _STORED) for day in days]
    kept = stored.filter(~pl.col("open_time").dt.date().is_in(days))
    inside = pl.col("open_time").is_between(start, end, closed="left")
    return pl.concat([kept, *fresh]).filter(inside).sort("open_time")


def _filled(
    lake: Lake, market: Market, interval: Interval, found: pl.DataFrame, between: tuple[datetime, datetime]
) -> pl.DataFrame:
    """The candles, and a marked row for each interval that is known to be empty.

    Days known to be complete are filled run by run: across a gap the last close is not known.
    """
    frames = []
    outside = pl.lit(value=True)
    for opens, closes in _complete_runs(lake, market, *between):
        first, last = from_us(interval.ceil_us(to_us(opens))), interval.floor(closes)
        inside = pl.col("open_time").is_between(first, last, closed="left")
        close = _close_before(lake, market, first)
        frames.append(fold.fill_previous(found.filter(inside), interval, first, last, close))
        outside = outside & ~inside
    frames.append(found.filter(outside).with_columns(filled=pl.lit(value=False)))
    return pl.concat(frames).sort("open_time")


def _complete_runs(
    lake: Lake, market: Market, start: datetime, end: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """Stretches of ``[start, end)`` made of days that are known to be complete."""
    days = _days(start, end)
    known = {
        manifest.day
        for manifest in (lake.manifests(market, days[0], days[-1] + timedelta(days=1)) if days else [])
        if manifest.status is Status.COMPLETE
    }
    for complete, run in groupby(days, key=known.__contains__):
        if complete:
            stretch = list(run)
            yield max(start, day_window(stretch[0])[0]), min(end, day_window(stretch[-1])[1])


def _close_before(lake: Lake, market: Market, edge: datetime) -> float | None:
    """The last close before a time, across days that are complete."""
    for _ in range(_LOOK_BACK_DAYS):
        day = (edge - timedelta(microseconds=1)).date()
        manifest = lake.manifest(market, day)
        if manifest is None or manifest.status is not Status.COMPLETE:
            return None
        opens, _closes = day_window(day)
        before = _minutes(lake, market, opens, edge)
        if len(before):
            close: float = before["close"][-1]
            return close
        edge = opens
    return None


def _days(start: datetime, end: datetime) -> list[date]:
    """UTC days touched by ``[start, end)``."""
    first = start.astimezone(UTC).date()
    count = (end - datetime(first.year, first.month, first.day, tzinfo=UTC)) / timedelta(days=1)
    return [first + timedelta(days=n) for n in range(max(0, -int(-count // 1)))]
