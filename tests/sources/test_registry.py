"""Which source serves a market's day."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from marketdata import sources
from marketdata.errors import UnknownName
from marketdata.interval import Interval
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.sources.base import CandleSource, TradeSource
from tests.sources.conftest import DAY, Venue, trades_of, truth

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Clients are kept for the whole process; not for the next test."""
    yield
    sources.close()


@pytest.mark.parametrize(
    ("market", "day", "name"),
    [
        ("binance:XRP/USDT", DAY, "binance-archive"),
        ("binance:XRP/USDT", NOW.date(), "binance-rest"),
        ("kraken:BTC/USD", DAY, "kraken-rest"),
        ("bitstamp:BTC/USD", DAY, "bitstamp-ccxt"),
    ],
)
def test_the_archive_comes_first_then_rest_then_ccxt(
    venue: Callable[..., Venue], market: str, day: Any, name: str
) -> None:
    source = sources.trade_source(Market.parse(market), day, venue().settings, NOW)
    assert source.name == name
    assert isinstance(source, TradeSource)


def test_a_day_the_archive_does_not_have_yet_comes_from_rest(venue: Callable[..., Venue]) -> None:
    settings = venue(archive_delay=timedelta(days=100_000)).settings
    assert sources.trade_source(Market("binance", "XRP/USDT"), DAY, settings, NOW).name == "binance-rest"


def test_archive_and_rest_have_the_same_day(venue: Callable[..., Venue]) -> None:
    here = venue()
    market = Market("binance", "LTC/USDT")
    archive = sources.trade_source(market, DAY, here.settings, NOW)
    assert archive.name == "binance-archive"
    trades = trades_of(archive.pages(market, *day_window(DAY)))
    assert trades.equals(truth(market))
    ids = truth(market)["trade_id"]
    assert archive.refetch(market, ids[3], ids[9], day_window(DAY)).equals(trades[3:10])


@pytest.mark.parametrize("exchange", ["kraken", "binance", "bitstamp"])
def test_every_exchange_has_a_candle_source(venue: Callable[..., Venue], exchange: str) -> None:
    source = sources.candle_source(exchange, venue().settings)
    assert isinstance(source, CandleSource)
    assert source.exchange == exchange


def test_candles_of_a_day_come_through_the_registry(venue: Callable[..., Venue]) -> None:
    source = sources.candle_source("binance", venue().settings)
    candles = source.candles(Market("binance", "LTC/USDT"), Interval.parse("1h"), *day_window(DAY))
    assert candles["trade_count"].sum() == truth(Market("binance", "LTC/USDT"))["fills"].sum()


def test_all_threads_and_callers_share_one_client_an_exchange(
    venue: Callable[..., Venue], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    real = sources.Client
    monkeypatch.setattr(sources, "Client", lambda *args: built.append(args[0]) or real(*args))
    settings = venue().settings
    for _ in range(3):
        sources.check_market(Market("kraken", "BTC/USD"), settings)
        sources.trade_source(Market("kraken", "ETH/USD"), DAY, settings, NOW)
        sources.candle_source("kraken", settings)
    assert built == ["kraken"]


@pytest.mark.parametrize(
    ("market", "nearest"),
    [("kraken:BTC/UDS", "BTC/USD"), ("binance:BTCC/USDT", "BTC/USDT"), ("krakn:BTC/USD", "kraken")],
)
def test_a_market_nobody_lists_is_answered_with_the_nearest_name(
    venue: Callable[..., Venue], market: str, nearest: str
) -> None:
    with pytest.raises(UnknownName) as caught:
        sources.check_market(Market.parse(market), venue().settings)
    assert caught.value.nearest == nearest


def test_a_listed_market_passes(venue: Callable[..., Venue]) -> None:
    settings = venue().settings
    for market in ("kraken:BTC/USD", "binance:BTC/USDT"):
        sources.check_market(Market.parse(market), settings)


def test_the_exchanges_are_those_of_ccxt() -> None:
    known = sources.exchanges()
    assert {"kraken", "binance", "bitstamp", "coinbase"} < set(known)
    assert known == sorted(known)


def test_eight_days_side_by_side_keep_one_rate_limit(venue: Callable[..., Venue]) -> None:
    settings = venue().settings.model_copy(update={"request_interval_ms": 5})
    market = Market("kraken", "LTC/USD")
    days = [DAY - timedelta(days=n) for n in range(8)]

    def fetch(day: Any) -> pl.DataFrame:
        source = sources.trade_source(market, day, settings, NOW)
        return trades_of(source.pages(market, *day_window(day)))

    with ThreadPoolExecutor(8) as pool:
        frames = list(pool.map(fetch, days))
    for day, frame in zip(days, frames, strict=True):
        assert frame.equals(truth(market, day))
