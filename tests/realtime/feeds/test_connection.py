"""What ccxt hides of exchanges that there is no local one of: its own objects, given frames by hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import ccxt
import pytest
from aiohttp import WSMessage, WSMsgType, web

from marketdata.errors import UsageError
from marketdata.settings import Settings
from realtime.feeds.connection import Connection, Rows


def table(exchange: str, ids: Mapping[str, str]) -> dict[str, Any]:
    """ccxt's market table, of some spot markets."""
    made = getattr(ccxt, exchange)()
    markets = {}
    for symbol, market_id in ids.items():
        base, quote = symbol.split("/")
        names = {"base": base, "quote": quote, "baseId": base, "quoteId": quote}
        kind = {"spot": True, "contract": False, "type": "spot", "active": True}
        known = {"id": market_id, "lowercaseId": market_id.lower(), "symbol": symbol}
        markets[symbol] = made.safe_market_structure(known | names | kind)
    return markets


def brought(
    exchange: str, symbols: Sequence[str], ids: Mapping[str, str], frames: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Ids of the trades that a connection hands on, by symbol, when ccxt is given these frames."""
    found: dict[str, list[str]] = {}

    async def trades(symbol: str, rows: Rows, *, lost: bool) -> None:
        assert not lost
        found.setdefault(symbol, []).extend(row["id"] for row in rows)

    async def run() -> None:
        connection = Connection(exchange, symbols, table(exchange, ids), Settings())
        pro = connection._exchange
        running = asyncio.create_task(connection.run(trades, lambda _: None, lambda *_: None))
        while not pro.clients:
            await asyncio.sleep(0)
        (client,) = pro.clients.values()
        for frame in frames:
            pro.handle_message(client, frame)
        await turns()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())
    return found


async def turns() -> None:
    """Let others do what they can do at once."""
    for _ in range(100):
        await asyncio.sleep(0)


@asynccontextmanager
async def served(serve: Callable[[web.WebSocketResponse], Awaitable[None]]) -> AsyncIterator[Settings]:
    """A server of sockets that does as it is told, in Binance's place; it answers nothing by itself."""

    async def connected(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False, autoclose=False)
        await socket.prepare(request)
        with suppress(ConnectionError):
            await serve(socket)
        return socket

    app = web.Application()
    app.router.add_get("/{path:.*}", connected)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Settings(binance_ws_url=f"ws://127.0.0.1:{runner.addresses[0][1]}/ws")
    finally:
        await runner.cleanup()


def test_coinbases_trades_in_usdc_come_by_the_name_of_those_in_usd() -> None:
    trade = {"price": "100000", "size": "0.3", "side": "BUY", "time": "2025-06-08T12:00:00.265Z"}
    trades = [trade | {"trade_id": "5", "product_id": "BTC-USD"}]
    frame = {"channel": "market_trades", "events": [{"type": "update", "trades": trades}]}
    ids = {"BTC/USD": "BTC-USD", "BTC/USDC": "BTC-USDC"}
    for symbols in (["BTC/USDC"], ["BTC/USD", "BTC/USDC"]):
        assert brought("coinbase", symbols, ids, [frame]) == {symbol: ["5"] for symbol in symbols}


def test_bybit_is_asked_for_ten_markets_at_once() -> None:
    ids = {f"A{at}/USDT": f"A{at}USDT" for at in range(25)}
    asked: list[list[str]] = []

    async def nothing(symbol: str, rows: Rows, *, lost: bool) -> None: ...

    async def run() -> None:
        connection = Connection("bybit", list(ids), table("bybit", ids), Settings())

        async def watch_multiple(url: str, hashes: list[str], message: dict[str, Any], *_: object) -> None:
            asked.append(message["args"])
            await asyncio.Event().wait()

        connection._exchange.watch_multiple = watch_multiple
        running = asyncio.create_task(connection.run(nothing, lambda _: None, lambda *_: None))
        await turns()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())
    assert [len(topics) for topics in asked] == [10, 10, 5]
    assert [topic for topics in asked for topic in topics] == [
        f"publicTrade.{market_id}" for market_id in ids.values()
    ]


def test_each_frame_says_what_a_pong_would() -> None:
    ids = {"BTC/USDT": "BTCUSDT"}

    async def nothing(symbol: str, rows: Rows, *, lost: bool) -> None: ...

    async def run() -> None:
        connection = Connection("binance", list(ids), table("binance", ids), Settings())
        pro = connection._exchange
        running = asyncio.create_task(connection.run(nothing, lambda _: None, lambda *_: None))
        while not pro.clients:
            await asyncio.sleep(0)
        (client,) = pro.clients.values()
        client.lastPong = 1
        client.handle_message(WSMessage(WSMsgType.TEXT, '{"result":null,"id":1}', None))
        heard = client.lastPong
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert pro.milliseconds() - heard < client.keepAlive * client.maxPingPongMisses

    asyncio.run(run())


def test_an_exchange_that_streams_to_customers_only_is_not_asked_again_and_again() -> None:
    ids = {"BTC/USD": "BTCUSD"}

    async def nothing(symbol: str, rows: Rows, *, lost: bool) -> None: ...

    connection = Connection("luno", list(ids), table("luno", ids), Settings())
    with pytest.raises(UsageError, match="to its customers only"):
        asyncio.run(connection.run(nothing, lambda _: None, lambda *_: None))


def test_giving_up_a_dead_socket_does_not_wait_for_its_answer() -> None:
    asked = asyncio.Event()

    async def serve(_: web.WebSocketResponse) -> None:
        asked.set()
        await asyncio.sleep(60.0)

    async def nothing(symbol: str, rows: Rows, *, lost: bool) -> None: ...

    async def run() -> float:
        loop = asyncio.get_running_loop()
        async with served(serve) as settings:
            ids = {"BTC/USDT": "BTCUSDT"}
            connection = Connection("binance", list(ids), table("binance", ids), settings)
            running = asyncio.create_task(connection.run(nothing, lambda _: None, lambda *_: None))
            await asked.wait()
            began = loop.time()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            return loop.time() - began

    assert asyncio.run(run()) < 8.0, "aiohttp waits ten seconds"
