"""One day of trades, from a source into the lake: the recipe.

Pages are staged as they come, each durable with its cursor; the whole day is then put in place in one step.
A fetch that is killed at any point goes on at the page where it stopped.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

import polars as pl

from marketdata import completeness
from marketdata.errors import (
    BadRange,
    ChecksumMismatch,
    CorruptFile,
    MalformedResponse,
    UnknownName,
    UsageError,
)
from marketdata.holes import Holes, doubt_neighbours, fill_holes
from marketdata.imported_day import default_id_space, keep_rejects
from marketdata.interval import to_us
from marketdata.lake import Lake, Stage
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata.market import Market
from marketdata.sealing import sealed
from marketdata.sources.base import TradeSource
from marketdata.trade import Merged, assign_ids, empty_rejects, in_order, merge_trades

_REPORT_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is.

    Attributes:
        pages, rows, rejected: of the whole day so far, pages found again included.
        fraction: part of the day whose trades are staged, 0 to 1.
        rows_per_second: of this run.
        seconds: since this run of the day began.
        note: what is being done when it is not paging.
    """

    market: Market
    day: date
    pages: int
    rows: int
    rejected: int
    fraction: float
    rows_per_second: float
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class DayReport:
    """What became of a day.

    Attributes:
        skipped: the day was complete already and nothing was asked.
        fetched_pages, fetched_rows: asked for and received in this run.
        resumed_pages: found again from an earlier run.
        bytes: size of the day's file.
    """

    market: Market
    day: date
    manifest: Manifest
    skipped: bool
    fetched_pages: int
    fetched_rows: int
    resumed_pages: int
    bytes: int
    seconds: float


OnProgress = Callable[[Progress], None]


class Publisher(Protocol):
    """Where pages go beside the lake."""

    def publish(self, market: Market, trades: pl.DataFrame) -> None:
        """Hand trades on; they have arrived when this returns.

        Args:
            trades: TRADE_SCHEMA; ids are null where the source has none.

        Raises:
            TransientError: they have not.
        """
        ...


def fetch_day(
    lake: Lake,
    source: TradeSource,
    market: Market,
    day: date,
    *,
    now: datetime,
    refresh: bool = False,
    on_progress: OnProgress | None = None,
    publisher: Publisher | None = None,
) -> DayReport:
    """Bring all trades of a UTC day into the lake and judge whether they are all there.

    A complete day is left alone, unless ``refresh`` asks for it again or it rests on fingerprints and this
    source has ids. Where ids are missing, the ranges around them are asked for once more; what is then
    still not served is recorded with its ids.

    Args:
        now: the time of the call, aware; a day that is not over is refused.
        on_progress: called about once a second, and first and last.
        publisher: is given each page before it is staged: a fetch that is killed between the two gives the
            page again, and never leaves one out. What was staged by an earlier fetch is not given.

    Raises:
        BadRange: the day is still running, or in the future.
        TransientError, PermanentError: from the source; staged pages stay for the next run.
        StorageError, CorruptFile: from the lake.
    """
    start, end = day_window(day)
    if now < end:
        what = "still running" if now >= start else "in the future"
        msg = f"{day} is {what} (UTC) and cannot be complete."
        raise BadRange(msg, hint=f"End with {now.date()} at the latest; the end is exclusive.")
    clock = _Clock(market, day, on_progress)
    known = None if refresh else skip_complete(lake, market, day, on_progress=on_progress)
    if known is not None:
        return known
    with lake.lock(market, day, waiting=lambda: clock.report(note="another process fetches this day")):
        held = _held(lake, market, day, refresh=refresh)
        stage = lake.stage(market, day, source.name)
        if held is not None and not refresh and _is_settled(held, source):
            stage.discard()
            return _skipped(lake, held, clock)
        if refresh and stage.finished:  # left by a run that was killed after it had put the day in place
            stage.discard()
        resumed_pages, resumed_rows = stage.pages, stage.rows
        clock.begin(stage)
        try:
            _page(source, stage, clock, publisher)
        except (ChecksumMismatch, UsageError) as error:
            if isinstance(error, UnknownName) or not 0 < stage.pages == resumed_pages:
                raise
            # The source does not know the cursor any more (an archive published anew): from the beginning.
            stage.discard()
            resumed_pages = resumed_rows = 0
            clock.begin(stage)
            _page(source, stage, clock, publisher)
        clock.report(stage, note="putting the day in place", force=True)
        manifest, size = sealed(_seal, lake, source, stage, held, clock, publisher=publisher)
        report = DayReport(
            market=market,
            day=day,
            manifest=manifest,
            skipped=False,
            fetched_pages=stage.pages - resumed_pages,
            fetched_rows=stage.rows - resumed_rows,
            resumed_pages=resumed_pages,
            bytes=size,
            seconds=clock.seconds,
        )
        clock.report(stage, fraction=1.0, note=str(manifest.status), force=True)
        stage.discard()
    doubt_neighbours(lake, market, day)
    return report


