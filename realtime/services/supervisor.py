"""``marketdata stream up``: the services as processes, started again when one ends."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import structlog

_LOG = structlog.stdlib.get_logger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
# One that ran so long had not failed at its start: the next pause is short again.
_WELL_S = 60.0
_STOP_S = 20.0
# A wrong setting stays wrong.
_USAGE = 2


@dataclass
class _Child:
    name: str
    command: list[str]
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0
    due: float = 0.0
    pause: float = _FIRST_PAUSE_S


def supervise(services: Sequence[tuple[str, Sequence[str]]], stop: threading.Event) -> int:
    """Run ``marketdata stream`` with these arguments each, until ``stop`` is set.

    Args:
        services: a name, and what is typed behind ``marketdata stream``.

    Returns:
        2 when a service says that it is used wrongly; the others are ended then. Else 0.
    """
    program = [sys.executable, "-c", "from marketdata.cli.main import run; run()", "stream"]
    children = [_Child(name, [*program, *arguments]) for name, arguments in services]
    code = 0
    try:
        while not stop.is_set() and not code:
            for child in children:
                code = code or _look_after(child)
            stop.wait(0.2)
    finally:
        _end(children)
    return code


def _look_after(child: _Child) -> int:
    if child.process is None:
        if monotonic() >= child.due:
            child.process = subprocess.Popen(child.command)  # noqa: S603 - our own command
            child.began = monotonic()
            _LOG.info("started", part=child.name, pid=child.process.pid)
        return 0
    ended = child.process.poll()
    if ended is None:
        return 0
    child.process = None
    if ended == _USAGE:
        return _USAGE
    if monotonic() - child.began > _WELL_S:
        child.pause = _FIRST_PAUSE_S
    _LOG.warning("ended, and is started again", part=child.name, code=ended, pause_s=child.pause)
    child.due = monotonic() + child.pause
    child.pause = min(2 * child.pause, _LONGEST_PAUSE_S)
    return 0


def _end(children: Sequence[_Child]) -> None:
    """Let each write what is due."""
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.terminate()
    until = monotonic() + _STOP_S
    for process in running:
        try:
            process.wait(max(0.1, until - monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
