"""Ranges as they are typed."""

from datetime import UTC, date, datetime

import pytest

from marketdata.cli.times import Asked, day_range, days_between, parse_last, parse_time, show, time_range
from marketdata.errors import BadRange, UsageError

NOW = datetime(2025, 6, 10, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-06-01", datetime(2025, 6, 1, tzinfo=UTC)),
        ("2025-06-01T12:00", datetime(2025, 6, 1, 12, tzinfo=UTC)),
        ("2025-06-01 12:00:30", datetime(2025, 6, 1, 12, 0, 30, tzinfo=UTC)),
        ("2025-06-01T12:00:00.123456Z", datetime(2025, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2025-06-01T01:00+02:00", datetime(2025, 5, 31, 23, tzinfo=UTC)),
    ],
)
def test_a_time_without_offset_is_utc_and_one_with_an_offset_is_made_utc(
    text: str, expected: datetime
) -> None:
    assert parse_time(text, "--start") == expected
    assert parse_time(text, "--start").tzinfo is UTC


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2025-02-30", "1.6.2025", "0001-01-01T00:00+23:00", "1748736000"]
)
def test_what_is_no_time_is_named_with_its_option(text: str) -> None:
    with pytest.raises(BadRange) as caught:
        parse_time(text, "--end")
    assert caught.value.message == f"--end {text!r} is not a date or a time."
    assert caught.value.hint is not None


def test_an_instant_is_shown_as_it_can_be_typed() -> None:
    for text in ("2025-06-01", "2025-06-01T12:00:00Z"):
        assert show(parse_time(text, "--start")) == text


@pytest.mark.parametrize("text", ["0d", "d", "7", "-7d", "7y", "1.5h", "7 days", "99999999d"])
def test_a_length_is_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(BadRange, match="--last"):
        parse_last(text)


def test_the_last_day_is_the_one_before_the_running_day() -> None:
    assert day_range(Asked(last="7d"), NOW) == (date(2025, 6, 3), date(2025, 6, 10))
    assert day_range(Asked(last="48h"), NOW) == (date(2025, 6, 8), date(2025, 6, 10))


def test_a_length_counts_back_from_the_end() -> None:
    assert day_range(Asked(end="2025-06-08", last="1w"), NOW) == (date(2025, 6, 1), date(2025, 6, 8))
    begin, end = time_range(Asked(last="90m"), NOW)
    assert (begin, end) == (datetime(2025, 6, 10, 8, 0, tzinfo=UTC), NOW)


def test_the_end_is_not_part_of_the_range() -> None:
    first, after = day_range(Asked("2025-06-01", "2025-06-08"), NOW)
    assert len(days_between(first, after)) == 7


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked("2025-06-08", "2025-06-01"), ["reversed", "2025-06-08", "2025-06-01"]),
        (Asked("2025-06-01", "2025-06-01"), ["empty", "2025-06-01"]),
        (Asked("2025-06-01", "2025-06-11"), ["running day", "2025-06-01", "2025-06-11", "2025-06-10"]),
        (Asked("2025-06-11", "2025-06-12"), ["future", "2025-06-11", "2025-06-12"]),
        (Asked("2025-06-01T12:00", "2025-06-03"), ["--start 2025-06-01T12:00:00Z", "2025-06-02"]),
        (Asked(last="90m"), ["--last '90m'", "7d"]),
        (Asked("2025-06-10"), ["empty", "2025-06-10"]),
        (Asked(last="999999d"), ["--last '999999d'"]),
    ],
)
def test_days_that_cannot_be_are_refused_with_their_values(asked: Asked, words: list[str]) -> None:
    with pytest.raises(BadRange) as caught:
        day_range(asked, NOW)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked("2025-06-08", "2025-06-01"), ["reversed", "2025-06-08", "2025-06-01"]),
        (Asked("2025-06-10T09:30", None), ["empty", "2025-06-10T09:30:00Z"]),
        (Asked("2025-06-10", "2025-06-12"), ["--end 2025-06-12", "future", "2025-06-11"]),
        (Asked("2025-06-11"), ["reversed", "2025-06-11"]),
    ],
)
def test_times_that_cannot_be_are_refused_with_their_values(asked: Asked, words: list[str]) -> None:
    with pytest.raises(BadRange) as caught:
        time_range(asked, NOW)
    assert [word for word in words if word not in str(caught.value)] == []


def test_the_running_day_may_be_read_to_its_end() -> None:
    assert time_range(Asked("2025-06-10", "2025-06-11"), NOW)[1] == datetime(2025, 6, 11, tzinfo=UTC)


@pytest.mark.parametrize("asked", [Asked(), Asked(end="2025-06-08"), Asked("2025-06-01", None, "7d")])
def test_a_start_and_a_length_are_alternatives(asked: Asked) -> None:
    with pytest.raises(UsageError) as caught:
        day_range(asked, NOW)
    assert not isinstance(caught.value, BadRange)
    assert "--last" in str(caught.value)
