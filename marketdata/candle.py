"""Candles: schemas and invariants (pure).

A frame of candles is of one market and one interval and has CANDLE_SCHEMA, sorted by ``open_time``;
exchange, symbol and interval are added where frames meet. An interval without trades has no row.
"""

import hashlib

import polars as pl

from marketdata.interval import Interval
from marketdata.trade import TIME

# volume and taker_buy_volume in base units, quote_volume and taker_buy_quote_volume in quote units.
# taker_* are null where the source of the trades does not say who was the taker.
# vwap is derived: quote_volume / volume.
CANDLE_SCHEMA = pl.Schema(
    {
        "open_time": TIME,
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "quote_volume": pl.Float64(),
        "trade_count": pl.Int64(),
        "taker_buy_volume": pl.Float64(),
        "taker_buy_quote_volume": pl.Float64(),
        "first_trade_id": pl.Int64(),
        "last_trade_id": pl.Int64(),
        "first_trade_time": TIME,
        "last_trade_time": TIME,
    }
)

# What exchanges serve: never ids or trade times; quote volume, count and taker volumes are null where the
# exchange does not say (Kraken gives vwap and count, Binance all of them, most others volume only).
EXCHANGE_CANDLE_SCHEMA = pl.Schema(
    {
        name: CANDLE_SCHEMA[name]
        for name in CANDLE_SCHEMA.names()[: CANDLE_SCHEMA.names().index("first_trade_id")]
    }
)


_FLOATS = [name for name, kind in CANDLE_SCHEMA.items() if kind == pl.Float64]
_NO_CANDLES = CANDLE_SCHEMA.to_frame()


def empty_candles() -> pl.DataFrame:
    """A frame of no candles."""
    return _NO_CANDLES.clone()


def hash_of_cells(candles: pl.DataFrame) -> str:
    """``sha256:`` and the hash of the numbers of candles, column by column in the order they stand."""
    digest = hashlib.sha256()
    for column in candles.get_columns():
        digest.update(column.to_numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def broken(candles: pl.DataFrame, interval: str | Interval) -> pl.DataFrame:
    """Candles that no trades can have made.

    Args:
        candles: CANDLE_SCHEMA of one market and this interval.

    Returns:
        One row a broken rule: ``open_time`` and ``rule``. Empty when all is well.
    """
    interval = Interval.parse(interval)
    column = pl.col
    slack = 1 + 1e-9  # sums are floats
    quote, volume = column("quote_volume"), column("volume")
    ends = column("open_time") + interval.width
    always = [name for name in CANDLE_SCHEMA if not name.startswith("taker_")]
    rules: dict[str, pl.Expr] = {
        "a value is null": pl.any_horizontal(column(always).is_null()),
        "a value is not finite": ~pl.all_horizontal(column(_FLOATS).is_finite()),
        "open_time is not on the grid": column("open_time") != interval.floor_expr(column("open_time")),
        "open_time repeats or goes back": column("open_time") <= column("open_time").shift(1),
        "low is not above 0": ~(column("low") > 0),
        "open is not between low and high": ~column("open").is_between("low", "high"),
        "close is not between low and high": ~column("close").is_between("low", "high"),
        "volume is not above 0": ~(volume > 0),
        "quote_volume does not fit the prices": ~quote.is_between(
            volume * column("low") / slack, volume * column("high") * slack
        ),
        "trade_count is not above 0": ~(column("trade_count") > 0),
        "taker_buy_volume is not between 0 and volume": ~column("taker_buy_volume").is_between(
            0, volume * slack
        ),
        "taker_buy_quote_volume is not between 0 and quote_volume": ~column(
            "taker_buy_quote_volume"
        ).is_between(0, quote * slack),
        "only one taker volume is known": (
            column("taker_buy_volume").is_null() != column("taker_buy_quote_volume").is_null()
        ),
        "first trade is not inside": (column("first_trade_time") < column("open_time"))
        | (column("first_trade_time") >= ends),
        "last trade is not inside": (column("last_trade_time") < column("open_time"))
        | (column("last_trade_time") >= ends),
        "first trade is after the last": column("first_trade_time") > column("last_trade_time"),
    }
    found = [
        candles.filter(rule).select("open_time", pl.lit(name).alias("rule")) for name, rule in rules.items()
    ]
    return pl.concat(found).sort("open_time", "rule")
