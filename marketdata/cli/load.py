"""``marketdata db load``: days of the lake into the store, with progress and a table at the end."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import date
from types import TracebackType
from typing import Protocol, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from marketdata.backfill import Job
from marketdata.cli.context import Context, context, days_text, held_market, ranges_text, status_counts
from marketdata.cli.failures import say
from marketdata.cli.progress import human_rate, human_time
from marketdata.cli.table import show
from marketdata.cli.times import Asked, day_range
from marketdata.errors import MarketDataError
from marketdata.manifest import Status
from marketdata.market import Market
from marketdata.store import engine, migrate
from marketdata.store.load import LoadReport, Outcome, load_days

_LINE_EVERY_S = 10.0


def run_load(names: Sequence[str], asked: Asked, url: str, *, refresh: bool, workers: int) -> int:
    """Load, report, and return 1 when a day failed."""
    here = context()
    jobs = _jobs(here, names, asked)
    with engine.connect(url) as connection:
        migrate.require_head(connection)
    with load_progress(len(jobs)) as progress:
        outcomes = load_days(url, here.lake, jobs, refresh=refresh, workers=workers, on_day=progress.on_day)
    return _conclude(outcomes)


def _jobs(here: Context, names: Sequence[str], asked: Asked) -> list[Job]:
    """Days that the lake holds, market by market; of all its markets when none is named.

    Raises:
        UnknownName: the lake has no such market.
        MarketDataError: it has none of the days.
    """
    held = dict(held_market(here, name) for name in names) if names else here.lake.days()
    first, after = day_range(asked, here.now) if asked else (date.min, date.max)
    jobs = [(market, day) for market, days in held.items() for day in days if first <= day < after]
    if not jobs:
        if not held:
            msg = f"The lake {here.lake.url!r} is empty."
            raise MarketDataError(msg, hint="To fill it: marketdata backfill --last 7d")
        days = [day for found in held.values() for day in found]
        msg = f"The lake has no day from {first} up to {after}; it has {min(days)} to {max(days)}."
        raise MarketDataError(msg, hint="Choose another range, or run marketdata backfill first.")
    return jobs


class LoadProgress(AbstractContextManager["LoadProgress"], Protocol):
    """What a load reports to."""

    def on_day(self, outcome: Outcome) -> None:
        """A day has ended."""


def load_progress(days: int) -> LoadProgress:
    """Return a bar on a terminal, otherwise a line from time to time."""
    console = Console(stderr=True)
    return _Bar(console, days) if console.is_terminal else _Lines(days)


class _Sum:
    def __init__(self, days: int) -> None:
        self.days, self.ended, self.rows = days, 0, 0
        self._began = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self.ended += 1
        if isinstance(outcome, LoadReport):
            self.rows += outcome.rows

    @property
    def rate(self) -> str:
        return human_rate(self.rows / max(time.monotonic() - self._began, 0.1))

    @property
    def left(self) -> str:
        seconds = time.monotonic() - self._began
        return f"{human_time(seconds * (self.days - self.ended) / self.ended)} left" if self.ended else ""


class _Bar:
    def __init__(self, console: Console, days: int) -> None:
        self._sum = _Sum(days)
        self._bar = Progress(
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
        self._task = self._bar.add_task(days_text([date.min] * days), total=days, rows="", rate="", left="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_day(self, outcome: Outcome) -> None:
        self._sum.add(outcome)
        if not isinstance(outcome, LoadReport):
            self._bar.console.print(describe(outcome), highlight=False, markup=False)
        self._bar.update(
            self._task,
            description=f"{self._sum.ended} of {self._sum.days} days",
            completed=self._sum.ended,
            rows=f"{self._sum.rows:,} rows",
            rate=self._sum.rate,
            left=self._sum.left,
        )


class _Lines:
    def __init__(self, days: int) -> None:
        self._sum = _Sum(days)
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def on_day(self, outcome: Outcome) -> None:
        self._sum.add(outcome)
        if time.monotonic() - self._said < _LINE_EVERY_S and isinstance(outcome, LoadReport):
            return
        self._said = time.monotonic()
        say(f"{self._sum.ended} of {self._sum.days} days, {self._sum.rate}; {describe(outcome)}")


def describe(outcome: Outcome) -> str:
    """One line about a day that has ended."""
    if not isinstance(outcome, LoadReport):
        (market, day), _ = outcome
        return f"{market} {day} failed"
    name = f"{outcome.market} {outcome.day}"
    if outcome.skipped:
        return f"{name} was there"
    return f"{name} {outcome.rows:,} rows, {outcome.candles_changed:,} candles, {outcome.seconds:.1f} s"


def _conclude(outcomes: Sequence[Outcome]) -> int:
    failed = [outcome for outcome in outcomes if not isinstance(outcome, LoadReport)]
    if len(failed) == len(outcomes) and len({str(error) for _, error in failed}) == 1:
        raise failed[0][1]
    show(_table(outcomes))
    by_message: dict[str, dict[Market, list[date]]] = {}
    for (market, day), error in failed:
        by_message.setdefault(str(error), {}).setdefault(market, []).append(day)
    for message, days in by_message.items():
        which = "; ".join(f"{market} {ranges_text(found)}" for market, found in days.items())
        say(f"error: {which} failed: {message}")
    return 1 if failed else 0


def _table(outcomes: Sequence[Outcome]) -> Table:
    by_market: dict[Market, list[Outcome]] = {}
    for outcome in outcomes:
        market = outcome.market if isinstance(outcome, LoadReport) else outcome[0][0]
        by_market.setdefault(market, []).append(outcome)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=len(by_market) > 1)
    total = ("total", *_figures(outcomes))
    for place, name in enumerate(("market", "days", "loaded", "rows", "candles", "status")):
        align = "right" if 0 < place < 5 else "left"
        table.add_column(name, footer=total[place], justify=align, no_wrap=place < 5)  # type: ignore[arg-type]
    for market, group in by_market.items():
        table.add_row(str(market), *_figures(group))
    return table


def _figures(outcomes: Sequence[Outcome]) -> tuple[str, str, str, str, str]:
    reports = [outcome for outcome in outcomes if isinstance(outcome, LoadReport)]
    counts = status_counts([report.manifest for report in reports])
    parts = [
        str(status) if count == len(outcomes) and status is Status.COMPLETE else f"{count} {status}"
        for status, count in counts.items()
        if count
    ]
    if len(reports) < len(outcomes):
        parts.append(f"{len(outcomes) - len(reports)} failed")
    return (
        f"{len(outcomes):,}",
        f"{sum(not report.skipped for report in reports):,}",
        f"{sum(report.rows for report in reports):,}",
        f"{sum(report.candles_changed for report in reports):,}",
        ", ".join(parts),
    )
