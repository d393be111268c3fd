"""Our candles beside somebody else's."""

from datetime import timedelta

import polars as pl
import pytest

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA, empty_candles
from marketdata.fold import fold
from marketdata.reconcile import Comparison, compare
from tests.building import MIDNIGHT, simple

OURS = fold(simple(*[(n, 60 * n + 5, 100.0 + n, 1.5) for n in range(10)]))
THEIRS = OURS.select(EXCHANGE_CANDLE_SCHEMA.names())
END = MIDNIGHT + timedelta(minutes=10)


def against(theirs: pl.DataFrame, ours: pl.DataFrame = OURS, **how: float) -> Comparison:
    return compare(ours, theirs, MIDNIGHT, END, **how)


def minute(number: int) -> pl.Expr:
    return pl.col("open_time") == MIDNIGHT + timedelta(minutes=number)


def changed(number: int, **columns: float | None) -> pl.DataFrame:
    return THEIRS.with_columns(
        pl.when(minute(number)).then(pl.lit(value, THEIRS[name].dtype)).otherwise(name).alias(name)
        for name, value in columns.items()
    )


def test_the_same_candles_are_equal() -> None:
    found = against(THEIRS)
    assert (found.compared, found.equal, len(found.different)) == (10, 10, 0)


def test_a_candle_only_they_have_is_missing() -> None:
    found = against(THEIRS, OURS.filter(~minute(3)))
    assert (found.compared, found.equal) == (10, 9)
    assert found.different.rows() == [(MIDNIGHT + timedelta(minutes=3), "missing", "close", None, 103.0)]


def test_a_candle_only_we_have_is_extra() -> None:
    found = against(THEIRS.filter(~minute(3)))
    assert found.different.rows() == [(MIDNIGHT + timedelta(minutes=3), "extra", "close", 103.0, None)]


@pytest.mark.parametrize(
    "column", ["open", "high", "low", "close", "volume", "taker_buy_volume", "trade_count"]
)
def test_a_value_that_differs_is_named_with_both_values(column: str) -> None:
    found = against(changed(4, **{column: 7}))
    assert (found.compared, found.equal) == (10, 9)
    ours = OURS.filter(minute(4))[column][0]
    assert found.different.rows() == [
        (MIDNIGHT + timedelta(minutes=4), "different", column, float(ours), 7.0)
    ]


def test_a_candle_with_two_wrong_values_is_one_candle_and_two_findings() -> None:
    found = against(changed(4, open=7.0, volume=7.0))
    assert (found.equal, found.different["column"].to_list()) == (9, ["open", "volume"])


def test_what_they_do_not_say_is_not_compared() -> None:
    silent = THEIRS.with_columns(
        pl.lit(None, THEIRS[name].dtype).alias(name) for name in ("volume", "trade_count", "taker_buy_volume")
    )
    assert against(silent).equal == 10


def test_their_quote_volume_is_rounded_and_not_compared() -> None:
    assert against(changed(4, quote_volume=7.0)).equal == 10


def test_candles_they_wrote_for_minutes_without_a_trade_are_no_candles() -> None:
    flat = changed(4, volume=0.0, trade_count=0)
    found = against(flat, OURS.filter(~minute(4)))
    assert (found.compared, found.equal) == (9, 9)


def test_a_trade_in_a_minute_they_call_empty_is_extra() -> None:
    assert against(changed(4, volume=0.0)).different["finding"].to_list() == ["extra"]


def test_only_what_opens_inside_the_range_is_compared() -> None:
    found = compare(OURS, THEIRS[5:], MIDNIGHT + timedelta(minutes=5), END - timedelta(minutes=1))
    assert (found.compared, found.equal) == (4, 4)


def test_prices_are_held_to_a_relative_tolerance_so_that_small_ones_count() -> None:
    tiny = [(n, 60.0 * n, 3e-9, 1.0) for n in range(3)]
    ours = fold(simple(*tiny))
    theirs = ours.select(THEIRS.columns).with_columns(pl.lit(4e-9).alias("close"))
    assert against(theirs, ours).equal == 0
    nearly = ours.select(THEIRS.columns).with_columns(pl.lit(3e-9 * (1 + 1e-9)).alias("close"))
    assert against(nearly, ours).equal == 3


def test_volumes_may_differ_in_the_eighth_decimal_and_no_more() -> None:
    assert against(changed(4, volume=1.5 + 0.9e-8)).equal == 10
    assert against(changed(4, volume=1.5 + 3e-8)).equal == 9
    assert against(changed(4, volume=1.5 + 3e-8), tolerance=1e-6).equal == 10


def test_nothing_beside_nothing_is_nothing_compared() -> None:
    found = against(THEIRS.clear(), empty_candles())
    assert (found.compared, found.equal, len(found.different)) == (0, 0, 0)
    assert found.different.schema == against(THEIRS, OURS.clear()).different.schema


def test_a_value_that_is_no_number_is_different() -> None:
    assert against(changed(4, close=float("nan"))).equal == 9
