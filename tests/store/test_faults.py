"""Faults that must lose nothing: killed and slow servers, a full disk, two loaders, readers meanwhile."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import polars as pl
import pytest

from marketdata.errors import StorageError, TransientError
from marketdata.store.buffer import BufferedWriter
from marketdata.store.engine import connect
from marketdata.store.load import LoadReport, replace_day
from tests.store.conftest import RunningServer
from tests.store.days import BTC, Day, held_candles, is_of, one, trades_of_day
from tests.store.proxy import SlowProxy
from tests.store.test_buffer import until

OLD = Day(trades_of_day(20_000, seed=1))
NEW = Day(trades_of_day(30_000, seed=2, first_id=500_000))


def put(database: str, day: Day, frames: Iterator[pl.DataFrame] | None = None) -> LoadReport:
    given = day.trades if frames is None else frames
    return replace_day(database, day.market, day.day, given, day.candles, day.manifest, refresh=True)


def is_whole(database: str, day: Day) -> bool:
    """Whether trades, candles and manifest are all of this day."""
    return (
        is_of(database, day)
        and held_candles(database).select(day.candles.columns).equals(day.candles)
        and one(database, "SELECT content_hash FROM coverage") == day.manifest.content_hash
    )


def full_disk(database: str, at_id: int) -> None:
    """Make the server say what it says when its disk is full, at one trade."""
    with connect(database, autocommit=True) as connection:
        connection.execute(f"""
            CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE 'could not extend file "base/5/16384": No space left on device' USING ERRCODE = '53100';
            END $$;
            CREATE TRIGGER disk_full BEFORE INSERT ON trade FOR EACH ROW
            WHEN (NEW.trade_id = {at_id}) EXECUTE FUNCTION disk_full()
        """)  # type: ignore[arg-type]


def test_a_server_killed_during_a_load_has_the_old_day_and_after_another_try_the_new_one(
    server: RunningServer, database: str
) -> None:
    put(database, OLD)

    def frames() -> Iterator[pl.DataFrame]:
        for number, piece in enumerate(NEW.trades.iter_slices(5_000)):
            if number == 4:
                server.kill()
            yield piece

    with pytest.raises(TransientError):
        put(database, NEW, frames())
    server.start()
    assert is_whole(database, OLD)
    put(database, NEW)
    assert is_whole(database, NEW)


def test_a_server_killed_while_live_rows_are_written_has_each_of_them_once(
    server: RunningServer, database: str
) -> None:
    with BufferedWriter(database, rows=500, age_s=0.02, capacity=5_000) as writer:
        for number, piece in enumerate(NEW.trades.iter_slices(250)):
            if number in (20, 60):
                until(lambda: writer.stats.written > 0)
                server.kill()
                back = threading.Timer(0.5, server.start)
                back.start()
            writer.write(BTC, piece)
            if number in (20, 60):
                back.join()
        writer.flush(timeout_s=240)
        stats = writer.stats
    assert stats.retries > 0
    assert stats.reconnects >= 2
    assert stats.error == ""
    assert is_of(database, NEW)


def test_a_flush_of_which_nobody_knows_whether_it_was_committed_is_repeated_without_harm(
    database: str,
) -> None:
    with BufferedWriter(database) as writer:
        writer.write(BTC, OLD.trades[:1])  # the market is known then
    with SlowProxy(database) as proxy, BufferedWriter(proxy.url, rows=5_000) as writer:
        writer.write(BTC, OLD.trades[:1])
        writer.flush(timeout_s=240)
        proxy.lost_commits = 2
        writer.write(BTC, OLD.trades)
        writer.flush(timeout_s=240)
        assert proxy.lost_commits == 0
        assert writer.stats.retries == 2
        assert writer.stats.ignored > 5_000
    assert is_of(database, OLD)


def test_a_slow_server_makes_the_writer_wait_and_its_memory_stays_bounded(
    server: RunningServer, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(database, Day(OLD.trades.clear()))
    with SlowProxy(database) as proxy, caplog.at_level(logging.WARNING):
        writer = BufferedWriter(proxy.url, rows=1_000, age_s=0.01, capacity=4_000)
        writer.write(BTC, NEW.trades[:100])
        writer.flush(timeout_s=240)
        proxy.bytes_per_s = 300_000
        most, began = 0, time.monotonic()
        for piece in NEW.trades[100:12_000].iter_slices(100):
            writer.write(BTC, piece)
            most = max(most, writer.stats.waiting)
        stats = writer.stats
        assert time.monotonic() - began > 1.0
        assert most <= 4_000
        assert stats.blocked > 0
        assert stats.blocked_s > 0.5
        assert "The store is slow" in caplog.text
        with suppress(TransientError):
            for piece in NEW.trades[12_000:18_000].iter_slices(1_000):
                writer.write(BTC, piece, timeout_s=0.01)
            pytest.fail("a full writer took more than it has room for")
        proxy.bytes_per_s = None
        writer.write(BTC, NEW.trades[12_000:])
        writer.close()
    assert is_of(database, NEW)


def test_a_full_disk_during_a_load_is_named_and_leaves_the_old_day(database: str) -> None:
    put(database, OLD)
    full_disk(database, 500_000 + 25_000)
    with pytest.raises(StorageError, match=r"disk of the database server is full.*Free some space"):
        put(database, NEW)
    assert is_whole(database, OLD)


def test_live_rows_wait_until_the_disk_has_room_again(database: str) -> None:
    full_disk(database, 500_000 + 700)
    with BufferedWriter(database, rows=1_000, age_s=0.0) as writer:
        writer.write(BTC, NEW.trades)
        until(lambda: writer.stats.retries >= 2)
        stats = writer.stats
        assert stats.state == "retrying"
        assert "disk of the database server is full" in stats.error
        with connect(database, autocommit=True) as connection:
            connection.execute("DROP TRIGGER disk_full ON trade")
        writer.flush(timeout_s=240)
    assert is_of(database, NEW)


def test_two_loaders_of_one_day_end_as_one_load(database: str) -> None:
    put(database, OLD)
    reports: list[LoadReport] = []
    start = threading.Barrier(3)

    def load(day: Day) -> None:
        start.wait()
        reports.append(put(database, day, day.trades.iter_slices(3_000)))

    threads = [threading.Thread(target=load, args=(day,)) for day in (NEW, NEW, NEW)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 3
    assert sum(report.candles_changed > 0 for report in reports) == 1
    assert is_whole(database, NEW)


def test_a_reader_during_the_replace_sees_the_old_day_or_the_new_one(database: str) -> None:
    put(database, OLD)
    seen: set[tuple[int, int, str]] = set()
    done = threading.Event()
    query = """
        SELECT count(*), sum(trade_id)::bigint, (SELECT content_hash FROM coverage),
            (SELECT sum(trade_count)::bigint FROM candle), sum(fills)::bigint
        FROM trade
    """

    def read() -> None:
        with connect(database, autocommit=True) as connection:
            while not done.is_set():
                count, ids, content, candles, fills = connection.execute(query).fetchone() or (0,) * 5
                assert candles == fills
                seen.add((count, ids, content))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for day in (NEW, OLD, NEW):
            put(database, day, day.trades.iter_slices(3_000))
    finally:
        done.set()
        for reader in readers:
            reader.join()
    whole = {
        (len(day.trades), int(day.trades["trade_id"].sum()), day.manifest.content_hash) for day in (OLD, NEW)
    }
    assert seen == whole
