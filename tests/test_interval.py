"""The grid of the eleven intervals."""

from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import UnknownName
from marketdata.interval import INTERVALS, Interval, from_us, to_us
from marketdata.trade import TIME

# Years 1 to 9999, microseconds since 1970.
ANY_US = st.integers(to_us(datetime(1, 1, 8, tzinfo=UTC)), to_us(datetime(9999, 12, 20, tzinfo=UTC)))
ANY_INTERVAL = st.sampled_from(INTERVALS)


def test_there_are_eleven_intervals_from_narrow_to_wide() -> None:
    assert [i.name for i in INTERVALS] == [
        "1s",
        "10s",
        "1m",
        "5m",
        "15m",
        "30m",
        "1h",
        "4h",
        "12h",
        "1d",
        "1w",
    ]
    assert list(INTERVALS) == sorted(INTERVALS)


def test_an_unknown_interval_is_refused_with_the_nearest_name_and_the_list() -> None:
    with pytest.raises(UnknownName, match=r"'1min'.*'1m'.*1s 10s 1m") as raised:
        Interval.parse("1min")
    assert raised.value.nearest == "1m"


def test_an_interval_is_taken_as_it_is_and_prints_as_its_name() -> None:
    minute = Interval.parse("1m")
    assert Interval.parse(minute) is minute
    assert str(minute) == "1m"
    assert minute.width == timedelta(minutes=1)


@given(ANY_INTERVAL, ANY_US)
def test_every_microsecond_lies_in_exactly_one_interval(interval: Interval, time_us: int) -> None:
    opened = interval.floor_us(time_us)
    assert opened <= time_us < opened + interval.us
    assert interval.floor_us(opened) == opened
    assert interval.floor_us(opened - 1) == opened - interval.us


@pytest.mark.parametrize("interval", INTERVALS)
def test_the_calendar_ends_with_the_last_interval(interval: Interval) -> None:
    end = datetime.max.replace(tzinfo=UTC)
    assert interval.ceil(end) == interval.floor(end) > end - interval.width


@given(ANY_INTERVAL, ANY_US)
def test_ceil_is_the_first_open_time_not_before(interval: Interval, time_us: int) -> None:
    ceiling = interval.ceil_us(time_us)
    assert time_us <= ceiling < time_us + interval.us
    assert interval.floor_us(ceiling) == ceiling


@given(ANY_INTERVAL, st.lists(ANY_US, min_size=1, max_size=20))
def test_the_expression_floors_as_the_function_does(interval: Interval, times: list[int]) -> None:
    column = pl.Series("t", times, dtype=pl.Int64).cast(TIME).to_frame()
    floored = column.select(interval.floor_expr(pl.col("t"))).to_series()
    assert floored.dtype == TIME
    assert floored.cast(pl.Int64).to_list() == [interval.floor_us(t) for t in times]


@given(ANY_US)
def test_a_datetime_survives_microseconds_exactly(time_us: int) -> None:
    assert to_us(from_us(time_us)) == time_us


@pytest.mark.parametrize("interval", INTERVALS)
def test_days_begin_at_midnight_utc_and_weeks_on_monday(interval: Interval) -> None:
    sunday = datetime(2025, 6, 8, 23, 59, 59, 999_999, tzinfo=UTC)
    monday = datetime(2025, 6, 9, tzinfo=UTC)
    assert interval.floor(monday) == monday
    assert interval.floor(sunday) < monday
    assert Interval.parse("1w").floor(sunday) == datetime(2025, 6, 2, tzinfo=UTC)


def test_a_time_of_another_zone_floors_to_the_utc_grid() -> None:
    kathmandu = timezone(timedelta(hours=5, minutes=45))
    time = datetime(2025, 6, 9, 5, 44, tzinfo=kathmandu)
    assert Interval.parse("1d").floor(time) == datetime(2025, 6, 8, tzinfo=UTC)


@given(ANY_INTERVAL, ANY_INTERVAL, ANY_US)
def test_a_narrower_interval_that_divides_never_crosses_a_wider_one(
    narrow: Interval, wide: Interval, time_us: int
) -> None:
    if narrow.divides(wide):
        assert wide.floor_us(narrow.floor_us(time_us)) == wide.floor_us(time_us)
        assert wide.floor_us(narrow.floor_us(time_us) + narrow.us - 1) == wide.floor_us(time_us)


def test_every_interval_divides_every_wider_one() -> None:
    assert all(a.divides(b) for a in INTERVALS for b in INTERVALS if a <= b)
    assert not any(a.divides(b) for a in INTERVALS for b in INTERVALS if a > b)
