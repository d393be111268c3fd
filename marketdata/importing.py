"""Files of trades and candles into the lake, day by day.

A file may be larger than memory: it is read in blocks, and a day is put in place as soon as the file has
passed it. A crash leaves whole days; the same import again passes over the files that were finished and adds
what is missing, and nothing else.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path

from marketdata.backfill import fold_day
from marketdata.errors import CorruptFile, MarketDataError, TransientError, UnknownName, UsageError
from marketdata.import_ledger import Ledger
from marketdata.import_report import ImportReport, Kept, LeftOut, Tally
from marketdata.imported_day import ImportedDay, Placed, connect, place
from marketdata.importing_candles import place_candles
from marketdata.lake import Lake
from marketdata.manifest import Ids, day_window
from marketdata.market import Market
from marketdata.sources.days import MAY_BE_CUT, FileDay, days_of, joined_by_ids
from marketdata.sources.files import Found, search
from marketdata.sources.formats import FORMATS, Known, recognise

__all__ = ["ImportProgress", "ImportReport", "Kept", "LeftOut", "Tally", "import_files"]

# Days that wait to be written while the next one is read.
_DAYS_WAITING = 2
_LOOK_UP_S = 0.5
# What may be taken when it is read again later.
_NOT_YET = {"time in the future", "candle still running or in the future", MAY_BE_CUT}


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import is.

    Attributes:
        file, market, day: what is being read; or, with a ``note``, the day that is waited for.
        fraction: of that file; ``None`` where its size is not known.
        rows: of all files read so far; ``rows_per_second`` since the first.
        files_done, files: of all.
        bytes_done, bytes: on disk, of all; ``bytes_before`` of them were finished by an earlier import.
        note: what is being done when it is not reading.
    """

    file: str
    market: Market
    day: date
    fraction: float | None
    rows: int
    rows_per_second: float
    files_done: int
    files: int
    bytes_done: float
    bytes: int
    bytes_before: int
    note: str = ""


OnProgress = Callable[[ImportProgress], None]


def import_files(
    lake: Lake,
    paths: Iterable[str | Path],
    *,
    format: str | None = None,  # noqa: A002
    market: Market | None = None,
    now: datetime,
    again: bool = False,
    on_progress: OnProgress | None = None,
) -> ImportReport:
    """Import files, folders, globs and zips of files, and fold the days whose trades have changed.

    A file of no known format, or one that is damaged, is named in the report and does not stop the others.

    Args:
        lake: where the days go. What was finished is kept in its folder ``_imports``.
        paths: files, folders (searched to any depth) or globs.
        format: a name of :data:`marketdata.sources.formats.FORMATS`; otherwise recognised by content.
        market: the market of all files; otherwise the name of each says it.
        now: rows of later times are refused; a day that is still running is not complete.
        again: read also what an earlier import has finished.
        on_progress: called as days are read, and several times a second while another process has the next
            day to be written; by one thread at a time.

    Raises:
        UsageError: a path is absent or holds no file; or none of the files could be imported, and the first
            is of no known format or does not say its market.
        CorruptFile: none could be imported, and the first is damaged; the days before that are in the lake.
        StorageError: the lake cannot be written.
        TransientError: another process holds a day.
    """
    began = time.monotonic()
    if format is not None and format not in FORMATS:
        raise UnknownName(format, kind="format", known=FORMATS, hint=f"Formats: {', '.join(FORMATS)}.")
    report = ImportReport()
    found = search(paths, outside=Path(lake.storage.root) if lake.storage.is_local else None)
    known = _in_order(_recognised(found, report, format, market))
    if not known:
        raise _nothing(report.left_out)
    _Import(lake, report, known, now=now, again=again, on_progress=on_progress).run()
    if not report.total.files:
        raise _nothing(report.left_out)
    report.seconds = time.monotonic() - began
    return report


def _recognised(
    found: Found, report: ImportReport, format_name: str | None, market: Market | None
) -> list[Known]:
    report.passed_over = found.passed_over
    report.left_out += [LeftOut(str(path), error) for path, error in found.unreadable]
    known = []
    for table in found.tables:
        try:
            known.append(recognise(table, format=format_name, market=market))
        except (UsageError, CorruptFile) as error:
            report.left_out.append(LeftOut(str(table), error))
    return known


def _nothing(left_out: list[LeftOut]) -> MarketDataError:
    """The error when no file could be imported."""
    first = left_out[0].error
    if len(left_out) == 1:
        return first
    msg = f"None of {len(left_out):,} files could be imported; the first: {first.message}"
    return (UsageError if isinstance(first, UsageError) else CorruptFile)(msg, hint=first.hint)


