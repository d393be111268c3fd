"""How a service runs: until it is told to stop, through whatever passes by itself."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

from marketdata.errors import TransientError
from realtime.health import Health

_LOG = structlog.stdlib.get_logger(__name__)
_PAUSE_S = 1.0


def forever(
    turn: Callable[[], object], stop: threading.Event, health: Health, *, pause_s: float = _PAUSE_S
) -> None:
    """Call ``turn`` until ``stop`` is set; what a retry may help is tried again after a pause.

    Raises:
        MarketDataError: a retry cannot help.
    """
    troubled = False
    while not stop.is_set():
        try:
            turn()
        except TransientError as error:
            health.beat()
            if not troubled:
                _LOG.warning("trying again", error=str(error))
            health.not_ready(str(error))
            troubled = True
            stop.wait(pause_s)
        else:
            if troubled:
                _LOG.info("going on")
                health.ready()
            troubled = False


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, so that what is due is written before the end."""
    stop = threading.Event()

    def told(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    held = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
