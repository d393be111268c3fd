"""The machine's time, counted on from the start: a clock that is set wrong for a moment changes nothing.

The count goes on while the machine sleeps, where the system has such a clock. A machine's clock may also be
wrong when a service starts and be set afterwards: what stays more than a minute away from it for more than a
minute follows it. Trades would be refused as of the future for good otherwise.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

_LOG = structlog.stdlib.get_logger(__name__)

_APART = timedelta(minutes=1)
_PATIENCE_S = 60.0


def machine_time() -> datetime:
    """What the machine's clock says."""
    return datetime.now(UTC)


def counted_s() -> float:
    """Seconds from some moment on, those asleep included where the system has a clock for it."""
    # CLOCK_MONOTONIC, which time.monotonic reads, stands still meanwhile on Linux.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SteadyClock:
    """Now, in UTC. What compares times has to ask one clock: two need not follow at the same moment."""

    def __init__(
        self, machine: Callable[[], datetime] = machine_time, counted: Callable[[], float] = counted_s
    ) -> None:
        """Count on from what ``machine`` says now, by the seconds of ``counted``."""
        self._machine, self._counted = machine, counted
        self._began = machine(), counted()
        self._apart_since: float | None = None

    def __call__(self) -> datetime:
        """The time."""
        start, zero = self._began
        seconds = self._counted()
        now = start + timedelta(seconds=seconds - zero)
        said = self._machine()
        if abs(said - now) <= _APART:
            self._apart_since = None
        elif self._apart_since is None:
            self._apart_since = seconds
        elif seconds - self._apart_since > _PATIENCE_S:
            by = (said - now) / timedelta(seconds=1)
            _LOG.warning("the machine's clock was set; following it", seconds=round(by, 1))
            self._began, self._apart_since = (said, seconds), None
            return said
        return now
