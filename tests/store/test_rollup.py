"""Wider candles of the store are the fold of its one-minute candles, whatever was written or removed.

The laws hold on every server; on TimescaleDB once what was marked has been refreshed.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import numpy as np
import polars as pl
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from psycopg import Connection

from marketdata.candle import CANDLE_SCHEMA
from marketdata.errors import UsageError
from marketdata.fold import widen
from marketdata.interval import Interval
from marketdata.store.engine import connect
from marketdata.store.wider import WIDER, refresh

SCHEMA = pl.Schema(
    {
        "market_id": pl.Int16(),
        **CANDLE_SCHEMA,
        "revision": pl.Int32(),
        "source": pl.String(),
        "coverage": pl.String(),
    }
)
COLUMNS = ", ".join(SCHEMA)
SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
SELECTED = tuple(name for name in SCHEMA if name not in SUMS)
WORST = ["complete", "unknown", "gaps", "partial"]
SOURCES = ["batch", "stream", "exchange", "import", "repair"]
# Sunday and Monday: a week, a day and all that is narrower end between them.
MONDAY = datetime(2024, 7, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
EARLIEST, LATEST = MONDAY - timedelta(days=3), MONDAY + timedelta(days=9)
# TimescaleDB moves no row to another chunk; 2024-07-04 is where one of 28 days begins.
SAME_CHUNK = MONDAY + timedelta(days=2)
MARKETS = count(100)


def candles(
    market: int, times: list[datetime], *, seed: int = 0, without: tuple[str, ...] = ()
) -> pl.DataFrame:
    """Candles that differ from each other in everything; columns ``without`` are null."""
    rng, rows = np.random.default_rng(seed), len(times)
    times_us = pl.Series(times, dtype=CANDLE_SCHEMA["open_time"])
    made = pl.DataFrame(
        {
            "market_id": [market] * rows,
            "open_time": times_us,
            **{name: rng.uniform(1, 1e5, rows) for name in ("open", "high", "low", "close")},
            **{name: rng.uniform(1e-8, 1e6, rows) for name in SUMS},
            "trade_count": rng.integers(1, 1_000, rows),
            "first_trade_id": rng.integers(1, 2**62, rows),
            "last_trade_id": rng.integers(1, 2**62, rows),
            "first_trade_time": times_us.dt.offset_by("1s"),
            "last_trade_time": times_us.dt.offset_by("58s"),
            "revision": rng.integers(0, 9, rows),
            "source": [SOURCES[at] for at in rng.integers(0, len(SOURCES), rows)],
            "coverage": [WORST[at] for at in rng.integers(0, len(WORST), rows)],
        }
    )
    nulls = [pl.lit(None).alias(name) for name in without]
    return made.with_columns(nulls).select(SCHEMA.names()).cast(SCHEMA)


def put(connection: Connection[Any], frame: pl.DataFrame) -> None:
    """Upsert in one statement; the candle that comes wins."""
    changed = ", ".join(f"{name} = excluded.{name}" for name in SCHEMA.names()[2:])
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS coming (LIKE candle) ON COMMIT DELETE ROWS")
    with connection.transaction():
        with connection.cursor() as cursor, cursor.copy(f"COPY coming ({COLUMNS}) FROM STDIN") as copy:
            for row in frame.iter_rows():
                copy.write_row(row)
        connection.execute(
            f"INSERT INTO candle ({COLUMNS}) SELECT {COLUMNS} FROM coming"
            f" ON CONFLICT (market_id, open_time) DO UPDATE SET {changed}"
        )


def held(connection: Connection[Any], table: str, market: int) -> pl.DataFrame:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM {table} WHERE market_id = %s ORDER BY open_time", (market,)
    ).fetchall()
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def folded(minutes: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    """What a wider candle is, in the words of polars; a sum of which a part is unknown is unknown."""
    column = pl.col
    first = ("open", "first_trade_id", "first_trade_time")
    last = ("close", "last_trade_id", "last_trade_time")
    return (
        minutes.sort("open_time")
        .with_columns(interval.floor_expr(column("open_time")).alias("bucket"))
        .group_by("market_id", "bucket", maintain_order=True)
        .agg(
            *(column(name).first() for name in first),
            *(column(name).last() for name in last),
            column("high").max(),
            column("low").min(),
            *(
                pl.when(column(name).null_count() == 0).then(column(name).sum()).alias(name)
                for name in (*SUMS, "trade_count")
            ),
            column("revision").max(),
            pl.when(column("source").n_unique() == 1)
            .then(column("source").first())
            .otherwise(pl.lit("mixed"))
            .alias("source"),
            column("coverage").replace_strict(WORST, range(4), return_dtype=pl.UInt8).max().alias("worst"),
        )
        .with_columns(
            column("bucket").alias("open_time"),
            column("worst").replace_strict(range(4), WORST, return_dtype=pl.String).alias("coverage"),
        )
        .select(SCHEMA.names())
        .cast(SCHEMA)
    )


def assert_same(a: pl.DataFrame, b: pl.DataFrame) -> None:
    """Equal candles: selected values to the bit, sums to 1e-9."""
    selected = [name for name in SELECTED if name in a.columns]
    assert_frame_equal(a.select(selected), b.select(selected), check_exact=True)
    assert_frame_equal(a.select(SUMS), b.select(SUMS), rel_tol=1e-9, abs_tol=0)


def assert_wider_are_the_fold(connection: Connection[Any], market: int) -> None:
    minutes = held(connection, "candle_1m", market)
    for interval in WIDER:
        assert_same(held(connection, f"candle_{interval}", market), folded(minutes, interval))


def every(step: int, start: datetime = EARLIEST, end: datetime = LATEST) -> list[datetime]:
    """Times ``step`` minutes apart."""
    return pl.datetime_range(start, end, timedelta(minutes=step), closed="left", eager=True).to_list()


@contextmanager
def both(database: str) -> Iterator[tuple[Connection[Any], Connection[Any]]]:
    with connect(database, autocommit=True) as one, connect(database, autocommit=True) as other:
        yield one, other


def test_wider_candles_are_what_the_fold_makes_of_minutes(database: str) -> None:
    minutes = candles(1, every(7), seed=1)
    with connect(database, autocommit=True) as connection:
        put(connection, minutes)
        refresh(connection)
        for interval in WIDER:
            wide = held(connection, f"candle_{interval}", 1).select(CANDLE_SCHEMA.names())
            assert_same(wide, widen(minutes.select(CANDLE_SCHEMA.names()), interval))
        assert_wider_are_the_fold(connection, 1)


def test_weeks_start_on_monday(database: str) -> None:
    with connect(database, autocommit=True) as connection:
        put(connection, candles(1, [MONDAY - MINUTE, MONDAY, MONDAY + timedelta(days=7) - MINUTE]))
        refresh(connection)
        weeks = held(connection, "candle_1w", 1)["open_time"].to_list()
    assert weeks == [MONDAY - timedelta(days=7), MONDAY]


# Most of them in the hour around Monday's beginning, so that batches meet.
TIMES = st.one_of(
    st.integers(-30, 29).map(lambda minutes: MONDAY + timedelta(minutes=minutes)),
    st.integers(0, 12 * 1440 - 1).map(lambda minutes: EARLIEST + timedelta(minutes=minutes)),
)
NULLS = st.sampled_from(
    [
        (),
        ("taker_buy_volume", "taker_buy_quote_volume"),
        ("quote_volume", "trade_count", "first_trade_id", "last_trade_id", "first_trade_time"),
    ]
)
PUTS = st.tuples(
    st.just("put"), st.lists(TIMES, min_size=1, max_size=40, unique=True), st.integers(0, 2**32 - 1), NULLS
)
REMOVALS = st.tuples(st.just("remove"), TIMES, st.sampled_from([1, 5, 60, 1440, 20_000]))
MOVES = st.tuples(st.just("move"), TIMES, st.integers(1, 90), st.sampled_from([2, 40, 1500]))
REFRESHES = st.tuples(st.just("refresh"))
CHANGES = st.lists(st.one_of(PUTS, PUTS, REMOVALS, MOVES, REFRESHES), min_size=1, max_size=5)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=CHANGES)
def test_after_any_changes_wider_candles_are_the_fold_of_what_is_held(database: str, changes: Any) -> None:
    market = next(MARKETS)
    with connect(database, autocommit=True) as connection:
        for what, *values in changes:
            match what, values:
                case "put", (times, seed, without):
                    put(connection, candles(market, times, seed=seed, without=without))
                case "remove", (start, minutes):
                    connection.execute(
                        "DELETE FROM candle WHERE market_id = %s AND open_time >= %s AND open_time < %s",
                        (market, start, start + timedelta(minutes=minutes)),
                    )
                case "move", (start, minutes, by):
                    # Keys change: the candle leaves one bucket for another, which was empty.
                    connection.execute(
                        "UPDATE candle SET open_time = open_time + %(by)s, revision = revision + 1"
                        " WHERE market_id = %(market)s AND open_time >= %(start)s AND open_time < %(end)s"
                        " AND open_time + %(by)s < %(bound)s AND NOT EXISTS ("
                        "  SELECT FROM candle taken WHERE taken.market_id = candle.market_id"
                        "  AND taken.open_time = candle.open_time + %(by)s)",
                        {
                            "market": market,
                            "start": start,
                            "end": start + minutes * MINUTE,
                            "by": by * MINUTE,
                            "bound": SAME_CHUNK,
                        },
                    )
                case _:
                    refresh(connection)
        refresh(connection)
        assert_wider_are_the_fold(connection, market)
        assert connection.execute("SELECT count(*) FROM candle_stale").fetchone() == (0,)


def test_a_late_minute_reaches_every_wider_interval(database: str) -> None:
    with connect(database, autocommit=True) as connection:
        put(connection, candles(1, every(5)))
        refresh(connection)
        late = candles(1, [MONDAY + timedelta(minutes=3)], seed=9).with_columns(pl.lit(9e9).alias("high"))
        put(connection, late)
        refresh(connection)
        for interval in WIDER:
            wide = held(connection, f"candle_{interval}", 1).filter(pl.col("high") == 9e9)
            assert wide["open_time"].to_list() == [interval.floor(MONDAY)], interval


def test_a_wider_candle_without_minutes_is_no_more(database: str) -> None:
    with connect(database, autocommit=True) as connection:
        for market in (1, 2):
            put(connection, candles(market, every(5)))
        refresh(connection)
        connection.execute("DELETE FROM candle WHERE market_id = 1")
        refresh(connection)
        for interval in WIDER:
            assert held(connection, f"candle_{interval}", 1).is_empty(), interval
        assert_wider_are_the_fold(connection, 2)


def test_emptied_minutes_leave_no_wider_candles(database: str) -> None:
    with connect(database, autocommit=True) as connection:
        connection.execute("INSERT INTO market (exchange, symbol) VALUES ('kraken', 'BTC/USD')")
        put(connection, candles(1, every(60)))
        refresh(connection)
        connection.execute("TRUNCATE candle")
        refresh(connection)
        for interval in WIDER:
            assert held(connection, f"candle_{interval}", 1).is_empty(), interval


def test_what_is_rolled_back_changes_no_wider_candle(database: str) -> None:
    with connect(database, autocommit=True) as connection:
        put(connection, candles(1, every(5)))
        refresh(connection)
        with connection.transaction(force_rollback=True):
            connection.execute("DELETE FROM candle WHERE open_time < %s", (MONDAY,))
        refresh(connection)
        assert_wider_are_the_fold(connection, 1)


def test_minutes_of_now_are_in_every_wider_interval_at_once(database: str) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    with connect(database, autocommit=True) as connection:
        put(connection, candles(1, [now - n * MINUTE for n in range(300, 20, -1)]))
        refresh(connection)
        for n in range(4, -1, -1):
            put(connection, candles(1, [now - n * MINUTE], seed=n))
            assert_wider_are_the_fold(connection, 1)


def test_the_second_writer_of_an_hour_waits_for_the_first_and_sees_its_candles(
    database: str, plain: None
) -> None:
    with both(database) as (one, other), ThreadPoolExecutor(1) as thread:
        with one.transaction():
            put(one, candles(1, [MONDAY]))
            second = thread.submit(put, other, candles(1, [MONDAY + MINUTE], seed=1))
            wait_for_lock(one)
            assert not second.done()
        second.result(240)
        assert_wider_are_the_fold(one, 1)


def wait_for_lock(connection: Connection[Any]) -> None:
    """Until another session of this database waits for an advisory lock."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        waiting = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database()))"
        ).fetchone()
        if waiting == (True,):
            return
        connection.execute("SELECT pg_sleep(0.01)")
    pytest.fail("nobody waits")


