"""Binance's public files: aggregate trades, trades and klines, spot and futures.

Spot files have no header row, futures files have one. Times are milliseconds, from 2025 on microseconds
in spot files; which one is seen from the size of the number.
"""

import re
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.sources.files import LAST_US
from marketdata.trade import SIDE, TIME

# "is_buyer_maker" and "is_best_match" are True or true; read as text. Futures files end one column earlier.
AGG_TRADE_COLUMNS = pl.Schema(
    {
        "id": pl.Int64,
        "price": pl.Float64,
        "amount": pl.Float64,
        "first": pl.Int64,
        "last": pl.Int64,
        "time": pl.Int64,
        "maker": pl.String,
        "best": pl.String,
    }
)
TRADE_COLUMNS = pl.Schema(
    {
        "id": pl.Int64,
        "price": pl.Float64,
        "amount": pl.Float64,
        "cost": pl.Float64,
        "time": pl.Int64,
        "maker": pl.String,
        "best": pl.String,
    }
)
KLINE_COLUMNS = pl.Schema(
    {
        "open_time": pl.Int64,
        "open": pl.Float64,
        "high": pl.Float64,
        "low": pl.Float64,
        "close": pl.Float64,
        "volume": pl.Float64,
        "close_time": pl.Int64,
        "quote_volume": pl.Float64,
        "trade_count": pl.Int64,
        "taker_buy_volume": pl.Float64,
        "taker_buy_quote_volume": pl.Float64,
        "ignore": pl.String,
    }
)
_TRUE, _FALSE = ["True", "true", "TRUE"], ["False", "false", "FALSE"]
_MICROSECONDS_FROM = 10**14  # as milliseconds the year 5138, as microseconds 1973
_STEM = re.compile(
    r"(?P<spelled>[A-Z0-9_]+)-(?P<kind>aggTrades|trades|1s|1m|5m|15m|30m|1h|4h|12h|1d|1w|[0-9]+[a-z]+)"
    r"-(?P<year>\d{4})-(?P<month>\d{2})(-(?P<day>\d{2}))?"
)


@dataclass(frozen=True, slots=True)
class Name:
    """What the name of a file says: ``BTCUSDT-aggTrades-2025-06-08``.

    ``kind`` is ``aggTrades``, ``trades`` or the interval of klines. ``end`` is exclusive.
    """

    spelled: str
    kind: str
    start: date
    end: date


def parse_name(stem: str) -> Name | None:
    """Read a file's name without suffixes; ``None`` when it is none of Binance's."""
    match = _STEM.fullmatch(stem)
    if match is None:
        return None
    try:
        start = date(int(match["year"]), int(match["month"]), int(match["day"] or 1))
    except ValueError:
        return None
    following_month = (start.replace(day=1) + timedelta(days=32)).replace(day=1)
    end = start + timedelta(days=1) if match["day"] else following_month
    return Name(match["spelled"], match["kind"], start, end)


def is_header(line: bytes) -> bool:
    """Whether the first line names the columns: its first cell is no number."""
    cell = line.split(b",", 1)[0].strip()
    return cell.replace(b"_", b"").isalpha()


def without_best(columns: pl.Schema) -> pl.Schema:
    """The columns of the same file of a futures market, which does not say "best match"."""
    return pl.Schema({name: kind for name, kind in columns.items() if name != "best"})


def agg_trades(cells: pl.DataFrame) -> pl.DataFrame:
    """Rows of TRADE_SCHEMA from AGG_TRADE_COLUMNS, one for one; not yet validated."""
    fills = (pl.col("last") - pl.col("first") + 1).cast(pl.Int32, strict=False)
    return _trades(cells, fills)


def trades(cells: pl.DataFrame) -> pl.DataFrame:
    """Rows of TRADE_SCHEMA from TRADE_COLUMNS, one for one; not yet validated."""
    return _trades(cells, pl.lit(1, pl.Int32))


def _trades(cells: pl.DataFrame, fills: pl.Expr) -> pl.DataFrame:
    maker = pl.col("maker")
    sell, buy = pl.lit("sell", SIDE), pl.lit("buy", SIDE)
    # The buyer waited in the book, so the taker sold. Written out: to lower each row's text takes longer.
    side = pl.when(maker.is_in(_TRUE)).then(sell).when(maker.is_in(_FALSE)).then(buy)
    return cells.select(
        pl.col("id").alias("trade_id"),
        _time("time"),
        "price",
        "amount",
        side.alias("side"),
        fills.alias("fills"),
    )


def klines(cells: pl.DataFrame) -> pl.DataFrame:
    """Rows of EXCHANGE_CANDLE_SCHEMA from KLINE_COLUMNS, one for one."""
    return cells.with_columns(_time("open_time")).select(EXCHANGE_CANDLE_SCHEMA.names())


def _time(name: str) -> pl.Expr:
    time = pl.col(name)
    us = pl.when(time >= _MICROSECONDS_FROM).then(time).otherwise(time * 1000)
    return pl.when(us.abs() <= LAST_US).then(us).cast(TIME).alias(name)
