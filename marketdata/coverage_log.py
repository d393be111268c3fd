"""Lines of a log that say how much of each market a backfill has."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date

from marketdata.fetching import DayReport, Progress
from marketdata.market import Market

_EVERY_S = 10.0


class CoverageLog:
    """A line a market every few seconds: ``kraken:BTC/EUR: 15,432 trades, 2.3 of 7 days, 980 trades/s``."""

    def __init__(
        self,
        jobs: Iterable[tuple[Market, date]],
        write: Callable[[str], None],
        *,
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write with ``write``; ``jobs`` are the days that are wanted."""
        self._days = Counter(market for market, _ in jobs)
        self._write, self._every_s, self._clock = write, every_s, clock
        self._lock = threading.Lock()
        self._began = self._said = clock()
        self._running: dict[tuple[Market, date], Progress] = {}
        self._rows: Counter[Market] = Counter()  # of days that have ended
        self._fetched: Counter[Market] = Counter()  # of them in this run
        self._ended: Counter[Market] = Counter()
        self._left = Counter(self._days)

    def page(self, progress: Progress) -> None:
        """A day is this far."""
        with self._lock:
            self._running[progress.market, progress.day] = progress
            if self._clock() - self._said >= self._every_s:
                self._said = self._clock()
                for market in sorted({market for market, _ in self._running}):
                    self._write(self._line(market))

    def day(self, market: Market, day: date, report: DayReport | None) -> None:
        """A day has ended; without a report it has failed."""
        with self._lock:
            self._running.pop((market, day), None)
            if report is not None:
                self._rows[market] += report.manifest.rows
                self._fetched[market] += report.fetched_rows
                self._ended[market] += 1
            self._left[market] -= 1
            if not self._left[market]:
                self._write(self._line(market))

    def _line(self, market: Market) -> str:
        running = [progress for (name, _), progress in self._running.items() if name == market]
        rows = self._rows[market] + sum(progress.rows for progress in running)
        fetched = self._fetched[market] + sum(p.rows_per_second * p.seconds for p in running)
        days = self._ended[market] + sum(progress.fraction for progress in running)
        rate = fetched / max(self._clock() - self._began, 1e-3)
        of_days = f"{days:.1f}".removesuffix(".0")
        return f"{market}: {rows:,} trades, {of_days} of {self._days[market]} days, {rate:,.0f} trades/s"
