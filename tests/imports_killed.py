"""Imports that kill themselves with SIGKILL at their n-th step on the file system.

Each import is a process of its own, forked from this one, which has imported everything and started nothing.
"""

import os
import signal
import sys
from datetime import UTC, datetime

from marketdata.importing import import_files
from marketdata.lake import Lake

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
_TIMEOUT_S = 300


def run(lake: str, source: str, kill_at: int) -> str:
    """Import, or die at step ``kill_at``; return the number of steps and the files of the source opened."""
    steps = 0
    opened: set[str] = set()

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal steps
        if event == "open" and str(args[0]).startswith(source + "/"):
            opened.add(str(args[0]))
        if event in _STEPS and str(args[0]).startswith(lake + "/"):
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    report = import_files(Lake.open(lake), [source], now=NOW)
    return f"{steps} {report.total.rows} {report.total.finished_before}"


def forked(lake: str, source: str, kill_at: int) -> str:
    """``killed``, or what :func:`run` says."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(_TIMEOUT_S)
        os.write(writer, run(lake, source, kill_at).encode())
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
