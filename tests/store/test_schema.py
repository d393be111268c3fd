"""The schema on a real server: names, columns, and wider candles that are always the fold of 1m."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from marketdata.interval import INTERVALS, Interval
from marketdata.store import wider
from marketdata.store.check import STORED
from marketdata.store.engine import connect
from marketdata.store.wider import table_of
from tests.store.candles import START, add_market, candle, copy, differences, upsert


@pytest.fixture
def connection(database: str) -> Iterator[Connection[Any]]:
    with connect(database, autocommit=True) as connection:
        yield connection


def columns(connection: Connection[Any], table: str) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (table,),
    ).fetchall()


def test_every_interval_has_a_name_of_its_own_with_the_same_columns(connection: Connection[Any]) -> None:
    expected = columns(connection, "candle")
    assert [name for name, _ in expected] == ["market_id", *STORED]
    for interval in INTERVALS[INTERVALS.index(Interval.parse("1m")) :]:
        assert columns(connection, table_of(interval)) == expected, interval


def test_prices_and_amounts_are_float64_and_times_microseconds(connection: Connection[Any]) -> None:
    assert columns(connection, "trade") == [
        ("market_id", "smallint"),
        ("time", "timestamp with time zone"),
        ("trade_id", "bigint"),
        ("price", "double precision"),
        ("amount", "double precision"),
        ("side", "trade_side"),
        ("fills", "integer"),
    ]


def test_an_hour_without_candles_has_no_row_in_any_interval(connection: Connection[Any]) -> None:
    number = add_market(connection)
    copy(connection, number, [candle(0), candle(300)])
    wider.refresh(connection)
    assert connection.execute("SELECT open_time FROM candle_1h ORDER BY 1").fetchall() == [
        (START,),
        (START + timedelta(hours=5),),
    ]


def test_of_several_candles_the_worst_coverage_and_the_highest_revision_count(
    connection: Connection[Any],
) -> None:
    number = add_market(connection)
    copy(connection, number, [candle(minute) for minute in range(10)])
    connection.execute("UPDATE candle SET coverage = 'complete', source = 'batch', revision = 0")
    connection.execute(
        "UPDATE candle SET coverage = 'gaps', source = 'repair', revision = 7 WHERE open_time = %s", (START,)
    )
    wider.refresh(connection)
    assert connection.execute(
        "SELECT coverage, source, revision FROM candle_5m ORDER BY open_time"
    ).fetchall() == [("gaps", "mixed", 7), ("complete", "batch", 0)]


def test_many_writers_of_one_hour_at_once_leave_the_fold(database: str) -> None:
    with connect(database, autocommit=True) as connection:
        number = add_market(connection)
    failed: list[BaseException] = []

    def write(writer: int) -> None:
        try:
            with connect(database, autocommit=True) as connection:
                for minute in range(writer, 60, 4):
                    upsert(connection, number, [candle(minute, writer)])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert failed == []
    with connect(database, autocommit=True) as connection:
        wider.refresh(connection)
        assert connection.execute("SELECT count(*) FROM candle").fetchone() == (60,)
        assert differences(connection, number) == {}


def test_no_minute_can_be_stored_twice(connection: Connection[Any]) -> None:
    number = add_market(connection)
    copy(connection, number, [candle(0)])
    with pytest.raises(psycopg.errors.UniqueViolation):
        copy(connection, number, [candle(0, 1)])


@pytest.mark.parametrize(("column", "value"), [("source", "guess"), ("coverage", "fine")])
def test_a_word_that_is_not_in_the_list_is_refused(
    connection: Connection[Any], column: str, value: str
) -> None:
    number = add_market(connection)
    copy(connection, number, [candle(0)])
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(f"UPDATE candle SET {column} = %s", (value,))


def test_the_views_for_people_say_exchange_and_symbol(connection: Connection[Any]) -> None:
    number = add_market(connection)
    copy(connection, number, [candle(0)])
    connection.execute("INSERT INTO trade VALUES (%s, %s, 1, 100.5, 2, 'buy', 1)", (number, START))
    assert connection.execute("SELECT exchange, symbol, price, side FROM v_trade").fetchall() == [
        ("kraken", "BTC/USD", 100.5, "buy")
    ]
    for interval in INTERVALS[INTERVALS.index(Interval.parse("1m")) :]:
        row = connection.execute(
            f"SELECT exchange, symbol, vwap, quote_volume / volume FROM v_candle_{interval}"
        ).fetchone()
        assert row is not None
        assert row[:2] == ("kraken", "BTC/USD")
        assert row[2] == row[3]


def test_the_trigger_works_for_a_user_whose_search_path_is_elsewhere(connection: Connection[Any]) -> None:
    number = add_market(connection)
    connection.execute("SET search_path = pg_catalog")
    connection.execute(
        "INSERT INTO public.candle"
        " SELECT %s, %s, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, %s, %s, 0, 'batch', 'complete'",
        (number, START, START, START),
    )
    connection.execute("SET search_path = public")
    wider.refresh(connection)
    assert differences(connection, number) == {}
