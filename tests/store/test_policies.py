"""What TimescaleDB does by itself, and that it loses nothing."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from psycopg import Connection

from marketdata.interval import Interval
from marketdata.settings import Settings
from marketdata.store import migrate, policies, wider
from marketdata.store.engine import connect
from marketdata.store.wider import WIDER, table_of, windows
from tests.store.candles import add_market, candle, copy, differences, upsert

HOUR, WEEK = Interval.parse("1h"), Interval.parse("1w")
DAY = timedelta(days=1)


@pytest.fixture
def connection(database: str, timescale: str) -> Iterator[Connection[Any]]:
    with connect(database, autocommit=True) as connection:
        connection.execute("SELECT _timescaledb_functions.stop_background_workers()")
        yield connection


def held(connection: Connection[Any]) -> dict[str, str]:
    return {job.policy.name: job.policy.setting for job in policies.jobs(connection)}


def run(connection: Connection[Any], name: str) -> None:
    (job,) = [job for job in policies.jobs(connection) if job.policy.name == name]
    connection.execute(f"CALL run_job({job.job_id})")


def sums(connection: Connection[Any]) -> dict[str, Any]:
    return {
        interval.name: connection.execute(
            f"SELECT count(*), sum(trade_count), min(open_time) FROM {table_of(interval)}"
        ).fetchone()
        for interval in WIDER
    }


def test_plain_postgresql_has_no_jobs(database: str, plain: None) -> None:
    done = migrate.upgrade(database, settings=Settings.load())
    assert done.policies == []
    with connect(database) as connection:
        assert policies.jobs(connection) == []


def test_the_jobs_are_as_the_settings_say(connection: Connection[Any]) -> None:
    policies.apply(connection, Settings.load())
    jobs = held(connection)
    assert jobs == {
        "compress trade": "after 7 days",
        "compress candle": "after 30 days",
        "retain trade": "after 90 days",
        "retain candle": "after 365 days",
        **{
            f"refresh candle_{name}": "every 10 minutes, the last 365 days up to 10 minutes ago"
            for name in ("5m", "15m", "30m", "1h")
        },
        **{
            f"refresh candle_{name}": "every 10 minutes, all there is up to 10 minutes ago"
            for name in ("4h", "12h", "1d", "1w")
        },
    }
    assert policies.apply(connection, Settings.load()) == []


def test_a_changed_setting_changes_its_job_and_0_turns_it_off(connection: Connection[Any]) -> None:
    policies.apply(connection, Settings.load())
    changed = Settings.load(
        store_compress_trades_days=3, store_retain_candles_days=0, store_retain_trades_days=0
    )
    lines = policies.apply(connection, changed)
    assert "compress trade: after 3 days" in lines
    assert {"retain candle: off", "retain trade: off"} <= set(lines)
    jobs = held(connection)
    assert jobs["compress trade"] == "after 3 days"
    assert not [name for name in jobs if name.startswith("retain")]
    assert jobs["refresh candle_1h"] == "every 10 minutes, all there is up to 10 minutes ago"
    off = Settings.load(
        store_compress_trades_days=0,
        store_compress_candles_days=0,
        store_retain_candles_days=0,
        store_retain_trades_days=0,
        store_refresh_minutes=0,
    )
    policies.apply(connection, off)
    assert held(connection) == {}


def test_the_lag_says_what_is_marked_and_what_is_materialised(connection: Connection[Any]) -> None:
    policies.apply(connection, Settings.load(store_refresh_lag_minutes=120))
    number = add_market(connection)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    copy(connection, number, [candle(-60, since=now)])
    assert connection.execute("SELECT count(*) FROM candle_stale").fetchone() == (0,)
    copy(connection, number, [candle(-180, since=now)])
    assert connection.execute("SELECT count(*) FROM candle_stale").fetchone() == (1,)


def test_retention_of_candles_leaves_every_wider_candle_as_it_is(connection: Connection[Any]) -> None:
    number = add_market(connection)
    start = (datetime.now(UTC) - 120 * DAY).replace(minute=0, second=0, microsecond=0)
    copy(connection, number, [candle(minute, since=start) for minute in range(0, 120 * 1440, 97)])
    policies.apply(connection, Settings.load(store_retain_candles_days=30))
    before = sums(connection)
    wider.refresh(connection)
    assert sums(connection) == before
    run(connection, "retain candle")
    row = connection.execute("SELECT min(open_time) FROM candle").fetchone()
    assert row is not None
    assert row[0] > start + 30 * DAY
    assert sums(connection) == before
    for policy in ("5m", "1h", "1d", "1w"):
        run(connection, f"refresh candle_{policy}")
    run(connection, "retain candle")
    assert sums(connection) == before
    # Asked for by hand, what retention has removed is not made anew either.
    wider.refresh(connection, [(start, datetime.now(UTC))])
    assert sums(connection) == before


def test_retention_materialises_what_no_job_has(connection: Connection[Any]) -> None:
    number = add_market(connection)
    start = (datetime.now(UTC) - 120 * DAY).replace(minute=0, second=0, microsecond=0)
    copy(connection, number, [candle(minute, since=start) for minute in range(0, 60 * 1440, 97)])
    connection.execute("DELETE FROM candle_stale")
    before = sums(connection)
    policies.apply(connection, Settings.load(store_retain_candles_days=30, store_refresh_minutes=0))
    run(connection, "retain candle")
    assert connection.execute("SELECT count(*) < 700 FROM candle").fetchone() == (True,)
    assert sums(connection) == before


def test_retention_waits_for_a_change_that_wider_candles_do_not_know(connection: Connection[Any]) -> None:
    number = add_market(connection)
    start = (datetime.now(UTC) - 120 * DAY).replace(minute=0, second=0, microsecond=0)
    copy(connection, number, [candle(minute, since=start) for minute in range(0, 1440, 97)])
    policies.apply(connection, Settings.load(store_retain_candles_days=30))
    run(connection, "retain candle")
    assert connection.execute("SELECT count(*) FROM candle").fetchone() == (15,)
    wider.refresh(connection)
    run(connection, "retain candle")
    assert connection.execute("SELECT count(*) FROM candle").fetchone() == (0,)


def test_a_candle_older_than_retention_does_not_replace_the_wider_ones(connection: Connection[Any]) -> None:
    number = add_market(connection)
    start = (datetime.now(UTC) - 120 * DAY).replace(minute=0, second=0, microsecond=0)
    copy(connection, number, [candle(minute, since=start) for minute in range(0, 1440, 97)])
    policies.apply(connection, Settings.load(store_retain_candles_days=30))
    wider.refresh(connection)
    run(connection, "retain candle")
    before = sums(connection)
    upsert(connection, number, [candle(3, 1, since=start)])
    wider.refresh(connection)
    assert sums(connection) == before
    run(connection, "retain candle")
    assert sums(connection) == before
    # Longer retention from now on: what is gone is still not asked for.
    policies.apply(connection, Settings.load())
    assert held(connection)["refresh candle_1h"].startswith("every 10 minutes, the last")
    run(connection, "refresh candle_1h")
    assert sums(connection) == before


def test_late_candles_in_compressed_chunks_reach_every_interval(connection: Connection[Any]) -> None:
    number = add_market(connection)
    start = (datetime.now(UTC) - 120 * DAY).replace(minute=0, second=0, microsecond=0)
    copy(connection, number, [candle(minute, since=start) for minute in range(0, 3 * 1440, 7)])
    policies.apply(connection, Settings.load())
    wider.refresh(connection)
    run(connection, "compress candle")
    assert connection.execute(
        "SELECT count(*) FROM timescaledb_information.chunks"
        " WHERE hypertable_name = 'candle' AND is_compressed"
    ).fetchone() != (0,)
    upsert(connection, number, [candle(minute, 1, since=start) for minute in (0, 1, 7, 1441)])
    connection.execute(
        "DELETE FROM candle WHERE open_time BETWEEN %s AND %s", (start + DAY, start + DAY * 1.5)
    )
    wider.refresh(connection)
    assert differences(connection, number) == {}


def test_a_change_marked_during_a_refresh_stays_marked(connection: Connection[Any], database: str) -> None:
    number = add_market(connection)
    copy(connection, number, [candle(minute) for minute in range(10)])
    with connect(database) as other:
        upsert(other, number, [candle(3, 1)])  # not yet committed: the refresh cannot know
        wider.refresh(connection)
        other.commit()
    assert connection.execute("SELECT count(*) FROM candle_stale").fetchone() == (1,)
    wider.refresh(connection)
    assert differences(connection, number) == {}


def test_a_refresh_that_does_not_wait_leaves_the_marks_to_the_one_that_runs(
    connection: Connection[Any], database: str
) -> None:
    number = add_market(connection)
    copy(connection, number, [candle(0)])
    with connect(database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (wider.LOCK,))
        assert wider.refresh(connection, wait=False) == 0
        other.execute("SELECT pg_advisory_unlock(%s)", (wider.LOCK,))
    assert wider.refresh(connection, wait=False) == 1


def test_whole_intervals_that_have_ended_are_materialised() -> None:
    hour = HOUR.us
    assert list(windows(HOUR, [(hour // 2, hour // 2 + 1)], 10 * hour, None)) == [(0, hour)]
    assert list(windows(HOUR, [(0, 3 * hour)], 2 * hour + 1, None)) == [(0, 2 * hour)]
    assert list(windows(HOUR, [(0, 1), (hour, hour + 1), (5 * hour, 6 * hour)], 9 * hour, None)) == [
        (0, 2 * hour),
        (5 * hour, 6 * hour),
    ]
    assert list(windows(HOUR, [(0, 5 * hour)], 9 * hour, hour + 1)) == [(2 * hour, 5 * hour)]
    assert list(windows(HOUR, [(0, hour)], 9 * hour, 2 * hour)) == []
    assert list(windows(WEEK, [(0, hour)], 9 * hour, None)) == []


def test_a_long_range_is_materialised_in_pieces() -> None:
    pieces = list(windows(WEEK, [(0, 100 * WEEK.us)], 200 * WEEK.us, None))
    assert len(pieces) == 9
    assert all(end == start for (_, end), (start, _) in pairwise(pieces))
