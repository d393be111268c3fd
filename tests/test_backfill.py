"""Days of trades into the lake: the recipe, its edges, and many days side by side."""

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata.backfill import DayReport, Outcome, Progress, backfill, fetch_day, fold_day
from marketdata.completeness import content_hash
from marketdata.errors import (
    BadRange,
    ChecksumMismatch,
    CorruptFile,
    ExchangeRefused,
    MalformedResponse,
    StorageError,
    TransientError,
    UnknownName,
    UsageError,
)
from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.manifest import Ids, Status, day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources.base import Page, TradeSource
from marketdata.trade import assign_ids, empty_rejects
from tests.lake.world import BTC, DAY, ETH, NEXT, NOW, PagedSource, at, manifest_of, trades_of, without


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, workers=4)


def get(lake: Lake, source: TradeSource, day: date = DAY, market: Market = BTC, **more) -> DayReport:
    return fetch_day(lake, source, market, day, now=NOW, **more)


def file_of(lake: Lake, day: date = DAY) -> bytes:
    return Path(lake.path("trades", BTC, day)).read_bytes()


def files_left(lake: Lake) -> list[str]:
    return [path.name for path in Path(lake.url).rglob("*") if path.is_file()]


# -- one day -------------------------------------------------------------------------------------------


def test_a_fetched_day_is_complete_in_order_and_leaves_no_stage(lake: Lake) -> None:
    report = get(lake, PagedSource())
    assert_frame_equal(lake.read_trades(BTC, *day_window(DAY)), trades_of(DAY))
    assert (report.fetched_pages, report.fetched_rows, report.resumed_pages, report.skipped) == (
        30,
        3000,
        0,
        False,
    )
    assert report.bytes == lake.size("trades", BTC, DAY)
    manifest = lake.manifest(BTC, DAY)
    assert manifest == report.manifest
    assert (manifest.status, manifest.ids, manifest.rows) == (Status.COMPLETE, Ids.SEQUENTIAL, 3000)
    assert manifest.covered == (day_window(DAY),)
    assert files_left(lake) == ["part-0.parquet"]


def test_a_complete_day_is_not_asked_for_again(lake: Lake) -> None:
    get(lake, PagedSource())
    again = PagedSource()
    report = get(lake, again)
    assert report.skipped
    assert again.asked == []
    assert report.manifest.rows == 3000


def test_a_day_fetched_again_is_the_identical_file(lake: Lake) -> None:
    get(lake, PagedSource())
    before = file_of(lake)
    again = PagedSource()
    assert not get(lake, again, refresh=True).skipped
    assert len(again.asked) == 30
    assert file_of(lake) == before


def test_the_order_in_which_days_are_fetched_does_not_show_in_their_files(lake: Lake, tmp_path: Path) -> None:
    other = Lake.open(str(tmp_path / "other"))
    for day in (DAY, NEXT):
        get(lake, PagedSource(edges=False), day)
    for day in (NEXT, DAY):
        get(other, PagedSource(edges=False), day)
    assert file_of(lake, NEXT) == file_of(other, NEXT)


@pytest.mark.parametrize(
    ("now", "what"), [("2025-06-08 23:59", "still running"), ("2025-06-07", "in the future")]
)
def test_a_day_that_is_not_over_is_refused(lake: Lake, now: str, what: str) -> None:
    source = PagedSource()
    with pytest.raises(BadRange, match=what):
        fetch_day(lake, source, BTC, DAY, now=at(now))
    assert source.asked == []
    assert fetch_day(lake, source, BTC, DAY, now=at("2025-06-09")).manifest.status is Status.COMPLETE


class Breaking(PagedSource):
    """A source that fails after some pages."""

    def __init__(self, after: int, error: Exception) -> None:
        super().__init__()
        self.after, self.error = after, error

    def pages(
        self, market: Market, start: datetime, end: datetime, cursor: str | None = None
    ) -> Iterator[Page]:
        for number, page in enumerate(super().pages(market, start, end, cursor)):
            if number == self.after:
                raise self.error
            yield page


