"""Progress of an import on stderr: a bar over all files on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from marketdata.cli.failures import say
from marketdata.cli.progress import human_rate, human_time
from marketdata.importing import ImportProgress

_LINE_EVERY_S = 30.0


@contextmanager
def import_progress() -> Iterator[Callable[[ImportProgress], None]]:
    """Give what :func:`marketdata.importing.import_files` reports to."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    bars = Progress(
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
    with bars:
        task = bars.add_task("looking at the files", total=None, rows="", rate="", left="")
        left = _Left()

        def show(progress: ImportProgress) -> None:
            bars.update(
                task,
                description=_where(progress),
                total=progress.bytes,
                completed=progress.bytes_done,
                rows=f"{progress.rows:,} rows",
                rate=human_rate(progress.rows_per_second),
                left=left(progress),
            )

        yield show


def _lines() -> Callable[[ImportProgress], None]:
    said, left = time.monotonic(), _Left()
    noted = ""

    def show(progress: ImportProgress) -> None:
        nonlocal said, noted
        if progress.note:
            line = f"{progress.market} {progress.day}: {progress.note}"
            if line != noted:
                noted = line
                say(line)
            return
        estimate = left(progress)
        if time.monotonic() - said < _LINE_EVERY_S:
            return
        said = time.monotonic()
        part = progress.bytes_done / progress.bytes if progress.bytes else 0.0
        rate = human_rate(progress.rows_per_second)
        say(f"{_where(progress)}, {part:.0%}, {progress.rows:,} rows, {rate} {estimate}")

    return show


def _where(progress: ImportProgress) -> str:
    files = f"{progress.files_done:,} of {progress.files:,} files"
    return f"{files}, {progress.market} {progress.day}{f': {progress.note}' if progress.note else ''}"


class _Left:
    """The time left, at the speed since the first bytes were read; what was finished before costs none."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, progress: ImportProgress) -> str:
        seconds = time.monotonic() - self._began
        read = progress.bytes_done - progress.bytes_before
        if seconds < 1 or read < 0.005 * (progress.bytes - progress.bytes_before):
            return ""
        return f"{human_time(seconds * (progress.bytes - progress.bytes_done) / read)} left"
