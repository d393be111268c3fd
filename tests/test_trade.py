"""What counts as a trade, in which order, and what two reports of the same trades come to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.interval import from_us, to_us
from marketdata.trade import (
    REJECT_SCHEMA,
    TIME,
    TRADE_SCHEMA,
    assign_ids,
    distinct,
    empty_trades,
    in_order,
    is_in_order,
    merge_trades,
    validate,
)
from tests.building import MIDNIGHT, simple, trades_of

NOW = datetime(2025, 6, 10, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "trade_id": 7,
    "time": MIDNIGHT,
    "price": 100.5,
    "amount": 0.25,
    "side": "buy",
    "fills": 1,
}


def rows_of(*changes: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([{**GOOD, **change} for change in changes], schema=TRADE_SCHEMA, strict=False)


# --- validation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"trade_id": None}, "trade id absent or unreadable"),
        ({"trade_id": -1}, "trade id negative"),
        ({"time": None}, "time absent or unreadable"),
        ({"time": datetime(2009, 1, 2, 23, 59, 59, tzinfo=UTC)}, "time before 2009"),
        ({"time": datetime(1, 1, 1, tzinfo=UTC)}, "time before 2009"),
        ({"time": NOW + timedelta(minutes=5, microseconds=1)}, "time in the future"),
        ({"price": None}, "price absent or unreadable"),
        ({"price": float("nan")}, "price not finite"),
        ({"price": float("inf")}, "price not finite"),
        ({"price": float("-inf")}, "price not finite"),
        ({"price": 0.0}, "price not positive"),
        ({"price": -0.0}, "price not positive"),
        ({"price": -3.0}, "price not positive"),
        ({"amount": None}, "amount absent or unreadable"),
        ({"amount": float("nan")}, "amount not finite"),
        ({"amount": float("inf")}, "amount not finite"),
        ({"amount": 0.0}, "amount not positive"),
        ({"amount": -1.0}, "amount not positive"),
        ({"price": 1e200, "amount": 1e200}, "price times amount not finite"),
        ({"fills": None}, "fills not positive"),
        ({"fills": 0}, "fills not positive"),
    ],
)
def test_a_row_that_is_no_trade_is_refused_for_its_reason(change: dict[str, Any], reason: str) -> None:
    checked = validate(rows_of({}, change, {"trade_id": 8}), now=NOW)
    assert checked.accepted["trade_id"].to_list() == [7, 8]
    assert checked.rejected["reason"].to_list() == [reason]
    assert checked.rejected.schema == REJECT_SCHEMA


@pytest.mark.parametrize(
    "change",
    [
        {"time": NOW + timedelta(minutes=5)},
        {"time": datetime(2009, 1, 3, tzinfo=UTC)},
        {"trade_id": 0},
        {"trade_id": 2**63 - 1},
        {"price": 5e-324, "amount": 1e308},
        {"side": None},
        {"fills": 2**31 - 1},
    ],
)
def test_what_lies_just_inside_the_bounds_is_accepted(change: dict[str, Any]) -> None:
    rows = rows_of(change)
    checked = validate(rows, now=NOW)
    assert checked.accepted.equals(rows)
    assert checked.rejected.is_empty()


def test_a_source_without_ids_needs_none() -> None:
    checked = validate(rows_of({"trade_id": None}), now=NOW, ids=False)
    assert (len(checked.accepted), len(checked.rejected)) == (1, 0)


def test_a_source_that_always_says_the_side_may_not_leave_it_out() -> None:
    checked = validate(rows_of({"side": None}), now=NOW, sides=True)
    assert checked.rejected["reason"].to_list() == ["side absent or unreadable"]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("side", "hold", "side absent or unreadable"),
        ("price", "12.x", "price absent or unreadable"),
        ("fills", 2**31, "fills not positive"),
        ("trade_id", "X-1", "trade id absent or unreadable"),
    ],
)
def test_a_value_that_does_not_fit_its_column_is_unreadable(column: str, value: object, reason: str) -> None:
    rows = rows_of({}, {}).with_columns(
        pl.Series(column, [GOOD[column], value], strict=False, dtype=type_of(value))
    )
    checked = validate(rows, now=NOW)
    assert len(checked.accepted) == 1
    assert checked.accepted.schema == TRADE_SCHEMA
    assert checked.rejected["reason"].to_list() == [reason]
    assert str(value) in checked.rejected["raw"][0]


def type_of(value: object) -> Any:
    return pl.String if isinstance(value, str) else pl.Int64


def test_milliseconds_and_naive_integers_become_microseconds() -> None:
    rows = rows_of({}).with_columns(pl.col("time").dt.cast_time_unit("ms"))
    assert validate(rows, now=NOW).accepted["time"].to_list() == [MIDNIGHT]


def test_the_sources_own_row_is_kept_with_the_reject() -> None:
    raw = [["1", "2"], ["NA", "0"], ["3", "4"]]
    checked = validate(rows_of({}, {"price": 0.0}, {}), now=NOW, raw=raw)
    assert [orjson.loads(row) for row in checked.rejected["raw"]] == [["NA", "0"]]


def test_a_reject_without_a_raw_row_keeps_what_was_read_even_what_json_has_no_word_for() -> None:
    checked = validate(rows_of({"price": float("nan")}), now=NOW)
    kept = orjson.loads(checked.rejected["raw"][0])
    assert kept["price"] == "nan"
    assert (kept["trade_id"], kept["amount"]) == (7, 0.25)


WILD = st.fixed_dictionaries(
    {
        "trade_id": st.none() | st.integers(-5, 2**63 - 1),
        "time": st.none() | st.integers(-(2**55), 2**55).map(from_us),
        "price": st.none() | st.floats(),
        "amount": st.none() | st.floats(),
        "side": st.none() | st.sampled_from(["buy", "sell"]),
        "fills": st.none() | st.integers(-2, 2**31 - 1),
    }
)


@given(st.lists(st.one_of(WILD, st.just(GOOD)), max_size=20), st.booleans(), st.booleans())
def test_validation_loses_no_row_and_accepts_only_trades(
    rows: list[dict[str, Any]], ids: bool, sides: bool
) -> None:
    given_rows = pl.DataFrame(rows, schema=TRADE_SCHEMA)
    checked = validate(given_rows, now=NOW, raw=list(range(len(rows))), ids=ids, sides=sides)
    refused = {int(number) for number in checked.rejected["raw"]}
    assert checked.accepted.equals(given_rows[[n for n in range(len(rows)) if n not in refused]])
    assert len(checked.accepted) + len(checked.rejected) == len(rows)
    assert checked.rejected["reason"].null_count() == 0
    for row in checked.accepted.rows(named=True):
        assert 0 < row["price"] < float("inf")
        assert 0 < row["amount"] < float("inf")
        assert row["fills"] >= 1
        assert datetime(2009, 1, 3, tzinfo=UTC) <= row["time"] <= NOW + timedelta(minutes=5)
        assert not ids or row["trade_id"] >= 0
        assert not sides or row["side"] is not None


def test_validating_what_was_accepted_refuses_nothing() -> None:
    checked = validate(rows_of({}, {"price": 0.0}), now=NOW)
    assert validate(checked.accepted, now=NOW).rejected.is_empty()


# --- order ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=12))
def test_order_is_time_then_id(pairs: list[tuple[int, int]]) -> None:
    trades = simple(*[(trade_id, at, 1.0, 1.0) for at, trade_id in pairs])
    assert is_in_order(trades) == (pairs == sorted(pairs))
    ordered = in_order(trades)
    assert is_in_order(ordered)
    assert ordered["trade_id"].to_list() == [trade_id for _, trade_id in sorted(pairs)]


def test_an_ordered_frame_is_handed_back_as_it_is() -> None:
    trades = simple((2, 0, 1, 1), (1, 1, 1, 1))
    assert in_order(trades) is trades


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_distinct_leaves_each_time_and_id_once(pairs: list[tuple[int, int]]) -> None:
    trades = simple(*[(trade_id, at, 1.0, 1.0) for at, trade_id in pairs])
    left = distinct(trades)
    assert len(left) == len(set(pairs))
    assert is_in_order(left)
    assert distinct(left).equals(left)


# --- merging by the exchange's ids ----------------------------------------------------------------

TRADES = st.lists(
    st.tuples(
        st.integers(0, 30), st.integers(0, 60), st.sampled_from([1.0, 2.0]), st.sampled_from([1.0, 3.0])
    ),
    max_size=30,
)


def test_the_same_trades_again_are_repeated_not_counted_twice() -> None:
    trades = simple((1, 0, 1, 1), (2, 1, 2, 1))
    merged = merge_trades(trades, trades)
    assert merged.trades.equals(trades)
    assert (merged.repeated, len(merged.conflicts)) == (2, 0)


def test_of_two_rows_with_one_id_the_first_is_kept_and_the_other_kept_as_a_reject() -> None:
    ours, theirs = simple((1, 0, 1, 1), (2, 1, 2, 1)), simple((2, 1, 9, 1), (3, 2, 3, 1), (2, 1, 9, 1))
    merged = merge_trades(ours, theirs)
    assert merged.trades["price"].to_list() == [1.0, 2.0, 3.0]
    assert merged.conflicts["reason"].to_list() == ["id repeated with other values"]
    assert merged.conflicts["trade_id"].to_list() == [2]
    assert orjson.loads(merged.conflicts["raw"][0])["price"] == 9.0
    assert merged.repeated == 1
    assert merged.conflicts.schema == REJECT_SCHEMA


def test_a_side_that_one_report_leaves_out_is_a_conflict() -> None:
    known, unknown = trades_of([(1, 0, 1, 1, "buy", 1)]), trades_of([(1, 0, 1, 1, None, 1)])
    assert len(merge_trades(known, unknown).conflicts) == 1
    assert len(merge_trades(unknown, unknown).conflicts) == 0


def test_identical_trades_with_ids_of_their_own_stay_two() -> None:
    assert len(merge_trades(simple((1, 0, 1, 1), (2, 0, 1, 1))).trades) == 2


def test_nothing_merged_is_nothing() -> None:
    assert merge_trades().trades.equals(empty_trades())


@given(TRADES, TRADES)
def test_every_row_is_kept_repeated_or_in_conflict(
    a: list[tuple[int, float, float, float]], b: list[tuple[int, float, float, float]]
) -> None:
    ours, theirs = simple(*a), simple(*b)
    merged = merge_trades(ours, theirs)
    assert len(merged.trades) + merged.repeated + len(merged.conflicts) == len(a) + len(b)
    assert set(merged.trades["trade_id"]) == {row[0] for row in a + b}
    assert merged.trades["trade_id"].is_unique().all()
    assert is_in_order(merged.trades)
    first = {row[0]: row for row in reversed(a + b)}
    assert merged.trades.equals(in_order(simple(*first.values())))
    contents = {row[0]: {r for r in a + b if r[0] == row[0]} for row in a + b}
    assert len(merged.conflicts) == sum(len(rows) - 1 for rows in contents.values())


@given(TRADES, TRADES)
def test_merging_twice_changes_nothing(
    a: list[tuple[int, float, float, float]], b: list[tuple[int, float, float, float]]
) -> None:
    once = merge_trades(simple(*a), simple(*b)).trades
    again = merge_trades(once, simple(*a), simple(*b))
    assert again.trades.equals(once)


# --- ids for rows without ----------------------------------------------------------------------------


def file_of(rows: list[tuple[int, int]]) -> pl.DataFrame:
    return assign_ids(trades_of((None, at, price, 1.0, None, 1) for at, price in rows))


def test_ids_given_to_a_file_do_not_depend_on_the_rest_of_it() -> None:
    rows = [(at, price) for at in range(4) for price in (1, 2, 3)]
    assert file_of(rows)[3:6].equals(file_of(rows[3:6]))


def test_ids_of_a_shuffled_file_rise_with_time_and_keep_the_order_within_it() -> None:
    trades = file_of([(3, 1), (1, 2), (3, 3), (1, 4)])
    assert in_order(trades)["price"].to_list() == [2.0, 4.0, 1.0, 3.0]
    assert trades["price"].to_list() == [1.0, 2.0, 3.0, 4.0]


def test_times_are_microseconds_utc_everywhere() -> None:
    assert TRADE_SCHEMA["time"] == REJECT_SCHEMA["time"] == TIME
    assert to_us(MIDNIGHT) == file_of([(0, 1)])["time"].cast(pl.Int64)[0]
