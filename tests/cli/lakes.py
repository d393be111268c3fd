"""Small lakes with days whose state is known."""

from datetime import date, datetime
from pathlib import Path

import polars as pl

from marketdata.fold import fold
from marketdata.interval import to_us
from marketdata.lake import Lake
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.trade import TRADE_SCHEMA

BTC = Market("kraken", "BTC/USD")
ETH = Market("kraken", "ETH/USD")
DAY = date(2025, 6, 1)
# Floats whose shortest text is long, tiny or huge: they have to come back as they were.
PRICES = [0.1 + 0.2, 67_000.1, 1e-8, 123_456_789.123_456_78, 5e-324, 1.7976931348623157e308]


def open_lake(home: Path) -> Lake:
    return Lake.open(str(home / "lake"), settings=Settings.load())


def some_trades(day: date, count: int = 1_440, *, first_id: int = 1, every_s: float = 60.0) -> pl.DataFrame:
    """One trade every minute, the price going up and down by 10."""
    start = to_us(day_window(day)[0])
    return pl.DataFrame(
        {
            "trade_id": range(first_id, first_id + count),
            "time": [start + int(n * every_s * 1e6) for n in range(count)],
            "price": [67_000.0 + (n // 10 % 2) * 10 + n % 10 + 0.5 for n in range(count)],
            "amount": [0.25 + n % 4 for n in range(count)],
            "side": ["buy" if n % 3 else "sell" for n in range(count)],
            "fills": [1] * count,
        },
        schema_overrides=TRADE_SCHEMA,
    )


def manifest(market: Market, day: date, trades: pl.DataFrame, status: Status, reason: str) -> Manifest:
    ids, times = trades["trade_id"], trades["time"]
    bounds: tuple[datetime, datetime] = day_window(day)
    return Manifest(
        market=market,
        day=day,
        source="kraken rest",
        ids=Ids.SEQUENTIAL,
        status=status,
        reason=reason,
        rows=len(trades),
        fills=len(trades),
        first_time=times[0] if len(trades) else None,
        last_time=times[-1] if len(trades) else None,
        first_id=ids[0] if len(trades) else None,
        last_id=ids[-1] if len(trades) else None,
        previous_id=None,
        following_id=None,
        covered=(bounds,),
        content_hash="sha256:0",
        missing_ids=((5, 7),) if status is Status.GAPS else (),
    )


def put_day(
    lake: Lake,
    market: Market,
    day: date,
    trades: pl.DataFrame | None = None,
    *,
    status: Status = Status.COMPLETE,
    reason: str = "Every trade is here.",
) -> None:
    trades = some_trades(day) if trades is None else trades
    lake.write_trades(market, day, trades, manifest(market, day, trades, status, reason))
    lake.write_candles(market, day, "1m", fold(trades, "1m"))
