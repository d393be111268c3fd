"""One exchange through unmodified ccxt: errors in our words, tries, pauses and threads."""

import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from marketdata.errors import (
    ExchangeRefused,
    MalformedResponse,
    MarketDataError,
    PermanentError,
    RateLimited,
    TransientError,
    UnknownName,
)
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources.client import Client
from tests.sources.conftest import FakeTime, Venue

TRADES = {"pair": "XXBTZUSD", "since": 1_749_340_800_000_000_000, "count": 3}


def ask(client: Client) -> Any:
    """One page of Kraken's trades, checked no further than that it is JSON."""

    def read(body: Any) -> Any:
        if not isinstance(body, dict):
            msg = "no object"
            raise MalformedResponse(msg)
        return body["result"]

    return client.get("publicGetTrades", TRADES, read)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "429", "retry_after": 3},
        {"kind": "418", "retry_after": 3},
        {"kind": "500"},
        {"kind": "502"},
        {"kind": "html"},
        {"kind": "cut"},
        {"kind": "reply", "status": 503, "body": {"error": ["EService:Unavailable"]}},
        {"kind": "reply", "status": 200, "body": {"error": ["EAPI:Rate limit exceeded"]}},
        {"kind": "reply", "status": 200, "body": {"error": 5}},
        {"kind": "reply", "status": 200, "body": ["EService:Busy"]},
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(venue: Callable[..., Venue], fault: dict[str, Any]) -> None:
    here = venue()
    here.faults(fault | {"match": "Trades", "times": 2})
    assert len(ask(here.client("kraken"))["XXBTZUSD"]) == 3
    assert here.applied() == 2
    assert len(here.time.slept) >= 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "429"}, RateLimited),
        ({"kind": "reply", "status": 200, "body": {"error": ["EAPI:Rate limit exceeded"]}}, RateLimited),
        ({"kind": "500"}, TransientError),
        ({"kind": "html"}, MalformedResponse),
        ({"kind": "cut"}, TransientError),
    ],
    ids=str,
)
def test_when_tries_are_used_up_the_error_says_how_many_and_where(
    venue: Callable[..., Venue], fault: dict[str, Any], error: type[MarketDataError]
) -> None:
    here = venue()
    here.faults(fault | {"match": "Trades"})
    with pytest.raises(error) as caught:
        ask(here.client("kraken"))
    assert here.applied() == 4
    assert "Tried 4 times." in caught.value.message
    assert caught.value.exit_code == 1


def test_the_url_of_a_failed_request_is_named_without_secrets(venue: Callable[..., Venue]) -> None:
    here = venue()
    here.faults({"kind": "500", "match": "Trades"})
    host = here.running.kraken.removeprefix("http://")
    client = here.client("kraken", kraken_url=f"http://me:hunter2@{host}")
    with pytest.raises(TransientError) as caught:
        client.get("publicGetTrades", TRADES | {"apiKey": "sesame"}, lambda body: body)
    text = str(caught.value)
    assert f"{host}/0/public/Trades?pair=XXBTZUSD&since=1749340800000000000" in text
    assert "hunter2" not in text
    assert "sesame" not in text


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "reply", "status": 404, "body": "no such page"}, ExchangeRefused),
        ({"kind": "reply", "status": 403, "body": "not from here"}, ExchangeRefused),
        ({"kind": "reply", "status": 451, "body": "not from here"}, ExchangeRefused),
        (
            {"kind": "reply", "status": 200, "body": {"error": ["EGeneral:Invalid arguments"]}},
            ExchangeRefused,
        ),
        (
            {"kind": "reply", "status": 200, "body": {"error": ["EGeneral:Permission denied"]}},
            ExchangeRefused,
        ),
        ({"kind": "reply", "status": 200, "body": {"error": ["EQuery:Invalid asset pair"]}}, UnknownName),
    ],
    ids=str,
)
def test_what_cannot_succeed_is_not_tried_again(
    venue: Callable[..., Venue], fault: dict[str, Any], error: type[MarketDataError]
) -> None:
    here = venue()
    here.faults(fault | {"match": "Trades"})
    with pytest.raises(error):
        ask(here.client("kraken"))
    assert here.applied() == 1
    assert here.time.slept == []


def test_retry_after_is_obeyed_to_the_second(venue: Callable[..., Venue]) -> None:
    here = venue()
    here.faults({"kind": "429", "match": "Trades", "times": 1, "retry_after": 17})
    ask(here.client("kraken"))
    assert here.time.slept == [17.0]


