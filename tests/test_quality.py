"""Rules that say where a day's trades are odd."""

from datetime import timedelta

import polars as pl

from marketdata.quality import FINDING_SCHEMA, clock_skew, id_holes, repeated_ids
from tests.building import MIDNIGHT, simple

TRADES = simple(*[(n, float(n), 100.0, 1.0) for n in range(1, 11)])


def received(*late: float) -> pl.DataFrame:
    """The first trades, received so many seconds after their own time."""
    offsets = pl.Series([timedelta(seconds=seconds) for seconds in late])
    return TRADES[: len(late)].with_columns((pl.col("time") + offsets).alias("received"))


def test_an_id_in_two_rows_is_found_once() -> None:
    found = repeated_ids(pl.concat([TRADES, TRADES[4:6], TRADES[5:6]]))
    assert found.select("trade_id", "value").rows() == [(5, 2.0), (6, 3.0)]
    assert repeated_ids(TRADES).is_empty()


def test_more_repeats_can_be_allowed() -> None:
    twice = pl.concat([TRADES, TRADES])
    assert repeated_ids(twice, at_most=2).is_empty()


def test_a_hole_is_found_after_the_trade_before_it() -> None:
    found = id_holes(TRADES.filter(~pl.col("trade_id").is_in([4, 5, 8])))
    after_three = MIDNIGHT + timedelta(seconds=3)
    assert found.select("rule", "time", "trade_id", "value").rows()[0] == ("id hole", after_three, 4, 2.0)
    assert found["detail"][0] == "Ids 4 to 5 are missing."
    assert found["trade_id"].to_list() == [4, 8]


def test_small_holes_can_be_allowed() -> None:
    found = id_holes(TRADES.filter(~pl.col("trade_id").is_in([4, 5, 8])), at_most=1)
    assert found["trade_id"].to_list() == [4]


def test_a_repeated_id_is_no_hole_and_the_order_does_not_matter() -> None:
    assert id_holes(pl.concat([TRADES[5:], TRADES])).is_empty()


def test_a_clock_that_is_steadily_off_is_not_a_finding() -> None:
    assert clock_skew(received(-1.27, -1.2, -1.06, -1.27)).is_empty()


def test_a_trade_received_much_later_than_usual_is_a_finding() -> None:
    found = clock_skew(received(0.1, 0.1, 60.1, 0.1), more_than=timedelta(seconds=59))
    assert found.select("trade_id", "value").rows() == [(3, 60.0)]


def test_a_trade_received_before_it_happened_is_a_finding() -> None:
    found = clock_skew(received(0.1, 0.1, -30.0, 0.1))
    assert found["trade_id"].to_list() == [3]


def test_what_lies_at_the_threshold_is_none() -> None:
    assert clock_skew(received(0, 0, 10, 0), more_than=timedelta(seconds=10)).is_empty()


def test_no_trades_are_nothing_odd() -> None:
    none = received(0.1).clear()
    for found in (repeated_ids(none), id_holes(none), clock_skew(none)):
        assert found.is_empty()
        assert found.schema == FINDING_SCHEMA
