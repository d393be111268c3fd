"""Staged pages: durable with their cursor, found again, noticed when damaged."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata.errors import CorruptFile, StorageError
from marketdata.lake import Lake, Stage
from marketdata.manifest import day_window
from marketdata.sources.base import Page
from marketdata.trade import TIME, TRADE_SCHEMA
from tests.lake.world import BTC, DAY, ETH, PagedSource, at, trades_of


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def pages() -> list[Page]:
    return list(PagedSource(page_rows=1000).pages(BTC, *day_window(DAY)))


def staged(lake: Lake) -> Stage:
    stage = lake.stage(BTC, DAY, "paged")
    for page in pages():
        stage.append(page)
    return stage


def page_files(lake: Lake) -> list[Path]:
    return sorted(Path(lake.url).rglob("page-*.arrow"))


def test_pages_are_found_again_with_all_that_was_known(lake: Lake) -> None:
    stage = lake.stage(BTC, DAY, "paged")
    first, second, third = pages()
    stage.append(first)
    stage.append(second)
    again = lake.stage(BTC, DAY, "paged")
    assert (again.pages, again.rows, again.cursor, again.finished) == (2, 2000, "2000", False)
    assert again.reached == second.reached
    assert (again.previous_id, again.following_id) == (first.previous_id, None)
    assert_frame_equal(again.trades(), trades_of(DAY)[:2000])
    again.append(third)
    assert (again.cursor, again.finished, again.following_id) == (None, True, third.following_id)
    assert lake.stage(BTC, DAY, "paged").finished


def test_rejects_and_evidence_travel_with_their_page(lake: Lake) -> None:
    rejects = pl.DataFrame(
        {
            "reason": ["price not positive"] * 2,
            "trade_id": [1, 2],
            "time": [None, None],
            "raw": ["[0]", "[1]"],
        },
        schema_overrides={"time": TIME},
    )
    stage = lake.stage(BTC, DAY, "paged")
    first, second, _ = pages()
    stage.append(Page(first.trades, "1", first.reached, rejects[:1], evidence={"a": "1"}))
    stage.append(Page(second.trades.clear(), "2", second.reached, rejects[1:], evidence={"b": "2"}))
    again = lake.stage(BTC, DAY, "paged")
    assert (again.rows, again.rejected, again.evidence) == (1000, 2, {"a": "1", "b": "2"})
    assert_frame_equal(again.rejects(), rejects)
    assert len(again.trades()) == 1000


def test_trades_without_ids_keep_their_order_of_arrival(lake: Lake) -> None:
    trades = trades_of(DAY)[:10].with_columns(trade_id=pl.lit(None, dtype=pl.Int64))[::-1]
    lake.stage(BTC, DAY, "paged").append(Page(trades, None, at("2025-06-09")))
    assert_frame_equal(lake.stage(BTC, DAY, "paged").trades(), trades)
    assert trades.schema == TRADE_SCHEMA


def test_pages_of_another_source_are_not_mixed_in(lake: Lake) -> None:
    staged(lake)
    assert lake.stage(BTC, DAY, "archive/zip").pages == 0
    assert page_files(lake) == []
    assert lake.stage(BTC, DAY, "paged").pages == 0


def test_a_discarded_stage_leaves_no_file(lake: Lake) -> None:
    stage = staged(lake)
    other = lake.stage(ETH, DAY, "paged")
    other.append(pages()[0])
    stage.discard()
    assert (stage.pages, stage.cursor, stage.finished) == (0, None, False)
    assert len(page_files(lake)) == 1
    other.discard()
    assert [path for path in Path(lake.url).rglob("*") if path.is_file()] == []


def test_a_page_lost_from_the_middle_takes_those_after_it_along(lake: Lake) -> None:
    staged(lake)
    page_files(lake)[1].unlink()
    again = lake.stage(BTC, DAY, "paged")
    assert (again.pages, again.cursor) == (1, "1000")
    assert len(page_files(lake)) == 1


def test_a_last_page_that_is_cut_is_fetched_again(lake: Lake) -> None:
    staged(lake)
    last = page_files(lake)[-1]
    last.write_bytes(last.read_bytes()[:500])
    again = lake.stage(BTC, DAY, "paged")
    assert (again.pages, again.cursor) == (2, "2000")


def flipped(path: Path) -> None:
    """Bytes of its table of contents are others; its beginning and its end are as they were."""
    body = bytearray(path.read_bytes())
    body[-200:-20] = bytes(byte ^ 0xFF for byte in body[-200:-20])
    path.write_bytes(body)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"not a page"), flipped])
def test_a_damaged_page_is_named_and_the_fetch_goes_on_before_it(
    lake: Lake, damage: Callable[[Path], object]
) -> None:
    staged(lake)
    damage(page_files(lake)[1])
    stage = lake.stage(BTC, DAY, "paged")
    with pytest.raises(CorruptFile, match=r"page-000002\.arrow"):
        stage.trades()
    assert (stage.pages, stage.cursor) == (1, "1000")
    assert lake.stage(BTC, DAY, "paged").pages == 1


def test_a_page_that_is_gone_is_named_and_the_fetch_goes_on_before_it(lake: Lake) -> None:
    stage = staged(lake)
    page_files(lake)[1].unlink()
    with pytest.raises(CorruptFile, match=r"page-000002\.arrow"):
        stage.trades()
    assert (stage.pages, stage.cursor) == (1, "1000")


def test_pages_of_two_writers_that_do_not_fit_are_noticed(lake: Lake) -> None:
    stage = staged(lake)
    other = list(PagedSource(page_rows=700).pages(BTC, *day_window(DAY)))
    second = lake.stage(BTC, DAY, "paged")
    second._state = second._state.__class__()  # a writer on S3 that saw none of the pages
    second.append(other[0])
    with pytest.raises(CorruptFile, match=r"page-000002\.arrow' does not continue"):
        stage.trades()
    assert lake.stage(BTC, DAY, "paged").cursor == "700"


def test_a_page_that_does_not_fit_on_the_disk_leaves_the_stage_as_it_was(lake: Lake, small_files) -> None:
    stage = lake.stage(BTC, DAY, "paged")
    first, second, _ = pages()
    stage.append(first)
    with small_files(1024), pytest.raises(StorageError, match="the disk is full"):
        stage.append(second)
    assert stage.pages == 1
    stage.append(second)
    assert lake.stage(BTC, DAY, "paged").rows == 2000


def test_staged_pages_can_be_read_while_the_fetch_goes_on(lake: Lake) -> None:
    assert lake.read_staged(BTC, DAY).is_empty()
    stage = staged(lake)
    assert_frame_equal(lake.read_staged(BTC, DAY), trades_of(DAY))
    assert len(page_files(lake)) == 3
    stage.discard()
    assert lake.read_staged(BTC, DAY).is_empty()