def test_a_ban_of_hours_is_reported_and_not_slept_through(venue: Callable[..., Venue]) -> None:
    here = venue()
    here.faults({"kind": "418", "match": "Trades", "retry_after": 7200})
    with pytest.raises(RateLimited, match="7200 s") as caught:
        ask(here.client("kraken"))
    assert caught.value.retry_after == 7200
    assert here.time.slept == []


def test_an_answer_that_does_not_come_is_tried_again(venue: Callable[..., Venue]) -> None:
    here = venue()
    here.faults({"kind": "timeout", "match": "Trades", "times": 1, "seconds": 4.0})
    assert ask(here.client("kraken", request_timeout_s=2.0))["last"]
    assert len(here.time.slept) == 1


def test_an_exchange_that_is_not_there_is_a_transient_error(fake_time: FakeTime) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = Settings(kraken_url=f"http://127.0.0.1:{port}", request_interval_ms=0, request_attempts=2)
    with pytest.raises(
        TransientError, match=f"could not be reached at http://127.0.0.1:{port}/0/public/Trades"
    ):
        ask(Client("kraken", settings, fake_time.clock))


def test_requests_are_as_far_apart_as_ccxt_says_or_as_the_settings_say(venue: Callable[..., Venue]) -> None:
    here = venue()
    client = here.client("kraken", request_interval_ms=None)
    for _ in range(3):
        ask(client)
    assert here.time.slept == [pytest.approx(1.2)] * 2  # Kraken: 1 s, cost of Trades 1.2
    here.time.slept.clear()
    client = here.client("kraken", request_interval_ms=250)
    for _ in range(3):
        ask(client)
    assert here.time.slept == [pytest.approx(0.25)] * 2


def test_eight_threads_use_one_client(venue: Callable[..., Venue]) -> None:
    here = venue()
    client = here.client("kraken")
    pairs = {"XXBTZUSD": 5, "XETHZUSD": 7, "SOLUSD": 11, "XLTCZUSD": 13}
    wrong: list[Any] = []

    def work(pair: str, count: int) -> None:
        for _ in range(5):
            client.market_id(Market("kraken", "BTC/USD"))
            result = client.get(
                "publicGetTrades", TRADES | {"pair": pair, "count": count}, lambda body: body["result"]
            )
            if list(result) != [pair, "last"] or len(result[pair]) != count:
                wrong.append(result)

    threads = [threading.Thread(target=work, args=each) for each in pairs.items() for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_market_table_is_asked_for_once(venue: Callable[..., Venue]) -> None:
    here = venue()
    client = here.client("kraken")
    client.markets()
    here.faults({"kind": "500"})
    assert client.market_id(Market("kraken", "BTC/USD")) == "XXBTZUSD"
    assert client.market_id(Market("kraken", "SOL/USD")) == "SOLUSD"


def test_a_page_of_html_is_no_market_table(venue: Callable[..., Venue]) -> None:
    here = venue()
    here.faults({"kind": "html"})
    with pytest.raises(MalformedResponse, match=re.escape("Tried 4 times")):
        here.client("binance").markets()


@pytest.mark.parametrize(
    ("exchange", "symbol", "nearest"),
    [
        ("kraken", "BTC/USDD", "BTC/USD"),
        ("kraken", "XBT/EUR", "BTC/EUR"),
        ("binance", "BTC/UDST", "BTC/USDT"),
    ],
)
def test_a_symbol_that_is_not_listed_is_answered_with_the_nearest(
    venue: Callable[..., Venue], exchange: str, symbol: str, nearest: str
) -> None:
    with pytest.raises(UnknownName, match=symbol) as caught:
        venue().client(exchange).market_id(Market(exchange, symbol))
    assert caught.value.nearest == nearest
    assert caught.value.exit_code == 2


def test_an_exchange_ccxt_does_not_know_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        Client("krakn", Settings())
    assert caught.value.nearest == "kraken"


def test_krakens_dark_pool_is_not_taken_for_its_public_market(venue: Callable[..., Venue]) -> None:
    here = venue()
    pair: dict[str, Any] = {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD"}
    pair |= {"pair_decimals": 1, "lot_decimals": 8}
    pools = {"XXBTZUSD": pair, "XXBTZUSD.d": pair | {"altname": "XBTUSD.d"}}
    here.faults({"kind": "reply", "match": "AssetPairs", "body": {"error": [], "result": pools}})
    assert here.client("kraken").market_id(Market("kraken", "BTC/USD")) == "XXBTZUSD"


def test_permanent_and_transient_errors_are_told_apart_by_their_type() -> None:
    assert issubclass(ExchangeRefused, PermanentError)
    assert issubclass(RateLimited, TransientError)
    assert issubclass(MalformedResponse, TransientError)