def test_writers_of_different_markets_do_not_wait_for_each_other(database: str) -> None:
    with both(database) as (one, other):
        # On TimescaleDB the first rows of a chunk make it, and who else needs it waits.
        put(one, candles(1, [MONDAY]))
        other.execute("SET lock_timeout = '2s'")
        with one.transaction():
            put(one, candles(1, [MONDAY], seed=1))
            put(other, candles(2, [MONDAY]))
        refresh(one)
        for market in (1, 2):
            assert_wider_are_the_fold(one, market)


def test_a_snapshot_that_is_too_old_is_refused_not_folded(database: str, plain: None) -> None:
    with both(database) as (one, other):
        put(one, candles(1, [MONDAY]))
        one.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        one.execute("SELECT count(*) FROM candle")
        put(other, candles(1, [MONDAY + MINUTE], seed=1))
        with pytest.raises(psycopg.errors.SerializationFailure):
            one.execute("UPDATE candle SET close = 1 WHERE open_time = %s", (MONDAY,))
        one.rollback()
        assert_wider_are_the_fold(one, 1)


def test_a_crash_between_commit_and_refresh_leaves_a_mark_that_heals(database: str, timescale: str) -> None:
    with connect(database, autocommit=True) as connection:
        put(connection, candles(1, every(5)))
        refresh(connection)
        put(connection, candles(1, [MONDAY + 3 * MINUTE], seed=5))
    with connect(database, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM candle_stale").fetchone() == (1,)
        assert refresh(connection) == 1
        assert_wider_are_the_fold(connection, 1)
        assert refresh(connection) == 0


def test_changes_in_compressed_chunks_reach_every_wider_interval(database: str, timescale: str) -> None:
    with connect(database, autocommit=True) as connection:
        for market in (1, 2, 3):
            put(connection, candles(market, every(5)))
        refresh(connection)
        connection.execute("SELECT compress_chunk(c) FROM show_chunks('candle') AS c")
        put(connection, candles(1, [MONDAY + 3 * MINUTE, MONDAY + 5 * MINUTE], seed=5))
        connection.execute("DELETE FROM candle WHERE market_id = 2")
        connection.execute("DELETE FROM candle WHERE market_id = 3 AND open_time >= %s", (MONDAY,))
        connection.execute("UPDATE candle SET close = close + 1 WHERE market_id = 3")
        refresh(connection)
        for market in (1, 2, 3):
            assert_wider_are_the_fold(connection, market)


def test_a_refresh_refuses_to_be_a_part_of_a_transaction(database: str) -> None:
    with connect(database) as connection, pytest.raises(UsageError, match="inside a transaction"):
        refresh(connection)
