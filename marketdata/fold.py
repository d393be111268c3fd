"""The one definition of a candle (pure).

A trade is a candle of itself: its price is open, high, low and close, its amount the volume, its id the first
and the last. Candles are therefore made in one way only, by :func:`merged`: trades into candles, narrower
candles into wider ones, partial candles of one interval into whole ones. Open and close travel with the
(time, id) that set them, so merging is associative and commutative. ``docs/candles.md`` states the laws.

Trades must be unique (:func:`marketdata.trade.distinct`, :func:`marketdata.trade.merge_trades`): a trade that
is there twice counts twice.

Why NumPy's ``reduceat`` over blocks and not a ``group_by``: rows are in order, so a candle is a run of rows;
what is computed of a block stays in the processor's cache; one core is enough; 86,400 candles cost little
more than 1,440, which makes eleven intervals nearly as cheap as one; and sums do not depend on chunks or on
the number of threads: the same trades give the same bits. ``docs/decisions/fold-by-runs.md`` has the figures.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from marketdata.candle import CANDLE_SCHEMA, empty_candles
from marketdata.errors import UsageError
from marketdata.interval import Interval, to_us
from marketdata.trade import TIME, in_order

Columns = dict[str, np.ndarray[Any, Any]]

_FIRST = ("first_trade_time", "first_trade_id")
_LAST = ("last_trade_time", "last_trade_id")
_TAKER = ("taker_buy_volume", "taker_buy_quote_volume")
_OPENING = ("open", *_FIRST)
_CLOSING = ("close", *_LAST)
_SUMS = ("volume", "quote_volume", "trade_count", *_TAKER)
# Trades are folded a block at a time and the blocks' candles merged: what is computed of a block stays in the
# processor's cache. A slice is what is asked of polars at once; a whole multiple of a block.
_BLOCK = 1 << 17
_SLICE = 1 << 20
_BUY, _UNKNOWN = 0, 255  # places in the enumeration of sides
_PLACE = {"buy": _BUY, "sell": 1, None: _UNKNOWN}
_FEW = 1_000
_NUMBERS = ("time", "price", "amount", "trade_id", "fills")


def fold(trades: pl.DataFrame, interval: str | Interval = "1m") -> pl.DataFrame:
    """Fold unique trades of one market into candles.

    Args:
        trades: TRADE_SCHEMA with ids, in any order; in order (time, trade_id) it is many times faster.
        interval: one of the eleven.

    Returns:
        CANDLE_SCHEMA, one row an interval that has trades, sorted by ``open_time``. ``taker_*`` are null
        where the side of any trade in the candle is unknown.

    Raises:
        UnknownName: there is no such interval.
        UsageError: a trade has no id, so open and close would be drawn by lot.
    """
    return fold_many(trades, [interval])[str(interval)]


def fold_many(trades: pl.DataFrame, intervals: Sequence[str | Interval]) -> dict[str, pl.DataFrame]:
    """Fold into several intervals in one pass: the narrowest from trades, each wider one from a narrower.

    Returns:
        Candles by the name of their interval, in the order asked for. See :func:`fold`.
    """
    wanted = [Interval.parse(interval) for interval in intervals]
    if trades.is_empty():
        return {interval.name: empty_candles() for interval in wanted}
    if missing := trades["trade_id"].null_count():
        msg = f"{missing} of {len(trades)} trades have no trade_id."
        raise UsageError(msg, hint="Give ids with marketdata.trade.assign_ids first.")
    done: dict[Interval, Columns] = {}
    for interval in sorted(set(wanted)):
        narrower = max((known for known in done if known.divides(interval)), default=None)
        if narrower is None:
            done[interval] = folded(in_order(trades), interval)
        else:
            done[interval] = widened(done[narrower], interval)
    return {interval.name: frame_of(done[interval]) for interval in wanted}


def widen(candles: pl.DataFrame, interval: str | Interval) -> pl.DataFrame:
    """Make wider candles of narrower ones.

    Args:
        candles: CANDLE_SCHEMA of one market, one row an ``open_time``, of an interval that divides
            ``interval``; in any order.
        interval: the wider one.

    Returns:
        CANDLE_SCHEMA, sorted by ``open_time``. Whether the first and the last are whole only the caller
        can know: give whole wide intervals.
    """
    interval = Interval.parse(interval)
    if candles.is_empty():
        return empty_candles()
    if not candles["open_time"].is_sorted():
        candles = candles.sort("open_time")
    return frame_of(widened(columns_of(candles), interval))


def merge(*candles: pl.DataFrame) -> pl.DataFrame:
    """Merge partial candles of one market and one interval into one candle each.

    The parts may overlap in time in any way, as long as no trade is in two of them. Associative and
    commutative (sums to 1e-9); a part alone comes back as it is, sorted.
    """
    parts = pl.concat(candles) if candles else empty_candles()
    if parts.is_empty():
        return empty_candles()
    return frame_of(merged_parts(columns_of(parts)))


def fill_previous(
    candles: pl.DataFrame,
    interval: str | Interval,
    start: datetime,
    end: datetime,
    previous_close: float | None = None,
) -> pl.DataFrame:
    """Add a row for every interval of ``[start, end)`` that has none, at the close before it.

    Whether an interval is empty or a gap is not known here; ask the manifest first.

    Args:
        candles: CANDLE_SCHEMA, sorted; rows outside ``[start, end)`` are dropped.
        interval: their interval.
        start, end: bounds of ``open_time``, aware.
        previous_close: the last close before ``start``. Without it the intervals before the first candle
            stay absent, for there is no price to give them.

    Returns:
        CANDLE_SCHEMA and ``filled: bool``. Filled rows have volumes and ``trade_count`` 0 and no first or
        last trade.
    """
    interval = Interval.parse(interval)
    first, last = interval.ceil_us(to_us(start)), interval.ceil_us(to_us(end))
    grid = pl.int_range(first, max(first, last), interval.us, eager=True).cast(TIME).alias("open_time")
    joined = grid.to_frame().join(candles, on="open_time", how="left", maintain_order="left")
    empty = pl.col("trade_count").is_null()
    close = pl.col("close").forward_fill().fill_null(pl.lit(previous_close, dtype=pl.Float64))
    prices = ("open", "high", "low", "close")
    filled = joined.with_columns(
        *[pl.when(empty).then(close).otherwise(name).alias(name) for name in prices],
        *[pl.when(empty).then(0).otherwise(name).cast(CANDLE_SCHEMA[name]).alias(name) for name in _SUMS],
        empty.alias("filled"),
    )
    return filled.filter(pl.col("close").is_not_null()).select(*CANDLE_SCHEMA.names(), "filled")


# What follows works on columns as NumPy arrays (times in microseconds, an unknown taker volume NaN), for
# callers that fold often and little: making a frame costs more than folding ten trades.


def folded(trades: pl.DataFrame, interval: Interval) -> Columns:
    """Candles of trades in order: those of a block go behind the last, with which the first may merge."""
    first, last = (interval.floor_us(trades["time"].cast(pl.Int64)[at]) for at in (0, -1))
    most = min(len(trades), (last - first) // interval.us + 1)
    made = {
        name: np.empty(most, np.float64 if dtype == pl.Float64 else np.int64)
        for name, dtype in CANDLE_SCHEMA.items()
    }
    filled = 0
    for block in _as_candles(trades, interval):
        part, begin = merged(block), 0
        if filled and part["open_time"][0] == made["open_time"][filled - 1]:
            begin, last_one = 1, slice(filled - 1, filled)
            both = {name: np.concatenate((made[name][last_one], part[name][:1])) for name in made}
            for name, value in merged(both).items():
                made[name][last_one] = value
        end = filled + len(part["open_time"]) - begin
        for name, column in made.items():
            column[filled:end] = part[name][begin:]
        filled = end
    made = {name: column[:filled] for name, column in made.items()}
    made["open_time"] = made["open_time"] * interval.us + interval.offset_us
    return made


def _as_candles(trades: pl.DataFrame, interval: Interval) -> Iterator[Columns]:
    """Every trade as the candle of itself, block by block; ``open_time`` is the number of its interval.

    What is computed lies in the same memory for every block: it is good until the next one is asked for.
    """
    size = min(len(trades), _BLOCK)
    quotes, buys, bought, bought_quotes = (np.empty(size) for _ in range(4))
    counts, numbers = np.empty(size, np.int64), np.empty(size, np.int64)
    for start in range(0, len(trades), _SLICE):
        part = trades.slice(start, _SLICE)
        times, prices, amounts, ids, fills = (_values(part[name]) for name in _NUMBERS)
        sides, unknown = _sides(part["side"])
        for at in range(0, len(part), size):
            rows = slice(at, at + size)
            time, price, amount, trade_id = times[rows], prices[rows], amounts[rows], ids[rows]
            here = slice(0, len(time))
            number = np.subtract(time, interval.offset_us, out=numbers[here])
            quote = np.multiply(price, amount, out=quotes[here])
            buy = np.equal(sides[rows], _BUY, out=buys[here], casting="unsafe")
            if unknown:
                buy[sides[rows] == _UNKNOWN] = np.nan
            count = counts[here]
            count[:] = fills[rows]
            yield {
                "open_time": np.floor_divide(number, interval.us, out=number),
                **dict.fromkeys(("first_trade_time", "last_trade_time"), time),
                **dict.fromkeys(("first_trade_id", "last_trade_id"), trade_id),
                **dict.fromkeys(("open", "high", "low", "close"), price),
                "volume": amount,
                "quote_volume": quote,
                "trade_count": count,
                "taker_buy_volume": np.multiply(amount, buy, out=bought[here]),
                "taker_buy_quote_volume": np.multiply(quote, buy, out=bought_quotes[here]),
            }


def widened(candles: Columns, interval: Interval) -> Columns:
    """:func:`widen` of at least one candle, sorted."""
    floored = (candles["open_time"] - interval.offset_us) // interval.us * interval.us + interval.offset_us
    return merged({**candles, "open_time": floored})


def _ordered(rows: Columns, by: tuple[str, str]) -> Columns:
    order = np.lexsort((*(rows[name] for name in reversed(by)), rows["open_time"]))
    return {name: column[order] for name, column in rows.items()}


def merged_parts(rows: Columns) -> Columns:
    """:func:`merge` of at least one candle, in any order."""
    return merged(_ordered(rows, _FIRST), by_last=_ordered(rows, _LAST))


def merged(rows: Columns, *, by_last: Columns | None = None) -> Columns:
    """One candle of all rows that share an ``open_time``; rows by ``open_time`` and their first trades.

    Args:
        rows: at least one row, columns of CANDLE_SCHEMA.
        by_last: the same rows by ``open_time`` and their last trades, where that is another order.
    """
    key = rows["open_time"]
    starts = np.flatnonzero(key[1:] != key[:-1])
    starts += 1
    ends = np.append(starts, len(key)) - 1
    starts = np.concatenate(([0], starts))
    opening, closing = rows, rows if by_last is None else by_last
    one = {name: opening[name][starts] for name in ("open_time", *_OPENING)}
    one |= {name: closing[name][ends] for name in _CLOSING}
    one["high"] = np.maximum.reduceat(rows["high"], starts)
    one["low"] = np.minimum.reduceat(rows["low"], starts)
    with np.errstate(over="ignore"):
        one |= {name: np.add.reduceat(rows[name], starts) for name in _SUMS}
    return one


def _values(column: pl.Series) -> np.ndarray[Any, Any]:
    """A column as it lies in memory. An unknown taker volume is NaN, which no sum loses."""
    return (column.cast(pl.Int64) if column.dtype == TIME else column).to_numpy()


def _sides(column: pl.Series) -> tuple[np.ndarray[Any, Any], bool]:
    """Places in the enumeration of sides, and whether any side is unknown."""
    unknown = column.null_count() > 0
    if len(column) <= _FEW:  # to_physical takes 60 us whatever their number
        return np.array([_PLACE[side] for side in column.to_list()]), unknown
    places = column.to_physical()
    return (places.fill_null(_UNKNOWN) if unknown else places).to_numpy(), unknown


def columns_of(candles: pl.DataFrame) -> Columns:
    """Columns of candles."""
    return {name: _values(candles[name]) for name in CANDLE_SCHEMA}


def series_of(columns: Columns) -> list[pl.Series]:
    """Columns of candles as those of a frame, in the order of CANDLE_SCHEMA."""
    return [
        pl.Series(name, columns[name], nan_to_null=name in _TAKER).cast(dtype)
        for name, dtype in CANDLE_SCHEMA.items()
    ]


def frame_of(columns: Columns) -> pl.DataFrame:
    """Columns of candles as a frame, CANDLE_SCHEMA."""
    return pl.DataFrame(series_of(columns))
