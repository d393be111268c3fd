"""Fetches that kill themselves with SIGKILL at their n-th step on the file system; run by test_killed.py.

Steps are Python's own audit events, so every open, rename, mkdir and remove inside the lake is one: in a
page, between two pages, while the day is put in place and after it. Each fetch is a process of its own,
forked from this one, which has imported everything and started nothing.
"""

import os
import signal
import sys
from pathlib import Path

from marketdata.fetching import fetch_day
from marketdata.lake import Lake
from tests.lake.world import BTC, DAY, NOW, PagedSource

_STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
_TIMEOUT_S = 300


def fetch(folder: str, log: str, kill_at: int) -> int:
    """Fetch the day, or die at step ``kill_at``; return the number of steps."""
    steps = 0

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal steps
        if event in _STEPS and str(args[0]).startswith(folder + "/"):
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    source = PagedSource(page_rows=300, log=Path(log))
    fetch_day(Lake.open(folder), source, BTC, DAY, now=NOW)
    return steps


def forked(folder: str, log: str, kill_at: int) -> str:
    """``killed``, or the number of steps of a fetch that came to its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(_TIMEOUT_S)
        os.write(writer, str(fetch(folder, log, kill_at)).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "killed"
    return said if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 else f"failed with status {status}"


if __name__ == "__main__":
    for line in sys.stdin:
        print(forked(*line.split()[:2], int(line.split()[2])), flush=True)