def test_a_fetch_goes_on_at_the_page_where_it_stopped(lake: Lake) -> None:
    with pytest.raises(TransientError):
        get(lake, Breaking(7, TransientError("the line is dead.")))
    assert lake.manifest(BTC, DAY) is None
    assert len(lake.read_staged(BTC, DAY)) == 700
    source = PagedSource()
    report = get(lake, source)
    assert source.asked == list(range(7, 30))
    assert (report.resumed_pages, report.fetched_pages, report.fetched_rows) == (7, 23, 2300)
    assert report.manifest.pages == 30
    assert_frame_equal(lake.read_trades(BTC, *day_window(DAY)), trades_of(DAY))


def test_repeated_rows_are_kept_once_and_counted(lake: Lake) -> None:
    class Repeating(PagedSource):
        def pages(self, *args) -> Iterator[Page]:
            for page in super().pages(*args):
                yield replace(page, trades=pl.concat([page.trades, page.trades[:5]]))

    manifest = get(lake, Repeating()).manifest
    assert (manifest.rows, manifest.repeated) == (3000, 150)


def test_rows_that_repeat_an_id_with_other_values_are_rejects(lake: Lake) -> None:
    class Contradicting(PagedSource):
        def pages(self, *args) -> Iterator[Page]:
            for number, page in enumerate(super().pages(*args)):
                other = page.trades[:1].with_columns(price=pl.col("price") + 1)
                rejects = empty_rejects().clear(1).with_columns(reason=pl.lit("garbage"))
                yield (
                    replace(page, trades=pl.concat([page.trades, other]), rejects=rejects)
                    if number == 0
                    else page
                )

    manifest = get(lake, Contradicting()).manifest
    assert manifest.rows == 3000
    assert manifest.rejected == {"garbage": 1, "id repeated with other values": 1}
    assert len(lake.read_rejects(BTC, *day_window(DAY))) == 2


def test_rejects_that_were_there_before_are_kept(lake: Lake) -> None:
    imported = empty_rejects().clear(1).with_columns(reason=pl.lit("of a file"), raw=pl.lit("1,2,3"))
    lake.write_rejects(BTC, DAY, imported)
    get(lake, PagedSource())
    assert lake.read_rejects(BTC, *day_window(DAY))["reason"].to_list() == ["of a file"]


def test_a_full_disk_keeps_the_pages_there_are(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    class Filling(PagedSource):
        """The disk is full after five pages."""

        def pages(self, *args) -> Iterator[Page]:
            for number, page in enumerate(super().pages(*args)):
                if number == 5:
                    monkeypatch.setattr("os.fsync", full)
                yield page

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="the disk is full"):
        get(lake, Filling())
    monkeypatch.undo()
    assert sorted(set(files_left(lake))) == [f"page-{n:06}.arrow" for n in range(1, 6)]
    assert get(lake, PagedSource()).resumed_pages == 5


def test_a_source_that_gives_trades_of_another_day_is_refused(lake: Lake) -> None:
    class Wrong(PagedSource):
        def pages(self, market, start, end, cursor=None) -> Iterator[Page]:
            return super().pages(market, start + timedelta(days=1), end, cursor)

    with pytest.raises(MalformedResponse, match="2025-06-08"):
        get(lake, Wrong())


def test_a_cursor_the_source_does_not_know_any_more_starts_the_day_anew(lake: Lake) -> None:
    with pytest.raises(TransientError):
        get(lake, Breaking(7, TransientError("the line is dead.")))

    class Anew(PagedSource):
        def pages(self, market, start, end, cursor=None) -> Iterator[Page]:
            if cursor is not None:
                msg = "the zip was published anew."
                raise ChecksumMismatch(msg)
            return super().pages(market, start, end, cursor)

    report = get(lake, Anew())
    assert (report.resumed_pages, report.fetched_pages, report.manifest.rows) == (0, 30, 3000)


# -- holes ---------------------------------------------------------------------------------------------


def first_id(day: date = DAY) -> int:
    return int(trades_of(day)["trade_id"][0])


