"""The lake's reading side: trades and candles of any interval, as frames.

What does not depend on where the rows come from (:func:`folded`, :func:`filled`, :func:`last_of`) serves the
store too, so that both give the same.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Literal

import polars as pl

from marketdata import fold
from marketdata.candle import CANDLE_SCHEMA, empty_candles
from marketdata.errors import BadRange, UsageError
from marketdata.interval import Interval
from marketdata.lake import Lake
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from marketdata.trade import TIME

_STORED, _DAY = Interval.parse("1m"), Interval.parse("1d")
# How far back the close before the first candle is looked for.
LOOK_BACK_DAYS = 30
# A longer range is first cut to what is held: it is read a day at a time.
LONG = timedelta(days=62)
# What is said of a candle beyond its numbers, and of a day.
DETAILS = pl.Schema({"revision": pl.Int32(), "source": pl.String(), "coverage": pl.String()})
# Of several a candle is as good as the worst; the order is that of coverage_rank in the store.
WORST = ("complete", "unknown", "gaps", "partial")
COVERAGE_SCHEMA = pl.Schema(
    {
        "exchange": pl.String(),
        "symbol": pl.String(),
        "day": pl.Date(),
        "status": pl.String(),
        "reason": pl.String(),
        "rows": pl.Int64(),
        "fills": pl.Int64(),
        "first_time": TIME,
        "last_time": TIME,
        "first_id": pl.Int64(),
        "last_id": pl.Int64(),
        "missing": pl.Int64(),
        "not_served": pl.Int64(),
        "rejected": pl.Int64(),
        "source": pl.String(),
        "ids": pl.String(),
        "content_hash": pl.String(),
    }
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Candles with ``open_time`` in ``[start, end)``, which are points of the interval's own grid."""

    interval: Interval
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class DataRange:
    """What is held of a market.

    Attributes:
        trades: time of the first and of the last trade, or ``None`` when there is none.
        candles: ``open_time`` of the first and of the last one-minute candle, or ``None``.
    """

    trades: tuple[datetime, datetime] | None
    candles: tuple[datetime, datetime] | None


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
    check_fill(fill)
    first, last = interval.ceil(start), interval.ceil(end)
    found = _candles(lake, market, interval, first, last)
    if fill is None:
        return found
    held = lake.manifests(market, first.date(), day_after(last)) if first < last else []
    complete = {manifest.day for manifest in held if manifest.status is Status.COMPLETE}
    return filled(found, interval, (first, last), complete, lambda edge: _close_before(lake, market, edge))


def check_fill(fill: str | None) -> None:
    """Refuse what candles cannot be filled with.

    Raises:
        UsageError: it is neither ``previous`` nor nothing.
    """
    if fill not in (None, "previous"):
        msg = f"Candles cannot be filled with {fill!r}."
        raise UsageError(msg, hint="Use fill='previous', or leave it out.")


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
        if end - start > LONG:
            days = lake.days(market).get(market) or [start.date()]
            start, end = max(start, day_window(days[0])[0]), min(end, day_window(days[-1])[1])
        return folded(lambda opens, closes: lake.read_trades(market, opens, closes), interval, start, end)
    minutes = _minutes(lake, market, start, end)
    return minutes if interval == _STORED else fold.widen(minutes, interval)


