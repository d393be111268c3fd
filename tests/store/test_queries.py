"""Rows of arrays as frames, and which stretches of wider candles are made anew."""

import re
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.candle import CANDLE_SCHEMA
from marketdata.fold import fold, widen
from marketdata.interval import INTERVALS, Interval
from marketdata.reading import DETAILS, WORST, Wanted
from marketdata.store import queries
from marketdata.store.engine import connect
from marketdata.store.reader import widened
from tests.lake.world import DAY, at, trades_of

HOUR = Interval.parse("1h")
ASKED = {"market": 1, "start": at("2025-01-01"), "end": at("2025-01-02")}


def fetched(url: str, statement: str, asked: dict[str, object]) -> Any:
    with connect(url, autocommit=True) as connection:
        queries.configure(connection)
        return connection.execute(statement, asked, binary=True).fetchone()


def test_every_interval_has_its_table(database: str) -> None:
    for interval in INTERVALS:
        if interval >= Interval.parse("1m"):
            for details in (False, True):
                row = fetched(database, queries.CANDLES[interval, details], ASKED)
                frame = queries.candle_frame(row, details=details)
                assert frame.schema == queries.candle_schema(details=details)
                assert frame.is_empty()
                last = fetched(database, queries.LAST_CANDLES[interval, details], ASKED | {"count": 3})
                assert queries.candle_frame(last, details=details).is_empty()


def test_extreme_values_come_back_as_they_are(database: str) -> None:
    times = [at("2025-01-01 00:00"), at("2025-01-01 23:59")]
    prices = [5e-324, 1.7976931348623157e308]
    ids = [-(1 << 62), (1 << 63) - 1]
    with connect(database) as connection:
        for time, price, number in zip(times, prices, ids, strict=True):
            connection.execute(
                "INSERT INTO candle VALUES (1, %s, %s, %s, %s, %s, 0.1, %s, %s, NULL, 0.0, %s, %s, %s, %s,"
                " 7, 'repair', 'gaps')",
                (time, *[price] * 5, number, number, number, time, time),
            )
    row = fetched(database, queries.CANDLES[Interval.parse("1m"), True], ASKED)
    frame = queries.candle_frame(row, details=True)
    assert frame["open_time"].to_list() == frame["first_trade_time"].to_list() == times
    assert frame["open"].to_list() == frame["quote_volume"].to_list() == prices
    assert frame["trade_count"].to_list() == frame["last_trade_id"].to_list() == ids
    assert frame["taker_buy_volume"].to_list() == [None, None]
    assert frame["taker_buy_quote_volume"].to_list() == [0.0, 0.0]
    assert frame.select(DETAILS.names()).rows() == [(7, "repair", "gaps")] * 2
    last = fetched(database, queries.LAST_CANDLES[Interval.parse("1m"), True], ASKED | {"count": 9})
    assert queries.candle_frame(last, details=True, newest_first=True).equals(frame)


def test_no_other_market_and_no_other_time_is_read(database: str) -> None:
    candles = fold(trades_of(DAY, 3_000))
    with connect(database) as connection:
        with connection.cursor().copy(
            "COPY candle (market_id, open_time, open, high, low, close, volume, source, coverage) FROM STDIN"
        ) as copy:
            columns = candles.select("open_time", "open", "high", "low", "close", "volume")
            for market_id in range(1, 6):
                for row in columns.iter_rows():
                    copy.write_row((market_id, *row, "batch", "complete"))
        connection.execute("ANALYZE candle")
        asked = {"market": 3, "start": at("2025-06-08 10:00"), "end": at("2025-06-08 12:00")}
        for statement in (queries.CANDLES, queries.LAST_CANDLES):
            text = statement[Interval.parse("1m"), False]
            lines = connection.execute(f"EXPLAIN {text}", asked | {"count": 5}).fetchall()
            plan = "\n".join(line for (line,) in lines)
            assert "Seq Scan" not in plan.replace("Seq Scan on store_state", "")
            conditions = [line for line in plan.splitlines() if "Index Cond" in line]
            assert conditions
            assert all(re.search(r"market_id = '?3\b.*open_time <", line) for line in conditions)


