"""Backfills from the local exchange, through the sources that speak to the real ones."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from polars.testing import assert_frame_equal

from marketdata import sources
from marketdata.backfill import DayReport, backfill, compare_day, fetch_day, fetch_exchange_candles, fold_day
from marketdata.errors import UnknownName
from marketdata.exchange_sim import RunningExchange
from marketdata.lake import Lake
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from marketdata.settings import Settings
from tests.conftest import ROOT

DAY = date(2025, 6, 8)
SOL = Market("kraken", "SOL/USD")
BTC = Market("kraken", "BTC/USD")
LTC = Market("kraken", "LTC/USD")
BNB = Market("binance", "BNB/USDT")
MORNING = datetime.fromisoformat("2025-06-09T00:30:00+00:00")

Start = Callable[..., RunningExchange]


@pytest.fixture(autouse=True)
def fresh_clients() -> Iterator[None]:
    sources.close()
    yield
    sources.close()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def pointed_at(exchange: RunningExchange) -> Settings:
    return Settings(
        kraken_url=exchange.kraken,
        binance_url=exchange.binance,
        binance_archive_url=exchange.archive,
        request_interval_ms=0,
        workers=4,
    )


def get(lake: Lake, exchange: RunningExchange, market: Market = SOL, now: datetime = MORNING) -> DayReport:
    settings = pointed_at(exchange)
    source = sources.trade_source(market, DAY, settings, now)
    return fetch_day(lake, source, market, DAY, now=now)


def test_days_of_two_exchanges_are_complete_and_agree_with_their_candles(
    exchange_server: Start, lake: Lake
) -> None:
    exchange = exchange_server(now=MORNING)
    settings = pointed_at(exchange)
    jobs = [(market, DAY) for market in (LTC, BNB)]
    outcomes = backfill(lake, jobs, settings, now=MORNING)
    assert all(isinstance(outcome, DayReport) for outcome in outcomes), outcomes
    for market in (LTC, BNB):
        manifest = lake.manifest(market, DAY)
        assert manifest is not None
        assert manifest.status is Status.COMPLETE, manifest.reason
        source = sources.candle_source(market.exchange, settings)
        rows = fetch_exchange_candles(lake, source, market, DAY, now=MORNING)
        # Kraken serves the last 720 minutes, hence half a day of 1m and, whole, 5m.
        assert list(rows) == (["1m", "5m"] if market is LTC else ["1m"])
        comparison = compare_day(lake, market, DAY)
        assert comparison.compared == comparison.equal == sum(rows.values())
        assert comparison.different.is_empty()


def test_trades_that_the_exchange_lost_are_recorded_and_differ_from_its_candles(
    exchange_server: Start, lake: Lake
) -> None:
    exchange = exchange_server(now=MORNING)
    whole = Lake.open(f"{lake.url}-whole")
    ids = get(whole, exchange, LTC).manifest.first_id
    assert ids is not None
    exchange.hide(str(LTC), [(ids + 20, ids + 25)])
    report = get(lake, exchange, LTC)
    assert report.manifest.not_served == ((ids + 20, ids + 25),)
    assert report.manifest.status is Status.COMPLETE
    fold_day(lake, LTC, DAY)
    settings = pointed_at(exchange)
    fetch_exchange_candles(lake, sources.candle_source("kraken", settings), LTC, DAY, now=MORNING)
    assert not compare_day(lake, LTC, DAY).different.is_empty()


def test_rows_an_exchange_drops_once_are_fetched_by_their_ids(exchange_server: Start, lake: Lake) -> None:
    exchange = exchange_server(now=MORNING)
    whole = get(Lake.open(f"{lake.url}-whole"), exchange).manifest
    exchange.faults([{"kind": "drop", "match": "Trades", "fraction": 0.01, "once": True}])
    manifest = get(lake, exchange).manifest
    assert (manifest.content_hash, manifest.not_served) == (whole.content_hash, ())


def test_a_misbehaving_exchange_gives_the_same_day(exchange_server: Start, lake: Lake) -> None:
    exchange = exchange_server(now=MORNING)
    whole = get(Lake.open(f"{lake.url}-whole"), exchange).manifest
    exchange.faults(
        [
            {"kind": "429", "match": "Trades", "times": 1, "skip": 1, "retry_after": 0.1},
            {"kind": "cut", "match": "Trades", "times": 1, "skip": 3},
            {"kind": "shuffle", "match": "Trades", "times": 2, "skip": 5},
            {"kind": "html", "match": "Trades", "times": 1, "skip": 7},
            {"kind": "repeat", "match": "Trades", "times": 1, "skip": 8},
            {"kind": "garbage", "match": "Trades", "times": 1, "skip": 9, "insert": True},
        ]
    )
    manifest = get(lake, exchange).manifest
    assert manifest.content_hash == whole.content_hash
    assert manifest.status is Status.COMPLETE


def test_an_unknown_symbol_names_the_nearest_and_is_asked_for_once(
    exchange_server: Start, lake: Lake
) -> None:
    exchange = exchange_server(now=MORNING)
    wrong = Market("kraken", "SOLL/USD")
    days = [date(2025, 5, 1 + n) for n in range(30)]
    outcomes = backfill(lake, [(wrong, day) for day in days], pointed_at(exchange), now=MORNING)
    errors = [outcome[1] for outcome in outcomes if isinstance(outcome, tuple)]
    assert len(errors) == 30
    assert all(isinstance(error, UnknownName) and error.nearest == "SOL/USD" for error in errors)


def test_what_an_exchange_forgets_stays_in_the_lake(exchange_server: Start, lake: Lake) -> None:
    exchange = exchange_server(now=MORNING)
    get(lake, exchange, LTC)
    fold_day(lake, LTC, DAY)
    source = sources.candle_source("kraken", pointed_at(exchange))
    first = fetch_exchange_candles(lake, source, LTC, DAY, now=MORNING)
    window = day_window(DAY)
    minutes = lake.read_candles(LTC, "1m", *window, kind="exchange_candles")
    years_later = datetime.fromisoformat("2027-06-09T00:30:00+00:00")
    exchange.set_clock(years_later)
    assert fetch_exchange_candles(lake, source, LTC, DAY, now=years_later) == first
    assert_frame_equal(lake.read_candles(LTC, "1m", *window, kind="exchange_candles"), minutes)
    facts = lake.read_facts("exchange_candles", LTC, DAY, "1m")
    assert facts is not None
    assert (facts["served"], facts["source"]) == ("part", "kraken-rest")


def test_a_day_the_exchange_serves_no_candles_of_says_so(exchange_server: Start, lake: Lake) -> None:
    years_later = datetime.fromisoformat("2028-06-09T00:30:00+00:00")
    exchange = exchange_server(now=years_later)
    source = sources.candle_source("kraken", pointed_at(exchange))
    assert fetch_exchange_candles(lake, source, LTC, DAY, now=years_later) == {"1m": 0}
    facts = lake.read_facts("exchange_candles", LTC, DAY, "1m")
    assert facts is not None
    assert facts["served"] == "none"
    comparison = compare_day(lake, LTC, DAY)
    assert (comparison.compared, len(comparison.different)) == (0, 0)


_CHILD = """
import sys
from datetime import date, datetime
from marketdata import sources
from marketdata.backfill import fetch_day
from marketdata.lake import Lake
from marketdata.market import Market
from marketdata.settings import Settings
market, day, now = Market.parse(sys.argv[2]), date(2025, 6, 8), datetime.fromisoformat(sys.argv[3])
settings = Settings(request_interval_ms=0)
source = sources.trade_source(market, day, settings, now)
sources.check_market(market, settings)
print("ready", flush=True)
fetch_day(Lake.open(sys.argv[1]), source, market, day, now=now)
"""


def test_a_fetch_killed_at_random_times_asks_no_page_twice(exchange_server: Start, tmp_path: Path) -> None:
    exchange = exchange_server(now=MORNING, latency_ms=30)
    counter: dict[str, Any] = {"kind": "latency", "match": "Trades", "seconds": 0}

    def asked() -> int:
        return int(exchange.fault_counts()[0]["matched"])

    exchange.faults([counter])
    whole = get(Lake.open(str(tmp_path / "whole")), exchange, BTC)
    undisturbed = asked()
    exchange.faults([counter])
    lake = Lake.open(str(tmp_path / "lake"))
    environment = os.environ | exchange.environment
    random.seed(8)
    kills = 0
    for _ in range(4):
        command = [sys.executable, "-c", _CHILD, lake.url, str(BTC), MORNING.isoformat()]
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == "ready\n"
            target = asked() + random.randint(2, 6)
            while asked() < target and child.poll() is None:
                time.sleep(0.005)
            child.kill()
        kills += child.wait(240) == -9
    assert kills >= 2
    assert 0 < len(lake.read_staged(BTC, DAY)) < whole.manifest.rows
    report = get(lake, exchange, BTC)
    assert report.resumed_pages > 0
    assert asked() <= undisturbed + kills
    assert report.manifest == whole.manifest
    files = [Path(place.path("trades", BTC, DAY)) for place in (lake, Lake.open(str(tmp_path / "whole")))]
    assert files[0].read_bytes() == files[1].read_bytes()