def test_missing_ids_are_asked_for_once_more(lake: Lake) -> None:
    first = first_id()
    source = PagedSource(hidden=[(first + 50, first + 60), (first + 2500, first + 2500)])
    manifest = get(lake, source).manifest
    assert source.asked_again == [(first + 50, first + 60), (first + 2500, first + 2500)]
    assert (manifest.status, manifest.rows, manifest.missing_ids, manifest.not_served) == (
        Status.COMPLETE,
        3000,
        (),
        (),
    )
    assert_frame_equal(lake.read_trades(BTC, *day_window(DAY)), trades_of(DAY))
    before = file_of(lake)
    get(lake, replace(source, asked_again=[]), refresh=True)
    assert file_of(lake) == before


def test_a_refused_row_is_asked_for_again_and_then_not_called_missing(lake: Lake) -> None:
    first = first_id()

    class Garbling(PagedSource):
        """The rows of two ids are unreadable in a page; asked for again, one of them is."""

        def pages(self, *args) -> Iterator[Page]:
            for page in super().pages(*args):
                bad = page.trades.filter(pl.col("trade_id").is_in([first + 5, first + 9]))
                rejects = bad.select(
                    pl.lit("void").alias("reason"), "trade_id", "time", pl.lit("[]").alias("raw")
                )
                yield replace(
                    page, trades=without(page.trades, [(first + 5,) * 2, (first + 9,) * 2]), rejects=rejects
                )

    source = Garbling(lost=[(first + 9, first + 9)])
    manifest = get(lake, source).manifest
    assert manifest.rows == 2999
    assert source.asked_again == [(first + 5, first + 9)]


def test_what_the_exchange_does_not_serve_is_recorded_and_does_not_block_the_day(lake: Lake) -> None:
    first = first_id()
    lost = [(first + 50, first + 60), (first + 2500, first + 2500)]
    source = PagedSource(lost=lost)
    manifest = get(lake, source).manifest
    assert (manifest.status, manifest.not_served, manifest.rows) == (Status.COMPLETE, tuple(lost), 3000 - 12)
    again = PagedSource(lost=lost)
    assert get(lake, again).skipped
    assert again.asked == []


def test_ids_missing_at_the_edges_of_the_day_are_seen_by_the_ids_around_it(lake: Lake) -> None:
    class Short(PagedSource):
        """Pages that lost the first and the last ten trades, though the ids around the day are known."""

        def pages(self, *args) -> Iterator[Page]:
            whole = trades_of(DAY)
            for page in super().pages(*args):
                kept = without(
                    page.trades, [(first_id(), first_id() + 9), (first_id() + 2990, first_id() + 2999)]
                )
                yield replace(page, trades=kept)
            assert len(whole) == 3000

    manifest = get(lake, Short()).manifest
    assert manifest.rows == 3000
    assert manifest.status is Status.COMPLETE


def test_the_day_before_shows_what_is_missing_at_the_start(lake: Lake) -> None:
    get(lake, PagedSource())
    first = first_id(NEXT)
    source = PagedSource(hidden=[(first, first + 4)], edges=False)
    manifest = get(lake, source, NEXT).manifest
    assert source.asked_again == [(first, first + 4)]
    assert (manifest.rows, manifest.previous_id) == (3000, first - 1)


def test_what_the_lake_held_already_fills_a_hole_without_a_request(lake: Lake) -> None:
    first = first_id()
    held = trades_of(DAY)[100:200]
    lake.write_trades(BTC, DAY, held, manifest_of(BTC, DAY, held, Status.GAPS))
    source = PagedSource(lost=[(first + 150, first + 160)])
    manifest = get(lake, source).manifest
    assert (manifest.rows, manifest.not_served, source.asked_again) == (3000, (), [])


def test_many_small_holes_are_few_requests(lake: Lake) -> None:
    first = first_id()
    source = PagedSource(hidden=[(first + n, first + n) for n in range(10, 2900, 10)])
    assert get(lake, source).manifest.rows == 3000
    assert len(source.asked_again) <= 4


