"""One thing at two venues."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from marketdata.fold import fold
from marketdata.market import Market
from marketdata.venues import compare_venues
from tests.building import MIDNIGHT, simple
from tests.cli.conftest import Command, home, marketdata
from tests.cli.lakes import BTC, DAY, open_lake, put_day, some_trades

__all__ = ["home", "marketdata"]
PRICES = [100.0, 101.0, 100.5, 102.0, 103.0, 101.0]
ONE = fold(simple(*[(n, 60 * n + 5, price, 2.0) for n, price in enumerate(PRICES)]))
TETHER = Market.parse("binance:BTC/USDT")


def scaled(by: float) -> pl.DataFrame:
    return ONE.with_columns(pl.col(name) * by for name in ("open", "high", "low", "close"))


def test_a_market_beside_itself_is_nowhere_apart() -> None:
    found = compare_venues(ONE, ONE)
    assert (found.both, found.only_one, found.only_other) == (6, 0, 0)
    assert (found.apart_median, found.apart_max, found.bias) == (0, 0, 0)
    assert found.correlation == pytest.approx(1)
    assert found.volume_ratio == 1


def test_a_market_that_is_a_tenth_of_a_percent_dearer_is_so_everywhere() -> None:
    found = compare_venues(ONE, scaled(1.001))
    assert (found.apart_median, found.bias) == (pytest.approx(0.1), pytest.approx(0.1))
    assert compare_venues(scaled(1.001), ONE).bias == pytest.approx(-0.0999, abs=1e-4)
    assert found.correlation == pytest.approx(1)


def test_the_interval_in_which_they_are_furthest_apart_is_named() -> None:
    there = pl.col("open_time") == MIDNIGHT + timedelta(minutes=3)
    found = compare_venues(ONE, ONE.with_columns(pl.when(there).then(51.0).otherwise("close").alias("close")))
    assert (found.apart_max, found.at_max) == (pytest.approx(50.0), MIDNIGHT + timedelta(minutes=3))
    assert found.apart_median == 0


def test_only_what_both_have_traded_is_compared_and_returns_over_a_pause_are_left_out() -> None:
    found = compare_venues(ONE[:5], scaled(2.0).filter(pl.int_range(pl.len()) != 2))
    assert (found.both, found.only_one, found.only_other) == (4, 1, 1)
    assert found.correlation is None  # two neighbours are too few


def test_venues_that_never_trade_together_have_nothing_to_compare() -> None:
    found = compare_venues(ONE[:2], ONE[3:])
    assert (found.both, found.apart_median, found.correlation, found.at_max) == (0, None, None, None)


def test_a_price_that_never_moves_correlates_with_nothing() -> None:
    flat = ONE.with_columns(pl.lit(5.0).alias("close"))
    assert compare_venues(flat, flat).correlation is None


def test_the_command_prints_it_and_a_difference_is_no_failure(home: Path, marketdata: Command) -> None:
    lake, trades = open_lake(home), some_trades(DAY, 3_000)
    put_day(lake, BTC, DAY, trades)
    put_day(lake, TETHER, DAY, trades.with_columns(pl.col("price") * 1.002))
    range_ = ("--start", DAY, "--end", DAY + timedelta(days=1))
    done = marketdata("compare-venues", BTC, TETHER, *range_)
    assert done.code == 0
    assert "0.2000 % in the middle" in done.text
    facts = dict(line.strip().split("  ", 1) for line in done.text.splitlines()[1:])
    assert facts["dearer"].strip().startswith(f"{TETHER}, by 0.2000 %")
    assert facts["returns correlate"].strip() == "1.0000"
    assert marketdata("compare-venues", BTC, "binance:ETH/USDT", *range_).code != 0
