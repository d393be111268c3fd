"""Questions to a broker that may stand still for longer than a look at it waits."""

import time
from collections.abc import Callable
from typing import TypeVar

from marketdata.errors import TransientError

Answer = TypeVar("Answer")


def patiently(ask: Callable[[], Answer], within_s: float = 240.0) -> Answer:
    """The answer to what changes nothing; a broker that was silent is asked again."""
    until = time.monotonic() + within_s
    while True:
        try:
            return ask()
        except TransientError:
            if time.monotonic() > until:
                raise
        time.sleep(0.1)
