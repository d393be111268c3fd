"""A load of a new day keeps nobody waiting who writes another one."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import count

import polars as pl
import psycopg
import pytest

from marketdata.manifest import day_window
from marketdata.store.chunks import make_room
from marketdata.store.engine import connect
from marketdata.store.load import replace_day
from tests.store.days import DAY, Day, is_of, one, trades_of_day

NEXT = DAY + timedelta(days=1)
INSERT = "INSERT INTO trade (market_id, time, trade_id, price, amount, fills) VALUES (%s, %s, 1, 1, 1, 1)"


def test_the_chunk_of_a_new_day_is_made_once_and_is_empty(database: str, timescale: str) -> None:
    with connect(database, autocommit=True) as connection:
        assert [make_room(connection, day) for day in (DAY, NEXT, DAY)] == [True, True, False]
    assert one(database, "SELECT count(*) FROM show_chunks('trade')") == 2
    assert one(database, "SELECT count(*) FROM trade") == 0


def test_plain_postgresql_needs_no_chunks(database: str, plain: None) -> None:
    with connect(database, autocommit=True) as connection:
        assert not make_room(connection, DAY)


def test_a_new_day_is_written_while_another_new_day_is_loaded(database: str) -> None:
    with connect(database, autocommit=True) as loading, connect(database, autocommit=True) as live:
        live.execute("SET lock_timeout = '5s'")
        make_room(loading, DAY)
        with loading.transaction():
            loading.execute(INSERT, (1, day_window(DAY)[0]))
            make_room(live, NEXT)
            live.execute(INSERT, (1, day_window(NEXT)[0]))
            live.execute(INSERT, (2, day_window(DAY)[0]))
    assert one(database, "SELECT count(*) FROM trade") == 3


def test_without_room_made_the_second_new_day_waits_for_the_first(database: str, timescale: str) -> None:
    with connect(database, autocommit=True) as loading, connect(database, autocommit=True) as live:
        live.execute("SET lock_timeout = '100ms'")
        with loading.transaction():
            loading.execute(INSERT, (1, day_window(DAY)[0]))
            with pytest.raises(psycopg.errors.LockNotAvailable):
                live.execute(INSERT, (1, day_window(NEXT)[0]))


def test_live_rows_of_a_new_day_are_written_during_a_load(database: str) -> None:
    day, days = Day(trades_of_day(3_000)), count(1)

    def frames() -> Iterator[pl.DataFrame]:
        for frame in day.trades.iter_slices(1_000):
            yield frame
            with connect(database, autocommit=True) as live:
                live.execute("SET lock_timeout = '5s'")
                live.execute(INSERT, (7, day_window(DAY + timedelta(days=next(days)))[0]))

    replace_day(database, day.market, day.day, frames(), None, day.manifest)
    assert one(database, "SELECT count(*) FROM trade WHERE market_id = 7") == 3
    with connect(database, autocommit=True) as connection:
        connection.execute("DELETE FROM trade WHERE market_id = 7")
    assert is_of(database, day)
