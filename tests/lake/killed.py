"""A fetch that kills itself with SIGKILL at its n-th step on the file system; run by test_killed.py.

Steps are Python's own audit events, so every open, rename, mkdir and remove is one, in a page, between two
pages, while the day is put in place and after it.
"""

import os
import signal
import sys
from pathlib import Path

from marketdata.fetching import fetch_day
from marketdata.lake import Lake
from tests.lake.world import BTC, DAY, NOW, PagedSource

_STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def main(folder: str, log: str, kill_at: int) -> int:
    """Fetch the day; return the number of steps, if it comes to that."""
    source = PagedSource(page_rows=300, log=Path(log))
    lake = Lake.open(folder)
    lake.manifests()
    steps = 0

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal steps
        if event in _STEPS and str(args[0]).startswith(folder):
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    fetch_day(lake, source, BTC, DAY, now=NOW)
    return steps


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
