"""Which candles are asked for, and when."""

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.interval import Interval
from realtime.feeds.schedule import Ask, Schedule

MINUTE = Interval.parse("1m")
NOON = datetime(2025, 6, 8, 12, tzinfo=UTC)


def at(minutes: float, seconds: float = 0) -> datetime:
    return NOON + timedelta(minutes=minutes, seconds=seconds)


def candles(*minutes: int, volume: float = 1.0) -> pl.DataFrame:
    rows = [(at(minute), 1.0, 1.0, 1.0, 1.0, volume, None, 1, None, None) for minute in minutes]
    return pl.DataFrame(rows, schema=EXCHANGE_CANDLE_SCHEMA, orient="row")


def minutes(frame: pl.DataFrame) -> list[int]:
    return [int((time - NOON) / timedelta(minutes=1)) for time in frame["open_time"]]


def test_a_candle_is_asked_for_by_its_time_when_it_has_closed_and_a_buffer_later() -> None:
    schedule = Schedule(MINUTE, at(0))
    assert schedule.due() == at(1, 2)
    assert schedule.ask(at(1, 1.9)) is None
    assert schedule.ask(at(1, 2)) == Ask(at(0), at(1))


def test_the_candle_that_still_runs_is_never_handed_on() -> None:
    schedule = Schedule(MINUTE, at(0))
    ask = schedule.ask(at(1, 2))
    assert ask is not None
    assert minutes(schedule.answered(ask, candles(0, 1), at(1, 2))) == [0]


def test_a_candle_that_is_late_is_asked_for_again() -> None:
    schedule = Schedule(MINUTE, at(0))
    ask = schedule.ask(at(1, 2))
    assert ask is not None
    assert minutes(schedule.answered(ask, candles(), at(1, 3))) == []
    assert schedule.due() == at(1, 5)
    again = schedule.ask(at(1, 5))
    assert again == ask
    assert minutes(schedule.answered(again, candles(0), at(1, 5))) == [0]
    assert schedule.due() == at(2, 2)


def test_a_minute_without_trades_does_not_hold_up_the_next() -> None:
    schedule = Schedule(MINUTE, at(0), tries=2)
    for second in (2, 4):
        ask = schedule.ask(at(1, second))
        assert ask is not None
        schedule.answered(ask, candles(), at(1, second))
    assert schedule.due() == at(2, 2)


def test_a_candle_that_comes_minutes_late_is_handed_on_then() -> None:
    schedule = Schedule(MINUTE, at(0), tries=1)
    schedule.answered(Ask(at(0), at(1)), candles(), at(1, 2))
    ask = schedule.ask(at(2, 2))
    assert ask == Ask(at(0), at(2))
    assert minutes(schedule.answered(ask, candles(0, 1), at(2, 2))) == [0, 1]


def test_a_candle_that_changed_is_handed_on_again_and_one_that_did_not_is_not() -> None:
    schedule = Schedule(MINUTE, at(0))
    schedule.answered(Ask(at(0), at(1)), candles(0), at(1, 2))
    ask = schedule.ask(at(2, 2))
    assert ask is not None
    assert minutes(schedule.answered(ask, candles(0, 1), at(2, 2))) == [1]
    ask = schedule.ask(at(3, 2))
    assert ask is not None
    changed = pl.concat([candles(0), candles(1, volume=2.0), candles(2)])
    assert minutes(schedule.answered(ask, changed, at(3, 2))) == [1, 2]


def test_after_an_outage_all_that_has_closed_is_asked_for_together() -> None:
    schedule = Schedule(MINUTE, at(0))
    schedule.failed(at(1, 2))
    assert schedule.ask(at(1, 3)) is None
    assert schedule.ask(at(31, 5)) == Ask(at(0), at(31))


def test_what_the_exchange_serves_no_more_is_given_up_and_said() -> None:
    schedule = Schedule(MINUTE, at(0))
    assert schedule.skip_to(at(20, 30)) == Ask(at(0), at(21))
    assert schedule.skip_to(at(20)) is None
    assert schedule.ask(at(31, 2)) == Ask(at(21), at(31))


def test_candles_that_always_come_late_are_handed_on_once() -> None:
    schedule, out = Schedule(MINUTE, at(0)), list[int]()
    for second in range(40 * 60):
        now = at(0, second)
        ask = schedule.ask(now)
        if ask is not None:
            there = [
                minute for minute in range(40) if ask.start <= at(minute) < ask.end and at(minute + 7) <= now
            ]
            out += minutes(schedule.answered(ask, candles(*there), now))
    assert out == list(range(33))


def test_a_long_silence_is_looked_back_at_for_an_hour() -> None:
    schedule = Schedule(MINUTE, at(0), tries=1)
    schedule.answered(Ask(at(0), at(1)), candles(0), at(1, 2))
    for minute in range(2, 200):
        ask = schedule.ask(at(minute, 2))
        assert ask is not None
        assert ask.start == max(at(1) if minute > 4 else at(0), at(minute - 61))
        schedule.answered(ask, candles(), at(minute, 2))
    ask = schedule.ask(at(200, 2))
    assert ask is not None
    assert minutes(schedule.answered(ask, candles(150), at(200, 2))) == [150]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 200), st.booleans()), min_size=5, max_size=40),
    st.sets(st.integers(0, 60)),
)
def test_every_candle_is_handed_on_once_whatever_fails_and_however_late_the_look(
    looks: list[tuple[bool, float, bool]], quiet: set[int]
) -> None:
    schedule, now, out = Schedule(MINUTE, at(0)), at(0), list[int]()
    for works, pause, patient in [*looks, *[(True, 61.0, True)] * 8]:
        now += timedelta(seconds=pause)
        if patient:
            now = max(now, schedule.due())
        ask = schedule.ask(now)
        if ask is None:
            continue
        if not works:
            schedule.failed(now)
            continue
        running = int((now - NOON) / timedelta(minutes=1))
        served = candles(*[minute for minute in range(running + 1) if minute not in quiet])
        out += minutes(schedule.answered(ask, served, now))
    assert out == sorted(set(out))
    assert out == [minute for minute in range(max(out, default=-1) + 1) if minute not in quiet]
    closed = int((now - timedelta(seconds=2) - NOON) / timedelta(minutes=1)) - 1
    assert [minute for minute in range(closed - 3) if minute not in quiet and minute not in out] == []
