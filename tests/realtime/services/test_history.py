"""Trades before the first one."""

import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from marketdata.errors import NoData, TransientError
from marketdata.interval import to_us
from marketdata.market import Market
from marketdata.settings import Settings
from realtime.services.history import Fetcher, LakeThenExchange
from realtime.services.partition import Wanted
from tests.realtime.test_candles import BTC, at, trades


class Moody:
    """Fails so often, then answers."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.asked = failures, error, 0

    def trades(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        self.asked += 1
        if self.asked <= self.failures:
            raise self.error
        return trades((1, 3, 5))


def answer(fetcher: Fetcher[int], reaches: int | None = None) -> pl.DataFrame | None:
    fetcher.ask(2, Wanted(BTC, to_us(at(0)), to_us(at(30)), reaches))
    for _ in range(500):
        if found := fetcher.done():
            ((owner, market, frame),) = found
            assert (owner, market) == (2, BTC)
            return frame
        time.sleep(0.01)
    raise AssertionError


def test_history_that_fails_for_a_moment_is_asked_for_again() -> None:
    history = Moody(2, TransientError("busy"))
    fetcher = Fetcher[int](history, pause_s=0.01)
    frame = answer(fetcher)
    assert frame is not None
    assert len(frame) == 1
    assert history.asked == 3
    fetcher.close()


def test_history_that_is_not_there_is_asked_for_once() -> None:
    history = Moody(9, NoData("never"))
    fetcher = Fetcher[int](history, pause_s=0.01)
    assert answer(fetcher) is None
    assert history.asked == 1
    fetcher.close()


class Behind:
    """An exchange whose REST is behind its socket by so many trades, one less each time."""

    def __init__(self, behind: int) -> None:
        self.behind, self.asked = behind, 0

    def trades(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        self.asked += 1
        reached = 9 - max(0, self.behind - self.asked + 1)
        return trades(*((number, number, 5) for number in range(1, reached + 1)))


def test_history_that_does_not_reach_the_first_trade_yet_is_asked_for_again() -> None:
    history = Behind(3)
    fetcher = Fetcher[int](history, pause_s=0.01)
    frame = answer(fetcher, reaches=9)
    assert frame is not None
    assert frame["trade_id"].to_list() == list(range(1, 10))
    assert history.asked == 4
    fetcher.close()


def test_history_that_never_reaches_the_first_trade_is_none() -> None:
    fetcher = Fetcher[int](Behind(99), pause_s=0.01)
    assert answer(fetcher, reaches=9) is None
    fetcher.close()


def test_the_exchange_serves_what_the_lake_does_not_hold(
    exchange_server: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime(2025, 6, 8, 12, tzinfo=UTC)
    running = exchange_server(now=noon + timedelta(minutes=1))  # type: ignore[operator]
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load(home=tmp_path, request_interval_ms=0)
    found = LakeThenExchange(settings).trades(BTC, noon - timedelta(minutes=30), noon)
    assert len(found) > 5
    assert found["time"].min() >= noon - timedelta(minutes=30)  # type: ignore[operator]
    assert found["time"].max() < noon  # type: ignore[operator]
    assert found["time"].dt.date().unique().to_list() == [date(2025, 6, 8)]
