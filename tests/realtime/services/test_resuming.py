"""Services that were down go on behind what the store has: no hole and no repeat at the seam."""

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata import sources
from marketdata.exchange_sim import RunningExchange
from marketdata.interval import Interval
from marketdata.market import Market
from marketdata.reading import Wanted
from marketdata.settings import Settings
from marketdata.sources import candle_source, trade_source
from marketdata.store.buffer import BufferedWriter
from marketdata.store.live_tables import newest_candles, newest_trades
from marketdata.store.reader import StoreReader
from realtime.services import apps, resuming
from realtime.services.poll_service import Issues
from tests.realtime.feeds.following import BINANCE, KRAKEN, following, settings_for
from tests.store.conftest import database, server

__all__ = ["database", "server"]
Start = Callable[..., RunningExchange]
MINUTE = Interval.parse("1m")


def configured(exchange: RunningExchange, database: str) -> Settings:
    return settings_for(exchange).model_copy(
        update={"database_url": Settings.load(database_url=database).database_url}
    )


def held(database: str, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
    reader = StoreReader(database)
    reader.open()
    try:
        return reader.trades(market, start, end)
    finally:
        reader.close()


@pytest.mark.parametrize("market", [KRAKEN, BINANCE], ids=str)
def test_a_feed_goes_on_behind_the_last_trade_of_the_store(
    exchange_server: Start, database: str, market: Market
) -> None:
    exchange = exchange_server(load=300)
    settings = configured(exchange, database)

    async def follow() -> int:
        with BufferedWriter(database) as writer:
            async with following(exchange, market) as first:
                await first.more(market, 50)
            writer.write(market, first.trades(market))
            writer.flush()
            await asyncio.sleep(0.5)
            position = resuming.trades(settings, [market], datetime.now(UTC))
            assert position[market].trade_id == first.trades(market)["trade_id"][-1]
            async with following(exchange, market, resume_from=position) as second:
                await second.more(market, 400)
            writer.write(market, second.trades(market))
            writer.flush()
            return writer.stats.ignored

    assert asyncio.run(follow()) == 0
    now = datetime.now(UTC)
    stored = held(database, market, now - timedelta(hours=1), now)
    assert (stored["trade_id"].sort().diff().drop_nulls() == 1).all()
    start, end = stored["time"][0], stored["time"][-1] + timedelta(microseconds=1)
    pages = trade_source(market, end.date(), settings, now).pages(market, start, end)
    served = pl.concat([page.trades for page in pages]).filter(
        pl.col("trade_id").is_between(stored["trade_id"].min(), stored["trade_id"].max())
    )
    assert_frame_equal(stored.sort("trade_id"), served.sort("trade_id"))
    sources.close()


def test_candles_that_closed_while_the_poller_was_down_come_first_and_the_running_minute_not(
    exchange_server: Start, database: str
) -> None:
    exchange = exchange_server()
    settings = configured(exchange, database)
    source = candle_source("kraken", settings)
    down_at = MINUTE.floor(datetime.now(UTC)) - timedelta(minutes=30)
    with BufferedWriter(database) as writer:
        before = source.candles(KRAKEN, MINUTE, down_at - timedelta(hours=1), down_at)
        writer.write_candles(KRAKEN, Issues().stored(KRAKEN, before))
        writer.flush()
    stop = threading.Event()
    polling = threading.Thread(target=apps.run_poll, args=(settings, [str(KRAKEN)]), kwargs={"stop": stop})
    polling.start()
    try:
        deadline = time.monotonic() + 240
        wanted = source.candles(KRAKEN, MINUTE, down_at, MINUTE.floor(datetime.now(UTC)))["open_time"][-1]
        since = down_at - timedelta(hours=2)
        while newest_candles(database, since)[KRAKEN] < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        stop.set()
        polling.join(30)
    closed = MINUTE.floor(datetime.now(UTC))
    expected = source.candles(KRAKEN, MINUTE, down_at - timedelta(hours=1), closed)["open_time"]
    reader = StoreReader(database)
    reader.open()
    try:
        wanted_range = (down_at - timedelta(hours=1), closed)
        (found,) = reader.candles(KRAKEN, [Wanted(MINUTE, *wanted_range)], fill=False, details=False)
    finally:
        reader.close()
    assert found["open_time"].to_list() == [at for at in expected if at <= found["open_time"][-1]]
    assert found["open_time"][-1] >= wanted
    sources.close()


def test_without_a_store_or_with_one_that_is_away_a_feed_begins_with_the_socket(
    exchange_server: Start, database: str
) -> None:
    exchange = exchange_server()
    now = datetime.now(UTC)
    assert resuming.trades(settings_for(exchange), [KRAKEN], now) == {}
    away = configured(exchange, "postgresql://nobody:nothing@127.0.0.1:1/none")
    assert resuming.trades(away, [KRAKEN], now) == {}
    assert resuming.candles(away, [KRAKEN], now) == {}
    assert newest_trades(database, now) == {}
    sources.close()
