"""The rate limit that all threads share, and the pauses between tries."""

import threading
from datetime import UTC, datetime

import pytest

from marketdata.errors import RateLimited, TransientError
from marketdata.sources.pace import Clock, RateLimiter, parse_retry_after, pause_before_retry
from tests.sources.conftest import FakeTime

NOW = datetime(2025, 6, 8, 12, tzinfo=UTC)


def test_requests_are_an_interval_apart(fake_time: FakeTime) -> None:
    limiter = RateLimiter(2.0, fake_time.clock)
    went = []
    for _ in range(3):
        limiter.wait()
        went.append(fake_time.seconds)
    assert went == [1_000.0, 1_002.0, 1_004.0]


def test_a_dear_request_makes_the_next_one_wait_longer(fake_time: FakeTime) -> None:
    limiter = RateLimiter(2.0, fake_time.clock)
    limiter.wait(cost=3)
    limiter.wait()
    assert fake_time.seconds == 1_006.0


def test_time_that_passed_anyway_is_not_waited_for(fake_time: FakeTime) -> None:
    limiter = RateLimiter(2.0, fake_time.clock)
    limiter.wait()
    fake_time.seconds += 10
    limiter.wait()
    assert fake_time.slept == []


def test_while_the_exchange_asks_for_fewer_requests_nobody_goes(fake_time: FakeTime) -> None:
    limiter = RateLimiter(0.0, fake_time.clock)
    limiter.hold(7.0)
    limiter.wait()
    assert fake_time.seconds == 1_007.0


def test_eight_threads_share_one_limit() -> None:
    limiter = RateLimiter(0.01, Clock())
    went: list[float] = []

    def go() -> None:
        for _ in range(3):
            limiter.wait()
            went.append(Clock().monotonic())

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(went) - min(went) >= 23 * 0.01 * 0.95


@pytest.mark.parametrize(("tried", "longest"), [(1, 0.5), (2, 1.0), (3, 2.0), (20, 30.0)])
def test_pauses_double_up_to_a_limit_and_are_a_random_part_of_it(tried: int, longest: float) -> None:
    error = TransientError("down")
    assert pause_before_retry(error, tried, FakeTime(chance=1.0).clock) == longest
    assert pause_before_retry(error, tried, FakeTime(chance=0.25).clock) == longest / 4


def test_after_a_rate_limit_pauses_are_longer() -> None:
    clock = FakeTime(chance=1.0).clock
    assert pause_before_retry(RateLimited("slow"), 1, clock) == 2.0


def test_the_pause_the_exchange_asks_for_is_obeyed() -> None:
    clock = FakeTime(chance=0.0).clock
    assert pause_before_retry(RateLimited("slow", retry_after=17.0), 1, clock) == 17.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3.0),
        ("0.25", 0.25),
        ("-1", 0.0),
        ("Sun, 08 Jun 2025 12:00:30 GMT", 30.0),
        ("Sun, 08 Jun 2025 11:00:00 GMT", 0.0),
        ("soon", None),
        ("inf", None),
        ("nan", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds
