"""What makes a day complete, and what does not."""

import hashlib
import struct
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.completeness import build_manifest, content_hash, joined, missing_ranges, uncovered, without
from marketdata.errors import UsageError
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata.market import Market
from marketdata.trade import empty_trades
from tests.building import simple

DAY = date(2025, 6, 9)
START, END = day_window(DAY)
RANGES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda r: (min(r), max(r))), max_size=6
)


def hour(number: float) -> datetime:
    return START + timedelta(hours=number)


def manifest(trades: pl.DataFrame, ids: Ids = Ids.SEQUENTIAL, **known: Any) -> Manifest:
    """A day of which nothing is known but its trades and what is named."""
    facts: dict[str, Any] = {
        "source": "test",
        "covered": (),
        "previous_id": None,
        "following_id": None,
        "not_served": (),
        "repeated": 0,
        "rejected": {},
        "pages": 1,
        "cursor": None,
        "evidence": {},
    }
    return build_manifest(Market("kraken", "BTC/USD"), DAY, trades, ids=ids, **{**facts, **known})


def hourly(*ids: int) -> pl.DataFrame:
    """One trade an hour from 01:00 on."""
    return simple(*[(trade_id, 3600.0 * n, 100.0, 1.0) for n, trade_id in enumerate(ids, start=1)])


# --- missing ids ----------------------------------------------------------------------------------


def test_holes_are_inclusive_ranges() -> None:
    assert missing_ranges(pl.Series([1, 2, 5, 6, 8]), None, None) == ((3, 4), (7, 7))


def test_the_edges_count_when_they_are_known() -> None:
    assert missing_ranges(pl.Series([5, 6]), 3, 9) == ((3, 4), (7, 9))
    assert missing_ranges(pl.Series([5, 6]), 5, 6) == ()
    assert missing_ranges(pl.Series([1]), 0, None) == ((0, 0),)


def test_of_an_empty_day_the_ids_between_its_neighbours_are_missing() -> None:
    assert missing_ranges(pl.Series([], dtype=pl.Int64), 5, 7) == ((5, 7),)
    assert missing_ranges(pl.Series([], dtype=pl.Int64), 5, 4) == ()
    assert missing_ranges(pl.Series([], dtype=pl.Int64), 5, None) == ()


def test_ids_that_cross_midnight_are_not_missing() -> None:
    """The exchange's clock and ids disagree by one trade: 99 lies in this day, 100 in the day before."""
    assert missing_ranges(pl.Series([99, 101, 102]), 101, None) == ()
    assert missing_ranges(pl.Series([97, 98, 100]), None, 98) == ()


@given(st.sets(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 60))
def test_missing_is_all_that_is_expected_and_not_held(held: set[int], a: int, b: int) -> None:
    first, last = min(a, b), max(a, b)
    inside = sorted(i for i in held if first <= i <= last)
    found = missing_ranges(pl.Series(inside, dtype=pl.Int64), first, last)
    ids = [i for low, high in found for i in range(low, high + 1)]
    assert ids == sorted(set(range(first, last + 1)) - held)
    assert all(b[0] > a[1] + 1 for a, b in pairwise(found))


@given(st.lists(st.integers(0, 50), max_size=30))
def test_the_order_and_repetition_of_ids_do_not_matter(ids: list[int]) -> None:
    once = missing_ranges(pl.Series(sorted(set(ids)), dtype=pl.Int64), None, None)
    assert missing_ranges(pl.Series(ids, dtype=pl.Int64), None, None) == once


