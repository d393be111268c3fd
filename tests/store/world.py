"""The same days in a lake and in a store: complete, quiet, empty, with gaps, unknown and absent ones."""

from datetime import date, timedelta

import polars as pl

from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.manifest import Status
from marketdata.market import Market
from marketdata.store.load import replace_day
from tests.lake.world import BTC, ETH, manifest_of, trades_of

MONDAY = date(2025, 6, 2)
QUIET = (3.0, 5.0)
# Status and what there is, by days after MONDAY; day 1 is absent.
STATES = {
    0: (Status.COMPLETE, "quiet hours"),
    2: (Status.COMPLETE, "quiet hours"),
    3: (Status.GAPS, "whole"),
    4: (Status.COMPLETE, "empty"),
    5: (Status.COMPLETE, "no sides"),
    6: (Status.COMPLETE, "empty"),
    7: (Status.COMPLETE, "quiet hours"),
    8: (Status.UNKNOWN, "whole"),
    9: (Status.COMPLETE, "whole"),
}


def day_of(number: int) -> date:
    return MONDAY + timedelta(days=number)


def trades_on(day: date, kind: str, rows: int = 600) -> pl.DataFrame:
    """What was traded on a day of this kind."""
    trades = trades_of(day, rows, quiet=QUIET if kind == "quiet hours" else None)
    if kind == "empty":
        return trades.clear()
    if kind == "no sides":
        some = pl.col("trade_id") % 7 != 0
        return trades.with_columns(pl.when(some).then("side").alias("side"))
    return trades


def put(
    lake: Lake,
    url: str,
    market: Market,
    day: date,
    trades: pl.DataFrame,
    *,
    status: Status = Status.COMPLETE,
) -> None:
    """Write a day into the lake and load it into the store."""
    manifest = manifest_of(market, day, trades, status)
    candles = fold(trades)
    lake.write_trades(market, day, trades, manifest)
    lake.write_candles(market, day, "1m", candles, facts={"trades": manifest.content_hash})
    replace_day(url, market, day, trades, candles, manifest, widen=False)


def build(lake: Lake, url: str) -> None:
    """Both, with all days of :data:`STATES` and one of another market."""
    for number, (status, kind) in STATES.items():
        put(lake, url, BTC, day_of(number), trades_on(day_of(number), kind), status=status)
    put(lake, url, ETH, day_of(0), trades_of(day_of(0), 50))
