"""The peak memory of groups of processes, sampled while they run."""

import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

_EVERY_S = 0.25
_PROC = Path("/proc")


class PeakMemory:
    """Watches process groups in a thread; a context manager.

    Attributes:
        total: the most that all of them held together, in bytes (shared pages counted in each).
        largest: the most that one process of ``watched`` groups held.
    """

    def __init__(self, groups: Callable[[], Iterable[int]], watched: Callable[[], Iterable[int]]) -> None:
        """``groups`` gives the ids of the process groups, ``watched`` those whose processes are looked at."""
        self.total = self.largest = 0
        self._groups, self._watched = groups, watched
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(_EVERY_S):
            groups, watched = set(self._groups()), set(self._watched())
            sizes = [(group, size) for group, size in _processes() if group in groups]
            self.total = max(self.total, sum(size for _, size in sizes))
            self.largest = max([self.largest, *(size for group, size in sizes if group in watched)])


def _processes() -> list[tuple[int, int]]:
    """Process group and resident bytes of every process that can be seen."""
    if not _PROC.is_dir():
        out = subprocess.run(["ps", "-A", "-o", "pgid=,rss="], capture_output=True, text=True, check=True)  # noqa: S607
        return [(int(group), int(kib) * 1024) for group, kib in map(str.split, out.stdout.splitlines())]
    found = []
    for folder in _PROC.glob("[0-9]*"):
        try:
            # After the name in brackets: state, parent, group; the 22nd field from there is pages held.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        found.append((int(fields[2]), int(fields[21]) * 4096))
    return found
