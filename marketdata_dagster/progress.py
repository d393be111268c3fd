"""How far a run is, in its log: pages, rows, rows a second and percent of each day, every few seconds."""

import threading
import time
from collections.abc import Callable

from marketdata.backfill import DayReport, Failed, Progress

_EVERY_S = 5.0
_FIRST_S = 1.0
_MAX_LINES = 12


class ProgressLog:
    """Collects the progress of many days and writes one entry every few seconds.

    Pass :meth:`page` and :meth:`day` as callbacks; they may be called from any thread.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        days: int,
        *,
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write with ``write``, at most once in ``every_s`` seconds; ``days`` is how many there are."""
        self._write, self._days, self._every_s, self._clock = write, days, every_s, clock
        self._lock = threading.Lock()
        self._started = clock()
        self._next = self._started + min(_FIRST_S, every_s)
        self._active: dict[tuple[str, str], Progress] = {}
        self._done = self._rows = self._skipped = 0

    def page(self, progress: Progress) -> None:
        """Note the progress of one day."""
        with self._lock:
            self._active[str(progress.market), str(progress.day)] = progress
            if self._clock() >= self._next:
                self._entry()

    def day(self, outcome: DayReport | Failed) -> None:
        """Note that a day is over, well or not."""
        with self._lock:
            if isinstance(outcome, DayReport):
                key = (str(outcome.market), str(outcome.day))
                self._rows += outcome.fetched_rows
                self._skipped += outcome.skipped
            else:
                (market, day), error = outcome
                key = (str(market), str(day))
                self._write(f"{market} {day} failed: {error}")
            self._active.pop(key, None)
            self._done += 1
            if self._done == self._days or self._clock() >= self._next:
                self._entry()

    def _entry(self) -> None:
        now = self._clock()
        self._next = now + self._every_s
        active = sorted(self._active.items())
        rows = self._rows + sum(progress.rows for _, progress in active)
        rate = rows / max(now - self._started, 1e-3)
        complete = f" ({self._skipped} were complete already)" if self._skipped else ""
        lines = [f"{self._done} of {self._days} days{complete}, {rows:,} trades, {rate:,.0f} trades/s"]
        lines += [describe(progress) for _, progress in active[:_MAX_LINES]]
        if len(active) > _MAX_LINES:
            lines.append(f"and {len(active) - _MAX_LINES} more days under way")
        self._write("\n".join(lines))


def describe(progress: Progress) -> str:
    """One line: which day, percent, pages, rows, rate."""
    text = (
        f"{progress.market} {progress.day}: {progress.fraction:.0%} of the day, {progress.pages:,} pages, "
        f"{progress.rows:,} trades, {progress.rows_per_second:,.0f} trades/s"
    )
    if progress.rejected:
        text += f", {progress.rejected:,} rejected"
    return f"{text}, {progress.note}" if progress.note else text