def _minutes(lake: Lake, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
    """Candles of one minute: the stored ones, or folded where those are not of the day's trades."""
    stored, days = lake.read_folded(market, start, end)
    if not days:
        return stored
    fresh = [fold.fold(lake.read_trades(market, *day_window(day)), _STORED) for day in days]
    inside = pl.col("open_time").is_between(start, end, closed="left")
    return pl.concat([stored, *fresh]).filter(inside).sort("open_time")


def folded(
    read: Callable[[datetime, datetime], pl.DataFrame], interval: Interval, start: datetime, end: datetime
) -> pl.DataFrame:
    """Candles of trades, read and folded a day at a time.

    Args:
        read: gives the trades of ``[start, end)``, TRADE_SCHEMA.
        interval: narrower than a day.
        start, end: points of the interval's own grid.
    """
    frames = [
        fold.fold(read(max(start, opens), min(end, closes)), interval)
        for opens, closes in map(day_window, _days(start, end))
    ]
    return pl.concat(frames) if frames else empty_candles()


def filled(
    found: pl.DataFrame,
    interval: Interval,
    between: tuple[datetime, datetime],
    complete: Collection[date],
    close_before: Callable[[datetime], float | None],
) -> pl.DataFrame:
    """The candles, and a marked row for each interval that is known to be empty.

    Days known to be complete are filled run by run: across a gap the last close is not known.

    Args:
        found: the candles of ``between``, whose ends are points of the interval's own grid.
        complete: the days known to be complete.
        close_before: gives the last close before a time, see :func:`closes_from`.
    """
    frames = []
    outside = pl.lit(value=True)
    for opens, closes in _complete_runs(complete, *between):
        first, last = interval.ceil(opens), interval.floor(closes)
        inside = pl.col("open_time").is_between(first, last, closed="left")
        stretch = found.filter(inside)
        known = len(stretch) and stretch["open_time"][0] == first
        close = None if known or first >= last else close_before(first)
        frames.append(_filled_run(stretch, interval, first, last, close))
        outside = outside & ~inside
    frames.append(found.filter(outside).with_columns(filled=pl.lit(value=False)))
    return pl.concat(frames).sort("open_time")


def _filled_run(
    stretch: pl.DataFrame, interval: Interval, first: datetime, last: datetime, close: float | None
) -> pl.DataFrame:
    """One run; what a candle may carry besides its schema stays null in a filled row."""
    plain = fold.fill_previous(stretch.select(CANDLE_SCHEMA.names()), interval, first, last, close)
    more = [name for name in stretch.columns if name not in CANDLE_SCHEMA]
    if not more:
        return plain
    joined = plain.join(stretch.select("open_time", *more), on="open_time", how="left", maintain_order="left")
    return joined.select(*stretch.columns, "filled")


def detailed(candles: pl.DataFrame, interval: Interval, statuses: pl.DataFrame) -> pl.DataFrame:
    """Candles made of a lake's trades, with DETAILS: one revision, and the worst status of their days.

    Args:
        candles: CANDLE_SCHEMA, with or without ``filled``; a filled row has no details.
        statuses: ``day`` and ``status`` of all days they are made of.
    """
    names = [*CANDLE_SCHEMA, *DETAILS, *candles.columns[len(CANDLE_SCHEMA) :]]
    wide = max(interval, _DAY)
    worst = statuses.group_by(wide.floor_expr(pl.col("day").cast(TIME)).alias("bucket")).agg(
        pl.col("status").replace_strict(WORST, range(len(WORST)), return_dtype=pl.Int8).max()
    )
    made = ~pl.col("filled") if "filled" in names else pl.lit(value=True)
    status = pl.col("status").replace_strict(range(len(WORST)), WORST, return_dtype=pl.String)
    return (
        candles.with_columns(wide.floor_expr(pl.col("open_time")).alias("bucket"))
        .join(worst, on="bucket", how="left", maintain_order="left")
        .with_columns(
            pl.when(made).then(0).cast(DETAILS["revision"]).alias("revision"),
            pl.when(made).then(pl.lit("batch")).alias("source"),
            pl.when(made).then(status).alias("coverage"),
        )
        .select(names)
    )


def last_of(
    read: Callable[[datetime, datetime], pl.DataFrame],
    interval: Interval,
    count: int,
    until: datetime,
    begins: datetime,
) -> pl.DataFrame:
    """The last ``count`` candles that open before ``until``, oldest first, or as many as there are.

    Args:
        read: gives at least the last ``count`` candles of ``[start, end)``.
        begins: no candle opens before this.
    """
    span = count * interval.width
    while True:
        reached = until - begins <= span
        found = read(begins if reached else until - span, until)
        if len(found) >= count or reached:
            return found.tail(count)
        span *= 4


def day_after(end: datetime) -> date | None:
    """The first UTC day that a range up to ``end`` does not touch; ``None`` where the calendar ends first."""
    if end == day_window(end.date())[0]:
        return end.date()
    return None if end.date() == date.max else end.date() + timedelta(days=1)


def known_from(day: date, status: str, first_time: datetime | None) -> datetime | None:
    """From when on the data of a day is whole: its start when it is complete, else its first trade."""
    return day_window(day)[0] if status == Status.COMPLETE else first_time


def _complete_runs(
    complete: Collection[date], start: datetime, end: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """Stretches of ``[start, end)`` made of days that are known to be complete."""
    days = sorted(day for day in complete if start.date() <= day and day_window(day)[0] < end)
    for _, run in groupby(enumerate(days), key=lambda numbered: numbered[1].toordinal() - numbered[0]):
        stretch = [day for _, day in run]
        yield max(start, day_window(stretch[0])[0]), min(end, day_window(stretch[-1])[1])


def closes_from(edge: datetime, complete: Collection[date]) -> datetime | None:
    """The earliest time at which the close before ``edge`` may be: across days that are complete."""
    first, day = None, (edge - timedelta(microseconds=1)).date()
    for _ in range(LOOK_BACK_DAYS):
        if day not in complete:
            break
        first, day = day, day - timedelta(days=1)
    return None if first is None else day_window(first)[0]


def _close_before(lake: Lake, market: Market, edge: datetime) -> float | None:
    """The last close before a time, across days that are complete."""
    for _ in range(LOOK_BACK_DAYS):
        day = (edge - timedelta(microseconds=1)).date()
        manifest = lake.manifest(market, day)
        if manifest is None or manifest.status is not Status.COMPLETE:
            return None
        opens, _closes = day_window(day)
        minute = _STORED.floor(edge)
        running = lake.read_trades(market, minute, edge)
        if len(running):
            price: float = running["price"][-1]
            return price
        before = _minutes(lake, market, opens, minute)
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