def test_a_trade_served_again_with_the_time_of_another_day_is_not_the_edge_of_this_one(lake: Lake) -> None:
    first = first_id()

    class Late(PagedSource):
        """Asked again, it gives the trade a time two days later."""

        def refetch(
            self, market: Market, first_id: int, last_id: int, around: tuple[datetime, datetime]
        ) -> pl.DataFrame:
            found = trades_of(DAY).filter(pl.col("trade_id").is_between(first_id, last_id))
            return found.with_columns(pl.col("time") + timedelta(days=2))

    manifest = get(lake, Late(lost=[(first + 7, first + 7)], edges=False)).manifest
    assert (manifest.following_id, manifest.not_served) == (None, ((first + 7, first + 7),))


@pytest.mark.parametrize("order", [(DAY, NEXT), (NEXT, DAY)])
def test_trades_lost_at_midnight_are_not_complete_until_they_are_asked_for(
    lake: Lake, order: tuple[date, date]
) -> None:
    last = first_id(NEXT) - 1
    short = PagedSource(lost=[(last - 4, last)], edges=False)
    for day in order:
        source = short if day == DAY else PagedSource(edges=day == NEXT)
        get(lake, source, day)
    manifest = lake.manifest(BTC, DAY)
    assert manifest is not None
    if order[0] == DAY:  # nothing was known of the next day then, and nobody has asked again since
        assert (manifest.status, manifest.missing_ids) == (Status.GAPS, ((last - 4, last),))
        manifest = get(lake, short).manifest
    assert (manifest.status, manifest.not_served) == (Status.COMPLETE, ((last - 4, last),))
    manifest = get(lake, PagedSource(edges=False), refresh=True).manifest
    assert (manifest.rows, manifest.not_served) == (3000, ())
    assert get(lake, PagedSource(), NEXT).skipped


def test_a_day_that_lacks_its_first_trades_is_doubted_when_the_day_before_has_seen_them(lake: Lake) -> None:
    first = first_id(NEXT)
    assert get(lake, PagedSource(lost=[(first, first + 2)], edges=False), NEXT).manifest.rows == 2997
    get(lake, PagedSource())
    manifest = lake.manifest(BTC, NEXT)
    assert manifest is not None
    assert (manifest.status, manifest.missing_ids) == (Status.GAPS, ((first, first + 2),))
    manifest = get(lake, PagedSource(edges=False), NEXT).manifest
    assert (manifest.status, manifest.rows) == (Status.COMPLETE, 3000)


@pytest.mark.parametrize("lost", [(0, 4), (2_995, 2_999), (100, 120)])
def test_a_refresh_that_is_served_less_loses_nothing(lake: Lake, lost: tuple[int, int]) -> None:
    before = get(lake, PagedSource()).manifest
    first = first_id(DAY)
    less = PagedSource(lost=[(first + lost[0], first + lost[1])], edges=False)
    after = get(lake, less, refresh=True).manifest
    assert (after.rows, after.content_hash, after.status) == (3000, before.content_hash, Status.COMPLETE)


def test_a_refused_second_request_leaves_the_ids_missing(lake: Lake) -> None:
    class Refusing(PagedSource):
        def refetch(self, *args) -> pl.DataFrame:
            msg = "EService: not for you."
            raise ExchangeRefused(msg)

    first = first_id()
    manifest = get(lake, Refusing(hidden=[(first + 50, first + 60)])).manifest
    assert (manifest.status, manifest.missing_ids) == (Status.GAPS, ((first + 50, first + 60),))
    assert manifest.evidence["asked_again"] == "refused: EService: not for you."
    assert get(lake, PagedSource()).manifest.rows == 3000


# -- evidence of different strength --------------------------------------------------------------------


