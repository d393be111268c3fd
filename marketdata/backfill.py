"""Days of trades into the lake, one or many, and the candles made of them."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import date, datetime
from itertools import chain, pairwise, zip_longest

import polars as pl

from marketdata import fold as folding
from marketdata.agreement import compare_day, fetch_exchange_candles
from marketdata.candle import CANDLE_SCHEMA
from marketdata.coverage_log import CoverageLog
from marketdata.errors import (
    CorruptFile,
    MarketDataError,
    StorageError,
    TransientError,
    UnknownName,
    UsageError,
)
from marketdata.fetching import DayReport, OnProgress, Progress, Publisher, fetch_day, skip_complete
from marketdata.lake import Lake
from marketdata.manifest import Manifest, day_window
from marketdata.market import Market
from marketdata.sealing import sealed
from marketdata.settings import Settings
from marketdata.sources.base import Page, TradeSource

__all__ = [
    "DayReport",
    "Failed",
    "Job",
    "Outcome",
    "Progress",
    "backfill",
    "compare_day",
    "fetch_day",
    "fetch_exchange_candles",
    "fold_day",
]

_LOG = logging.getLogger(__name__)
Job = tuple[Market, date]
Failed = tuple[Job, MarketDataError]
Outcome = DayReport | Failed
_ROWS_AT_ONCE = 250_000
_STRETCHES = (1, 2, 3, 4, 6, 8, 12, 24)  # each divides a day into whole minutes
FindSource = Callable[[Market, date, Settings, datetime], TradeSource]


def fold_day(lake: Lake, market: Market, day: date) -> pl.DataFrame:
    """Fold a day of the lake into 1m candles, store and return them (CANDLE_SCHEMA).

    A fetch of the day is not waited for. Trades that it puts in place meanwhile are folded again, so that
    the last candles to be stored are of the trades held, whichever fold is the slower one.

    Raises:
        UsageError: the lake does not hold the day.
        StorageError, CorruptFile: from the lake.
    """
    made_of, candles = None, CANDLE_SCHEMA.to_frame()
    while True:
        manifest = lake.manifest(market, day)
        if manifest is None:
            msg = f"The lake holds no trades of {market} on {day}."
            raise UsageError(msg, hint=f"Run: marketdata backfill {market} --start {day} --end ...")
        if manifest.content_hash == made_of:
            return candles
        candles = sealed(_fold_day, lake, manifest)
        made_of = manifest.content_hash


def _fold_day(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """Fold a day in stretches of whole minutes, so that memory does not grow with the day."""
    market, day = manifest.market, manifest.day
    start, end = day_window(day)
    wanted = manifest.rows // _ROWS_AT_ONCE
    stretches = next((number for number in _STRETCHES if number >= wanted), _STRETCHES[-1])
    width = (end - start) / stretches
    edges = [start + number * width for number in range(stretches + 1)]
    parts = [folding.fold(lake.read_trades(market, *edge), "1m") for edge in pairwise(edges)]
    candles = pl.concat(parts)
    lake.write_candles(market, day, "1m", candles, facts={"trades": manifest.content_hash})
    return candles


def backfill(
    lake: Lake,
    jobs: Sequence[Job],
    settings: Settings,
    *,
    now: datetime,
    workers: int | None = None,
    refresh: bool = False,
    fold: bool = True,
    on_progress: OnProgress | None = None,
    on_day: Callable[[Outcome], None] | None = None,
    find_source: FindSource | None = None,
    publisher: Publisher | None = None,
    write: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Fetch many days side by side; a day that fails does not stop the others.

    A name that the exchange does not know fails all days of that market at once, and a lake that cannot be
    written fails all that are left. Ctrl-C stops after the pages on their way, which are kept.

    Args:
        jobs: markets and UTC days, in the order wanted.
        fold: whether to make the 1m candles of each day, where those stored are not of these trades.
        workers: days on their way at once; ``settings.workers`` by default.
        on_progress, on_day: called by one thread at a time; ``on_day`` as days end.
        find_source: ``marketdata.sources.trade_source`` by default.
        publisher: is given each page as it is fetched; where the settings ask for it, Kafka by default.
        write: takes a line a market every few seconds, with its rate and coverage; a log by default.

    Returns:
        For each job, in the order of ``jobs``, its report, or the job and its error.

    Raises:
        UsageError, TransientError: pages should be published, and Kafka cannot take them.
    """
    if publisher is None and settings.publish_backfill:
        from marketdata.bus.publishing import PagePublisher  # only with Kafka  # noqa: PLC0415

        with PagePublisher(settings) as kafka:
            return backfill(
                lake,
                jobs,
                settings,
                now=now,
                workers=workers,
                refresh=refresh,
                fold=fold,
                on_progress=on_progress,
                on_day=on_day,
                find_source=find_source,
                publisher=kafka,
                write=write,
            )
    run = _Run(
        lake,
        settings,
        now=now,
        refresh=refresh,
        fold=fold,
        on_progress=on_progress,
        on_day=on_day,
        find_source=find_source or _find_source,
        publisher=publisher,
        log=CoverageLog(dict.fromkeys(jobs), write or _LOG.info),
    )
    outcomes: dict[Job, Outcome] = {}
    with ThreadPoolExecutor(workers or settings.workers, thread_name_prefix="backfill") as pool:
        futures: list[Future[tuple[Job, Outcome]]] = [
            pool.submit(run.day, job) for job in _side_by_side(dict.fromkeys(jobs))
        ]
        try:
            for future in as_completed(futures):
                job, outcome = future.result()
                outcomes[job] = outcome
        except BaseException:
            run.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [outcomes[job] for job in jobs]


