"""The machine's time, counted on from the start: a clock that is set while a service runs changes nothing."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class SteadyClock:
    """Now, in UTC."""

    def __init__(
        self, start: datetime | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Count on from ``start``; from what the machine's clock says by default."""
        self._start = datetime.now(UTC) if start is None else start
        self._monotonic = monotonic
        self._zero = monotonic()

    def __call__(self) -> datetime:
        """The time."""
        return self._start + timedelta(seconds=self._monotonic() - self._zero)
