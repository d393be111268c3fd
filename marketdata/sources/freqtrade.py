"""Files of freqtrade: trades and candles as feather, parquet, json or json.gz.

The name says pair and content (``BTC_USDT-trades.feather``, ``BTC_USDT_USDT-1h-futures.feather``), a folder
above it the exchange (``data/kraken/``). Of a trade freqtrade keeps the time in milliseconds and no number of
fills. When it loads a file it drops trades that share time and id, and its ids are empty where the exchange
gave none: then two trades of one millisecond become one. So a file without ids proves no day.

Its oldest files are ccxt's own trades, one JSON object each, with the exchange's answer in ``info``.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import UsageError
from marketdata.interval import Interval
from marketdata.manifest import Ids
from marketdata.market import Market
from marketdata.sources.files import Table
from marketdata.sources.freqtrade_cells import CANDLE_COLUMNS
from marketdata.trade import SIDE

_STEM = re.compile(
    r"(?P<pair>[\w-]+?)-(?P<what>trades|\d+[a-zA-Z]{1,2})(?:-(?P<kind>[a-zA-Z_]+))?(?:_\d[\d_-]*)?"
)
_FUTURES = "futures"
_OF_TRADES = {None, "spot", _FUTURES}
_SEQUENTIAL = {"binance": "aggTrade", "kraken": "trade"}


@dataclass(frozen=True, slots=True)
class Name:
    """What the name of a file says; ``interval`` is ``None`` for trades."""

    pair: str
    interval: Interval | None
    futures: bool


def parse_name(table: Table) -> Name:
    """What the name says.

    Raises:
        UsageError: it is none of freqtrade's, or of data that is neither trades nor candles of trades.
    """
    match = _STEM.fullmatch(table.stem)
    if match is None:
        msg = f"{str(table)!r} is no name of freqtrade's."
        raise UsageError(msg, hint="It names them BTC_USDT-trades.feather, BTC_USDT-1m.feather and so on.")
    if match["kind"] not in _OF_TRADES:
        msg = f"{str(table)!r} holds {match['kind']}, which is neither trades nor candles of trades."
        raise UsageError(msg)
    futures = match["kind"] == _FUTURES or table.folders[-1:] == (_FUTURES,)
    interval = None if match["what"] == "trades" else Interval.parse(match["what"])
    return Name(match["pair"], interval, futures)


def market_of(table: Table, name: Name, symbol: str | None = None) -> Market:
    """The market: the exchange by the nearest folder that is named like one, the symbol by the name.

    ``symbol`` is what the rows say of it, where they do.

    Raises:
        UsageError: no folder names an exchange, or the pair is none.
    """
    exchange = next((folder for folder in reversed(table.folders) if folder in _exchanges()), None)
    if exchange is None:
        msg = f"No folder above {str(table)!r} is named for an exchange, as in data/kraken/{table.path.name}."
        raise UsageError(msg, hint="Say the market, for example kraken:BTC/USD.")
    symbol = symbol or name.pair.replace("_", "/", 1).replace("_", ":", 1)
    if name.futures and ":" not in symbol:
        symbol = f"{symbol}:{symbol.partition('/')[2]}"
    try:
        return Market(exchange, symbol)
    except UsageError as error:
        msg = f"{str(table)!r} does not say of which market it is: {error.message}"
        raise UsageError(msg, hint=f"Say the market, for example {exchange}:BTC/USD.") from error


@cache
def _exchanges() -> frozenset[str]:
    """The ids of ccxt, from its files: to import it takes a second."""
    spec = find_spec("ccxt")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    return frozenset() if folder is None else frozenset(path.stem for path in folder.glob("[!_]*.py"))


def day_ids(
    market: Market, rows: pl.DataFrame, around: tuple[int | None, int | None], *, whole: bool
) -> tuple[Ids, str]:
    """Which ids the rows of a day have, and their space; a day with a row without id has none.

    Args:
        rows: of the day, ``trade_id`` null where the file has no integer.
        around: ids before and after the day, which tell of a day without rows.
        whole: whether the rows say all that the exchange does: microseconds and fills.
    """
    known = rows["trade_id"].null_count() == 0 if len(rows) else None not in around
    if not known:
        return Ids.FINGERPRINT, "fingerprint, freqtrade"
    space = _SEQUENTIAL.get(market.exchange)
    if space is None:
        return Ids.EXCHANGE, "trade, freqtrade"
    return Ids.SEQUENTIAL, space if whole else f"{space}, freqtrade"


def trades(cells: pl.DataFrame) -> pl.DataFrame:
    """Rows of TRADE_SCHEMA from TRADE_COLUMNS, one for one; not yet validated."""
    side = pl.when(pl.col("side").is_in(SIDE.categories.to_list())).then(pl.col("side")).cast(SIDE)
    return cells.select(
        pl.when(pl.col("id") >= 0).then("id").alias("trade_id"),
        "time",
        "price",
        "amount",
        side.alias("side"),
        pl.col("fills").fill_null(1),
    )


def candles(cells: pl.DataFrame) -> pl.DataFrame:
    """Rows of EXCHANGE_CANDLE_SCHEMA from CANDLE_COLUMNS, one for one; what freqtrade drops is null."""
    absent = [
        pl.lit(None, dtype).alias(name)
        for name, dtype in EXCHANGE_CANDLE_SCHEMA.items()
        if name not in CANDLE_COLUMNS and name != "open_time"
    ]
    return cells.rename({"time": "open_time"}).with_columns(absent).select(EXCHANGE_CANDLE_SCHEMA.names())


def is_whole(row: Any) -> bool:
    """Whether a row of a file is a Binance aggregate trade with the exchange's own answer beside it."""
    info = row.get("info") if isinstance(row, dict) else None
    return isinstance(info, dict) and {"a", "f", "l"} <= info.keys()
