"""Candles of a file, split into those that can be and those that cannot (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.interval import Interval, to_us
from marketdata.trade import as_json, empty_rejects

_PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class CheckedCandles:
    """Accepted candles, refused ones (REJECT_SCHEMA) and the number of those without trades."""

    accepted: pl.DataFrame
    rejected: pl.DataFrame
    empty: int


def validate_candles(
    rows: pl.DataFrame, interval: Interval, *, now: datetime, raw: Sequence[str]
) -> CheckedCandles:
    """Split EXCHANGE_CANDLE_SCHEMA rows; one without trades is no candle and is left out.

    Args:
        rows: null where a cell could not be read.
        interval: of all of them.
        now: a candle that ends later is still running.
        raw: the lines they were read from.
    """
    time = pl.col("open_time")
    end = time.to_physical() + interval.us
    low, high = pl.min_horizontal("open", "close"), pl.max_horizontal("open", "close")
    rules: list[tuple[str, pl.Expr]] = [
        ("open time absent or unreadable", time.is_null()),
        ("open time before 2009", time.to_physical() < to_us(datetime.fromisoformat("2009-01-03T00:00:00Z"))),
        ("open time off the grid of the interval", interval.floor_expr(time) != time),
        ("candle still running or in the future", end > to_us(now)),
        ("price absent or unreadable", pl.any_horizontal(pl.col(_PRICES).is_null())),
        (
            "price not positive or not finite",
            pl.any_horizontal((pl.col(_PRICES) <= 0) | ~pl.col(_PRICES).is_finite()),
        ),
        ("high below or low above another price", (pl.col("high") < high) | (pl.col("low") > low)),
        (
            "volume absent, negative or not finite",
            pl.col("volume").is_null() | (pl.col("volume") < 0) | ~pl.col("volume").is_finite(),
        ),
    ]
    bad = rows.select(pl.any_horizontal(rule for _, rule in rules).fill_null(value=True)).to_series()
    rejected = empty_rejects()
    if bad.any():
        reason = pl.coalesce(*[pl.when(rule).then(pl.lit(name)) for name, rule in rules])
        where = bad.arg_true()
        rejected = rows[where].select(
            reason.alias("reason"),
            pl.lit(None, pl.Int64).alias("trade_id"),
            time.alias("time"),
            pl.Series("raw", [as_json(raw[i]) for i in where], dtype=pl.String),
        )
    good = rows.filter(~bad).cast(EXCHANGE_CANDLE_SCHEMA)
    traded = good.filter((pl.col("volume") > 0) | (pl.col("trade_count") > 0))
    return CheckedCandles(traded, rejected, len(good) - len(traded))
