"""Rules that say where a day's trades are odd."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.finding import FINDING_SCHEMA
from marketdata.quality import (
    clock_skew,
    id_holes,
    out_of_order,
    price_outliers,
    rejected_share,
    repeated_ids,
    repeated_rows,
    time_gaps,
    volume_outliers,
)
from marketdata.rolling import far_from_median
from tests.building import MIDNIGHT, simple, trades_of

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
    rules = (
        time_gaps,
        price_outliers,
        volume_outliers,
        repeated_ids,
        repeated_rows,
        id_holes,
        out_of_order,
        clock_skew,
    )
    for found in (rule(none) for rule in rules):
        assert found.is_empty()
        assert found.schema == FINDING_SCHEMA


# --- pauses -------------------------------------------------------------------------------------------


def steady(*pauses: float, every: float = 0.1, count: int = 2000, first_id: int = 1) -> pl.DataFrame:
    """Trades every ``every`` seconds, with these pauses instead of the usual one, far apart."""
    at, rows = 0.0, []
    longer = {count // (len(pauses) + 1) * (n + 1): pause for n, pause in enumerate(pauses)}
    for n in range(count):
        at += longer.get(n, every)
        rows.append((first_id + n, at, 100.0 + n % 3 * 0.01, 1.0))
    return simple(*rows)


def test_each_pause_is_one_finding_of_the_widest_width_it_has() -> None:
    found = time_gaps(steady(0.9, 7.0, 60.0))
    assert found.select("rule", "value").rows() == [
        ("gap of 500 ms", 0.9),
        ("gap of 5 s", 7.0),
        ("gap of 30 s", 60.0),
    ]
    assert (found["until"] - found["time"]).to_list() == [timedelta(seconds=s) for s in (0.9, 7.0, 60.0)]


def test_a_pause_that_is_usual_in_a_thin_market_is_no_finding() -> None:
    assert time_gaps(steady(60.0, every=10.0)).is_empty()
    assert time_gaps(steady(3600.0, every=10.0))["rule"].to_list() == ["gap of 30 s"]


def test_a_pause_counts_by_the_pace_of_its_own_hour() -> None:
    busy = steady(3.0, every=0.05, count=3000)
    thin = steady(3.0, every=1.0, count=3000, first_id=4000)
    later = thin.with_columns(pl.col("time") + timedelta(hours=5))
    found = time_gaps(pl.concat([busy, later]))
    assert found.filter(pl.col("value") < 100)["trade_id"].to_list() == [1500]


def test_ids_that_run_on_across_a_pause_show_that_the_market_was_quiet() -> None:
    quiet = time_gaps(steady(60.0))
    assert quiet["suspicious"].to_list() == [False]
    assert "no trade is missing" in quiet["detail"][0]
    trades = steady()
    lost = time_gaps(trades.filter(~pl.col("trade_id").is_between(900, 999)))
    assert lost["suspicious"].to_list() == [True]
    assert lost["detail"][0].endswith("100 ids are missing across it.")


def test_without_ids_that_follow_one_another_a_pause_stays_suspicious() -> None:
    assert time_gaps(steady(60.0), sequential=False)["suspicious"].to_list() == [True]


def test_the_time_before_the_first_and_after_the_last_trade_is_a_pause_of_the_day() -> None:
    trades = steady()  # ids 1 to 2000 in 200 s
    day = MIDNIGHT - timedelta(hours=1), MIDNIGHT + timedelta(hours=1)
    assert time_gaps(trades).is_empty()
    unknown = time_gaps(trades, window=day)
    assert unknown.select("time", "until", "suspicious").rows() == [
        (day[0], trades["time"][0], True),
        (trades["time"][-1], day[1], True),
    ]
    assert "do not tell" in unknown["detail"][0]
    joined = time_gaps(trades, window=day, around=(0, 2001))
    assert joined["suspicious"].to_list() == [False, False]
    cut = time_gaps(trades, window=day, around=(0, 3001))
    assert cut["suspicious"].to_list() == [False, True]
    assert cut["detail"][1].endswith("1000 ids are missing across it.")


@given(pauses=st.lists(st.floats(2.0, 500.0), max_size=5), hole=st.booleans())
def test_every_pause_far_beyond_usual_is_found_and_no_other(pauses: list[float], *, hole: bool) -> None:
    trades = steady(*pauses)
    if hole:
        trades = trades.with_columns(pl.col("trade_id") * 2)
    found = time_gaps(trades, widths=[timedelta(seconds=1)])
    assert found["value"].to_list() == pytest.approx([round(pause, 6) for pause in pauses], abs=2e-6)
    assert found["suspicious"].to_list() == [hole] * len(pauses)


# --- prices and amounts -------------------------------------------------------------------------------


def priced(prices: list[float]) -> pl.DataFrame:
    return simple(*[(n, float(n * 10), price, 1.0) for n, price in enumerate(prices, start=1)])


CALM = [100.0 + n % 5 * 0.1 for n in range(300)]


def test_a_price_that_comes_back_at_once_is_a_fat_finger() -> None:
    found = price_outliers(priced([*CALM[:150], 1000.0, *CALM[150:]]))
    assert found.select("rule", "trade_id").rows() == [("fat finger", 151)]
    assert found["value"][0] == pytest.approx(9.0, abs=0.02)


def test_a_price_that_comes_back_later_is_a_price_outlier_with_its_first_and_last_trade() -> None:
    found = price_outliers(priced([*CALM[:150], *[90.0] * 20, 89.0, *CALM[150:]]))
    assert found.select("rule", "trade_id").rows() == [("price outlier", 151)]
    assert found["value"][0] == pytest.approx(-0.11, abs=0.005)
    assert (found["until"] - found["time"]).to_list() == [timedelta(seconds=200)]


@pytest.mark.parametrize("at", range(120, 180))
def test_a_market_that_moves_for_good_is_no_finding(at: int) -> None:
    assert price_outliers(priced([*CALM[:at], *[price * 1.5 for price in CALM[at:]]])).is_empty()


def test_a_market_that_swings_widely_has_wide_limits() -> None:
    swinging = [100.0 + (n * 7919 % 41 - 20) for n in range(300)]
    assert price_outliers(priced([*swinging[:150], 130.0, *swinging[150:]])).is_empty()
    assert len(price_outliers(priced([*CALM[:150], 130.0, *CALM[150:]]))) == 1


def test_a_small_step_in_a_still_market_is_no_finding_unless_it_is_asked_for() -> None:
    still = [1.0] * 150
    prices = priced([*still, 1.005, *still])
    assert price_outliers(prices).is_empty()
    assert len(price_outliers(prices, at_least=0.002)) == 1


@given(at=st.integers(0, 299), times=st.floats(1.2, 1e6), up=st.booleans())
def test_wherever_one_price_is_far_off_it_alone_is_found(at: int, times: float, *, up: bool) -> None:
    prices = list(CALM)
    prices[at] *= times if up else 1 / times
    assert price_outliers(priced(prices))["trade_id"].to_list() == [at + 1]


@given(prices=st.lists(st.floats(99.5, 100.4), min_size=1, max_size=200))
def test_prices_within_the_least_distance_are_never_found(prices: list[float]) -> None:
    assert price_outliers(priced(prices)).is_empty()


@pytest.mark.parametrize("count", [*range(8, 30), 95, 96, 97, 98, 99, 100, 101, 150])
@pytest.mark.parametrize("window", [9, 96, 97, 98])
def test_a_day_of_any_length_is_looked_at(count: int, window: int) -> None:
    prices = [*CALM[: count // 2], 1000.0, *CALM[: count - count // 2 - 1]]
    found = price_outliers(priced(prices), window=window)
    assert found["trade_id"].to_list() == ([count // 2 + 1] if count >= 9 else [])


@given(st.integers(9, 120), st.lists(st.floats(1.0, 1000.0), min_size=9, max_size=300))
def test_what_is_found_is_far_from_the_median_of_the_trades_around(window: int, prices: list[float]) -> None:
    rows, share = far_from_median(np.array(prices), window, spreads=3.0, at_least=0.01)
    width = min(window, len(prices))
    for row, off in zip(rows.tolist(), share.tolist(), strict=True):
        first = min(max(row - width // 2, 0), len(prices) - width)
        around = np.median(prices[first : first + width])
        assert off == pytest.approx(prices[row] / around - 1)
        assert abs(off) > 0.01


def test_an_amount_far_beyond_what_is_usual_is_a_finding() -> None:
    amounts = [1.0 + n % 10 for n in range(500)]
    rows = [(n, float(n), 100.0, amount) for n, amount in enumerate([*amounts, 5000.0])]
    found = volume_outliers(simple(*rows))
    assert found.select("trade_id", "value").rows() == [(500, 500.0)]
    assert volume_outliers(simple(*rows), times=500).is_empty()
    assert volume_outliers(simple(*rows[-40:])).is_empty()


# --- repeats, order, rejects --------------------------------------------------------------------------


def test_many_rows_that_are_alike_are_a_finding_and_a_few_are_usual() -> None:
    one_order = simple(*[(n, 5.05, 100.0, 1.0) for n in range(1001, 1061)])
    trades = pl.concat([steady(count=200), one_order])
    found = repeated_rows(trades)
    assert found.select("rule", "trade_id", "value").rows() == [("repeated row", 1001, 60.0)]
    assert repeated_rows(trades, at_most=60).is_empty()


def test_rows_of_one_id_are_no_repeats_under_several_ids() -> None:
    assert repeated_rows(pl.concat([TRADES] * 60)).is_empty()


def test_a_day_that_is_there_twice_under_new_ids_is_a_finding() -> None:
    once = steady(count=400)
    again = once.with_columns(pl.col("trade_id") + 1000)
    found = repeated_rows(pl.concat([once, again]))
    assert found.select("trade_id", "value").rows() == [(None, 0.5)]
    assert found["detail"][0].startswith("400 of 800 rows")
    assert repeated_rows(once).is_empty()


def test_rows_that_differ_in_side_alone_are_not_alike() -> None:
    rows = [(n, 5.0, 100.0, 1.0, "buy" if n % 2 else "sell", 1) for n in range(60)]
    assert repeated_rows(trades_of(rows), share=1.0).is_empty()
    assert len(repeated_rows(trades_of(rows), at_most=29, share=1.0)) == 2


def test_time_that_goes_back_while_ids_go_on_is_one_finding_a_run() -> None:
    rows = [(1, 0.0), (2, 10.0), (3, 4.0), (4, 5.0), (5, 11.0), (6, 10.5), (7, 12.0), (8, 2.0)]
    trades = simple(*[(trade_id, at, 100.0, 1.0) for trade_id, at in rows])
    found = out_of_order(trades)
    assert found.sort("trade_id").select("trade_id", "value").rows() == [(3, 6.0), (8, 10.0)]
    assert out_of_order(trades.sort("time")).equals(found)
    assert out_of_order(trades, more_than=timedelta(seconds=10)).is_empty()


@given(st.permutations(range(30)), st.integers(0, 29))
def test_ids_and_times_that_rise_together_are_in_order_however_they_arrive(order: list[int], n: int) -> None:
    trades = steady(count=30)
    assert out_of_order(trades[order]).is_empty()
    assert id_holes(trades[order], refused=pl.Series([n + 1])).is_empty()


@given(st.sets(st.integers(2, 39)), st.sets(st.integers(-5, 50)))
def test_what_is_missing_is_what_is_neither_held_nor_refused(lost: set[int], refused: set[int]) -> None:
    trades = steady(count=40).filter(~pl.col("trade_id").is_in(sorted(lost)))
    found = id_holes(trades, refused=pl.Series(sorted(refused), dtype=pl.Int64))
    ids = [i + n for i, count in found.select("trade_id", "value").rows() for n in range(int(count))]
    assert sorted(ids) == sorted(lost - refused)


def test_a_hole_the_exchange_does_not_serve_is_not_suspicious() -> None:
    trades = TRADES.filter(~pl.col("trade_id").is_in([4, 5, 8]))
    found = id_holes(trades, not_served=[(3, 5)])
    assert found.select("trade_id", "suspicious").rows() == [(4, False), (8, True)]
    assert found["detail"].to_list() == ["Ids 4 to 5 are not served by the exchange.", "Id 8 is missing."]


def test_each_reason_for_which_too_many_rows_were_refused_is_a_finding() -> None:
    window = MIDNIGHT, MIDNIGHT + timedelta(days=1)
    found = rejected_share({"price not positive": 10, "time in the future": 1}, 989, window, at_most=0.005)
    assert found.select("rule", "time", "until", "trade_id", "value").rows() == [
        ("rejected: price not positive", *window, None, 0.01)
    ]
    assert len(rejected_share({"price not positive": 10}, 0, window)) == 1
    assert rejected_share({}, 0, window).is_empty()
