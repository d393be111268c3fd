"""Candles: schemas and invariants (pure).

A frame of candles is of one market and one interval and has CANDLE_SCHEMA, sorted by ``open_time``;
exchange, symbol and interval are added where frames meet. An interval without trades has no row.
"""

import polars as pl

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


def empty_candles() -> pl.DataFrame:
    """A frame of no candles."""
    return CANDLE_SCHEMA.to_frame()
