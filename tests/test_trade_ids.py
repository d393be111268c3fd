"""Ids of sources without ids, and merging what two files say about the same time."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from marketdata.trade import SIDE, TRADE_SCHEMA, assign_ids
from tests.building import united

Row = tuple[int, float, float]
# Few values, so that equal times and identical rows are frequent.
ROWS = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([1.0, 2.0]), st.sampled_from([0.5, 0.25])), max_size=40
)


def _frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "trade_id": pl.Series([None] * len(rows), dtype=pl.Int64),
            "time": [1_700_000_000_000_000 + 1_000_000 * time for time, _, _ in rows],
            "price": [price for _, price, _ in rows],
            "amount": [amount for _, _, amount in rows],
            "side": pl.Series([None] * len(rows), dtype=SIDE),
            "fills": [1] * len(rows),
        },
        schema_overrides={"price": pl.Float64, "amount": pl.Float64, "time": pl.Int64},
    ).cast(TRADE_SCHEMA)


def _by_time(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row[0])


@given(ROWS)
def test_ids_keep_the_order_of_the_file_and_tell_every_row_apart(rows: list[Row]) -> None:
    trades = assign_ids(_frame(rows))
    assert trades.drop("trade_id").equals(_frame(rows).drop("trade_id"))
    assert trades["trade_id"].n_unique() == len(rows)
    in_time = trades.sort("time", maintain_order=True)
    assert in_time["trade_id"].to_list() == sorted(trades["trade_id"])
    assert (trades["trade_id"] > 0).all()


def test_the_last_time_an_id_can_hold_is_far_off() -> None:
    late = _frame([(0, 1.0, 1.0)]).with_columns(
        pl.lit("2112-01-01").str.to_datetime("%Y-%m-%d", time_zone="UTC").alias("time")
    )
    assert assign_ids(late)["trade_id"][0] > 0


def test_more_rows_of_one_time_than_positions_stay_in_order() -> None:
    trades = assign_ids(_frame([(0, 1.0 + n, 1.0) for n in range(5000)]))
    assert trades["trade_id"].is_sorted()
    assert trades["trade_id"].n_unique() == 5000


@given(ROWS)
def test_the_same_file_again_adds_nothing(rows: list[Row]) -> None:
    trades = assign_ids(_frame(_by_time(rows)))
    assert united(trades, trades).equals(trades)


@given(ROWS, st.integers(0, 40), st.integers(0, 40))
def test_overlapping_parts_give_the_whole_in_any_order(rows: list[Row], cut: int, overlap: int) -> None:
    rows = _by_time(rows)
    whole = assign_ids(_frame(rows))
    # A part ends where a time ends, as files do.
    end = next((n for n in range(cut, len(rows)) if n and rows[n - 1][0] < rows[n][0]), len(rows))
    begin = (
        next((n for n in range(max(0, end - overlap), 0, -1) if rows[n - 1][0] < rows[n][0]), 0)
        if end < len(rows)
        else 0
    )
    one, two = assign_ids(_frame(rows[:end])), assign_ids(_frame(rows[begin:]))
    assert united(one, two).equals(whole)
    assert united(two, one).equals(whole)


@given(ROWS, ROWS)
def test_identical_rows_of_two_files_are_the_larger_number_not_the_sum(
    one: list[Row], two: list[Row]
) -> None:
    one, two = _by_time(one), _by_time(two)
    if one and two and (one[-1][0] == two[0][0] or two[-1][0] == one[0][0]):
        return  # a second cut by two files is put together, see below
    frames = [assign_ids(_frame(rows)) for rows in (one, two)]
    merged = united(*frames)
    content = ["time", "price", "amount"]
    for row in set(one) | set(two):
        held = merged.filter(
            pl.col("time").to_physical() == 1_700_000_000_000_000 + 1_000_000 * row[0],
            pl.col("price") == row[1],
            pl.col("amount") == row[2],
        )
        assert len(held) == max(one.count(row), two.count(row))
    other_way = united(*frames[::-1])
    assert other_way.sort(content)[content].equals(merged.sort(content)[content])
    for frame in frames:
        assert united(*frames, frame).equals(merged)


def test_a_second_cut_by_two_files_is_put_together() -> None:
    rows = [(0, 1.0, 0.5), (1, 1.0, 0.5), (1, 2.0, 0.5), (1, 3.0, 0.5), (2, 1.0, 0.5)]
    one, two = assign_ids(_frame(rows[:3])), assign_ids(_frame(rows[2:]))
    for frames in ((one, two), (two, one)):
        assert united(*frames).equals(assign_ids(_frame(rows)))


def test_a_file_cut_inside_a_second_is_made_whole_by_one_that_has_it_all() -> None:
    rows = [(0, 1.0, 0.5), (0, 2.0, 0.5), (0, 1.0, 0.5), (1, 1.0, 0.5)]
    whole = assign_ids(_frame(rows))
    for part in (rows[:2], rows[:3], rows[:1]):
        merged = united(assign_ids(_frame(part)), whole)
        assert merged.equals(whole)
