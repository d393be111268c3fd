"""Feeds of other exchanges: some name a trade in one way by their sockets and in another by REST."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from marketdata.errors import UsageError
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources.base import Page
from marketdata.trade import TRADE_SCHEMA
from realtime.feeds import websocket
from realtime.feeds.base import Position
from realtime.feeds.connection import Rows, TakeRows
from realtime.feeds.liveness import LivenessRules
from realtime.feeds.recovery import Recovery
from realtime.feeds.websocket import WebSocketFeed
from tests.realtime.feeds.following import PATIENCE_S

BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=60)
CALM = LivenessRules(silence=60.0, probe=600.0)


def at(second: int) -> datetime:
    return BEGAN + timedelta(seconds=second)


class Served:
    """What REST has: a trade a second, of the first fifteen."""

    sequential_ids = False

    def __init__(self, ids: bool) -> None:
        self._ids = ids

    def pages(self, market: Market, start: datetime, end: datetime) -> Iterator[Page]:
        rows = [(i if self._ids else None, at(i), float(i), 1.0, "buy", 1) for i in range(1, 16)]
        trades = pl.DataFrame(rows, schema=TRADE_SCHEMA, orient="row")
        inside = trades.filter(pl.col("time").is_between(start, end, closed="left"))
        yield Page(inside, None, end)


class Socket:
    """A connection that brings the seconds 1 to 5; one later, when REST was asked, those from 11 on."""

    made = 0

    def __init__(self, *_: object, **__: object) -> None:
        self._number = Socket.made
        Socket.made += 1

    async def run(self, trades: TakeRows, frame: Callable[[str], None], _: object) -> None:
        frame("{}")
        await asyncio.sleep(2.0 * (self._number > 0))
        seconds = range(1, 6) if self._number == 0 else range(11, 21)
        rows: Rows = [
            {"id": self.named(i), "timestamp": int(at(i).timestamp() * 1_000), "price": float(i)}
            | {"amount": 1.0, "side": "buy", "info": {}}
            for i in seconds
        ]
        await trades("BTC/USDT", rows, lost=False)
        await asyncio.sleep(0.1 if self._number == 0 else 60.0)

    @staticmethod
    def named(second: int) -> str:
        raise NotImplementedError


class Short(Socket):
    @staticmethod
    def named(second: int) -> str:
        return str(11_067_996_711_960_577 + second)


class Long(Socket):
    @staticmethod
    def named(second: int) -> str:
        return f"105004645372731942594{second:03}"


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(("exchange", "socket", "rest_ids"), [("kucoin", Short, False), ("htx", Long, True)])
def test_trades_go_on_once_whatever_they_are_called(
    monkeypatch: pytest.MonkeyPatch, exchange: str, socket: type[Socket], rest_ids: bool, resumed: bool
) -> None:
    market = Market.parse(f"{exchange}:BTC/USDT")
    table: dict[str, Any] = {"BTC/USDT": {}}
    monkeypatch.setattr(websocket, "market_table", lambda *_: table)
    monkeypatch.setattr(websocket, "Connection", socket)
    monkeypatch.setattr(Socket, "made", 1 if resumed else 0)
    recovery = Recovery(Settings(), lambda *_: Served(rest_ids))  # type: ignore[arg-type,return-value]
    position = {market: Position(1, at(0))} if resumed else None
    feed = WebSocketFeed(exchange, [market], Settings(), recovery=recovery, rules=CALM, resume_from=position)
    found: list[datetime] = []

    async def take(_: Market, trades: pl.DataFrame, __: datetime) -> None:
        assert not trades["trade_id"].null_count()
        found.extend(trades["time"])

    async def follow() -> None:
        running = asyncio.create_task(feed.run(take))
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < 20 and not running.done():
                await asyncio.sleep(0.02)
        # Nothing comes twice.
        await asyncio.wait({running}, timeout=2.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(follow())
    assert found == [at(i) for i in range(1, 21)]
    assert not feed.events.rejected


class Closed(Socket):
    async def run(self, *_: object) -> None:
        msg = "kucoin streams trades to its customers only."
        raise UsageError(msg)


def test_what_no_further_try_can_mend_ends_the_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    market = Market.parse("kucoin:BTC/USDT")
    monkeypatch.setattr(websocket, "market_table", lambda *_: {market.symbol: {}})
    monkeypatch.setattr(websocket, "Connection", Closed)
    recovery = Recovery(Settings(), lambda *_: Served(ids=False))  # type: ignore[arg-type,return-value]
    feed = WebSocketFeed("kucoin", [market], Settings(), recovery=recovery)

    async def take(*_: object) -> None:
        raise AssertionError

    with pytest.raises(UsageError, match="customers only"):
        asyncio.run(asyncio.wait_for(feed.run(take), PATIENCE_S))