def _find_source(market: Market, day: date, settings: Settings, now: datetime) -> TradeSource:
    from marketdata import sources  # ccxt takes a second to import  # noqa: PLC0415

    return sources.trade_source(market, day, settings, now)


def _side_by_side(jobs: dict[Job, None]) -> Iterator[Job]:
    """Jobs of several exchanges in turns: workers that wait for one exchange leave the others some."""
    by_exchange: dict[str, list[Job]] = {}
    for job in jobs:
        by_exchange.setdefault(job[0].exchange, []).append(job)
    turns = chain.from_iterable(zip_longest(*by_exchange.values()))
    return (job for job in turns if job is not None)


class _Run:
    """What the days of one backfill share."""

    def __init__(
        self,
        lake: Lake,
        settings: Settings,
        *,
        now: datetime,
        refresh: bool,
        fold: bool,
        on_progress: OnProgress | None,
        on_day: Callable[[Outcome], None] | None,
        find_source: FindSource,
        publisher: Publisher | None,
        log: CoverageLog,
    ) -> None:
        self.stop = threading.Event()
        self._lake, self._settings, self._now = lake.with_waiting(self._while_waiting), settings, now
        self._refresh, self._fold = refresh, fold
        self._on_progress, self._on_day, self._find_source = on_progress, on_day, find_source
        self._publisher, self._log = publisher, log
        self._callbacks = threading.Lock()
        self._unknown: dict[Market, UnknownName] = {}
        self._broken: StorageError | None = None

    def day(self, job: Job) -> tuple[Job, Outcome]:
        market, day = job
        outcome: Outcome
        try:
            error = self._unknown.get(market) or self._broken
            if error is not None:
                raise error
            outcome = self._fetch_and_fold(market, day)
        except MarketDataError as error:
            if isinstance(error, UnknownName):
                self._unknown[market] = error
            if isinstance(error, StorageError):
                self._broken = error
            outcome = (job, error)
        self._log.day(market, day, outcome if isinstance(outcome, DayReport) else None)
        if self._on_day is not None:
            with self._callbacks:
                self._on_day(outcome)
        return job, outcome

    def _fetch_and_fold(self, market: Market, day: date) -> DayReport:
        on_progress = self._progress
        report = None
        if not self._refresh:  # a complete day costs no request, not even for the exchange's market table
            report = skip_complete(self._lake, market, day, on_progress=on_progress)
        if report is None:
            source = self._find_source(market, day, self._settings, self._now)
            report = fetch_day(
                self._lake,
                _Stoppable(source, self.stop),
                market,
                day,
                now=self._now,
                refresh=self._refresh,
                on_progress=on_progress,
                publisher=self._publisher,
            )
        if self._fold:
            facts = None
            try:
                if not self._refresh:
                    facts = self._lake.read_facts("candles", market, day, "1m")
            except CorruptFile:  # what is made of trades is made again
                pass
            if facts is None or facts.get("trades") != report.manifest.content_hash:
                fold_day(self._lake, market, day)
        return report

    def _while_waiting(self, market: Market, day: date) -> None:
        """Whoever waits for another process to end a day does not go on waiting when the run is stopped."""
        if self.stop.is_set():
            raise _stopped(market, day)

    def _progress(self, progress: Progress) -> None:
        self._log.page(progress)
        if self._on_progress is not None:
            with self._callbacks:
                self._on_progress(progress)


class _Stoppable:
    """A source that ends between two pages when the run is stopped."""

    def __init__(self, source: TradeSource, stop: threading.Event) -> None:
        self.name, self.exchange = source.name, source.exchange
        self.sequential_ids = source.sequential_ids
        self.refetch = source.refetch
        self._source, self._stop = source, stop

    def pages(
        self, market: Market, start: datetime, end: datetime, cursor: str | None = None
    ) -> Iterator[Page]:
        for page in self._source.pages(market, start, end, cursor):
            yield page
            if self._stop.is_set() and page.next_cursor is not None:
                raise _stopped(market, start.date())


def _stopped(market: Market, day: date) -> TransientError:
    msg = f"{market} {day} was stopped on its way."
    return TransientError(msg, hint="Run again: it goes on at the page where it stopped.")
