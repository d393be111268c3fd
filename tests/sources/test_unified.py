"""Any other exchange of ccxt: what its unified methods give, and what they do not."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import ccxt
import polars as pl
import pytest

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import ExchangeRefused, MalformedResponse, UnknownName, UsageError
from marketdata.fold import fold
from marketdata.interval import Interval
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources import unified
from marketdata.sources.base import CandleSource, OnlyNewestServed, TradeSource
from marketdata.sources.client import Client
from marketdata.sources.unified import UnifiedCandles, UnifiedTrades
from tests.sources.conftest import DAY, FakeTime, Venue, trades_of, truth

START, END = day_window(DAY)
START_MS = int(START.timestamp()) * 1000
MARKET = Market("otherx", "BTC/USD")
HOUR = 3_600_000


class OtherExchange(ccxt.Exchange):  # type: ignore[misc]
    """An exchange ccxt could know: ``rows`` are ``(id, ms after the start of the day)``."""

    rows: list[tuple[Any, int]]
    page = 5
    window_ms: int | None = None
    ignores_since = False
    price: Any = "2.5"
    kind = "spot"

    def describe(self) -> Any:
        return self.deep_extend(
            super().describe(),
            {
                "id": "otherx",
                "has": {"fetchTrades": True, "fetchOHLCV": True},
                "timeframes": {"1m": "1m", "3m": "3m"},
            },
        )

    def fetch_markets(self, params: Any = None) -> Any:
        spot = self.kind == "spot"
        names = {"id": "btcusd", "symbol": "BTC/USD", "base": "BTC", "quote": "USD", "baseId": "b"}
        return [names | {"quoteId": "u", "type": self.kind, "spot": spot, "contract": not spot}]

    def fetch_trades(self, symbol: str, since: Any = None, limit: Any = None, params: Any = None) -> Any:
        if since is None or self.ignores_since:
            served = self.rows[-self.page :]
        else:
            until = since + self.window_ms if self.window_ms else 10**15
            served = [row for row in self.rows if since <= START_MS + row[1] < until][: self.page]
        rows = [
            {
                "id": each,
                "timestamp": START_MS + ms,
                "price": self.price,
                "amount": 1.5,
                "side": "buy",
                "info": {},
            }
            for each, ms in served
        ]
        return self.filter_by_since_limit(rows, since, limit)

    def fetch_ohlcv(
        self, symbol: str, timeframe: Any = "1m", since: Any = None, limit: Any = None, params: Any = None
    ) -> Any:
        minutes = [START_MS + n * 60_000 for n in range(10)]
        volumes = [0.0 if n == 4 else 1.0 + n for n in range(10)]
        rows = [
            [ms, 1.0, 3.0, 0.5, 2.0, volume]
            for ms, volume in zip(minutes, volumes, strict=True)
            if ms >= since
        ]
        return rows[: self.page]


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Client]:
    """A client of :class:`OtherExchange` with these attributes."""

    def build(**attributes: Any) -> Client:
        kind = type("otherx", (OtherExchange,), attributes)
        monkeypatch.setattr(ccxt, "otherx", kind, raising=False)
        monkeypatch.setattr(ccxt, "exchanges", [*ccxt.exchanges, "otherx"])
        settings = Settings(request_interval_ms=0, request_attempts=2)
        return Client("otherx", settings, FakeTime().clock)

    return build


def rows(*ms: int) -> list[tuple[Any, int]]:
    return [(str(100 + n), each) for n, each in enumerate(ms)]


def test_every_trade_comes_once_though_pages_end_inside_a_millisecond(other: Callable[..., Client]) -> None:
    times = [0, 10, 10, 10, 20, 20, 20, 30, 40, 40, 40, 40, 50, 90_000_000]
    source = UnifiedTrades(other(rows=rows(*times)))
    pages = list(source.pages(MARKET, START, END))
    assert trades_of(pages)["trade_id"].to_list() == list(range(100, 113))
    assert pages[-1].reached == END
    assert pages[-1].following_id == 113
    for done in range(1, len(pages)):
        rest = source.pages(MARKET, START, END, pages[done - 1].next_cursor)
        ids = trades_of(itertools.chain(pages[:done], rest))["trade_id"].to_list()
        assert ids == list(range(100, 113))


def test_a_millisecond_larger_than_a_page_is_noted_and_passed(other: Callable[..., Client]) -> None:
    source = UnifiedTrades(other(rows=rows(*[10] * 60, 20, 90_000_000), page=50))
    pages = list(source.pages(MARKET, START, END))
    assert len(trades_of(pages)) == 51
    noted = [page.evidence for page in pages if page.evidence]
    assert noted == [{"full_millisecond": "2025-06-08T00:00:00.010000+00:00"}]


def test_an_empty_answer_to_a_window_is_not_the_end(other: Callable[..., Client]) -> None:
    source = UnifiedTrades(other(rows=rows(0, 7 * HOUR, 7 * HOUR + 1, 30 * HOUR), window_ms=HOUR))
    pages = list(source.pages(MARKET, START, END))
    assert trades_of(pages)["trade_id"].to_list() == [100, 101, 102]
    assert (pages[-1].reached, pages[-1].following_id) == (END, 103)


@pytest.mark.parametrize("page", [3, 5, 1_000])
def test_an_exchange_that_is_asked_for_a_window_gives_all_of_it(
    other: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    def fetch_trades(self: Any, symbol: str, since: Any = None, limit: Any = None, params: Any = None) -> Any:
        if since is not None and "until" not in params:
            msg = "fetchTrades() requires an until parameter when since is provided"
            raise ccxt.ArgumentsRequired(msg)
        # Of more than the limit the newest.
        until = 10**15 if since is None else params["until"]
        held = [row for row in self.rows if (since or 0) <= START_MS + row[1] <= until][-limit:]
        known = {"price": 2.5, "amount": 1.5, "side": "buy", "info": {}}
        return [known | {"id": each, "timestamp": START_MS + ms} for each, ms in held]

    monkeypatch.setitem(unified._WINDOWED, "otherx", (page, -1))
    times = [0, 1, 2, 2, 500, 501, 60_000, 61_000, 5 * HOUR, 5 * HOUR + 1, 5 * HOUR + 3, 90_000_000]
    source = UnifiedTrades(other(rows=rows(*times), fetch_trades=fetch_trades))
    pages = list(source.pages(MARKET, START, END))
    assert trades_of(pages)["trade_id"].to_list() == list(range(100, 111))
    assert pages[-1].reached == END


@pytest.mark.parametrize(
    ("name", "empty", "wanted"),
    [
        ("coinbase", {"trades": []}, ("start=", "end=", "limit=1000")),
        ("mexc", [], ("startTime=", "endTime=")),
        ("okx", {"code": "0", "data": []}, ("limit=500",)),
        ("gate", [], ("limit=1000",)),
    ],
)
def test_exchanges_are_asked_for_as_much_as_ccxt_lets_them(
    name: str, empty: Any, wanted: tuple[str, ...]
) -> None:
    client = Client(name, Settings(request_interval_ms=0, request_attempts=1), FakeTime().clock)
    exchange = client._exchange()
    known = {"id": "BTC_USD", "symbol": "BTC/USD", "base": "BTC", "quote": "USD", "option": False}
    kind = {"baseId": "BTC", "quoteId": "USD", "spot": True, "type": "spot", "contract": False}
    exchange.set_markets([exchange.safe_market_structure(known | kind)])
    client._loaded = exchange
    asked: list[str] = []

    def fetch(url: str, *_: object) -> Any:
        asked.append(url)
        return empty

    exchange.fetch = fetch
    pages = UnifiedTrades(client).pages(Market(name, "BTC/USD"), START, START + timedelta(minutes=1))
    assert len(list(pages)) == 1
    assert all(word in url for url in asked for word in wanted)


def test_a_day_without_trades_is_known_by_the_trade_after_it(other: Callable[..., Client]) -> None:
    (page,) = UnifiedTrades(other(rows=rows(26 * HOUR))).pages(MARKET, START, END)
    assert page.trades.is_empty()
    assert (page.reached, page.following_id) == (END, 100)


def test_nothing_after_the_last_trade_is_no_proof_that_the_day_ended_so(other: Callable[..., Client]) -> None:
    pages = list(UnifiedTrades(other(rows=rows(0, HOUR))).pages(MARKET, START, END))
    assert trades_of(pages)["trade_id"].to_list() == [100, 101]
    assert pages[-1].reached < START + timedelta(hours=2)
    assert pages[-1].evidence == {"end": "no trade was served behind it"}
    assert pages[-1].next_cursor is None


def test_an_exchange_that_serves_only_its_newest_trades_is_refused(other: Callable[..., Client]) -> None:
    many = rows(*range(0, 200 * 60_000, 60_000))
    source = UnifiedTrades(other(rows=many, page=100, ignores_since=True))
    with pytest.raises(OnlyNewestServed, match="only its newest 100 trades") as refused:
        list(source.pages(MARKET, START, END))
    assert isinstance(refused.value, ExchangeRefused)
    assert len(refused.value.newest) == 100


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["5", "6", "7"], [5, 6, 7]),
        ([5, 6, 7], [5, 6, 7]),
        (["a-1", "b-2", "c-3"], [None] * 3),
        (["5", "5", "6"], [None] * 3),
        ([None, None, None], [None] * 3),
        ([str(2**80), str(2**81), str(2**82)], [None] * 3),
    ],
)
def test_ids_are_the_exchanges_where_they_are_integers_and_its_own(
    other: Callable[..., Client], ids: list[Any], expected: list[int | None]
) -> None:
    times = [0, 10, 20]
    source = UnifiedTrades(other(rows=list(zip(ids, times, strict=True))))
    assert trades_of(source.pages(MARKET, START, END))["trade_id"].to_list() == expected
    assert not source.sequential_ids
    assert source.refetch(MARKET, 5, 6, (START, END)).is_empty()


def test_rows_that_are_no_trades_are_refused_with_a_reason(other: Callable[..., Client]) -> None:
    pages = list(UnifiedTrades(other(rows=rows(0, 10, 20), price="-1")).pages(MARKET, START, END))
    rejects = pl.concat([page.rejects for page in pages])
    assert trades_of(pages).is_empty()
    assert set(rejects["reason"]) == {"price not positive"}
    assert rejects["trade_id"].to_list() == [100, 101, 102]


def test_a_contract_is_refused_because_its_amounts_are_no_base_units(other: Callable[..., Client]) -> None:
    with pytest.raises(UsageError, match="contract"):
        list(UnifiedTrades(other(rows=rows(0), kind="swap")).pages(MARKET, START, END))


@pytest.mark.parametrize("cursor", ["", "x", "-1"])
def test_a_foreign_cursor_is_an_error(other: Callable[..., Client], cursor: str) -> None:
    with pytest.raises(UsageError, match="no cursor"):
        list(UnifiedTrades(other(rows=rows(0))).pages(MARKET, START, END, cursor))


def test_what_is_no_list_of_trades_is_a_malformed_response(other: Callable[..., Client]) -> None:
    client = other(rows=rows(0), fetch_trades=lambda *_: "<html>")
    with pytest.raises(MalformedResponse, match="Tried 2 times"):
        list(UnifiedTrades(client).pages(MARKET, START, END))


def test_candles_are_paged_and_empty_ones_left_out(other: Callable[..., Client]) -> None:
    source = UnifiedCandles(other(rows=[]))
    candles = source.candles(MARKET, Interval.parse("1m"), START, END)
    assert candles.schema == EXCHANGE_CANDLE_SCHEMA
    assert candles["volume"].to_list() == [1.0 + n for n in range(10) if n != 4]
    assert candles["trade_count"].null_count() == 9
    assert [str(each) for each in source.intervals] == ["1m"]
    with pytest.raises(UnknownName, match="5m"):
        source.candles(MARKET, Interval.parse("5m"), START, END)


def test_candles_on_another_grid_are_refused(other: Callable[..., Client]) -> None:
    client = other(rows=[], fetch_ohlcv=lambda *_: [[START_MS + 30_000, 1, 1, 1, 1, 1]])
    with pytest.raises(ExchangeRefused, match="not on our grid"):
        UnifiedCandles(client).candles(MARKET, Interval.parse("1m"), START, START + timedelta(minutes=1))


@pytest.mark.parametrize("name", ["kraken:LTC/USD", "binance:LTC/USDT"])
def test_a_day_of_a_known_exchange_is_whole_through_the_unified_way_too(
    venue: Callable[..., Venue], name: str
) -> None:
    market = Market.parse(name)
    pages = list(UnifiedTrades(venue().client(market.exchange)).pages(market, START, END))
    trades, expected = trades_of(pages), truth(market)
    assert trades["trade_id"].to_list() == expected["trade_id"].to_list()
    assert trades["price"].equals(expected["price"])
    assert trades["amount"].equals(expected["amount"])
    assert trades["side"].equals(expected["side"])
    assert trades["time"].dt.truncate("1ms").equals(expected["time"].dt.truncate("1ms"))


@pytest.mark.parametrize("name", ["kraken:LTC/USD", "binance:LTC/USDT"])
def test_candles_of_a_known_exchange_are_its_own_through_the_unified_way_too(
    venue: Callable[..., Venue], name: str
) -> None:
    market, now = Market.parse(name), datetime(2025, 6, 8, 9, 0, 30, tzinfo=UTC)
    source = UnifiedCandles(venue(now=now).client(market.exchange))
    start, end = START, START + timedelta(hours=8)
    candles = source.candles(market, Interval.parse("5m"), start, end)
    ours = fold(truth(market).filter(pl.col("time") < end), "5m")
    exact = ["open_time", "open", "high", "low", "close"]
    assert candles.select(exact).equals(ours.select(exact))


def test_the_sources_are_what_the_contract_says(other: Callable[..., Client]) -> None:
    client = other(rows=[])
    assert isinstance(UnifiedTrades(client), TradeSource)
    assert isinstance(UnifiedCandles(client), CandleSource)
