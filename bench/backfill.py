"""Backfill: memory of one day and of many, time to the first staged page, cost of a page.

``make bench ARGS=backfill`` or ``python -m bench.backfill [--days 30] [--rows 2000000]``. Trades come from a
generator inside the process, in pages of 1,000 as Kraken serves them, so that the figures are those of the
lake and not of a network. Each backfill runs in a fresh process; its peak is the kernel's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from statistics import median

import numpy as np
import polars as pl
from rich.console import Console

from bench.memory import peak_bytes
from bench.table import Row, show
from marketdata.backfill import DayReport, backfill
from marketdata.interval import to_us
from marketdata.lake import Lake
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources.base import Page
from marketdata.trade import TIME, TRADE_SCHEMA

_MARKET = Market("kraken", "BTC/USD")
_FIRST = date(2025, 1, 1)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_PAGE_ROWS = 1000


class Generated:
    """A source that makes each page when it is asked for and keeps none."""

    name = "generated"
    exchange = "kraken"
    sequential_ids = True

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def pages(
        self, _market: Market, start: datetime, end: datetime, cursor: str | None = None
    ) -> Iterator[Page]:
        first_id = (start.date() - _FIRST).days * self._rows
        step = 86_400_000_000 // self._rows
        for at in range(int(cursor or 0), self._rows, _PAGE_ROWS):
            count = min(_PAGE_ROWS, self._rows - at)
            random = np.random.default_rng([start.toordinal(), at])
            times = to_us(start) + (at + np.arange(count)) * step
            page = pl.DataFrame(
                {
                    "trade_id": first_id + at + np.arange(count),
                    "time": pl.Series(times).cast(TIME),
                    "price": np.round(100_000 + np.cumsum(random.normal(0, 0.4, count)), 1),
                    "amount": np.maximum(np.round(np.exp(random.normal(-4.5, 2.2, count)), 8), 1e-8),
                    "side": np.where(random.random(count) < 0.5, "buy", "sell"),
                    "fills": np.ones(count, dtype=np.int32),
                }
            )
            done = at + count >= self._rows
            yield Page(
                page.cast(TRADE_SCHEMA),  # type: ignore[arg-type]
                None if done else str(at + count),
                end if done else page["time"][-1],
                previous_id=first_id - 1 if at == 0 else None,
                following_id=first_id + self._rows if done else None,
            )

    def refetch(self, *_: object) -> pl.DataFrame:
        return TRADE_SCHEMA.to_frame()


def run(days: int = 30, rows: int = 2_000_000) -> list[Row]:
    """The rows of the table."""
    one, many = fresh(1, rows), fresh(days, rows)
    note = (
        f"{rows:,} trades a day; peaks {one['peak_mb']:.0f} and {many['peak_mb']:.0f} MB, 8 days side by side"
    )
    speed = many["rows"] / many["seconds"]
    return [
        Row(
            f"peak memory of {days} days less that of 1 day",
            many["peak_mb"] - one["peak_mb"],
            "MB",
            "<= 50",
            note=note,
        ),
        Row(
            "peak memory of 1 day", one["peak_mb"], "MB", note="Python, polars and Arrow loaded: about 170 MB"
        ),
        Row("first staged page readable, from the start of the process", first_page_s(), "s", "<= 2"),
        Row("a page of 1,000 trades made durable with its cursor", page_ms(), "ms", "<= 2"),
        Row("pages of 1,000 to proven days and candles", speed, "trades/s", note="generator included"),
    ]


def measure(folder: str, days: int, rows: int) -> dict[str, float]:
    """Backfill so many days in this process; seconds, peak memory in MB, rows and bytes in the lake."""
    began = time.perf_counter()
    jobs = [(_MARKET, _FIRST + timedelta(days=n)) for n in range(days)]
    source = Generated(rows)
    settings = Settings(workers=8)
    outcomes = backfill(Lake.open(folder), jobs, settings, now=_NOW, find_source=lambda *_: source)
    reports = [outcome for outcome in outcomes if isinstance(outcome, DayReport)]
    assert len(reports) == days, outcomes
    return {
        "seconds": time.perf_counter() - began,
        "peak_mb": peak_bytes() / 1e6,
        "rows": sum(report.manifest.rows for report in reports),
        "bytes": sum(report.bytes for report in reports),
    }


def fresh(days: int, rows: int) -> dict[str, float]:
    """The same in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-backfill-") as folder:
        result = subprocess.run(_command(folder, days, rows), capture_output=True, text=True, check=True)
        figures: dict[str, float] = json.loads(result.stdout)
        return figures


def first_page_s(runs: int = 5) -> float:
    """Median seconds from starting a process until another reads its first staged page."""
    taken = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="bench-backfill-") as folder:
            lake = Lake.open(folder)
            began = time.perf_counter()
            process = subprocess.Popen(_command(folder, 1, 2_000_000), stdout=subprocess.DEVNULL)
            try:
                while lake.read_staged(_MARKET, _FIRST).is_empty():
                    assert process.poll() is None
                    time.sleep(0.005)
                taken.append(time.perf_counter() - began)
            finally:
                process.kill()
                process.wait()
    return median(taken)


def page_ms(pages: int = 200) -> float:
    """Median milliseconds of keeping one page."""
    start, end = day_window(_FIRST)
    made = list(Generated(pages * _PAGE_ROWS).pages(_MARKET, start, end))
    taken = []
    with tempfile.TemporaryDirectory(prefix="bench-backfill-") as folder:
        stage = Lake.open(folder).stage(_MARKET, _FIRST, "generated")
        for page in made:
            began = time.perf_counter()
            stage.append(page)
            taken.append(time.perf_counter() - began)
    return 1000 * median(taken)


def _command(folder: str, days: int, rows: int) -> list[str]:
    return [sys.executable, "-m", "bench.backfill", "--into", folder, f"--days={days}", f"--rows={rows}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rows", type=int, default=2_000_000, help="trades a day")
    parser.add_argument("--into", metavar="FOLDER", help="backfill in this process and print its figures")
    chosen = parser.parse_args()
    if chosen.into:
        print(json.dumps(measure(chosen.into, chosen.days, chosen.rows)))
    else:
        show(run(chosen.days, chosen.rows), Console(highlight=False))
