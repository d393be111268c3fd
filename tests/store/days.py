"""Days of trades with their candles and manifests, for tests that write to a store."""

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import psycopg

from marketdata.candle import CANDLE_SCHEMA
from marketdata.completeness import build_manifest, content_hash
from marketdata.fold import fold
from marketdata.interval import to_us
from marketdata.manifest import Ids, Manifest, day_window
from marketdata.market import Market
from marketdata.trade import TRADE_SCHEMA

BTC = Market.parse("kraken:BTC/USD")
DAY = date(2025, 6, 8)


def trades_of_day(rows: int, *, seed: int = 1, day: date = DAY, first_id: int = 1_000) -> pl.DataFrame:
    """Trades at random times of a day, in order, some without a side."""
    rng = np.random.default_rng(seed)
    start = to_us(day_window(day)[0])
    sides = np.array(["buy", "sell", None], object)[rng.integers(0, 3, rows)]
    return pl.DataFrame(
        {
            "trade_id": np.arange(rows) + first_id,
            "time": np.sort(rng.integers(0, 86_400_000_000, rows)) + start,
            "price": np.round(60_000 + np.cumsum(rng.normal(0, 0.1, rows)), 2),
            "amount": np.round(rng.exponential(0.05, rows) + 1e-5, 5),
            "side": pl.Series(list(sides), dtype=pl.String),
            "fills": rng.integers(1, 4, rows),
        }
    ).cast(dict(TRADE_SCHEMA))


def manifest_of(trades: pl.DataFrame, market: Market = BTC, day: date = DAY, **changed: Any) -> Manifest:
    """The manifest of a whole day; ``covered`` may say that it is less."""
    given: dict[str, Any] = {
        "source": "kraken rest",
        "ids": Ids.EXCHANGE,
        "covered": [day_window(day)],
        "previous_id": None,
        "following_id": None,
        "not_served": (),
        "repeated": 0,
        "rejected": {},
        "pages": 1,
        "cursor": None,
        "evidence": {},
    }
    return build_manifest(market, day, trades, **given | changed)


@dataclass(frozen=True)
class Day:
    """What the lake would have of a day."""

    trades: pl.DataFrame
    market: Market = BTC
    day: date = DAY

    @cached_property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return manifest_of(self.trades, self.market, self.day)

    @cached_property
    def candles(self) -> pl.DataFrame:
        """Its candles."""
        return fold(self.trades, "1m")


def held_trades(url: str) -> pl.DataFrame:
    """All trades of the store, TRADE_SCHEMA in order."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT trade_id, time, price, amount, side::text, fills FROM trade ORDER BY time, trade_id"
        ).fetchall()
    return pl.DataFrame(rows, schema=TRADE_SCHEMA, orient="row")


def held_candles(url: str) -> pl.DataFrame:
    """All candles of the store, CANDLE_SCHEMA with revision, source and coverage."""
    schema = {**CANDLE_SCHEMA, "revision": pl.Int32(), "source": pl.String(), "coverage": pl.String()}
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            f"SELECT {', '.join(schema)} FROM candle ORDER BY market_id, open_time"
        ).fetchall()
    return pl.DataFrame(rows, schema=schema, orient="row")


def one(url: str, query: str) -> Any:
    """The first value of the first row."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def is_of(url: str, day: Day) -> bool:
    """Whether the store holds exactly these trades."""
    return content_hash(held_trades(url)) == day.manifest.content_hash
