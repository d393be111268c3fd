"""Kraken's downloadable history: trades (``XBTUSD.csv``) and candles (``XBTUSD_60.csv``).

Trades are ``unix seconds, price, volume`` without header, ids or sides. Identical rows are separate fills
and are kept; see :func:`marketdata.trade.assign_ids` for how they are told apart.
"""

import re

import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.interval import INTERVALS, Interval
from marketdata.sources.files import LAST_US
from marketdata.trade import SIDE, TIME

TRADE_COLUMNS = pl.Schema({"time": pl.Float64, "price": pl.Float64, "amount": pl.Float64})
CANDLE_COLUMNS = pl.Schema(
    {
        "time": pl.Float64,
        "open": pl.Float64,
        "high": pl.Float64,
        "low": pl.Float64,
        "close": pl.Float64,
        "volume": pl.Float64,
        "trades": pl.Int64,
    }
)
_CANDLE_STEM = re.compile(r"(?P<pair>.+)_(?P<minutes>\d+)")
_MINUTE_US = 60_000_000


def trades(cells: pl.DataFrame) -> pl.DataFrame:
    """Rows of TRADE_SCHEMA from TRADE_COLUMNS, one for one; not yet validated, ``trade_id`` is null."""
    return cells.select(
        pl.lit(None, pl.Int64).alias("trade_id"),
        _time(),
        "price",
        "amount",
        pl.lit(None, SIDE).alias("side"),
        pl.lit(1, pl.Int32).alias("fills"),
    )


def candles(cells: pl.DataFrame) -> pl.DataFrame:
    """Rows of EXCHANGE_CANDLE_SCHEMA from CANDLE_COLUMNS, one for one; what Kraken does not say is null."""
    return cells.select(
        _time().alias("open_time"),
        "open",
        "high",
        "low",
        "close",
        "volume",
        pl.lit(None, pl.Float64).alias("quote_volume"),
        pl.col("trades").alias("trade_count"),
        pl.lit(None, pl.Float64).alias("taker_buy_volume"),
        pl.lit(None, pl.Float64).alias("taker_buy_quote_volume"),
    ).cast(EXCHANGE_CANDLE_SCHEMA)


def _time() -> pl.Expr:
    """Seconds with any decimals to microseconds; exact for microseconds until the year 2255."""
    us = (pl.col("time") * 1e6).round().cast(pl.Int64, strict=False)
    return pl.when(us.abs() <= LAST_US).then(us).cast(TIME).alias("time")


def candle_name(stem: str) -> tuple[str, Interval | None] | None:
    """Pair and interval of ``XBTUSD_60``; ``None`` if the stem is no name of a candle file.

    The interval is ``None`` when the width is none that this program knows.
    """
    match = _CANDLE_STEM.fullmatch(stem)
    if match is None:
        return None
    width = int(match["minutes"]) * _MINUTE_US
    return match["pair"], next((i for i in INTERVALS if i.us == width), None)
