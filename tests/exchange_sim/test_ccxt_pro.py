"""Unmodified ccxt.pro against the local exchange: only addresses are changed."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import ccxt.pro
import pytest

from marketdata.exchange_sim import RunningExchange
from tests.exchange_sim.conftest import NOW, get

MINUTE = timedelta(minutes=1)
PATIENCE_S = 120


def kraken(server: RunningExchange) -> Any:
    """ccxt's Kraken as it comes, but for its addresses."""
    exchange = ccxt.pro.kraken({"enableRateLimit": False, "timeout": 60_000})
    exchange.urls["api"]["public"] = server.kraken
    exchange.urls["api"]["ws"] = dict.fromkeys(exchange.urls["api"]["ws"], server.kraken_ws)
    return exchange


def binance(server: RunningExchange, **options: Any) -> Any:
    """ccxt's Binance as it comes, but for its addresses; it lists spot markets only."""
    exchange = ccxt.pro.binance({"enableRateLimit": False, "timeout": 60_000, "options": options})
    exchange.urls["api"]["public"] = f"{server.binance}/api/v3"
    exchange.urls["api"]["ws"]["spot"] = server.binance_ws
    exchange.options["fetchMarkets"] = {"types": ["spot"]}
    exchange.has["fetchCurrencies"] = False
    return exchange


def run(exchange: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """The result of ``work``, with the exchange closed after it."""

    async def whole() -> Any:
        try:
            await exchange.load_markets()
            return await asyncio.wait_for(work(exchange), PATIENCE_S)
        finally:
            await exchange.close()

    return asyncio.run(whole())


async def subscribed(server: RunningExchange) -> None:
    """Wait until somebody listens."""
    while not server.sockets()["listening"]:
        await asyncio.sleep(0.01)


async def collected(
    server: RunningExchange, watch: Callable[[], Awaitable[list[Any]]], enough: Callable[[list[Any]], bool]
) -> list[Any]:
    """What watching brings while the clock goes on by five seconds, again and again."""
    found: list[Any] = []
    first = asyncio.ensure_future(watch())
    await subscribed(server)
    time = NOW
    while not enough(found):
        time += timedelta(seconds=5)
        server.set_clock(time)
        try:
            found += await asyncio.wait_for(asyncio.shield(first), 0.2)
            first = asyncio.ensure_future(watch())
        except TimeoutError:
            continue
    first.cancel()
    return found


def test_watch_trades_of_kraken_yields_the_trades_of_rest(server: RunningExchange) -> None:
    async def work(exchange: Any) -> list[Any]:
        return await collected(
            server, lambda: exchange.watch_trades("BTC/USD"), lambda found: len(found) > 50
        )

    trades = run(kraken(server), work)
    since = int(NOW.timestamp()) * 1_000_000_000
    rows = get(f"{server.kraken}/0/public/Trades", {"pair": "XBTUSD", "since": since})["result"]["XXBTZUSD"]
    assert [int(trade["id"]) for trade in trades] == [row[6] for row in rows[: len(trades)]]
    assert [(trade["price"], trade["amount"], trade["side"][0]) for trade in trades] == [
        (float(row[0]), float(row[1]), row[3]) for row in rows[: len(trades)]
    ]


def test_watch_trades_of_kraken_begins_with_a_snapshot_if_asked(server: RunningExchange) -> None:
    async def work(exchange: Any) -> Any:
        return await exchange.watch_trades("BTC/USD", params={"snapshot": True})

    assert len(run(kraken(server), work)) == 50


@pytest.mark.parametrize(
    ("name", "rest", "field"), [("trade", "trades", "id"), ("aggTrade", "aggTrades", "a")]
)
def test_watch_trades_of_binance_yields_the_trades_of_rest(
    server: RunningExchange, name: str, rest: str, field: str
) -> None:
    async def work(exchange: Any) -> list[Any]:
        return await collected(
            server, lambda: exchange.watch_trades("BTC/USDT"), lambda found: len(found) > 50
        )

    trades = run(binance(server, watchTrades={"name": name}, watchTradesForSymbols={"name": name}), work)
    assert {trade["info"]["e"] for trade in trades} == {name}
    ids = [int(trade["id"]) for trade in trades]
    rows = get(f"{server.binance}/api/v3/{rest}", {"symbol": "BTCUSDT", "limit": 1000})
    served = {row[field]: row for row in rows}
    assert ids == list(range(ids[0], ids[-1] + 1))
    assert ids[0] - 1 in served
    price, amount = ("price", "qty") if name == "trade" else ("p", "q")
    assert all(trade["price"] == float(served[int(trade["id"])][price]) for trade in trades)
    assert all(trade["amount"] == float(served[int(trade["id"])][amount]) for trade in trades)


def test_watch_ohlcv_of_kraken_yields_the_candles_of_rest(server: RunningExchange) -> None:
    async def work(exchange: Any) -> list[Any]:
        exchange.newUpdates = False
        return await collected(
            server,
            lambda: exchange.watch_ohlcv("BTC/USD", "1m"),
            lambda found: len({c[0] for c in found}) > 11,
        )

    candles = {candle[0]: candle for candle in run(kraken(server), work)}
    url = f"{server.kraken}/0/public/OHLC"
    rows = get(url, {"pair": "XBTUSD", "interval": 1})["result"]["XXBTZUSD"]
    served = {row[0] * 1_000: [float(text) for text in row[1:5]] for row in rows}
    closed = [opened for opened in candles if opened + 60_000 <= int(NOW.timestamp() * 1_000) + 60_000]
    assert len(closed) >= 10
    for opened in closed:
        assert candles[opened][1:5] == served[opened]


def test_watch_ohlcv_of_binance_yields_the_candles_of_rest(server: RunningExchange) -> None:
    async def work(exchange: Any) -> list[Any]:
        return await collected(
            server,
            lambda: exchange.watch_ohlcv("BTC/USDT", "1m"),
            lambda found: len({c[0] for c in found}) > 2,
        )

    candles = {candle[0]: candle for candle in run(binance(server), work)}
    rows = get(f"{server.binance}/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 10})
    served = {row[0]: [float(text) for text in row[1:6]] for row in rows}
    for opened in sorted(candles)[:-1]:
        assert candles[opened][1:] == served[opened]


def test_ccxt_comes_back_after_a_cut(server: RunningExchange) -> None:
    async def work(exchange: Any) -> list[Any]:
        watching = asyncio.ensure_future(exchange.watch_trades("BTC/USD"))
        await subscribed(server)
        server.cut_sockets()
        with pytest.raises(ccxt.NetworkError):
            await watching
        return await collected(server, lambda: exchange.watch_trades("BTC/USD"), bool)

    assert run(kraken(server), work)


def test_a_trade_has_the_exchanges_own_microseconds(server: RunningExchange) -> None:
    async def work(exchange: Any) -> list[Any]:
        return await collected(server, lambda: exchange.watch_trades("BTC/USD"), bool)

    first = run(kraken(server), work)[0]
    shown = datetime.fromisoformat(first["info"]["timestamp"])
    assert shown > NOW
    assert shown.replace(microsecond=shown.microsecond // 1_000 * 1_000) == datetime.fromtimestamp(
        first["timestamp"] / 1_000, UTC
    )
