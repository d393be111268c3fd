"""Candles by REST against the local exchange."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata import sources
from marketdata.errors import UnknownName
from marketdata.exchange_sim import RunningExchange
from marketdata.interval import Interval
from marketdata.market import Market
from marketdata.sources import candle_source
from realtime.feeds.poller import CandlePoller
from tests.realtime.feeds.following import BINANCE, KRAKEN, PATIENCE_S, settings_for

Start = Callable[..., RunningExchange]
MINUTE = Interval.parse("1m")
BEGIN = datetime(2025, 6, 8, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize("market", [KRAKEN, BINANCE], ids=str)
def test_each_candle_comes_once_when_it_has_closed_as_the_exchange_keeps_it(
    exchange_server: Start, market: Market
) -> None:
    exchange = exchange_server(now=BEGIN)
    now = BEGIN
    found: list[pl.DataFrame] = []

    async def take(_: Market, interval: Interval, candles: pl.DataFrame, received: datetime) -> None:
        assert interval == MINUTE
        assert candles["open_time"][-1] + timedelta(minutes=1) <= received
        found.append(candles)

    def served() -> pl.DataFrame:
        start, end = MINUTE.floor(BEGIN), MINUTE.floor(now - timedelta(seconds=2))
        return candle_source(market.exchange, settings_for(exchange)).candles(market, MINUTE, start, end)

    async def until(there: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not there():
                await asyncio.sleep(0.02)

    async def all_have_come() -> None:
        last = served()["open_time"][-1]
        await until(lambda: bool(found) and found[-1]["open_time"][-1] >= last)

    async def follow() -> None:
        nonlocal now
        poller = CandlePoller([market], settings_for(exchange), clock=lambda: now, longest_sleep_s=0.02)
        running = asyncio.create_task(poller.run(take))
        # The last step is an outage of half an hour.
        for step in [20, 30, 15, 45, 60, 60, 61, 1_800]:
            now += timedelta(seconds=step)
            exchange.set_clock(now)
            if now - BEGIN > timedelta(minutes=1):
                await all_have_come()
        exchange.faults([{"kind": "500", "match": "OHLC|klines", "times": 2}])
        now += timedelta(minutes=5)
        exchange.set_clock(now)
        await until(lambda: bool(poller.events.notes))
        now += timedelta(minutes=5)
        exchange.set_clock(now)
        await all_have_come()
        assert not running.done(), running.exception()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(follow())
    expected = served()
    sources.close()
    assert_frame_equal(pl.concat(found), expected)
    assert len(found) > 4


def test_an_interval_that_the_exchange_does_not_serve_is_refused_before_anything_is_asked(
    exchange_server: Start,
) -> None:
    with pytest.raises(UnknownName, match="10s"):
        CandlePoller([KRAKEN], settings_for(exchange_server()), interval="10s")