def _in_order(known: list[Known]) -> list[Known]:
    """By market and first time, so that a file comes before the one that continues it."""
    return sorted(known, key=lambda file: (file.market, file.format.name, file.first_time, str(file.table)))


@dataclass(slots=True)
class _Reading:
    """One file on its way: what has become of its rows so far."""

    file: Known
    tally: Tally = field(default_factory=Tally)
    days: list[date] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    error: MarketDataError | None = None


class _Import:
    """One thread reads, another writes; the report is the writer's."""

    def __init__(
        self,
        lake: Lake,
        report: ImportReport,
        known: list[Known],
        *,
        now: datetime,
        again: bool,
        on_progress: OnProgress | None,
    ) -> None:
        self._lake = lake.with_waiting(self._while_waiting)
        self._report, self._now, self._known = report, now, known
        self._ledger, self._again = Ledger(lake), again
        self._on_progress, self._told = on_progress, threading.Lock()
        self._progress: ImportProgress | None = None
        self._stop = threading.Event()
        self._began = time.monotonic()
        self._rows = self._files_done = self._bytes_before = 0
        self._bytes_done = 0.0
        self._bytes = sum(file.table.stored_bytes or 0 for file in known)
        self._of_market: dict[str, set[date]] = {}  # days of the market on its way, by format
        self._last: tuple[_Reading, FileDay] | None = None  # read, and waiting for the day that follows it
        self._ended: list[_Reading] = []  # files that have no other day than that one to be written
        self._jobs: deque[Future[None]] = deque()

    def run(self) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="import") as self._writer:
            try:
                self._read_all()
            except BaseException:  # Ctrl-C too: the day that is being written is, and no other
                self._stop.set()
                self._writer.shutdown(wait=False, cancel_futures=True)
                raise

    def _read_all(self) -> None:
        market = self._known[0].market
        for file in self._known:
            if file.market != market:
                self._flush()
                self._do(self._close, market)
                market = file.market
            self._file(file)
            self._files_done += 1
            self._bytes_done += file.table.stored_bytes or 0
        self._flush()
        self._do(self._close, market)
        while self._jobs:
            self._await(self._jobs.popleft())

    def _do(self, job: Callable[..., None], *args: object) -> None:
        """Give the writer a job, when it has no more than a few."""
        while len(self._jobs) >= _DAYS_WAITING:
            self._await(self._jobs.popleft())
        self._jobs.append(self._writer.submit(job, *args))

    def _await(self, job: Future[None]) -> None:
        # A Ctrl-C that comes just before a wait begins does not end it: it is seen after the wait.
        while wait([job], timeout=_LOOK_UP_S).not_done:
            pass
        job.result()

    # -- reading ------------------------------------------------------------------------------------

    def _file(self, file: Known) -> None:
        reading = _Reading(file)
        stored = file.table.stored_bytes or 0
        reading.tally.bytes = stored
        before = None if self._again else self._ledger.find(file)
        if before is not None:
            self._bytes_before += stored
            reading.tally += before.tally
            reading.tally.repeated += reading.tally.accepted
            reading.tally.accepted, reading.tally.finished_before = 0, 1
            reading.days = sorted(before.days)
            self._ended.append(reading)
            return
        began = time.monotonic()
        try:
            for day in days_of(file, self._now):
                self._pass(reading, day)
                self._rows += len(day.rows) + len(day.rejects) + day.empty
                self._tell(file, day)
        except (CorruptFile, UsageError) as error:
            reading.error = error
        reading.tally.seconds = time.monotonic() - began
        self._ended.append(reading)

    def _pass(self, reading: _Reading, day: FileDay) -> None:
        """Let the day before be written, now that it is known which trade follows it."""
        if self._last is not None:
            last, before = self._last
            if _continues(last.file, reading.file):
                before, day = joined_by_ids(before, day)
                self._last = last, before
        self._flush()
        self._last = reading, day

    def _flush(self) -> None:
        if self._last is not None:
            self._do(self._put, *self._last)
        self._last = None
        for reading in self._ended:
            self._do(self._finish, reading)
        self._ended = []

    def _tell(self, file: Known, day: FileDay) -> None:
        if self._on_progress is None:
            return
        done = (day.fraction or 0.0) * (file.table.stored_bytes or 0)
        self._progress = ImportProgress(
            str(file.table),
            file.market,
            day.day,
            day.fraction,
            self._rows,
            self._rows / max(time.monotonic() - self._began, 1e-6),
            self._files_done,
            len(self._known),
            self._bytes_done + done,
            self._bytes,
            self._bytes_before,
        )
        with self._told:
            self._on_progress(self._progress)

    # -- writing ------------------------------------------------------------------------------------

    def _while_waiting(self, market: Market, day: date) -> None:
        """Say who is waited for, and do not go on waiting when the import is stopped."""
        if self._stop.is_set():
            msg = f"{market} {day} was not written: the import was stopped."
            raise TransientError(msg, hint="Run again: what is there is not imported twice.")
        if self._on_progress is not None and self._progress is not None:
            with self._told:
                self._on_progress(
                    replace(self._progress, market=market, day=day, note="another process has this day")
                )

    def _put(self, reading: _Reading, day: FileDay) -> None:
        file, tally = reading.file, reading.tally
        try:
            of_candles = file.format.is_candles
            placed = (
                place_candles(self._lake, file, day) if of_candles else _place_trades(self._lake, file, day)
            )
        except CorruptFile as error:  # of the lake: the other days are not at fault
            reading.error = reading.error or error
            return
        reading.days.append(day.day)
        tally.rows += len(day.rows) + len(day.rejects) + day.empty
        tally.empty += day.empty
        tally.rejected.update(day.rejects["reason"].to_list())
        tally.accepted += placed.added
        tally.repeated += placed.repeated
        if placed.conflicts:
            tally.rejected["id repeated with other values"] += placed.conflicts
        if placed.kept is not None:
            tally.kept += len(day.rows)
            reading.kept.append(Kept(file.market, day.day, len(day.rows), placed.kept))

    def _finish(self, reading: _Reading) -> None:
        """Join the file's ends to their neighbours and write down that it is done."""
        file, tally, report = reading.file, reading.tally, self._report
        if not reading.days and reading.error is None:
            msg = f"{str(file.table)!r} has no row that can be taken."
            hint = f"It was read as {file.format.name}; check what it holds."
            reading.error = CorruptFile(msg, hint=hint)
        if reading.error is None and not tally.finished_before:
            if not file.format.is_candles:
                for edge in dict.fromkeys([reading.days[0], reading.days[-1]]):
                    connect(self._lake, file.market, edge)
            if self._is_settled(reading):
                self._ledger.add(file, tally, reading.days)
        if reading.error is None:
            tally.files = 1
            report.files.append(str(file.table))
        else:
            report.left_out.append(LeftOut(str(file.table), reading.error, file.format.name))
        report.kept += reading.kept
        report.tallies[file.format.name] = report.tally(file.format.name) + tally
        report.days.setdefault(file.market, set()).update(reading.days)
        self._of_market.setdefault(file.format.name, set()).update(reading.days)

    def _is_settled(self, reading: _Reading) -> bool:
        """Whether reading the file again could not give anything else, now or later."""
        is_over = max(reading.days) < self._now.date()
        return is_over and not reading.kept and not _NOT_YET & reading.tally.rejected.keys()

    def _close(self, market: Market) -> None:
        """Fold the days of a market whose trades have changed, and count how its days stand."""
        with_trades = {
            day for name, days in self._of_market.items() if not FORMATS[name].is_candles for day in days
        }
        statuses = {}
        if with_trades:
            first, last = min(with_trades), max(with_trades)
            window = day_window(first)[0], day_window(last)[1]
            for day in sorted(with_trades.intersection(self._lake.unfolded(market, *window))):
                fold_day(self._lake, market, day)
            manifests = self._lake.manifests(market, first, last + timedelta(days=1))
            statuses = {manifest.day: manifest.status for manifest in manifests}
        for name, days in self._of_market.items():
            tally = self._report.tally(name)
            tally.days += len(days)
            if not FORMATS[name].is_candles:
                tally.statuses.update(statuses[day] for day in days if day in statuses)
        self._of_market = {}
        self._ledger.forget_market()


def _continues(file: Known, following: Known) -> bool:
    """Whether two files hold trades of one market with ids that follow one another."""
    return (file.market, file.format.name) == (following.market, following.format.name) and not (
        file.format.is_candles or file.format.ids is Ids.FINGERPRINT
    )


def _place_trades(lake: Lake, file: Known, day: FileDay) -> Placed:
    around = day.previous_id, day.following_id
    ids, id_space = file.format.day_ids(file.market, day.rows, around)
    known = file.format.proves_time or ids is Ids.SEQUENTIAL
    return place(
        lake,
        ImportedDay(
            market=file.market,
            day=day.day,
            trades=day.rows,
            covered=day.covered if known else None,
            source=f"file {file.format.name}",
            ids=ids,
            id_space=id_space,
            file=file.label,
            rejects=day.rejects,
            previous_id=day.previous_id,
            following_id=day.following_id,
            begins=day.begins,
            ends=day.ends,
        ),
    )
