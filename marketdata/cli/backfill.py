"""``marketdata backfill``: days of many markets, with progress and a table at the end."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from types import FrameType

from rich import box
from rich.table import Table

from marketdata import sources
from marketdata.backfill import DayReport, Failed, Job, Outcome, backfill
from marketdata.cli.context import Context, context, ranges_text
from marketdata.cli.failures import INTERRUPTED, say
from marketdata.cli.progress import backfill_progress, human_bytes, job_of
from marketdata.cli.table import show
from marketdata.cli.times import Asked, day_range, days_between
from marketdata.errors import StorageError, UsageError
from marketdata.manifest import Status
from marketdata.market import Market


def run_backfill(
    names: Sequence[str],
    asked: Asked,
    *,
    refresh: bool,
    workers: int | None,
) -> int:
    """Fetch, report, and return 1 when a day failed or has gaps."""
    here = context()
    first, after = day_range(asked, here.now)
    jobs = _jobs(here, names, first, after)
    for market in dict.fromkeys(market for market, _ in jobs):
        sources.check_market(market, here.settings)
    stopping = threading.Event()
    with _patient_interrupt(stopping), backfill_progress(len(jobs), stopping) as progress:
        outcomes = backfill(
            here.lake,
            jobs,
            here.settings,
            now=here.now,
            workers=workers,
            refresh=refresh,
            on_progress=progress.on_progress,
            on_day=progress.on_day,
            write=progress.write,
        )
    return _conclude(outcomes)


def _jobs(here: Context, names: Sequence[str], first: date, after: date) -> list[Job]:
    """Market by market, day by day. Days before a market's ``since`` are asked for by name only."""
    days = days_between(first, after)
    if names:
        return [(market, day) for market in dict.fromkeys(map(Market.parse, names)) for day in days]
    jobs = [(entry.market, day) for entry in here.settings.tracked for day in days if day >= entry.since]
    if not jobs:
        since = min(entry.since for entry in here.settings.tracked)
        msg = f"No market of the market file is wanted before {since}; the range ends at {after}."
        raise UsageError(msg, hint="Name the markets, or change since in the market file.")
    return jobs


@contextmanager
def _patient_interrupt(stopping: threading.Event) -> Iterator[None]:
    """The first Ctrl-C waits for the pages on their way; the second one does not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            os._exit(INTERRUPTED)
        stopping.set()
        say("Stopping after the pages on their way; press Ctrl-C again to stop at once.")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    except KeyboardInterrupt:
        say("Pages fetched so far are kept: the same command goes on where it stopped.")
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _conclude(outcomes: Sequence[Outcome]) -> int:
    failed: list[Failed] = [outcome for outcome in outcomes if not isinstance(outcome, DayReport)]
    if len(failed) == len(outcomes):
        # Days side by side meet a lake that cannot be written at different steps: still one line.
        stored = [error for _, error in failed if isinstance(error, StorageError)]
        if stored or len({str(error) for _, error in failed}) == 1:
            raise stored[0] if stored else failed[0][1]
    show(_table(outcomes))
    broken = [o for o in outcomes if isinstance(o, DayReport) and o.manifest.status is not Status.COMPLETE]
    for report in broken[:5]:
        status, reason = report.manifest.status, report.manifest.reason
        say(f"warning: {report.market} {report.day} has status {status}: {reason}")
    if len(broken) > 5:
        say(f"warning: {len(broken) - 5} more days are not complete; see marketdata coverage.")
    for message, jobs in _grouped(failed).items():
        say(f"error: {_jobs_text(jobs)} failed: {message}")
    return 1 if failed or broken else 0


def _grouped(failed: Sequence[Failed]) -> dict[str, list[Job]]:
    groups: dict[str, list[Job]] = {}
    for job, error in failed:
        groups.setdefault(str(error), []).append(job)
    return groups


def _jobs_text(jobs: Sequence[Job]) -> str:
    by_market: dict[Market, list[date]] = {}
    for market, day in jobs:
        by_market.setdefault(market, []).append(day)
    return "; ".join(f"{market} {ranges_text(days)}" for market, days in by_market.items())


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    by_market: dict[Market, list[Outcome]] = {}
    for outcome in outcomes:
        by_market.setdefault(job_of(outcome)[0], []).append(outcome)
    rows = [(str(market), *_figures(group)) for market, group in by_market.items()]
    total = ("total", *_figures(outcomes))
    for place, name in enumerate(("market", "days", "fetched", "rows", "size", "status")):
        footer = total[place] if len(rows) > 1 else ""
        table.add_column(name, footer=footer, justify="right" if 0 < place < 5 else "left", no_wrap=place < 5)
    table.show_footer = len(rows) > 1
    for row in rows:
        table.add_row(*row)
    return table


def _figures(outcomes: Sequence[Outcome]) -> tuple[str, str, str, str, str]:
    reports = [outcome for outcome in outcomes if isinstance(outcome, DayReport)]
    fetched = [report for report in reports if not report.skipped]
    parts = []
    for status in Status:
        count = sum(report.manifest.status is status for report in reports)
        if count and status is Status.COMPLETE:
            parts.append("complete" if count == len(outcomes) else f"{count} complete")
        elif count:
            parts.append(f"{count} {status}")
    if len(reports) < len(outcomes):
        parts.append(f"{len(outcomes) - len(reports)} failed")
    not_served = sum(report.manifest.not_served_count for report in reports)
    if not_served:
        parts.append(f"{not_served:,} trades not served")
    return (
        f"{len(outcomes):,}",
        f"{len(fetched):,}",
        f"{sum(report.manifest.rows for report in reports):,}",
        human_bytes(sum(report.bytes for report in reports)),
        ", ".join(parts),
    )
