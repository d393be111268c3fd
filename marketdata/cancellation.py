"""Ending work that another thread is doing."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from marketdata.errors import UsageError


class Cancellation:
    """Ends what one thread is doing, from another thread, at the points where it can be ended."""

    def __init__(self) -> None:
        """Nothing is being done yet."""
        self._lock = threading.Lock()
        self._stop: Callable[[], object] | None = None
        self._cancelled = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Make what this thread does in the block something that can be ended."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def cancel(self) -> None:
        """End it; what has not begun ends as it begins."""
        with self._lock:
            self._cancelled = True
            if self._stop is not None:
                self._stop()

    def begin(self, stop: Callable[[], object]) -> None:
        """Say how what begins now is ended.

        Raises:
            UsageError: it was cancelled before.
        """
        with self._lock:
            if self._cancelled:
                msg = "The read was cancelled."
                raise UsageError(msg)
            self._stop = stop

    def end(self) -> None:
        """Say that it is over; after this nothing is stopped any more."""
        with self._lock:
            self._stop = None


_CURRENT: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)


@contextmanager
def stoppable(stop: Callable[[], object]) -> Iterator[None]:
    """A block that a cancellation ends by calling ``stop``, if one is watching."""
    watching = _CURRENT.get()
    if watching is None:
        yield
        return
    watching.begin(stop)
    try:
        yield
    finally:
        watching.end()