def test_a_source_without_ids_gives_fingerprints(lake: Lake) -> None:
    trades = trades_of(DAY)
    manifest = get(lake, PagedSource(with_ids=False, sequential_ids=False)).manifest
    stored = lake.read_trades(BTC, *day_window(DAY))
    assert (manifest.ids, manifest.rows) == (Ids.FINGERPRINT, 3000)
    expected = assign_ids(trades.with_columns(trade_id=pl.lit(None, dtype=pl.Int64)))
    assert content_hash(stored) == content_hash(expected)
    assert (
        fold(stored)
        .drop("first_trade_id", "last_trade_id")
        .equals(fold(trades).drop("first_trade_id", "last_trade_id"))
    )


def test_a_day_of_fingerprints_is_replaced_by_one_with_ids(lake: Lake) -> None:
    trades = assign_ids(trades_of(DAY)[:2000]).sort("time", "trade_id")
    held = replace(manifest_of(BTC, DAY, trades), ids=Ids.FINGERPRINT, source="kraken csv")
    lake.write_trades(BTC, DAY, trades, held)
    report = get(lake, PagedSource())
    assert not report.skipped
    assert (report.manifest.ids, report.manifest.rows) == (Ids.SEQUENTIAL, 3000)


def test_a_source_that_never_gave_ids_for_a_day_is_not_asked_for_ever(lake: Lake) -> None:
    get(lake, PagedSource(with_ids=False))
    assert get(lake, PagedSource(with_ids=False)).skipped


def test_a_fetch_that_brings_less_does_not_replace_a_complete_day(lake: Lake) -> None:
    get(lake, PagedSource())

    class Refusing(PagedSource):
        def refetch(self, *args) -> pl.DataFrame:
            msg = "no."
            raise ExchangeRefused(msg)

    first = first_id()
    other = Refusing(hidden=[(first + 5, first + 500)], name="other")
    report = get(lake, other, refresh=True)
    assert report.manifest.rows == 3000
    assert lake.manifest(BTC, DAY).rows == 3000  # type: ignore[union-attr]


def test_a_damaged_day_is_named_and_replaced_only_when_asked(lake: Lake) -> None:
    get(lake, PagedSource())
    whole = file_of(lake)
    Path(lake.path("trades", BTC, DAY)).write_bytes(b"damaged")
    with pytest.raises(CorruptFile, match=r"part-0\.parquet"):
        get(lake, PagedSource())
    get(lake, PagedSource(), refresh=True)
    assert file_of(lake) == whole


@pytest.mark.parametrize("missing", [False, True])
def test_a_day_damaged_in_its_middle_is_repaired_when_asked(lake: Lake, missing: bool) -> None:
    get(lake, PagedSource())
    path = Path(lake.path("trades", BTC, DAY))
    body = bytearray(path.read_bytes())
    body[10:2000] = bytes(1990)
    path.write_bytes(body)
    lost = [(first_id() + 5, first_id() + 9)] if missing else []
    report = get(lake, PagedSource(lost=lost), refresh=True)
    assert report.manifest.rows == 3000 - 5 * missing
    assert len(lake.read_trades(BTC, *day_window(DAY))) == 3000 - 5 * missing


def test_damaged_days_side_by_side_and_their_candles_are_repaired_when_asked(
    lake: Lake, settings: Settings
) -> None:
    jobs = [(BTC, DAY), (BTC, NEXT)]
    fetch = partial(backfill, lake, jobs, settings, now=NOW, find_source=lambda *_: PagedSource())
    fetch()
    paths = [Path(lake.path("trades", *job)) for job in jobs]
    paths += [Path(lake.path("candles", *job, "1m")) for job in jobs]
    whole = [path.read_bytes() for path in paths]
    for path, body in zip(paths, whole, strict=True):
        path.write_bytes(body[:4] + bytes(200) + body[204:] if "candles" in str(path) else body[:-9])
    assert all(not isinstance(outcome, DayReport) for outcome in fetch())
    assert all(isinstance(outcome, DayReport) for outcome in fetch(refresh=True))
    assert [path.read_bytes() for path in paths] == whole


# -- progress ------------------------------------------------------------------------------------------