@given(RANGES, RANGES)
def test_without_takes_ids_away(ranges: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    def ids(of: Any) -> set[int]:
        return {i for low, high in of for i in range(low, high + 1)}

    assert ids(without(ranges, others)) == ids(ranges) - ids(others)


# --- stretches of time ----------------------------------------------------------------------------

HOURS = st.tuples(st.integers(-3, 30), st.integers(-3, 30)).map(lambda r: (hour(min(r)), hour(max(r))))


@given(st.lists(HOURS, max_size=6))
def test_covered_and_uncovered_share_the_day_between_them(stretches: list[tuple[datetime, datetime]]) -> None:
    open_stretches = uncovered((START, END), stretches)
    for number in range(24):
        half_past = hour(number + 0.5)
        is_covered = any(since <= half_past < until for since, until in stretches)
        is_open = any(since <= half_past < until for since, until in open_stretches)
        assert is_covered != is_open


@given(st.lists(HOURS, max_size=6))
def test_joined_stretches_do_not_touch(stretches: list[tuple[datetime, datetime]]) -> None:
    found = joined(stretches)
    assert all(since < until for since, until in found)
    assert all(b[0] > a[1] for a, b in pairwise(found))


# --- ids one after the other ----------------------------------------------------------------------


def test_a_day_without_a_hole_that_was_asked_for_whole_is_complete() -> None:
    day = manifest(hourly(1, 2, 3), covered=[(START, END)])
    assert day.status is Status.COMPLETE
    assert day.reason == "Every id from the first to the last is there."


def test_the_ids_beyond_both_edges_prove_a_day_nobody_asked_for() -> None:
    assert manifest(hourly(5, 6, 7), previous_id=4, following_id=8).status is Status.COMPLETE


def test_a_hole_is_a_gap_and_named() -> None:
    day = manifest(hourly(1, 2, 5, 9), covered=[(START, END)])
    assert day.status is Status.GAPS
    assert day.missing_ids == ((3, 4), (6, 8))
    assert day.reason == "5 trades are missing: ids 3 to 4, 6 to 8."


def test_a_hole_at_the_edge_is_a_gap() -> None:
    assert manifest(hourly(5, 6), covered=[(START, END)], previous_id=3).missing_ids == ((4, 4),)
    assert manifest(hourly(5, 6), covered=[(START, END)], following_id=9).missing_ids == ((7, 8),)


def test_ids_the_exchange_does_not_serve_do_not_block_the_day_but_are_named() -> None:
    day = manifest(hourly(1, 3), covered=[(START, END)], not_served=((2, 2),))
    assert day.status is Status.COMPLETE
    assert day.not_served == ((2, 2),)
    assert day.reason == "Every id from the first to the last is there, but for 1 trade not served: ids 2."


def test_an_id_that_came_after_all_is_no_longer_recorded_as_not_served() -> None:
    day = manifest(hourly(1, 2, 4), covered=[(START, END)], not_served=((2, 3),))
    assert day.not_served == ((3, 3),)


def test_a_hole_of_which_only_a_part_is_not_served_stays_a_gap() -> None:
    day = manifest(hourly(1, 5), covered=[(START, END)], not_served=((2, 3),))
    assert (day.status, day.missing_ids, day.not_served) == (Status.GAPS, ((4, 4),), ((2, 3),))


def test_a_refused_row_whose_id_is_known_is_not_missing() -> None:
    day = manifest(
        hourly(1, 3),
        covered=[(START, END)],
        rejected={"price not positive": 1},
        refused_ids=pl.Series([2, None]),
    )
    assert day.status is Status.COMPLETE
    assert day.reason == "Every id from the first to the last is there. 1 row refused."


def test_a_file_that_ends_inside_the_day_proves_nothing_of_the_rest() -> None:
    day = manifest(hourly(1, 2, 3), covered=[(START, hour(4))])
    assert day.status is Status.UNKNOWN
    assert day.reason == "Nothing shows what happened from 04:00:00 to 00:00:00 (UTC)."


def test_a_stretch_nobody_asked_for_is_proved_by_the_ids_on_both_sides() -> None:
    covered = [(START, hour(2)), (hour(4), END)]
    assert manifest(hourly(1, 2, 3, 4, 5), covered=covered).status is Status.COMPLETE
    assert manifest(hourly(1), covered=covered).status is Status.UNKNOWN
    assert manifest(hourly(1), covered=covered, following_id=2).status is Status.COMPLETE


def test_one_known_edge_does_not_prove_the_other() -> None:
    assert manifest(hourly(5, 6), previous_id=4).status is Status.UNKNOWN
    assert manifest(hourly(5, 6), following_id=7).status is Status.UNKNOWN


def test_a_day_without_trades_is_complete_when_it_was_asked_for_or_its_neighbours_join() -> None:
    asked = manifest(empty_trades(), covered=[(START, END)])
    assert (asked.status, asked.reason) == (Status.COMPLETE, "No trade happened.")
    assert manifest(empty_trades(), previous_id=4, following_id=5).status is Status.COMPLETE
    assert manifest(empty_trades(), previous_id=4, following_id=6).status is Status.GAPS
    assert manifest(empty_trades()).status is Status.UNKNOWN


# --- other ids ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [Ids.FINGERPRINT, Ids.EXCHANGE])
def test_without_ids_in_a_row_a_day_is_complete_only_when_all_of_it_was_asked_for(ids: Ids) -> None:
    assert manifest(hourly(1, 9), ids, covered=[(START, hour(7)), (hour(7), END)]).status is Status.COMPLETE
    assert manifest(hourly(1, 9), ids, covered=[(START, hour(7))]).status is Status.UNKNOWN
    assert manifest(hourly(1, 9), ids, previous_id=0, following_id=10).status is Status.UNKNOWN
    assert manifest(hourly(1, 9), ids).status is Status.UNKNOWN


def test_a_stretch_between_two_files_is_a_gap() -> None:
    day = manifest(hourly(1, 9), Ids.FINGERPRINT, covered=[(START, hour(6)), (hour(8), END)])
    assert day.status is Status.GAPS
    assert day.reason == "The source was not asked for the time from 06:00:00 to 08:00:00 (UTC)."


def test_holes_in_ids_that_do_not_follow_one_another_say_nothing() -> None:
    assert manifest(hourly(1, 900), Ids.EXCHANGE, covered=[(START, END)]).missing_ids == ()


# --- the manifest ---------------------------------------------------------------------------------


def test_a_manifest_says_what_is_held() -> None:
    trades = hourly(4, 5, 6).with_columns(pl.Series("fills", [1, 2, 3], dtype=pl.Int32))
    day = manifest(
        trades, covered=[(hour(-5), hour(30))], rejected={"z": 1, "a": 2}, evidence={"b": "1", "a": "2"}
    )
    assert (day.rows, day.fills, day.first_id, day.last_id) == (3, 6, 4, 6)
    assert (day.first_time, day.last_time) == (hour(1), hour(3))
    assert day.covered == ((START, END),)
    assert list(day.rejected) == ["a", "z"]
    assert list(day.evidence) == ["a", "b"]
    assert day.reason.endswith("3 rows refused.")


def test_a_manifest_of_any_kind_survives_its_file() -> None:
    for day in (
        manifest(empty_trades()),
        manifest(hourly(1, 5), covered=[(START, hour(3))], not_served=((2, 3),)),
    ):
        assert Manifest.from_json(day.to_json()) == day


def test_the_order_of_the_trades_does_not_show_in_the_manifest() -> None:
    trades = hourly(4, 5, 6)
    assert manifest(trades[[2, 0, 1]]) == manifest(trades)


def test_a_trade_of_another_day_is_refused() -> None:
    for seconds in (-0.000001, 86_400):
        with pytest.raises(UsageError, match="kraken:BTC/USD on 2025-06-09"):
            manifest(simple((1, 5, 1, 1), (2, seconds, 1, 1)))


def test_an_id_that_stands_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="same id twice"):
        manifest(simple((1, 5, 1, 1), (1, 6, 1, 1)))


