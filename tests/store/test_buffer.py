"""The buffered writer: three triggers, every row once, refused rows kept apart."""

import logging
import threading
import time
from collections.abc import Callable, Iterator

import orjson
import polars as pl
import pytest

from marketdata.errors import MarketDataError, StorageError, TransientError, UsageError
from marketdata.market import Market
from marketdata.store.buffer import BufferedWriter
from marketdata.store.engine import connect
from marketdata.store.load import replace_day
from tests.store.days import BTC, DAY, Day, held_candles, held_trades, one, trades_of_day
from tests.store.test_candles import issue

ETH = Market.parse("kraken:ETH/USD")
TRADES = trades_of_day(3_000)
FOR_EVER = 1e9


def until(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def pieces(trades: pl.DataFrame, rows: int) -> Iterator[pl.DataFrame]:
    return trades.iter_slices(rows)


def test_rows_go_when_enough_of_them_wait(database: str) -> None:
    with BufferedWriter(database, rows=1_000, age_s=FOR_EVER) as writer:
        for piece in pieces(TRADES[:999], 100):
            writer.write(BTC, piece)
        time.sleep(0.2)
        assert (writer.stats.waiting, writer.stats.flushes) == (999, 0)
        writer.write(BTC, TRADES[999:1000])
        until(lambda: writer.stats.written == 1_000)
        assert writer.stats.waiting == 0


def test_rows_go_when_the_oldest_has_waited_long_enough(database: str) -> None:
    now = [100.0]
    with BufferedWriter(database, rows=1_000, age_s=5.0, clock=lambda: now[0]) as writer:
        writer.write(BTC, TRADES[:1])
        now[0] = 103.0
        writer.write(BTC, TRADES[1:2])
        now[0] = 104.9
        time.sleep(0.2)
        assert (writer.stats.waiting, writer.stats.oldest_s) == (2, pytest.approx(4.9))
        now[0] = 105.0
        until(lambda: writer.stats.written == 2)


def test_rows_go_at_the_end(database: str) -> None:
    writer = BufferedWriter(database, rows=1_000, age_s=FOR_EVER)
    writer.write(BTC, TRADES[:10])
    writer.close()
    assert (writer.stats.written, writer.stats.state) == (10, "closed")
    writer.close()
    with pytest.raises(StorageError, match="closed"):
        writer.write(BTC, TRADES[:1])
    assert len(held_trades(database)) == 10


def test_flush_returns_when_what_was_brought_is_committed(database: str) -> None:
    with BufferedWriter(database, rows=1_000, age_s=FOR_EVER) as writer:
        writer.write(BTC, TRADES[:2_500])
        writer.flush(timeout_s=240)
        assert one(database, "SELECT count(*) FROM trade") == 2_500
        writer.flush()


def test_rows_brought_twice_and_by_several_threads_are_there_once(database: str) -> None:
    with BufferedWriter(database, rows=500, age_s=0.01) as writer:

        def bring(market: Market) -> None:
            for piece in pieces(TRADES, 70):
                writer.write(market, piece)

        threads = [threading.Thread(target=bring, args=(market,)) for market in (BTC, ETH, BTC, ETH)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.flush(timeout_s=240)
        stats = writer.stats
    assert (stats.written, stats.ignored, stats.refused) == (6_000, 6_000, 0)
    assert one(database, "SELECT count(*) FROM trade") == 6_000
    eth = "SELECT sum(trade_id * fills) FROM v_trade WHERE symbol = 'ETH/USD'"
    assert one(database, eth) == int((TRADES["trade_id"] * TRADES["fills"]).sum())


def test_candles_and_trades_travel_together(database: str) -> None:
    with BufferedWriter(database) as writer:
        writer.write(BTC, TRADES)
        for revision in (1, 0, 2):
            writer.write_candles(BTC, issue(revision))
    assert len(held_trades(database)) == 3_000
    assert held_candles(database)["revision"].to_list() == [2] * 10
    assert writer.stats.written + writer.stats.ignored == 3_030


def test_a_row_the_server_refuses_is_kept_apart_and_the_rest_of_its_batch_lands(database: str) -> None:
    bad = TRADES.with_columns(
        price=pl.when(pl.col("trade_id") == 2_000).then(None).otherwise("price"),
        fills=pl.when(pl.col("trade_id") == 2_700).then(None).otherwise("fills"),
    )
    for _ in range(2):
        with BufferedWriter(database, rows=3_000) as writer:
            writer.write(BTC, bad)
        assert writer.stats.refused == 2
    assert len(held_trades(database)) == 2_998
    with connect(database) as connection:
        letters = connection.execute(
            "SELECT origin, position, market, reason, raw FROM dead_letter ORDER BY position"
        ).fetchall()
    assert [(origin, market) for origin, _, market, _, _ in letters] == [("store writer", str(BTC))] * 2
    assert letters[0][1].endswith(" 2000")
    assert "null value in column" in letters[0][3]
    assert orjson.loads(bytes(letters[0][4]))["trade_id"] == 2_000


def test_a_live_row_waits_for_the_load_of_its_day_and_is_not_doubled(database: str) -> None:
    day = Day(TRADES)

    def frames() -> Iterator[pl.DataFrame]:
        yield TRADES[:1_000]
        writer.write(BTC, TRADES[500:2_000])
        time.sleep(0.3)
        assert writer.stats.written == 0
        yield TRADES[1_000:]

    with BufferedWriter(database, rows=100, age_s=0.01) as writer:
        replace_day(database, BTC, DAY, frames(), None, day.manifest)
        writer.flush(timeout_s=240)
        assert (writer.stats.written, writer.stats.ignored) == (0, 1_500)
    assert len(held_trades(database)) == 3_000


def test_live_rows_of_a_compressed_day_are_added_and_known_ones_ignored(
    database: str, timescale: str
) -> None:
    half = Day(TRADES[::2])
    replace_day(database, BTC, DAY, half.trades, half.candles, half.manifest)
    with connect(database, autocommit=True) as connection:
        for table in ("trade", "candle"):
            connection.execute(f"SELECT compress_chunk(c) FROM show_chunks('{table}') AS c")  # type: ignore[arg-type]
    with BufferedWriter(database) as writer:
        writer.write(BTC, TRADES)
        writer.write_candles(BTC, issue(1))
        writer.flush(timeout_s=240)
        assert (writer.stats.written, writer.stats.ignored) == (1_510, 1_500)
    assert held_trades(database).equals(TRADES)


def test_a_schema_that_is_not_there_ends_the_writer_with_what_to_do(empty_database: str) -> None:
    writer = BufferedWriter(empty_database, age_s=0.0)
    writer.write(BTC, TRADES[:5])
    until(lambda: writer.stats.state == "failed")
    with pytest.raises(UsageError, match="marketdata db upgrade"):
        writer.write(BTC, TRADES[5:6])
    with pytest.raises(UsageError, match="marketdata db upgrade"):
        writer.flush()
    with pytest.raises(MarketDataError):
        writer.close()
    assert writer.stats.waiting == 5


def test_a_writer_that_cannot_reach_the_server_says_so_and_how_many_rows_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "hush"
    url = f"postgresql://user:{secret}@127.0.0.1:1/none"
    writer = BufferedWriter(url, rows=10, capacity=20, age_s=0.0)
    with caplog.at_level(logging.WARNING):
        writer.write(BTC, TRADES[:20])
        with pytest.raises(TransientError, match="20 rows wait"):
            writer.write(BTC, TRADES[20:25], timeout_s=0.2)
        until(lambda: writer.stats.retries >= 2)
        stats = writer.stats
        with pytest.raises(TransientError, match="20 rows wait"):
            writer.close(timeout_s=0.2)
    assert (stats.state, stats.waiting, stats.blocked) == ("retrying", 20, 1)
    assert stats.blocked_s >= 0.2
    assert "does not answer" in stats.error
    assert "trying again" in caplog.text
    assert "The store is slow: 20 of 20 rows wait" in caplog.text
    assert secret not in caplog.text + stats.error + repr(writer)


def test_progress_says_how_much_of_what_found_no_room_was_taken() -> None:
    writer = BufferedWriter("postgresql://user@127.0.0.1:1/none", rows=10, capacity=30, age_s=0.0)
    with pytest.raises(TransientError, match="30 rows wait"):
        writer.write(BTC, TRADES[:45], timeout_s=0.1)
    assert writer.progress == (30, 0)
    with pytest.raises(TransientError):
        writer.close(timeout_s=0.1)