def test_progress_is_told_first_last_and_seldom_between(lake: Lake) -> None:
    seen: list[Progress] = []
    get(lake, PagedSource(page_rows=10), on_progress=seen.append)
    assert seen[0].fraction == 0
    assert (seen[-1].fraction, seen[-1].pages, seen[-1].rows, seen[-1].note) == (1.0, 300, 3000, "complete")
    assert seen[-1].rows_per_second > 0
    assert len(seen) < 10 + seen[-1].seconds
    assert [p.fraction for p in seen] == sorted(p.fraction for p in seen)


def test_progress_of_a_resumed_day_counts_the_pages_that_were_there(lake: Lake) -> None:
    with pytest.raises(TransientError):
        get(lake, Breaking(15, TransientError("gone.")))
    seen: list[Progress] = []
    get(lake, PagedSource(), on_progress=seen.append)
    assert (seen[0].pages, seen[0].rows, seen[0].note) == (15, 1500, "goes on after page 15")
    assert 0.3 < seen[0].fraction < 0.7


# -- candles -------------------------------------------------------------------------------------------


def test_a_day_is_folded_and_says_of_which_trades(lake: Lake) -> None:
    get(lake, PagedSource())
    candles = fold_day(lake, BTC, DAY)
    assert_frame_equal(candles, fold(trades_of(DAY)))
    assert_frame_equal(lake.read_candles(BTC, "1m", *day_window(DAY)), candles)
    manifest = lake.manifest(BTC, DAY)
    assert manifest is not None
    facts = lake.read_facts("candles", BTC, DAY, "1m")
    assert facts is not None
    assert facts["trades"] == manifest.content_hash


