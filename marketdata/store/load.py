"""A day of the lake into the store: the old day or the new one, nothing between.

One transaction removes the day of a market and copies the new one, its one-minute candles and its manifest.
Of a day that is not complete, what the manifest does not speak for stays: ``marketdata.store.superseded``.
Two loads of one day come one after the other; rows of that day that are written live wait for its end.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl
import psycopg
from psycopg import Connection
from psycopg_pool import ConnectionPool

from marketdata.backfill import fold_day
from marketdata.completeness import ContentHash
from marketdata.errors import CorruptFile, MarketDataError, StorageError, TransientError
from marketdata.lake import Lake
from marketdata.manifest import Manifest, day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.store import candles as candle_rows
from marketdata.store import chunks, coverage, engine, locks, wider
from marketdata.store import trades as trade_rows
from marketdata.store.markets import market_id

Target = str | Settings | ConnectionPool[Any]
Job = tuple[Market, date]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How the load of one day went.

    Attributes:
        rows: trades copied; 0 when the store held them already.
        candles_changed, candles_removed: one-minute candles that are new or differ, and that are no more.
        trades_kept: the store held exactly these trades of what they speak for, or none were given.
    """

    market: Market
    day: date
    manifest: Manifest
    rows: int
    candles_changed: int
    candles_removed: int
    trades_kept: bool
    seconds: float

    @property
    def skipped(self) -> bool:
        """Whether the store held all of it already."""
        return self.trades_kept and not self.candles_changed and not self.candles_removed

    @property
    def rows_per_second(self) -> float:
        """Trades copied a second."""
        return self.rows / max(self.seconds, 1e-6)


Outcome = LoadReport | tuple[Job, MarketDataError]


def replace_day(  # noqa: PLR0917 - what it is, in the order of a sentence
    target: Target,
    market: Market,
    day: date,
    trades: pl.DataFrame | Iterable[pl.DataFrame] | None,
    candles: pl.DataFrame | None,
    manifest: Manifest,
    *,
    refresh: bool = False,
    widen: bool = True,
) -> LoadReport:
    """Put a day of a market in place of what the store holds of it.

    Trades whose content hash is that of the trades held are not copied again, and candles that are the same
    are not touched. A candle that differs has a higher revision than the one it replaces. What an incomplete
    day does not speak for stays as it is held.

    Args:
        target: URL, settings or pool.
        trades: TRADE_SCHEMA in order, whole or in frames one after the other, of which two are in memory at a
            time; ``None`` leaves the trades alone.
        candles: CANDLE_SCHEMA, one minute wide; ``None`` leaves the candles alone.
        manifest: of these trades.
        refresh: copy the trades also when they are held.
        widen: make wider candles anew at once. Without it, and after a crash, what is stale is noted and the
            next call of :func:`marketdata.store.wider.refresh` makes it.

    Raises:
        StorageError: the trades are not those of the manifest, or the server cannot keep them (its disk is
            full); the store is as it was.
        TransientError: the connection was lost, or the server is not ready. The store holds the old day or,
            when the connection was lost at the very end, the new one.
    """
    if (manifest.market, manifest.day) != (market, day):
        msg = f"The manifest is of {manifest.market} {manifest.day}, not of {market} {day}."
        raise StorageError(msg, hint="Give the manifest of the same trades.")
    frames = [trades] if isinstance(trades, pl.DataFrame) else trades
    began = time.perf_counter()
    with _session(target) as connection:
        # Known to all at once: a load that takes a minute must not hold up others who name the market.
        with connection.transaction():
            number = market_id(connection, market, create=True)
        if frames is not None:
            chunks.make_room(connection, day)
        with connection.transaction():
            report = _replace(connection, number, frames, candles, manifest, refresh=refresh, began=began)
        if widen and (report.candles_changed or report.candles_removed):
            wider.refresh(connection)
    return report


