"""The services' clock: steady while the machine's is set for a moment, and never wrong for good."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from realtime.services.clock import SteadyClock, counted_s
from tests.realtime.test_candles import NOON


@dataclass
class Machine:
    """Its clock, and its count of seconds."""

    said: datetime = NOON
    counted: float = 100.0

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.said, lambda: self.counted)

    def wait(self, seconds: float, *, asleep: bool = False) -> None:
        self.said += timedelta(seconds=seconds)
        self.counted += 0 if asleep else seconds

    def set(self, minutes: float) -> None:
        self.said += timedelta(minutes=minutes)


@pytest.mark.parametrize("minutes", [-600, -2, 2, 600])
def test_a_clock_that_is_set_and_set_back_within_a_minute_changes_nothing(minutes: float) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.set(minutes)
    for second in range(60):
        assert clock() == NOON + timedelta(seconds=second)
        machine.wait(1)
    machine.set(-minutes)
    for second in range(60, 200):
        assert clock() == NOON + timedelta(seconds=second)
        machine.wait(1)


@pytest.mark.parametrize("minutes", [-600, -2, 2, 600])
def test_a_clock_that_stays_where_it_was_set_is_followed_after_a_minute_and_said_once(minutes: float) -> None:
    machine = Machine()
    clock = machine.clock()
    with capture_logs() as logs:
        machine.set(minutes)
        clock()
        machine.wait(60)
        assert clock() == NOON + timedelta(seconds=60)
        machine.wait(1)
        assert clock() == machine.said
        machine.wait(200)
        assert clock() == machine.said
    assert [one["seconds"] for one in logs] == [minutes * 60]


def test_a_clock_that_is_less_than_a_minute_off_is_never_followed() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.set(-1)
    for hour in range(24):
        assert clock() == NOON + timedelta(hours=hour)
        machine.wait(3600)


def test_a_sleep_that_the_count_leaves_out_is_made_up_for_after_a_minute() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wait(600, asleep=True)
    assert clock() == NOON
    machine.wait(61)
    assert clock() == machine.said


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="the system has no clock that counts sleep")
def test_the_count_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {time.CLOCK_MONOTONIC: 100.0, time.CLOCK_BOOTTIME: 700.0}
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    assert counted_s() == 700.0
