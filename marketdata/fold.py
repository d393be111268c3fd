"""The one definition of a candle (pure).

A trade is a candle of itself: its price is open, high, low and close, its amount the volume, its id the first
and the last. Candles are therefore made in one way only, by :func:`_merged`: trades into candles, narrower
candles into wider ones, partial candles of one interval into whole ones. Open and close travel with the
(time, id) that set them, so merging is associative and commutative. ``docs/candles.md`` states the laws.

Trades must be unique (:func:`marketdata.trade.distinct`, :func:`marketdata.trade.merge_trades`): a trade that
is there twice counts twice.

Why NumPy's ``reduceat`` and not a ``group_by``: over rows in order it costs nearly the same for 86,400
candles as for 1,440, which is what makes eleven intervals as cheap as one; and its sums do not depend on
chunks or on the number of threads, so that the same trades give the same bits on every machine.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from marketdata.candle import CANDLE_SCHEMA, empty_candles
from marketdata.errors import UsageError
from marketdata.interval import Interval, to_us
from marketdata.trade import TIME, in_order

_Columns = dict[str, np.ndarray[Any, Any]]

_FIRST = ("first_trade_time", "first_trade_id")
_LAST = ("last_trade_time", "last_trade_id")
_TAKER = ("taker_buy_volume", "taker_buy_quote_volume")
_OPENING = ("open", *_FIRST)
_CLOSING = ("close", *_LAST)
_SUMS = ("volume", "quote_volume", "trade_count", *_TAKER)
# Trades are folded so many at a time and the slices' candles merged: memory does not grow with the day.
_SLICE = 1 << 20


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
    done: dict[Interval, _Columns] = {}
    for interval in sorted(set(wanted)):
        narrower = max((known for known in done if known.divides(interval)), default=None)
        if narrower is None:
            done[interval] = _folded(in_order(trades), interval)
        else:
            done[interval] = _merged(done[narrower], interval)
    return {interval.name: _frame(done[interval]) for interval in wanted}


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
    return _frame(_merged(_columns(candles), interval))


def merge(*candles: pl.DataFrame) -> pl.DataFrame:
    """Merge partial candles of one market and one interval into one candle each.

    The parts may overlap in time in any way, as long as no trade is in two of them. Associative and
    commutative (sums to 1e-9); a part alone comes back as it is, sorted.
    """
    parts = pl.concat(candles) if candles else empty_candles()
    if parts.is_empty():
        return empty_candles()
    by_first, by_last = parts.sort("open_time", *_FIRST), parts.sort("open_time", *_LAST)
    return _frame(_merged(_columns(by_first), None, by_last=_columns(by_last)))


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


def _folded(trades: pl.DataFrame, interval: Interval) -> _Columns:
    slices = (trades.slice(at, _SLICE) for at in range(0, len(trades), _SLICE))
    parts = [_merged(_as_candles(part), interval) for part in slices]
    if len(parts) == 1:
        return parts[0]
    return _merged({name: np.concatenate([part[name] for part in parts]) for name in CANDLE_SCHEMA})


def _as_candles(trades: pl.DataFrame) -> _Columns:
    """Every trade as the candle of itself; ``open_time`` is still the time of the trade."""
    price, amount, side = pl.col("price"), pl.col("amount"), pl.col("side")
    quote = price * amount
    buys = pl.when(side == "buy")
    rest = pl.when(side.is_not_null()).then(0.0) if trades["side"].null_count() else pl.lit(0.0)
    made = trades.select(
        quote.alias("quote_volume"),
        pl.col("fills").cast(pl.Int64).alias("trade_count"),
        buys.then(amount).otherwise(rest).alias("taker_buy_volume"),
        buys.then(quote).otherwise(rest).alias("taker_buy_quote_volume"),
    )
    columns = {name: _values(made[name]) for name in made.columns}
    columns["volume"] = _values(trades["amount"])
    columns |= dict.fromkeys(("open", "high", "low", "close"), _values(trades["price"]))
    columns |= dict.fromkeys(("first_trade_id", "last_trade_id"), _values(trades["trade_id"]))
    columns |= dict.fromkeys(("open_time", "first_trade_time", "last_trade_time"), _values(trades["time"]))
    return columns


def _merged(rows: _Columns, interval: Interval | None = None, *, by_last: _Columns | None = None) -> _Columns:
    """One candle of all rows that share an ``open_time``; rows in the order of their first trades.

    Args:
        rows: at least one row, columns of CANDLE_SCHEMA.
        interval: what to floor ``open_time`` to, if to anything.
        by_last: the same rows in the order of their last trades, where that is another order.
    """
    key = rows["open_time"]
    if interval is not None:
        key = (key - interval.offset_us) // interval.us
    starts = np.flatnonzero(key[1:] != key[:-1])
    starts += 1
    starts = np.concatenate(([0], starts))
    ends = np.append(starts[1:], len(key)) - 1
    opening, closing = rows, rows if by_last is None else by_last
    merged = {"open_time": key[starts]}
    if interval is not None:
        merged["open_time"] = merged["open_time"] * interval.us + interval.offset_us
    merged |= {name: opening[name][starts] for name in _OPENING}
    merged |= {name: closing[name][ends] for name in _CLOSING}
    merged["high"] = np.maximum.reduceat(rows["high"], starts)
    merged["low"] = np.minimum.reduceat(rows["low"], starts)
    with np.errstate(over="ignore"):
        merged |= {name: np.add.reduceat(rows[name], starts) for name in _SUMS}
    return merged


def _values(column: pl.Series) -> np.ndarray[Any, Any]:
    """A column as it lies in memory. An unknown taker volume is NaN, which no sum loses."""
    return (column.cast(pl.Int64) if column.dtype == TIME else column).to_numpy()


def _columns(candles: pl.DataFrame) -> _Columns:
    return {name: _values(candles[name]) for name in CANDLE_SCHEMA}


def _frame(columns: _Columns) -> pl.DataFrame:
    return pl.DataFrame(
        [
            pl.Series(name, columns[name], nan_to_null=name in _TAKER).cast(dtype)
            for name, dtype in CANDLE_SCHEMA.items()
        ]
    )