def _replace(
    connection: Connection[Any],
    number: int,
    frames: Iterable[pl.DataFrame] | None,
    candles: pl.DataFrame | None,
    manifest: Manifest,
    *,
    refresh: bool,
    began: float,
) -> LoadReport:
    market, day = manifest.market, manifest.day
    locks.durably(connection)
    locks.lock_day(connection, number, day)
    held = coverage.read(connection, number, day)
    keep = frames is None or (
        not refresh
        and held is not None
        and held.content_hash == manifest.content_hash
        # Rows may have been added live since, and old ones dropped.
        and trade_rows.count_superseded(connection, number, manifest) == manifest.rows
    )
    rows = 0
    if frames is not None and not keep:
        rows = trade_rows.replace_day(connection, number, manifest, _proved(frames, manifest))
    replaced = candle_rows.Replaced(0, 0)
    if candles is not None:
        replaced = candle_rows.replace_day(connection, number, candles, manifest)
    if not keep or held is None or held.manifest != manifest:
        coverage.put(connection, number, manifest)
    seconds = time.perf_counter() - began
    return LoadReport(market, day, manifest, rows, replaced.changed, replaced.removed, keep, seconds)


def _proved(frames: Iterable[pl.DataFrame], manifest: Manifest) -> Iterator[pl.DataFrame]:
    """The frames; after the last one they have turned out to be the trades of the manifest, or it fails."""
    seen = ContentHash()
    for frame in frames:
        seen.update(frame)
        yield frame
    if (seen.rows, seen.text()) != (manifest.rows, manifest.content_hash):
        held = f"{manifest.rows:,} rows of hash {manifest.content_hash}"
        given = f"{seen.rows:,} rows of hash {seen.text()}"
        msg = f"The trades of {manifest.market} {manifest.day} are {given}; their manifest is of {held}."
        raise StorageError(msg, hint="Run: marketdata backfill --refresh")


def load_day(
    target: Target,
    lake: Lake,
    market: Market,
    day: date,
    *,
    refresh: bool = False,
    trades: bool = True,
    candles: bool = True,
    widen: bool = True,
) -> LoadReport:
    """Load a day of the lake, as :func:`replace_day`; its trades are read as they are sent.

    Candles that the lake does not have of exactly these trades are folded first.

    Raises:
        UsageError: the lake does not hold the day.
        CorruptFile: a file of the lake is damaged.
        StorageError, TransientError: as :func:`replace_day`.
    """
    with lake.stream_trades(market, day) as (manifest, frames):
        minutes = _candles(lake, manifest) if candles else None
        given = frames if trades else None
        return replace_day(target, market, day, given, minutes, manifest, refresh=refresh, widen=widen)


def _candles(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    market, day = manifest.market, manifest.day
    for _ in range(2):
        try:
            facts = lake.read_facts("candles", market, day, "1m") or {}
            if facts.get("trades") == manifest.content_hash:
                return lake.read_candles(market, "1m", *day_window(day))
        except CorruptFile:
            pass  # what is made of trades is made again
        fold_day(lake, market, day)
    msg = f"{market} {day} has changed in the lake while it was loaded."
    raise TransientError(msg, hint="Run again.")


def load_days(
    target: Target,
    lake: Lake,
    jobs: Sequence[Job],
    *,
    refresh: bool = False,
    workers: int = 2,
    on_day: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Load many days, a few side by side; one that fails does not stop the others.

    Args:
        workers: days on their way at once; each has a connection of its own.
        on_day: called in this thread as days end.

    Returns:
        For each job, in order, its report, or the job and its error.
    """
    outcomes: dict[Job, Outcome] = {}

    def load(job: Job) -> Outcome:
        try:
            return load_day(target, lake, *job, refresh=refresh, widen=False)
        except MarketDataError as error:
            return job, error

    with ThreadPoolExecutor(workers, thread_name_prefix="load") as pool:
        running = {pool.submit(load, job): job for job in dict.fromkeys(jobs)}
        try:
            for done in as_completed(running):
                outcome = outcomes[running[done]] = done.result()
                if on_day is not None:
                    on_day(outcome)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    # Once for all days: a week is made of seven of them.
    if any(isinstance(o, LoadReport) and not o.skipped for o in outcomes.values()):
        with _session(target) as connection:
            wider.refresh(connection)
    return [outcomes[job] for job in jobs]


@contextmanager
def _session(target: Target) -> Iterator[Connection[Any]]:
    """A connection in autocommit, so that transactions are where the code says so."""
    try:
        if isinstance(target, ConnectionPool):
            with target.connection() as connection:
                before = connection.autocommit
                connection.autocommit = True
                try:
                    yield connection
                finally:
                    if not connection.closed:
                        connection.autocommit = before
        else:
            with engine.connect(target, autocommit=True) as connection:
                yield connection
    except psycopg.Error as error:
        raise engine.translate(error) from None