def _page(source: TradeSource, stage: Stage, clock: "_Clock", publisher: Publisher | None) -> None:
    """Publish and stage the pages that are not there yet."""
    if stage.finished:
        return
    start, end = day_window(stage.day)
    for page in source.pages(stage.market, start, end, stage.cursor):
        _check_window(page.trades, start, end, source.name)
        if publisher is not None and len(page.trades):
            publisher.publish(stage.market, page.trades)
        stage.append(page)
        clock.report(stage)


def skip_complete(
    lake: Lake, market: Market, day: date, *, on_progress: OnProgress | None = None
) -> DayReport | None:
    """The report of a day that is complete with ids of the exchange; ``None`` when it has to be fetched.

    Asks nothing of anyone but the lake.

    Raises:
        CorruptFile: the day's file is cut or foreign.
    """
    held = lake.manifest(market, day)
    if held is None or held.status is not Status.COMPLETE or held.ids is Ids.FINGERPRINT:
        return None
    lake.discard_stage(market, day)
    return _skipped(lake, held, _Clock(market, day, on_progress))


def _skipped(lake: Lake, held: Manifest, clock: "_Clock") -> DayReport:
    clock.report(fraction=1.0, note="complete already", force=True)
    return DayReport(
        market=held.market,
        day=held.day,
        manifest=held,
        skipped=True,
        fetched_pages=0,
        fetched_rows=0,
        resumed_pages=0,
        bytes=lake.size("trades", held.market, held.day),
        seconds=clock.seconds,
    )


def _held(lake: Lake, market: Market, day: date, *, refresh: bool) -> Manifest | None:
    """What the lake knows of the day; a damaged file is replaced only when that was asked for."""
    try:
        return lake.manifest(market, day)
    except CorruptFile:
        if not refresh:
            raise
        return None


def _is_settled(held: Manifest, source: TradeSource) -> bool:
    """Whether nothing better can come of asking this source."""
    weaker = held.ids is Ids.FINGERPRINT and source.sequential_ids and held.source != source.name
    return held.status is Status.COMPLETE and not weaker


def _is_worse(new: Manifest, held: Manifest) -> bool:
    """Whether putting the new day in place would lose what is held."""
    if new.status is Status.COMPLETE:
        return False
    ranks = [Ids.FINGERPRINT, Ids.EXCHANGE, Ids.SEQUENTIAL]
    fewer = held.rows > new.rows and ranks.index(held.ids) >= ranks.index(new.ids)
    return held.status is Status.COMPLETE or fewer


def _can_be_read(lake: Lake, market: Market, day: date) -> bool:
    """Whether the trades held are worth keeping: a damaged file may still have its manifest."""
    try:
        lake.read_trades(market, *day_window(day))
    except CorruptFile:
        return False
    return True


def _check_window(trades: pl.DataFrame, start: datetime, end: datetime, name: str) -> None:
    times = trades["time"].to_physical().to_numpy()
    if len(times) and not (to_us(start) <= times.min() and times.max() < to_us(end)):
        outside = trades.filter(~pl.col("time").is_between(start, end, closed="left"))
        msg = f"{name} gave a trade of {outside['time'][0]} for the day of {start.date()}."
        raise MalformedResponse(msg, hint="Run again; if it stays, the source is at fault.")


