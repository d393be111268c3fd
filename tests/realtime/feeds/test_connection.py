"""What ccxt hides of exchanges that there is no local one of: its own objects, given frames by hand."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import ccxt

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
        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())
    return found


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
        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())
    assert [len(topics) for topics in asked] == [10, 10, 5]
    assert sum(asked, []) == [f"publicTrade.{market_id}" for market_id in ids.values()]
