"""JSON values become columns exactly, and one odd value does not cost the page."""

from decimal import Decimal

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from marketdata.sources import rows
from tests.anything import JSON_VALUES


@given(st.lists(st.decimals(0, 10**9, allow_nan=False, places=12).map(str), min_size=1, max_size=50))
def test_a_decimal_text_becomes_the_nearest_float(texts: list[str]) -> None:
    assert rows.floats("price", texts).to_list() == [float(text) for text in texts]


@given(st.integers(1_230_768_000, 4_000_000_000), st.integers(0, 999_999_999), st.integers(0, 9))
def test_a_time_in_seconds_is_cut_to_the_microsecond_that_is_written(
    second: int, rest: int, digits: int
) -> None:
    number = float(f"{second}.{rest:09d}"[: len(str(second)) + 1 + digits])
    us = rows.times_from_seconds("time", [number]).cast(pl.Int64).item()
    assert us == int(Decimal(repr(number)) * 1_000_000)


def test_a_trade_just_before_a_minute_stays_before_it() -> None:
    just_before = rows.times_from_seconds("time", [1701019859.9999998]).item()
    assert (just_before.minute, just_before.second, just_before.microsecond) == (30, 59, 999_999)


@given(st.integers(0, 4_000_000_000_000))
def test_milliseconds_and_microseconds_are_told_apart(ms: int) -> None:
    # Microseconds of the first years after 1970 look like milliseconds; nothing was traded then.
    times = [ms, max(ms, 10**12) * 1000 + 7]
    got = rows.times_from_ticks("time", times).cast(pl.Int64).to_list()
    assert got == [ms * 1000, max(ms, 10**12) * 1000 + 7]


@given(st.lists(JSON_VALUES, min_size=1, max_size=8))
def test_any_json_value_is_read_or_null(values: list[object]) -> None:
    columns = [
        rows.floats("price", values),
        rows.integers("trade_id", values),
        rows.times_from_seconds("time", values),
        rows.times_from_ticks("time", values),
        rows.sides("side", values, {"b": "buy", True: "sell"}),
    ]
    for column in columns:
        assert len(column) == len(values)
        column.to_list()  # every time can be shown


def test_an_odd_value_is_null_beside_good_ones() -> None:
    assert rows.floats("price", ["1.5", None, [], "x", 2]).to_list() == [1.5, None, None, None, 2.0]
    assert rows.integers("id", [1, 2.5, "3", 2**70, None]).to_list() == [1, None, 3, None, None]
    assert rows.times_from_seconds("time", [0.5, -1, 1e30, "x"]).null_count() == 3
    assert rows.sides("side", ["b", {}, "z"], {"b": "buy"}).to_list() == ["buy", None, None]