def _seal(
    lake: Lake,
    source: TradeSource,
    stage: Stage,
    held: Manifest | None,
    clock: "_Clock",
    *,
    publisher: Publisher | None,
) -> tuple[Manifest, int]:
    """Make one day of the staged pages and put it in place, unless that would lose what is held."""
    market, day = stage.market, stage.day
    arrived = stage.trades()
    ids = _kind_of_ids(arrived, source)
    if ids is Ids.FINGERPRINT:
        merged = Merged(in_order(assign_ids(arrived)), 0, empty_rejects())
    else:
        merged = merge_trades(arrived)
    del arrived
    rejects = pl.concat([stage.rejects(), merged.conflicts])
    holes = Holes(merged.trades, stage.previous_id, stage.following_id, rejects["trade_id"])
    if ids is Ids.SEQUENTIAL:
        holes = fill_holes(
            lake,
            source,
            holes,
            market=market,
            day=day,
            held=held,
            space=stage.evidence.get("id_space") or default_id_space(market),
            note=lambda note: clock.report(stage, note=note, force=True),
        )
    trades = holes.trades
    if publisher is not None and len(trades) > len(merged.trades):
        publisher.publish(
            market, trades.join(merged.trades, on="trade_id", how="anti", maintain_order="left")
        )
    start, _ = day_window(day)
    manifest = completeness.build_manifest(
        market,
        day,
        trades,
        source=source.name,
        ids=ids,
        covered=((start, stage.reached),) if stage.reached is not None else (),
        previous_id=holes.previous_id,
        following_id=holes.following_id,
        not_served=holes.not_served,
        repeated=merged.repeated,
        rejected=dict(sorted(Counter(rejects["reason"]).items())),
        pages=stage.pages,
        cursor=stage.last_cursor,
        evidence={**stage.evidence, **holes.evidence},
        refused_ids=rejects["trade_id"],
    )
    if held is not None and _is_worse(manifest, held) and _can_be_read(lake, market, day):
        return held, lake.size("trades", market, day)
    # Rejects first: a manifest never counts rejects that are not kept.
    keep_rejects(lake, market, day, rejects)
    return manifest, lake.write_trades(market, day, trades, manifest)


def _kind_of_ids(trades: pl.DataFrame, source: TradeSource) -> Ids:
    if trades["trade_id"].null_count():
        return Ids.FINGERPRINT
    return Ids.SEQUENTIAL if source.sequential_ids else Ids.EXCHANGE


class _Clock:
    """Progress at a rate that a log can bear."""

    def __init__(self, market: Market, day: date, on_progress: OnProgress | None) -> None:
        self._market, self._day, self._on_progress = market, day, on_progress
        self._began = time.monotonic()
        self._last: float | None = None
        self._resumed_rows = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def begin(self, stage: Stage) -> None:
        self._resumed_rows = stage.rows
        note = f"goes on after page {stage.pages}" if stage.pages else ""
        self.report(stage, note=note, force=True)

    def report(
        self,
        stage: Stage | None = None,
        *,
        fraction: float | None = None,
        note: str = "",
        force: bool = False,
    ) -> None:
        if self._on_progress is None:
            return
        seconds = self.seconds
        if not force and self._last is not None and seconds - self._last < _REPORT_EVERY_S:
            return
        self._last = seconds
        start, end = day_window(self._day)
        if fraction is None:
            reached = stage.reached if stage is not None else None
            fraction = 0.0 if reached is None else max(0.0, min(1.0, (reached - start) / (end - start)))
        rows = 0 if stage is None else stage.rows
        self._on_progress(
            Progress(
                market=self._market,
                day=self._day,
                pages=0 if stage is None else stage.pages,
                rows=rows,
                rejected=0 if stage is None else stage.rejected,
                fraction=fraction,
                rows_per_second=(rows - self._resumed_rows) / max(seconds, 1e-6),
                seconds=seconds,
                note=note,
            )
        )
