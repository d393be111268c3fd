"""The one definition of a candle (pure).

A trade is a candle of itself: its price is open, high, low and close, its amount the volume, its id the first
and the last. Candles are therefore made in one way only, by :func:`_merged`: trades into candles, narrower
candles into wider ones, partial candles of one interval into whole ones. Open and close travel with the
(time, id) that set them, so merging is associative and commutative. ``docs/candles.md`` states the laws.

Trades must be unique (:func:`marketdata.trade.distinct`, :func:`marketdata.trade.merge_trades`): a trade that
is there twice counts twice.
"""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from marketdata.candle import CANDLE_SCHEMA, empty_candles
from marketdata.errors import UsageError
from marketdata.interval import Interval, to_us
from marketdata.trade import TIME, in_order

_FIRST = ("first_trade_time", "first_trade_id")
_LAST = ("last_trade_time", "last_trade_id")
_TAKER = ("taker_buy_volume", "taker_buy_quote_volume")


def fold(trades: pl.DataFrame, interval: str | Interval = "1m") -> pl.DataFrame:
    """Fold unique trades of one market into candles.

    Args:
        trades: TRADE_SCHEMA with ids, in any order; in order (time, trade_id) it is several times faster.
        interval: one of the eleven.

    Returns:
        CANDLE_SCHEMA, one row an interval that has trades, sorted by ``open_time``. ``taker_*`` are null
        where the side of any trade in the candle is unknown.

    Raises:
        UnknownName: there is no such interval.
        UsageError: a trade has no id, so first and last would be drawn by lot.
    """
    interval = Interval.parse(interval)
    if trades.is_empty():
        return empty_candles()
    if trades["trade_id"].null_count():
        msg = f"{trades['trade_id'].null_count()} of {len(trades)} trades have no trade_id."
        raise UsageError(msg, hint="Give ids with marketdata.trade.assign_ids first.")
    return _merged(_as_candles(in_order(trades)), interval, disjoint=True)


def fold_many(trades: pl.DataFrame, intervals: Sequence[str | Interval]) -> dict[str, pl.DataFrame]:
    """Fold into several intervals in one pass: the narrowest from trades, each wider one from a narrower.

    Returns:
        Candles by the name of their interval, in the order asked for. See :func:`fold`.
    """
    wanted = [Interval.parse(interval) for interval in intervals]
    done: dict[Interval, pl.DataFrame] = {}
    for interval in sorted(set(wanted)):
        narrower = max((known for known in done if known.divides(interval)), default=None)
        done[interval] = fold(trades, interval) if narrower is None else widen(done[narrower], interval)
    return {interval.name: done[interval] for interval in wanted}


def widen(candles: pl.DataFrame, interval: str | Interval) -> pl.DataFrame:
    """Make wider candles of narrower ones, each interval given at most once.

    Args:
        candles: CANDLE_SCHEMA of one market, one row an ``open_time``, of an interval that divides
            ``interval``; in any order.
        interval: the wider one.

    Returns:
        CANDLE_SCHEMA, sorted by ``open_time``. Cut edges are not known here: give whole wide intervals.
    """
    interval = Interval.parse(interval)
    if not candles["open_time"].is_sorted():
        candles = candles.sort("open_time")
    return _merged(candles.lazy(), interval, disjoint=True)


def merge(*candles: pl.DataFrame) -> pl.DataFrame:
    """Merge partial candles of one market and one interval into one candle each.

    The parts may overlap in time in any way, as long as no trade is in two of them. Associative and
    commutative (sums to 1e-9); a part alone comes back as it is, sorted.
    """
    parts = pl.concat(candles) if candles else empty_candles()
    return _merged(parts.lazy(), None, disjoint=False)


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
    grid = pl.int_range(first, last, interval.us, eager=True).cast(TIME).alias("open_time").to_frame()
    joined = grid.join(candles, on="open_time", how="left", maintain_order="left")
    close = pl.col("close").forward_fill().fill_null(previous_close)
    empty = pl.col("trade_count").is_null()
    zeros = ["volume", "quote_volume", "trade_count"]
    filled = joined.with_columns(
        close.alias("close"),
        *[pl.when(empty).then(close).otherwise(name).alias(name) for name in ("open", "high", "low")],
        *[pl.when(empty).then(0).otherwise(name).cast(CANDLE_SCHEMA[name]).alias(name) for name in zeros],
        *[pl.when(empty).then(0.0).otherwise(name).alias(name) for name in _TAKER],
        empty.alias("filled"),
    )
    return filled.filter(pl.col("close").is_not_null()).select(*CANDLE_SCHEMA.names(), "filled")


def _as_candles(trades: pl.DataFrame) -> pl.LazyFrame:
    """Every trade as the candle of itself; ``open_time`` is still the time of the trade."""
    price, amount, side = pl.col("price"), pl.col("amount"), pl.col("side")
    quote = price * amount
    known = pl.when(side.is_not_null())
    return trades.lazy().select(
        pl.col("time").alias("open_time"),
        *[price.alias(name) for name in ("open", "high", "low", "close")],
        amount.alias("volume"),
        quote.alias("quote_volume"),
        pl.col("fills").cast(pl.Int64).alias("trade_count"),
        pl.when(side == "buy").then(amount).otherwise(known.then(0.0)).alias("taker_buy_volume"),
        pl.when(side == "buy").then(quote).otherwise(known.then(0.0)).alias("taker_buy_quote_volume"),
        *[pl.col("trade_id").alias(name) for name in ("first_trade_id", "last_trade_id")],
        *[pl.col("time").alias(name) for name in ("first_trade_time", "last_trade_time")],
    )


def _merged(parts: pl.LazyFrame, interval: Interval | None, *, disjoint: bool) -> pl.DataFrame:
    """One candle of all parts that share an ``open_time``, floored to ``interval`` when there is one.

    ``disjoint`` says that the parts are in order and that none reaches into the time of another: then the
    first part has the open. Otherwise the parts are ordered by their first and by their last trade.
    """
    if interval is not None:
        floored = interval.floor_expr(pl.col("open_time"))
        parts = parts.with_columns(floored.set_sorted() if disjoint else floored)

    def opening(name: str) -> pl.Expr:
        return (pl.col(name) if disjoint else pl.col(name).sort_by(*_FIRST)).first()

    def closing(name: str) -> pl.Expr:
        return (pl.col(name) if disjoint else pl.col(name).sort_by(*_LAST)).last()

    candles = (
        parts.group_by("open_time", maintain_order=disjoint)
        .agg(
            opening("open"),
            pl.col("high").max(),
            pl.col("low").min(),
            closing("close"),
            *[pl.col(name).sum() for name in ("volume", "quote_volume", "trade_count")],
            *[pl.when(pl.col(name).null_count() == 0).then(pl.col(name).sum()) for name in _TAKER],
            *[opening(name) for name in reversed(_FIRST)],
            *[closing(name) for name in reversed(_LAST)],
        )
        .select(CANDLE_SCHEMA.names())
    )
    return (candles if disjoint else candles.sort("open_time")).collect()
