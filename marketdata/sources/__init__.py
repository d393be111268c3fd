"""History sources: one module an exchange or file format, one contract (:mod:`marketdata.sources.base`).

This is the registry: which source serves a market's day. Sources are shared by all threads of the process,
and with them one rate limit an exchange. Adding an exchange is a module and a line in ``_OWN``.
"""

import threading
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any

import ccxt

from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources.archive import BinanceArchive
from marketdata.sources.base import CandleSource, OnlyNewestServed, Page, TradeSource
from marketdata.sources.binance import BinanceCandles, BinanceTrades
from marketdata.sources.client import Client
from marketdata.sources.kraken import KrakenCandles, KrakenTrades
from marketdata.sources.unified import UnifiedCandles, UnifiedTrades

__all__ = [
    "CandleSource",
    "OnlyNewestServed",
    "Page",
    "TradeSource",
    "candle_source",
    "check_market",
    "close",
    "exchanges",
    "market_table",
    "trade_source",
]

_OWN: dict[str, tuple[Callable[[Client], TradeSource], Callable[[Client], CandleSource]]] = {
    "binance": (BinanceTrades, BinanceCandles),
    "kraken": (KrakenTrades, KrakenCandles),
}

_clients: dict[tuple[object, ...], Client] = {}
_lock = threading.Lock()


def exchanges() -> list[str]:
    """Ids of every exchange that can be asked."""
    return sorted(ccxt.exchanges)


def trade_source(market: Market, day: date, settings: Settings, now: datetime) -> TradeSource:
    """The best source of a market's trades of a UTC day: Binance's archive once it has the day, else REST.

    Raises:
        UnknownName: ccxt has no such exchange; carries the nearest id.
    """
    trades, _ = _OWN.get(market.exchange, (UnifiedTrades, UnifiedCandles))
    rest = trades(_client(market.exchange, settings))
    if market.exchange == "binance" and day_window(day)[1] <= now:
        archive = BinanceArchive(settings, rest)
        if archive.has_day(market, day):
            return archive
    return rest


def candle_source(exchange: str, settings: Settings) -> CandleSource:
    """The source of an exchange's own candles.

    Raises:
        UnknownName: ccxt has no such exchange; carries the nearest id.
    """
    _, candles = _OWN.get(exchange, (UnifiedTrades, UnifiedCandles))
    return candles(_client(exchange, settings))


def check_market(market: Market, settings: Settings) -> None:
    """Ask the exchange whether it lists a market.

    Raises:
        UnknownName: there is no such exchange, or it does not list the symbol; carries the nearest name.
        TransientError: the exchange cannot be asked now.
    """
    _client(market.exchange, settings).market_id(market)


def market_table(exchange: str, settings: Settings) -> Mapping[str, Any]:
    """ccxt's market table of an exchange, symbol -> market; asked for once a process.

    Raises:
        UnknownName: ccxt has no such exchange; carries the nearest id.
        TransientError: the exchange cannot be asked now.
    """
    return _client(exchange, settings).markets()


def close() -> None:
    """Forget all clients: connections, market tables and rate limits."""
    with _lock:
        for client in _clients.values():
            client.close()
        _clients.clear()


def _client(exchange: str, settings: Settings) -> Client:
    key = (
        exchange,
        settings.kraken_url,
        settings.binance_url,
        settings.request_interval_ms,
        settings.request_timeout_s,
        settings.request_attempts,
    )
    with _lock:
        if key not in _clients:
            _clients[key] = Client(exchange, settings)
        return _clients[key]
