"""Feeds against the local exchange: every trade once and in order, whatever its sockets do."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import ccxt.pro
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata.errors import ExchangeRefused, TransientError, UnknownName, UsageError
from marketdata.exchange_sim import RunningExchange
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources import market_table, trade_source
from marketdata.sources.client import Client
from marketdata.sources.unified import UnifiedTrades
from marketdata.trade import in_order
from realtime.feeds.base import Position
from realtime.feeds.connection import Connection, Rows
from realtime.feeds.liveness import LivenessRules
from realtime.feeds.recovery import Recovery
from realtime.feeds.websocket import WebSocketFeed
from tests.realtime.feeds.following import (
    BINANCE,
    CALM,
    KRAKEN,
    PATIENCE_S,
    QUICK,
    Followed,
    following,
    settings_for,
)

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


def history_until(exchange: RunningExchange, market: Market, end: datetime) -> int:
    """The last id that REST serves before a time."""
    source = trade_source(market, end.date(), settings_for(exchange), datetime.now(UTC))
    pages = source.pages(market, end - timedelta(seconds=10), end)
    return int(pl.concat([page.trades for page in pages])["trade_id"][-1])


def assert_nothing_is_missing(exchange: RunningExchange, market: Market, followed: Followed) -> None:
    trades = followed.trades(market)
    assert (trades["trade_id"].diff().drop_nulls() == 1).all()
    assert_frame_equal(trades, history(exchange, market, trades))


@BOTH
def test_live_trades_are_the_trades_of_history(exchange_server: Start, market: Market) -> None:
    exchange = exchange_server(load=500)

    async def follow() -> None:
        async with following(exchange, market, rules=CALM) as followed:
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
    + [(BINANCE, fault) for fault in ("cut", "stalled", "lossy", "garbled")],
    ids=str,
)
def test_nothing_is_lost_and_nothing_repeated_when_the_socket_is(
    exchange_server: Start, market: Market, fault: str
) -> None:
    exchange = exchange_server(load=500)
    lasting = fault in {"cutting frames short", "with a stray frame", "garbled"}

    async def follow() -> None:
        async with following(exchange, market, rules=CALM if lasting else QUICK) as followed:
            await followed.more(market, 20)
            exchange.faults([{"seed": 3} | each for each in FAULTS[fault]])
            # A slow machine packs many trades into few frames.
            await followed.until(lambda: all(each["applied"] for each in exchange.fault_counts()))
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
        if lasting:
            assert followed.reasons()
            assert events.rejected.total() == len(followed.reasons())
            assert events.connections == 1, "a frame that cannot be read costs no connection"

    asyncio.run(follow())


def test_what_is_being_handed_on_when_a_socket_is_given_up_arrives_once(exchange_server: Start) -> None:
    exchange = exchange_server(load=300)

    async def follow() -> None:
        rules = LivenessRules(silence=2.0, probe=600.0)
        async with following(exchange, KRAKEN, rules=rules) as followed:
            await followed.more(KRAKEN, 20)
            followed.pause_s = 6.0
            await followed.until(lambda: followed.pauses)
            given_up = followed.feed.events.reconnects["silent"]
            stall = {"kind": "ws_stall", "match": "update", "times": 1, "seconds": 30, "lost": True}
            exchange.faults([stall])
            await followed.until(lambda: followed.feed.events.reconnects["silent"] > given_up)
            exchange.faults([])
            followed.pause_s = 0.0
            await followed.more(KRAKEN, 200)
        assert_nothing_is_missing(exchange, KRAKEN, followed)

    asyncio.run(follow())


@BOTH
def test_a_restarted_feed_brings_what_was_traded_meanwhile_first(
    exchange_server: Start, market: Market
) -> None:
    exchange = exchange_server(load=500)

    async def follow() -> None:
        async with following(exchange, market) as first:
            await first.more(market, 100)
        before = first.trades(market)
        last = before.row(-1, named=True)
        await asyncio.sleep(0.5)
        position = {market: Position(last["trade_id"], last["time"])}
        async with following(exchange, market, resume_from=position) as second:
            await second.more(market, 600)
        assert second.trades(market)["trade_id"][0] == last["trade_id"] + 1
        trades = pl.concat([before, second.trades(market)])
        assert_frame_equal(trades, history(exchange, market, trades))

    asyncio.run(follow())


@BOTH
def test_a_feed_that_goes_on_behind_a_corrupt_id_is_not_silent(
    exchange_server: Start, market: Market
) -> None:
    exchange = exchange_server(load=200)

    async def follow() -> None:
        corrupt = {market: Position(10**15, datetime.now(UTC) - timedelta(seconds=1))}
        async with following(exchange, market, resume_from=corrupt, rules=CALM) as followed:
            await followed.more(market, 300)
        assert_nothing_is_missing(exchange, market, followed)
        assert followed.trades(market)["time"][0] - corrupt[market].time < timedelta(seconds=1)
        assert followed.feed.events.renumbered == 1

    asyncio.run(follow())


def test_a_restarted_feed_of_a_quiet_market_needs_no_trade_to_find_what_it_missed(
    exchange_server: Start,
) -> None:
    exchange = exchange_server(now=datetime(2025, 6, 8, 12, tzinfo=UTC))
    source = trade_source(
        BINANCE, datetime(2025, 6, 8, tzinfo=UTC).date(), settings_for(exchange), datetime.now(UTC)
    )
    pages = source.pages(
        BINANCE, datetime(2025, 6, 8, 11, 50, tzinfo=UTC), datetime(2025, 6, 8, 12, tzinfo=UTC)
    )
    served = pl.concat([page.trades for page in pages])
    tenth = served.row(10, named=True)

    async def follow() -> None:
        position = {BINANCE: Position(tenth["trade_id"], tenth["time"])}
        async with following(exchange, BINANCE, resume_from=position) as followed:
            await followed.reaches(BINANCE, served["trade_id"][-1])
        assert_frame_equal(followed.trades(BINANCE), served.slice(11))

    asyncio.run(follow())


@BOTH
def test_a_quiet_market_is_not_taken_for_a_dead_feed(exchange_server: Start, market: Market) -> None:
    exchange = exchange_server(now=datetime(2025, 6, 8, 12, tzinfo=UTC), heartbeat_s=0.2)
    # Kraken beats; Binance is asked by REST instead.
    rules = LivenessRules(silence=3.0, probe=600.0)
    if market is BINANCE:
        rules = LivenessRules(silence=60.0, probe=0.5, delay=30.0)

    async def follow() -> None:
        async with following(exchange, market, rules=rules) as followed:
            await followed.until(lambda: followed.feed.events.connections)
            exchange.set_clock(datetime(2025, 6, 8, 12, 0, 30, tzinfo=UTC))
            await followed.more(market, 1)
            await asyncio.sleep(4.0)
            assert followed.feed.events.connections == 1
            exchange.set_clock(datetime(2025, 6, 8, 12, 1, tzinfo=UTC))
            await followed.more(market, 1)
        assert_nothing_is_missing(exchange, market, followed)
        assert followed.feed.events.connections == 1
        assert (followed.feed.events.requests > 0) == (market is BINANCE)

    asyncio.run(follow())


@BOTH
def test_a_socket_that_beats_but_brings_no_trades_is_found_out_and_replaced(
    exchange_server: Start, market: Market
) -> None:
    exchange = exchange_server(load=200)
    rules = LivenessRules(silence=30.0, probe=0.5, delay=0.5)

    async def follow() -> None:
        async with following(exchange, market, rules=rules) as followed:
            await followed.more(market, 20)
            exchange.faults([{"kind": "ws_drop", "match": "rade update|trade update|aggTrade"}])
            await followed.until(lambda: followed.feed.events.reconnects["trades not pushed"])
            exchange.faults([])
            await followed.more(market, 50)
        assert_nothing_is_missing(exchange, market, followed)

    asyncio.run(follow())


@BOTH
def test_a_burst_larger_than_what_ccxt_holds_loses_nothing(exchange_server: Start, market: Market) -> None:
    begin = datetime(2025, 6, 8, 12, tzinfo=UTC)
    exchange = exchange_server(load=1_000, now=begin, speed=0.0)

    async def follow() -> None:
        async with following(exchange, market, cache_rows=50, rules=CALM) as followed:
            await followed.until(lambda: exchange.sockets()["listening"])
            exchange.set_clock(begin + timedelta(seconds=1))
            await followed.more(market, 1)
            # Whoever takes the trades is slow while three thousand come at once.
            followed.pause_s = 0.3
            exchange.set_clock(begin + timedelta(seconds=4))
            await followed.until(lambda: followed.feed.events.overflows)
            followed.pause_s = 0.0
            exchange.set_clock(begin + timedelta(seconds=4.1))
            last_id = history_until(exchange, market, begin + timedelta(seconds=4.1))
            await followed.reaches(market, last_id)
        assert_nothing_is_missing(exchange, market, followed)
        assert followed.feed.events.fetched > 0

    asyncio.run(follow())


@BOTH
def test_what_comes_while_trades_are_taken_does_not_wait_for_the_next_trade(
    exchange_server: Start, market: Market
) -> None:
    begin = datetime(2025, 6, 8, 12, tzinfo=UTC)
    exchange = exchange_server(load=100, now=begin, speed=0.0)

    async def follow() -> None:
        async with following(exchange, market, rules=CALM) as followed:
            await followed.until(lambda: exchange.sockets()["listening"])
            followed.pause_s = 1.0
            for second in (1, 2):
                exchange.set_clock(begin + timedelta(seconds=second))
                await asyncio.sleep(0.3)
            await followed.reaches(market, history_until(exchange, market, begin + timedelta(seconds=2)))
        assert_nothing_is_missing(exchange, market, followed)

    asyncio.run(follow())


def test_what_waits_for_rest_is_bounded_and_comes_all_the_same(exchange_server: Start) -> None:
    exchange = exchange_server(load=300)

    async def follow() -> None:
        async with following(exchange, KRAKEN, buffer_rows=40) as followed:
            await followed.more(KRAKEN, 20)
            exchange.faults(
                [
                    {"kind": "ws_drop", "match": "trade update", "times": 1},
                    {"kind": "latency", "match": "Trades", "seconds": 1.0, "times": 1},
                    {"kind": "500", "match": "Trades", "times": 2},
                ]
            )
            await followed.more(KRAKEN, 500)
        assert_nothing_is_missing(exchange, KRAKEN, followed)
        assert followed.feed.events.overflows > 0

    asyncio.run(follow())


def test_several_markets_share_a_connection(exchange_server: Start) -> None:
    exchange = exchange_server(load=200)
    markets = [KRAKEN, Market.parse("kraken:ETH/USD"), Market.parse("kraken:BTC/EUR")]

    async def follow() -> None:
        async with following(exchange, *markets, rules=CALM) as followed:
            for market in markets:
                await followed.more(market, 60)
        for market in markets:
            assert_nothing_is_missing(exchange, market, followed)
        assert followed.feed.events.connections == 1

    asyncio.run(follow())


def test_ids_that_nobody_serves_are_given_up_and_said(exchange_server: Start) -> None:
    begin = datetime(2025, 6, 8, 12, tzinfo=UTC)
    exchange = exchange_server(load=300, now=begin, speed=0.0)

    async def follow() -> None:
        async with following(exchange, KRAKEN, rules=CALM) as followed:
            await followed.until(lambda: exchange.sockets()["listening"])
            exchange.set_clock(begin + timedelta(seconds=1))
            exchange.push()
            first = history_until(exchange, KRAKEN, begin + timedelta(seconds=1)) + 100
            exchange.hide(str(KRAKEN), [(first, first + 2)])
            exchange.set_clock(begin + timedelta(seconds=3))
            await followed.reaches(KRAKEN, first + 20)
        ids = followed.trades(KRAKEN)["trade_id"]
        assert sorted(set(range(ids[0], ids[-1] + 1)) - set(ids)) == [first, first + 1, first + 2]
        assert ids.is_sorted()
        assert followed.feed.events.not_served == 3

    asyncio.run(follow())


def test_an_exchange_without_ids_that_count_up_is_followed_by_time(exchange_server: Start) -> None:
    exchange = exchange_server(load=300)
    settings = settings_for(exchange)
    recovery = Recovery(settings, lambda market, _day, _now: UnifiedTrades(Client(market.exchange, settings)))

    async def follow() -> None:
        async with following(exchange, BINANCE, recovery=recovery) as followed:
            await followed.more(BINANCE, 50)
            exchange.faults([{"kind": "ws_cut", "match": "aggTrade", "times": 1}])
            await followed.until(lambda: followed.feed.events.connections > 1)
            exchange.faults([])
            await followed.more(BINANCE, 100)
            await followed.more(BINANCE, 1)
        trades = followed.trades(BINANCE)
        assert trades["trade_id"].diff().drop_nulls().eq(1).all()

    asyncio.run(follow())


@BOTH
def test_a_connection_that_ends_while_its_trades_are_taken_has_ended(
    exchange_server: Start, market: Market
) -> None:
    exchange = exchange_server(load=300)
    settings = settings_for(exchange)
    # Ids that do not count up show no hole: whoever is not told of a new connection misses trades.
    recovery = Recovery(settings, lambda market, _day, _now: UnifiedTrades(Client(market.exchange, settings)))

    async def follow() -> None:
        async with following(exchange, market, recovery=recovery, rules=CALM) as followed:
            await followed.more(market, 50)
            followed.pause_s = 2.0
            await followed.until(lambda: followed.pauses)
            exchange.faults([{"kind": "ws_cut", "match": "trade|aggTrade", "times": 1}])
            await followed.until(lambda: exchange.fault_counts()[0]["applied"])
            exchange.faults([])
            followed.pause_s = 0.0
            await followed.until(lambda: followed.feed.events.connections > 1)
            await followed.more(market, 100)
            await followed.more(market, 1)
        assert followed.feed.events.connections == 2
        assert followed.feed.events.reconnects == {"ended": 1}
        trades = followed.trades(market)
        assert trades["trade_id"].diff().drop_nulls().eq(1).all()

    asyncio.run(follow())


def test_a_socket_is_not_silent_because_nobody_listened(exchange_server: Start) -> None:
    exchange = exchange_server(load=300)

    async def follow() -> None:
        async with following(exchange, KRAKEN) as followed:
            await followed.more(KRAKEN, 20)
            # What takes the trades holds everything up, as a full queue to the brokers does.
            time.sleep(QUICK.silence + 0.5)
            await followed.more(KRAKEN, 100)
        assert_nothing_is_missing(exchange, KRAKEN, followed)
        assert not followed.feed.events.reconnects

    asyncio.run(follow())


def test_a_market_that_is_not_listed_is_refused(exchange_server: Start) -> None:
    exchange = exchange_server()
    feed = WebSocketFeed("kraken", [Market.parse("kraken:BTC/USX")], settings_for(exchange))

    async def take(*_: object) -> None:
        pytest.fail("there is no such market")

    with pytest.raises(UnknownName, match="BTC/USX"):
        asyncio.run(feed.run(take))


def test_a_subscription_that_kraken_refuses_is_an_error_and_not_a_wait(exchange_server: Start) -> None:
    settings = settings_for(exchange_server())
    table = dict(market_table("kraken", settings))
    table["BTC/XXX"] = {**table["BTC/USD"], "symbol": "BTC/XXX", "id": "XBTXXX"}

    async def nothing(symbol: str, rows: Rows, *, lost: bool) -> None:
        pytest.fail(f"{symbol}: {len(rows)} rows, lost: {lost}")

    async def connect() -> None:
        connection = Connection("kraken", ["BTC/XXX"], table, settings)
        await asyncio.wait_for(connection.run(nothing, lambda _: None, lambda *_: None), PATIENCE_S)

    with pytest.raises(ExchangeRefused, match="kraken refused"):
        asyncio.run(connect())


def test_whoever_takes_the_trades_may_fail_and_its_error_comes_out(exchange_server: Start) -> None:
    exchange = exchange_server(load=300)
    feed = WebSocketFeed("kraken", [KRAKEN], settings_for(exchange))

    async def take(*_: object) -> None:
        msg = "the broker is gone"
        raise TransientError(msg)

    with pytest.raises(TransientError, match="the broker is gone"):
        asyncio.run(asyncio.wait_for(feed.run(take), PATIENCE_S))


def test_every_exchange_that_streams_trades_in_ccxt_can_be_followed() -> None:
    streaming = 0
    for name in ccxt.pro.exchanges:
        try:
            Connection(name, ["BTC/USDT"], {}, Settings())
        except UsageError:
            continue
        streaming += 1
    assert streaming > 50


def test_a_feed_that_is_run_once_more_hands_on_again_what_may_not_have_arrived(
    exchange_server: Start,
) -> None:
    exchange = exchange_server(load=300)
    feed = WebSocketFeed("kraken", [KRAKEN], settings_for(exchange), rules=QUICK)
    runs: list[list[pl.DataFrame]] = []

    async def once(count: int) -> None:
        frames: list[pl.DataFrame] = []
        runs.append(frames)

        async def take(_: Market, trades: pl.DataFrame, __: datetime) -> None:
            frames.append(trades)

        running = asyncio.create_task(feed.run(take))
        async with asyncio.timeout(PATIENCE_S):
            while sum(map(len, frames)) < count:
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(once(100))
    asyncio.run(once(400))
    first, second = (pl.concat(frames) for frames in runs)
    assert second["trade_id"][0] == first["trade_id"][0]
    assert (second["trade_id"].diff().drop_nulls() == 1).all()
