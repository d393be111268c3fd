"""How fast, and how often again: the rate limiter and the pauses between tries. Time comes from outside."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from marketdata.errors import RateLimited, TransientError

# Full jitter (a random part of a pause that doubles) spreads threads that failed together.
_FIRST_PAUSE = 0.5
_FIRST_PAUSE_RATE_LIMITED = 2.0
_LONGEST_PAUSE = 30.0
# A ban of hours is reported, not slept through.
LONGEST_OBEYED = 300.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Everything about time that a client uses; tests put their own in."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))


class RateLimiter:
    """Spaces the requests of all threads of this process to one exchange.

    Each caller takes the next free slot and sleeps until it, so slots go out in order of asking.
    """

    def __init__(self, interval: float, clock: Clock) -> None:
        """Requests of cost 1 are ``interval`` seconds apart."""
        self._interval, self._clock = interval, clock
        self._lock = threading.Lock()
        self._free = 0.0
        self._held = 0.0

    def wait(self, cost: float = 1.0) -> None:
        """Return when a request of this cost may go out."""
        with self._lock:
            slot = max(self._clock.monotonic(), self._free)
            self._free = slot + self._interval * cost
        while True:
            with self._lock:
                left = max(slot, self._held) - self._clock.monotonic()
            if left <= 0:
                return
            self._clock.sleep(left)

    def hold(self, seconds: float) -> None:
        """Let nobody go for so many seconds: the exchange asked for fewer requests."""
        with self._lock:
            self._held = max(self._held, self._clock.monotonic() + seconds)


def pause_before_retry(error: TransientError, tried: int, clock: Clock) -> float:
    """Seconds to wait after try number ``tried`` (from 1); what the exchange asked for is obeyed."""
    if error.retry_after is not None:
        return error.retry_after
    first = _FIRST_PAUSE_RATE_LIMITED if isinstance(error, RateLimited) else _FIRST_PAUSE
    return clock.random() * min(_LONGEST_PAUSE, first * 2.0 ** (tried - 1))


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds of a ``Retry-After`` header: a number, or a date. ``None`` when absent or unreadable."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - now).total_seconds()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None