# --- content hash ---------------------------------------------------------------------------------


def test_the_hash_of_known_trades_never_changes() -> None:
    """A change here means that every manifest in every lake would have to be written anew."""
    known = "sha256:afac7926f3f281f3f3247613fc4ac121e7a5fe3b18b12c17851ca1ca9c549d9b"
    assert content_hash(hourly(1, 2, 3)) == known


def test_the_hash_can_be_computed_by_anyone_from_its_description() -> None:
    trades = hourly(1, 2, 3)
    values = {
        "trade_id": struct.pack("<3q", 1, 2, 3),
        "time": struct.pack("<3q", *trades["time"].dt.epoch("us")),
        "price": struct.pack("<3d", 100.0, 100.0, 100.0),
        "amount": struct.pack("<3d", 1.0, 1.0, 1.0),
        "side": bytes([0, 0, 0]),
        "fills": struct.pack("<3i", 1, 1, 1),
    }
    lines = ["trades 3", *(f"{name} {hashlib.sha256(part).hexdigest()}" for name, part in values.items())]
    assert content_hash(trades) == "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_the_hash_sees_the_trades_not_their_frame() -> None:
    trades = hourly(*range(1, 11))
    chunked = pl.concat([trades[:3], trades[3:4], trades[4:]], rechunk=False)
    assert content_hash(chunked) == content_hash(trades)
    assert content_hash(trades[::-1]) == content_hash(trades)
    assert content_hash(trades.with_columns(more=1)[trades.columns[::-1]]) == content_hash(trades)


@pytest.mark.parametrize(
    "change",
    [
        pl.col("trade_id") + 1,
        pl.col("time") + pl.duration(microseconds=1),
        pl.col("price").replace(100.0, 100.00000000000001),
        pl.col("amount") * 2,
        pl.lit("sell").cast(hourly(1)["side"].dtype).alias("side"),
        pl.lit(None).cast(hourly(1)["side"].dtype).alias("side"),
        pl.lit(2, pl.Int32).alias("fills"),
    ],
)
def test_the_hash_sees_every_column(change: pl.Expr) -> None:
    trades = hourly(1, 2)
    assert content_hash(trades.with_columns(change)) != content_hash(trades)


def test_no_trades_have_a_hash_too() -> None:
    assert content_hash(empty_trades()) != content_hash(hourly(1))
