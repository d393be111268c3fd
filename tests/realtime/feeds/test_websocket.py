"""Feeds against the local exchange: every trade once and in order, whatever its sockets do."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata.exchange_sim import RunningExchange
from marketdata.market import Market
from marketdata.sources import trade_source
from marketdata.trade import in_order
from tests.realtime.feeds.following import BINANCE, KRAKEN, Followed, following, settings_for

Start = Callable[..., RunningExchange]
BOTH = pytest.mark.parametrize("market", [KRAKEN, BINANCE], ids=str)


def history(exchange: RunningExchange, market: Market, trades: pl.DataFrame) -> pl.DataFrame:
    """What REST serves between the first and the last of these trades."""
    start, end = trades["time"].min(), trades["time"].max()
    assert isinstance(start, datetime)
    assert isinstance(end, datetime)
    source = trade_source(market, end.date(), settings_for(exchange), datetime.now(UTC))
    pages = source.pages(market, start, end + timedelta(microseconds=1))
    found = pl.concat([page.trades for page in pages])
    return in_order(
        found.filter(pl.col("trade_id").is_between(trades["trade_id"][0], trades["trade_id"][-1]))
    )


def assert_nothing_is_missing(exchange: RunningExchange, market: Market, followed: Followed) -> None:
    trades = followed.trades(market)
    assert (trades["trade_id"].diff().drop_nulls() == 1).all()
    assert_frame_equal(trades, history(exchange, market, trades))


@BOTH
def test_live_trades_are_the_trades_of_history(exchange_server: Start, market: Market) -> None:
    exchange = exchange_server(load=200)

    async def follow() -> None:
        async with following(exchange, market) as followed:
            await followed.more(market, 200)
        assert_nothing_is_missing(exchange, market, followed)
        assert followed.feed.events.requests == 0

    asyncio.run(follow())


FAULTS: dict[str, list[dict[str, Any]]] = {
    "cut": [{"kind": "ws_cut", "match": "trade|aggTrade", "skip": 20, "times": 3}],
    "closed": [{"kind": "ws_cut", "match": "update", "skip": 20, "times": 1, "code": 1001}],
    "stalled": [{"kind": "ws_stall", "match": "update", "skip": 20, "times": 1, "seconds": 30, "lost": True}],
    "repeating": [{"kind": "ws_repeat", "match": "update", "probability": 0.3}],
    "out of order": [{"kind": "ws_reorder", "match": "update", "probability": 0.2}],
    "lossy": [{"kind": "ws_drop", "match": "update", "probability": 0.05}],
    "cutting frames short": [{"kind": "ws_corrupt", "match": "update", "probability": 0.05}],
    "with a stray frame": [{"kind": "ws_stray", "match": "update", "probability": 0.05}],
    "garbled": [
        {
            "kind": "ws_garbage",
            "match": "update",
            "probability": 0.05,
            "rows": 1,
            "garbage": ["negative_price", "zero_amount", "absent_field", "wrong_type", "future_time"],
        }
    ],
    "refusing": [
        {"kind": "ws_cut", "match": "update", "skip": 20, "times": 1},
        {"kind": "ws_refuse", "times": 2, "skip": 0, "match": "connect"},
    ],
}


@pytest.mark.parametrize(
    ("market", "fault"),
    [(KRAKEN, fault) for fault in FAULTS]
    + [(BINANCE, fault) for fault in ("cut", "stalled", "out of order", "lossy", "garbled")],
    ids=str,
)
def test_nothing_is_lost_and_nothing_repeated_when_the_socket_is(
    exchange_server: Start, market: Market, fault: str
) -> None:
    exchange = exchange_server(load=200)

    async def follow() -> None:
        async with following(exchange, market) as followed:
            await followed.more(market, 20)
            exchange.faults([{"seed": 3} | each for each in FAULTS[fault]])
            await followed.more(market, 200)
            exchange.faults([])
            await followed.more(market, 20)
        assert_nothing_is_missing(exchange, market, followed)
        events = followed.feed.events
        if fault in {"cut", "closed", "stalled", "refusing"}:
            assert events.connections > 1
        if fault == "repeating":
            assert events.repeats > 0
        if fault in {"lossy", "cutting frames short"}:
            assert events.fetched > 0
        if fault in {"cutting frames short", "with a stray frame", "garbled"}:
            assert followed.reasons()
            assert events.rejected.total() == len(followed.reasons())

    asyncio.run(follow())
