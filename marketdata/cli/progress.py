"""Progress of a backfill on stderr: bars on a terminal, a line a day elsewhere."""

import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from marketdata.backfill import DayReport, Job, Outcome
from marketdata.backfill import Progress as DayProgress
from marketdata.cli.failures import say
from marketdata.manifest import Status

_LINE_EVERY_S = 30.0
_WORTH_A_LINE = ("another process", "goes on")


class BackfillProgress(AbstractContextManager["BackfillProgress"], Protocol):
    """What a backfill reports to."""

    def on_progress(self, progress: DayProgress) -> None:
        """A day is this far."""

    def on_day(self, outcome: Outcome) -> None:
        """A day has ended."""

    def write(self, line: str) -> None:
        """How much there is of a market."""


def backfill_progress(days: int, stopping: threading.Event) -> BackfillProgress:
    """Return bars on a terminal, otherwise lines. Days that end while ``stopping`` is set did not fail."""
    console = Console(stderr=True)
    overall = _Overall(days, stopping)
    return _Bars(console, overall) if console.is_terminal else _Lines(overall)


def human_bytes(count: float) -> str:
    """``1.2 MB``, in powers of ten as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1_000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1_000
    return f"{count:.1f} TB"


def human_time(seconds: float) -> str:
    """``0:07``, ``12:30`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def human_rate(rows_per_second: float) -> str:
    """``850/s``, ``14.2k/s``, ``1.3M/s``."""
    for unit in ("", "k", "M"):
        if rows_per_second < 1_000 or unit == "M":
            return f"{rows_per_second:.{0 if not unit else 1}f}{unit}/s"
        rows_per_second /= 1_000
    raise AssertionError


def job_of(outcome: Outcome) -> Job:
    """The market and the day that an outcome is of."""
    return (outcome.market, outcome.day) if isinstance(outcome, DayReport) else outcome[0]


def describe(outcome: Outcome) -> str:
    """One line about a day that has ended."""
    market, day = job_of(outcome)
    name = f"{market} {day}"
    if not isinstance(outcome, DayReport):
        return f"{name} failed"
    status = outcome.manifest.status
    if outcome.skipped:
        return f"{name} {status}, was there"
    resumed = f", {outcome.resumed_pages} from before" if outcome.resumed_pages else ""
    return (
        f"{name} {status}, {outcome.manifest.rows:,} rows, {_pages(outcome.fetched_pages)}{resumed}, "
        f"{human_bytes(outcome.bytes)}, {outcome.seconds:.1f} s"
    )


def _pages(count: int) -> str:
    return f"{count:,} page{'' if count == 1 else 's'}"


class _Overall:
    """How much of all days is done, and how long the rest takes at the speed so far."""

    def __init__(self, days: int, stopping: threading.Event) -> None:
        self.days, self.ended, self.stopping = days, 0, stopping
        self._skipped, self._rows = 0, 0
        self._began = time.monotonic()
        self._running: dict[Job, DayProgress] = {}

    def at(self, progress: DayProgress) -> None:
        self._running[progress.market, progress.day] = progress

    def end(self, outcome: Outcome) -> None:
        self.ended += 1
        self._running.pop(job_of(outcome), None)
        if isinstance(outcome, DayReport):
            self._skipped += outcome.skipped
            self._rows += outcome.fetched_rows

    @property
    def done(self) -> float:
        return self.ended + sum(progress.fraction for progress in self._running.values())

    @property
    def rows(self) -> int:
        return self._rows + sum(progress.rows for progress in self._running.values())

    @property
    def rate(self) -> str:
        return human_rate(self.rows / max(time.monotonic() - self._began, 0.1))

    @property
    def left(self) -> str:
        worked, wanted = self.done - self._skipped, self.days - self._skipped
        seconds = time.monotonic() - self._began
        if worked < 0.02 or seconds < 1:
            return ""
        return f"{human_time(seconds * (wanted - worked) / worked)} left"

    def describe(self, outcome: Outcome) -> str:
        if self.stopping.is_set() and not isinstance(outcome, DayReport):
            market, day = job_of(outcome)
            return f"{market} {day} stopped"
        return describe(outcome)


class _Bars:
    def __init__(self, console: Console, overall: _Overall) -> None:
        self._overall = overall
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rows]:>12}", justify="right"),
            TextColumn("{task.fields[rate]:>8}", justify="right"),
            TextColumn("{task.fields[left]:>10}", justify="right"),
            console=console,
            transient=True,
            expand=True,
            refresh_per_second=5,
        )
        self._all = self._bars.add_task(f"{overall.days} days", total=overall.days, rows="", rate="", left="")
        self._tasks: dict[Job, TaskID] = {}
        self._noted: dict[Job, str] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def on_progress(self, progress: DayProgress) -> None:
        job = (progress.market, progress.day)
        if job not in self._tasks:
            name = f"{progress.market} {progress.day}"
            self._tasks[job] = self._bars.add_task(name, total=1.0, rows="", rate="", left="")
        if progress.note.startswith(_WORTH_A_LINE) and self._noted.get(job) != progress.note:
            self._noted[job] = progress.note
            self._print(f"{progress.market} {progress.day} {progress.note}")
        left = (
            progress.seconds * (1 - progress.fraction) / progress.fraction
            if progress.fraction > 0.01
            else None
        )
        self._bars.update(
            self._tasks[job],
            completed=progress.fraction,
            rows=f"{progress.rows:,} rows",
            rate=human_rate(progress.rows_per_second),
            left="" if left is None else f"{human_time(left)} left",
        )
        self._overall.at(progress)
        self._update_all()

    def on_day(self, outcome: Outcome) -> None:
        task = self._tasks.pop(job_of(outcome), None)
        if task is not None:
            self._bars.remove_task(task)
        self._overall.end(outcome)
        if not isinstance(outcome, DayReport) or outcome.manifest.status is not Status.COMPLETE:
            self._print(self._overall.describe(outcome))
        self._update_all()

    def write(self, line: str) -> None:
        """The bars show it."""

    def _print(self, line: str) -> None:
        self._bars.console.print(line, highlight=False, markup=False)

    def _update_all(self) -> None:
        self._bars.update(
            self._all,
            description=f"{self._overall.ended} of {self._overall.days} days",
            completed=self._overall.done,
            rows=f"{self._overall.rows:,} rows",
            rate=self._overall.rate,
            left=self._overall.left,
        )


class _Lines:
    def __init__(self, overall: _Overall) -> None:
        self._overall = overall
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def on_progress(self, progress: DayProgress) -> None:
        self._overall.at(progress)
        if time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            say(
                f"{progress.market} {progress.day} {progress.fraction:.0%}, {progress.rows:,} rows, "
                f"{human_rate(progress.rows_per_second)}; {self._overall.ended} of {self._overall.days} days "
                f"{self._overall.left}"
            )

    def on_day(self, outcome: Outcome) -> None:
        self._overall.end(outcome)
        self._said = time.monotonic()
        say(self._overall.describe(outcome))

    def write(self, line: str) -> None:
        say(line)
