"""What files without ids come to: cut anywhere, imported in any order, any number of times."""

from collections import Counter
from itertools import permutations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.pieces import Piece, merge_pieces
from marketdata.trade import assign_ids, is_in_order
from tests.building import trades_of, united

# Seconds, price: few values, so that equal seconds and identical rows are frequent.
FILE = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 2)), min_size=1, max_size=30).map(
    lambda rows: sorted(rows, key=lambda row: row[0])
)


def file_of(rows: list[tuple[int, int]]) -> pl.DataFrame:
    trades = trades_of((None, at, price, 1.0, None, 1) for at, price in rows)
    return assign_ids(trades)


Rows = list[tuple[int, int]]
# Most cuts lie within a second. With a row before all others and one after, the whole file reaches over each.
WHOLE = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=4, max_size=20).map(
    lambda rows: [(-1, 9), *sorted(rows, key=lambda row: row[0]), (6, 9)]
)


@st.composite
def files_cut_anywhere(draw: st.DrawFn, rows: Rows, *, over_a_second: bool) -> list[Rows]:
    """Parts that together hold all rows, each overlapping the one before it or not, in any order."""
    ends = sorted(draw(st.sets(st.integers(1, len(rows) - 1), min_size=1, max_size=5)) | {len(rows)})
    parts = []
    for start, end in zip([0, *ends], ends, strict=False):
        begin = max(0, start - draw(st.sampled_from([0, 1, 3])))
        while over_a_second and rows[begin][0] == rows[end - 1][0]:
            begin, end = (begin - 1, end) if begin else (begin, end + 1)  # noqa: PLW2901
        parts.append(rows[begin:end])
    return draw(st.permutations(parts))


@given(WHOLE, st.data())
def test_the_whole_file_puts_right_whatever_its_parts_left_open(rows: Rows, data: st.DataObject) -> None:
    parts = [file_of(part) for part in data.draw(files_cut_anywhere(rows, over_a_second=False))]
    some = parts[data.draw(st.integers(0, len(parts))) :]
    whole = file_of(rows)
    assert united(*some, whole).equals(whole)
    assert united(*some, whole, *parts).equals(whole)


@given(st.lists(st.integers(0, 5), max_size=30).map(sorted), st.data())
def test_files_of_different_rows_give_the_whole_in_any_order(seconds: list[int], data: st.DataObject) -> None:
    rows = [(at, price) for price, at in enumerate([-1, *seconds, 6], start=1)]
    parts = data.draw(files_cut_anywhere(rows, over_a_second=True))
    assert united(*map(file_of, parts)).equals(file_of(rows))


@given(WHOLE, st.data())
def test_parts_never_come_to_more_rows_than_happened(rows: Rows, data: st.DataObject) -> None:
    parts = data.draw(files_cut_anywhere(rows, over_a_second=False))
    held = united(*map(file_of, parts)).select("time", "price").rows()
    happened = file_of(rows).select("time", "price").rows()
    assert Counter(held) <= Counter(happened)
    for part in parts:
        assert Counter(file_of(part).select("time", "price").rows()) <= Counter(held)


@given(WHOLE, st.data())
def test_files_cut_anywhere_add_nothing_when_they_come_again(rows: Rows, data: st.DataObject) -> None:
    parts = [file_of(part) for part in data.draw(files_cut_anywhere(rows, over_a_second=False))]
    once = united(*parts)
    assert united(*parts, *parts).equals(once)
    assert united(*parts, *parts[::-1]).equals(once)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_second_split_by_two_files_after_a_third_is_in_order(order: tuple[int, ...]) -> None:
    rows = [(-600, 1), (-300, 1), (-60, 1), (0, 2), (0, 3), (0, 4), (0, 5), (600, 1)]
    parts = [file_of(rows[:2]), file_of(rows[2:5]), file_of(rows[5:])]
    assert united(*(parts[number] for number in order)).equals(file_of(rows))


def test_where_a_file_goes_on_its_second_is_no_longer_open() -> None:
    rows = [(0, 1), (1, 2), (1, 3), (2, 4)]
    head, tail, over = (Piece.of_file(file_of(part)) for part in (rows[:2], rows[2:], rows))
    (second,) = head.ends
    joined = merge_pieces(head, tail)
    assert (joined.begins, joined.ends) == (head.begins | {second}, {second} | tail.ends)
    whole = merge_pieces(joined, over)
    assert (whole.begins, whole.ends) == (head.begins, tail.ends)


@given(FILE, st.data())
def test_a_whole_file_makes_good_whatever_parts_of_it_came_before_or_after(
    rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    whole = file_of(rows)
    bounds = st.tuples(st.integers(0, len(rows)), st.integers(0, len(rows))).map(sorted)
    parts = [file_of(rows[a:b]) for a, b in data.draw(st.lists(bounds, max_size=3))]
    assert united(*data.draw(st.permutations([whole, *parts]))).equals(whole)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30).map(sorted), st.data())
def test_two_files_that_overlap_or_meet_anywhere_give_the_whole_where_rows_differ(
    seconds: list[int], data: st.DataObject
) -> None:
    rows = [(at, price) for price, at in enumerate([0, *seconds, 6], start=1)]
    end = data.draw(st.integers(1, len(rows) - 1))
    begin = data.draw(st.integers(1, end))
    head, tail = file_of(rows[:end]), file_of(rows[begin:])
    assert united(head, tail).equals(file_of(rows))
    assert united(tail, head).equals(file_of(rows))


@given(FILE, st.data())
def test_importing_any_file_again_adds_nothing(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    bounds = st.tuples(st.integers(0, len(rows)), st.integers(0, len(rows))).map(sorted)
    parts = [file_of(rows[a:b]) for a, b in data.draw(st.lists(bounds, min_size=1, max_size=3))]
    once = united(*parts)
    for part in parts:
        assert united(*parts, part).equals(once)


@given(FILE, FILE)
def test_no_row_of_either_file_is_lost_and_none_invented(
    a: list[tuple[int, int]], b: list[tuple[int, int]]
) -> None:
    merged = united(file_of(a), file_of(b))
    held = [(time.second, int(price)) for time, price in merged.select("time", "price").rows()]
    for row in set(a) | set(b):
        assert max(a.count(row), b.count(row)) <= held.count(row) <= a.count(row) + b.count(row)
    assert is_in_order(merged)


def test_identical_fills_in_one_file_stay_as_many_as_they_are() -> None:
    rows = [(0, 1)] * 17
    assert len(united(file_of(rows))) == 17
    assert len(united(file_of(rows), file_of(rows))) == 17
    assert len(united(file_of(rows[:5]), file_of(rows))) == 17


def test_a_part_that_starts_inside_a_second_does_not_change_its_order() -> None:
    """Position alone would put the first 1 behind the 2: it stands second in the part."""
    rows = [(0, 1), (0, 2), (0, 1), (1, 1)]
    whole, part = file_of(rows), file_of(rows[1:])
    assert united(part, whole).equals(whole)
    assert united(whole, part)["price"].to_list() == [1.0, 2.0, 1.0, 1.0]
