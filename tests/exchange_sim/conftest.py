"""Unmodified ccxt clients and a plain JSON getter against a local exchange."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import ccxt
import pytest

from marketdata.exchange_sim import RunningExchange, SimConfig

# A Wednesday noon; the exchanges of these tests stand there.
NOW = datetime(2025, 6, 11, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RunningExchange]:
    """One local exchange for all tests of a worker, so that a day is computed once.

    Its sockets do not beat: on a slow machine that would come between the frames that a test expects.
    """
    with RunningExchange(SimConfig(now=NOW, heartbeat_s=3_600.0)) as server:
        yield server


@pytest.fixture
def server(shared_server: RunningExchange) -> Iterator[RunningExchange]:
    """A local exchange whose clock stands at NOW and that behaves, until the test changes that."""
    yield shared_server
    shared_server.faults([])
    shared_server.set_clock(NOW)
    shared_server.hide("binance:BTC/EUR", [])


@pytest.fixture
def kraken_client() -> Callable[[RunningExchange], Any]:
    """ccxt's Kraken pointed at a local exchange, as it comes."""

    def client(server: RunningExchange) -> Any:
        exchange = ccxt.kraken({"enableRateLimit": False, "timeout": 60_000})
        exchange.urls["api"]["public"] = server.kraken
        return exchange

    return client


@pytest.fixture
def binance_client() -> Callable[[RunningExchange], Any]:
    """ccxt's Binance pointed at a local exchange; it lists spot markets only."""

    def client(server: RunningExchange) -> Any:
        exchange = ccxt.binance({"enableRateLimit": False, "timeout": 60_000})
        exchange.urls["api"]["public"] = f"{server.binance}/api/v3"
        exchange.options["fetchMarkets"] = {"types": ["spot"]}
        exchange.has["fetchCurrencies"] = False
        return exchange

    return client


def get(url: str, parameters: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Any:
    """The JSON at ``url``."""
    query = f"?{urlencode(parameters)}" if parameters else ""
    with urlopen(Request(f"{url}{query}", headers=headers or {}), timeout=60) as response:
        return json.loads(response.read())


def get_bytes(url: str) -> bytes:
    """The body at ``url``."""
    with urlopen(url, timeout=60) as response:
        return bytes(response.read())


def send(url: str, body: Any, method: str = "POST") -> Any:
    """The JSON that a control endpoint answers."""
    request = Request(url, data=json.dumps(body).encode(), method=method)
    with urlopen(request, timeout=60) as response:
        return json.loads(response.read())
