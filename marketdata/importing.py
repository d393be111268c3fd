"""Files of trades and candles into the lake, day by day.

A file may be larger than memory: it is read in blocks, and a day is put in place as soon as the file has
passed it. A crash leaves whole days; the same import again adds what is missing and nothing else.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from marketdata.backfill import fold_day
from marketdata.errors import CorruptFile
from marketdata.imported_day import ImportedDay, Placed, connect, place
from marketdata.importing_candles import place_candles
from marketdata.lake import Lake
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.sources.days import FileDay, days_of
from marketdata.sources.files import find
from marketdata.sources.formats import Known, recognise


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far one file is: ``fraction`` of its bytes, ``None`` where its size is not known (gzip)."""

    file: str
    market: Market
    day: date
    rows: int
    fraction: float | None
    rows_per_second: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A day that was left as it was, and why. ``rows`` of the file were not taken."""

    market: Market
    day: date
    rows: int
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What became of every row: ``rows`` is the sum of accepted, repeated, rejected, empty and kept ones.

    Attributes:
        files: the files read.
        days: the days they hold, by market.
        accepted: rows that are new in the lake.
        repeated: rows that the lake had, or that stood twice in a file.
        rejected: refused rows by reason; they are kept in the lake.
        empty: candles of intervals without trades, which are not stored.
        kept: days that were left as they were.
    """

    files: list[str] = field(default_factory=list)
    days: dict[Market, set[date]] = field(default_factory=dict)
    rows: int = 0
    accepted: int = 0
    repeated: int = 0
    empty: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    kept: list[Kept] = field(default_factory=list)
    seconds: float = 0.0


def import_files(
    lake: Lake,
    paths: Iterable[str | Path],
    *,
    format: str | None = None,  # noqa: A002
    market: Market | None = None,
    now: datetime,
    on_progress: Callable[[ImportProgress], None] | None = None,
) -> ImportReport:
    """Import files, folders, globs and zips of files, and fold the days whose trades have changed.

    Every file is recognised before the first one is read, so a foreign file stops the import before
    anything is written.

    Args:
        lake: where the days go.
        paths: files, folders (searched to any depth) or globs; ``.csv``, ``.csv.gz`` or ``.zip``.
        format: a name of :data:`marketdata.sources.formats.FORMATS`; otherwise recognised by content.
        market: the market of all files; otherwise the name of each says it.
        now: rows of later times are refused; a day that is still running is not complete.
        on_progress: called after each day.

    Raises:
        UsageError: a file is absent, empty or of no known format, or does not say its market.
        CorruptFile: a file is cut or foreign; the days before the damage are in the lake.
        StorageError: the lake cannot be written.
    """
    known = [recognise(table, format=format, market=market) for table in find(paths)]
    report = ImportReport()
    began = time.monotonic()
    for file in _in_order(known):
        _import_file(lake, file, report, now, on_progress)
    for each, days in report.days.items():
        _fold(lake, each, days)
    report.seconds = time.monotonic() - began
    return report


def _fold(lake: Lake, market: Market, days: set[date]) -> None:
    """Make the 1m candles of these days where their trades have changed, for readers who come by SQL."""
    if days:
        window = day_window(min(days))[0], day_window(max(days))[1]
        for day in sorted(days.intersection(lake.unfolded(market, *window))):
            fold_day(lake, market, day)


def _in_order(known: list[Known]) -> list[Known]:
    """By market and first time, so that a file comes before the one that continues it."""
    return sorted(known, key=lambda file: (file.market, file.format.name, file.first_time, str(file.table)))


def _import_file(
    lake: Lake,
    file: Known,
    report: ImportReport,
    now: datetime,
    on_progress: Callable[[ImportProgress], None] | None,
) -> None:
    """Read in this thread, write in another; at most three days and one block are in memory."""
    report.files.append(str(file.table))
    touched = report.days.setdefault(file.market, set())
    edges: list[date] = []
    began, rows, last = time.monotonic(), 0, None
    with ThreadPoolExecutor(1, thread_name_prefix="import") as writer:
        pending: Future[None] | None = None
        for day in days_of(file, now):
            if pending is not None:
                pending.result()
            pending = writer.submit(_put, lake, file, day, report)
            rows += len(day.rows) + len(day.rejects)
            touched.add(day.day)
            if not edges:
                edges.append(day.day)
            last = day.day
            if on_progress is not None:
                speed = rows / max(time.monotonic() - began, 1e-6)
                on_progress(ImportProgress(str(file.table), file.market, day.day, rows, day.fraction, speed))
        if pending is not None:
            pending.result()
    if last is None:
        msg = f"{str(file.table)!r} has no row that can be taken."
        raise CorruptFile(msg, hint=f"It was read as {file.format.name}; check what it holds.")
    if not file.format.is_candles:
        for edge in dict.fromkeys([*edges, last]):
            connect(lake, file.market, edge)


def _put(lake: Lake, file: Known, day: FileDay, report: ImportReport) -> None:
    report.rows += len(day.rows) + len(day.rejects) + day.empty
    report.empty += day.empty
    report.rejected.update(day.rejects["reason"].to_list())
    placed = place_candles(lake, file, day) if file.format.is_candles else _place_trades(lake, file, day)
    report.accepted += placed.added
    report.repeated += placed.repeated
    if placed.conflicts:
        report.rejected["id repeated with other values"] += placed.conflicts
    if placed.kept is not None:
        report.kept.append(Kept(file.market, day.day, len(day.rows), placed.kept))


def _place_trades(lake: Lake, file: Known, day: FileDay) -> Placed:
    imported = ImportedDay(
        market=file.market,
        day=day.day,
        trades=day.rows,
        covered=day.covered,
        source=f"file {file.format.name}",
        ids=file.format.ids,
        id_space=file.format.id_space,
        file=file.label,
        rejects=day.rejects,
        previous_id=day.previous_id,
        following_id=day.following_id,
    )
    return place(lake, imported)