def test_a_slow_fold_does_not_take_the_place_of_one_of_newer_trades(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = trades_of(DAY)[:1500], trades_of(DAY)
    lake.write_trades(BTC, DAY, old, manifest_of(BTC, DAY, old))
    write = Lake.write_candles

    def slow(*args: Any, **more: Any) -> int:
        """Another process brings more trades and folds them before the candles of the first are stored."""
        monkeypatch.setattr(Lake, "write_candles", write)
        lake.write_trades(BTC, DAY, new, manifest_of(BTC, DAY, new))
        lake.write_candles(BTC, DAY, "1m", fold(new), facts={"trades": content_hash(new)})
        return write(*args, **more)

    monkeypatch.setattr(Lake, "write_candles", slow)
    assert_frame_equal(fold_day(lake, BTC, DAY), fold(new))
    assert_frame_equal(lake.read_candles(BTC, "1m", *day_window(DAY)), fold(new))
    assert lake.unfolded(BTC, *day_window(DAY)) == []


def test_a_day_that_is_not_there_cannot_be_folded(lake: Lake) -> None:
    with pytest.raises(UsageError, match="marketdata backfill kraken:BTC/USD"):
        fold_day(lake, BTC, DAY)


# -- many days -----------------------------------------------------------------------------------------

WEEK = [DAY + timedelta(days=n) for n in range(7)]


def run(lake: Lake, settings: Settings, jobs, source, **more) -> list[Outcome]:
    find = source if callable(source) else lambda *_: source
    return backfill(lake, jobs, settings, now=NOW, find_source=find, **more)


def test_many_days_are_reported_in_the_order_asked_for(lake: Lake, settings: Settings) -> None:
    jobs = [(market, day) for market in (BTC, ETH) for day in WEEK]
    ended: list[Outcome] = []
    outcomes = run(lake, settings, jobs, lambda *_: PagedSource(rows=500), on_day=ended.append)
    assert [(o.market, o.day) for o in outcomes if isinstance(o, DayReport)] == jobs
    assert len(ended) == 14
    assert all(m.status is Status.COMPLETE for m in lake.manifests())
    assert len(lake.read_candles(ETH, "1m", *day_window(WEEK[6]))) > 300
    again = run(lake, settings, jobs, lambda *_: PagedSource(rows=500))
    assert all(isinstance(o, DayReport) and o.skipped for o in again)


def test_a_day_that_fails_does_not_stop_the_others(lake: Lake, settings: Settings) -> None:
    def find(market: Market, day: date, *_: object) -> TradeSource:
        return Breaking(3, TransientError("gone.")) if day == WEEK[2] else PagedSource(rows=500)

    outcomes = run(lake, settings, [(BTC, day) for day in WEEK], find)
    failed = [o for o in outcomes if not isinstance(o, DayReport)]
    assert [job for job, _ in failed] == [(BTC, WEEK[2])]
    assert isinstance(failed[0][1], TransientError)
    assert len(lake.days(BTC)[BTC]) == 6


def test_an_unknown_symbol_is_asked_for_once_not_for_each_day(lake: Lake, settings: Settings) -> None:
    asked = []

    def find(market: Market, day: date, *_: object) -> TradeSource:
        asked.append(day)
        raise UnknownName(market.symbol, kind="symbol of kraken", known=["BTC/USD"])

    outcomes = run(lake, settings, [(BTC, DAY + timedelta(days=n)) for n in range(100)], find, workers=2)
    assert len(asked) <= 2
    assert len(outcomes) == 100
    assert all(isinstance(o, tuple) and isinstance(o[1], UnknownName) for o in outcomes)


def test_a_lake_that_cannot_be_written_ends_the_run_soon(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    asked: list[PagedSource] = []

    def find(*_: object) -> TradeSource:
        asked.append(PagedSource())
        return asked[-1]

    jobs = [(BTC, DAY + timedelta(days=n)) for n in range(50)]
    outcomes = run(Lake.open(str(tmp_path / "file")), settings, jobs, find, workers=2)
    assert all(isinstance(o, tuple) and isinstance(o[1], StorageError) for o in outcomes)
    assert len(asked) <= 2


def test_a_stopped_run_keeps_its_pages(lake: Lake, settings: Settings) -> None:
    class Slow(PagedSource):
        def pages(self, *args) -> Iterator[Page]:
            for page in super().pages(*args):
                threading.Event().wait(0.01)
                yield page

    jobs = [(BTC, DAY), (ETH, DAY)]
    find = lambda market, *_: Slow(page_rows=10) if market == BTC else Breaking(0, KeyboardInterrupt())  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        run(lake, settings, jobs, find)
    kept = len(lake.read_staged(BTC, DAY))
    source = PagedSource(page_rows=10)
    report = get(lake, source)
    assert report.resumed_pages == kept // 10
    assert report.manifest.rows == 3000


def test_a_stopped_run_does_not_wait_for_the_day_of_another_process(lake: Lake, settings: Settings) -> None:
    waits, let_go = threading.Event(), threading.Event()

    def find(market: Market, *_: object) -> TradeSource:
        if market == ETH:
            assert waits.wait(240)
            raise KeyboardInterrupt
        return PagedSource()

    def told(progress: Progress) -> None:
        if progress.note.startswith("another process"):
            waits.set()

    def hold() -> None:
        with lake.lock(BTC, DAY):
            held.set()
            let_go.wait(240)

    held = threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    with pytest.raises(KeyboardInterrupt):
        run(lake, settings, [(BTC, DAY), (ETH, DAY)], find, on_progress=told)
    assert other.is_alive()
    let_go.set()
    other.join()
    assert lake.manifest(BTC, DAY) is None


def test_two_fetches_of_one_day_do_the_work_once(lake: Lake) -> None:
    sources = [PagedSource(), PagedSource()]
    threads = [threading.Thread(target=get, args=(lake, source)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(source.asked) for source in sources) == [0, 30]
    assert_frame_equal(lake.read_trades(BTC, *day_window(DAY)), trades_of(DAY))


def test_candles_of_a_day_that_cannot_be_read_are_made_again(lake: Lake, settings: Settings) -> None:
    def run() -> list[Outcome]:
        return backfill(lake, [(BTC, DAY)], settings, now=NOW, find_source=lambda *_: PagedSource())

    run()
    path = Path(lake.path("candles", BTC, DAY, "1m"))
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    (outcome,) = run()
    assert isinstance(outcome, DayReport)
    assert outcome.skipped
    assert path.read_bytes() == whole