def wanted(start: str, end: str) -> Wanted:
    return Wanted(HOUR, at(start), at(end))


def row_of(marks: list[tuple[str, str]], dropped: datetime | None = None) -> tuple[Any, ...]:
    """What stands behind the columns of a row of wider candles."""
    if not marks:
        return (None, None, dropped)
    starts, ends = (np.array([int(at(mark[side]).timestamp() * 1e6) for mark in marks]) for side in (0, 1))
    return (starts, ends, dropped)


def test_marks_become_whole_intervals_inside_the_range() -> None:
    day = wanted("2025-06-02 00:00", "2025-06-03 00:00")
    marks = [
        ("2025-06-02 20:30", "2025-06-04 00:00"),
        ("2025-06-02 03:10", "2025-06-02 03:11"),
        ("2025-06-02 03:50", "2025-06-02 04:10"),
        ("2025-06-01 23:00", "2025-06-02 00:01"),
    ]
    found = queries.stale_ranges(row_of(marks), day)
    assert [(each.start.hour, (each.end - day.start) / HOUR.width) for each in found] == [
        (0, 1),
        (3, 5),
        (20, 24),
    ]


def test_candles_whose_minutes_were_dropped_are_left_as_they_are() -> None:
    day = wanted("2025-06-02 00:00", "2025-06-03 00:00")
    row = row_of([("2025-06-02 01:00", "2025-06-02 06:00")], at("2025-06-02 02:30"))
    assert [(each.start.hour, each.end.hour) for each in queries.stale_ranges(row, day)] == [(3, 6)]
    row = row_of([("2025-06-02 01:00", "2025-06-02 02:00")], at("2025-06-02 02:30"))
    assert queries.stale_ranges(row, day) == []


@given(st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 400)), min_size=1, max_size=6))
def test_every_marked_minute_is_in_one_range_and_ranges_do_not_touch(marks: list[tuple[int, int]]) -> None:
    start = at("2025-06-02 00:00")
    minute = 60_000_000
    base = int(start.timestamp() * 1e6)
    starts = np.array([base + at_ * minute for at_, _ in marks])
    ends = starts + np.array([length * minute for _, length in marks])
    asked = wanted("2025-06-02 00:00", "2025-06-04 00:00")
    found = queries.stale_ranges((starts, ends, None), asked)
    for before, after in pairwise(found):
        assert before.end < after.start
    for each in found:
        assert asked.start <= each.start < each.end <= asked.end
    for first, length in marks:
        for number in (first, first + length - 1):
            moment = start + number * Interval.parse("1m").width
            inside = [each for each in found if each.start <= moment < each.end]
            assert len(inside) == (moment < asked.end)


@pytest.mark.parametrize("interval", ["5m", "1h", "1d", "1w"])
def test_candles_made_anew_are_those_of_the_fold(interval: str) -> None:
    minutes = fold(trades_of(DAY, 3_000))
    ours = widened(minutes, Interval.parse(interval)).select(CANDLE_SCHEMA.names())
    theirs = widen(minutes, interval)
    assert ours.drop("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume").equals(
        theirs.drop("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
    )
    for name in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"):
        assert (ours[name] / theirs[name] - 1).abs().max() <= 1e-9  # type: ignore[operator]


def test_of_candles_made_anew_the_worst_word_stands() -> None:
    minutes = fold(trades_of(DAY, 3_000)).head(60)
    words = ["complete"] * 40 + ["partial"] * 5 + ["gaps"] * 5 + ["unknown"] * 10
    detailed = minutes.with_columns(
        pl.lit(2, pl.Int32).alias("revision"),
        pl.Series("source", ["batch"] * 59 + ["repair"]),
        pl.Series("coverage", words),
    )
    hour = widened(detailed, Interval.parse("1d"))
    assert hour.select(DETAILS.names()).rows() == [(2, "mixed", "partial")]


def test_of_two_words_the_same_is_worse_here_and_on_the_server(database: str) -> None:
    with connect(database) as connection:
        found = connection.execute(
            "SELECT array_agg(word ORDER BY coverage_rank(word)) FROM unnest(%s::text[]) AS word",
            (sorted(WORST),),
        ).fetchone()
    assert found == (list(WORST),)
