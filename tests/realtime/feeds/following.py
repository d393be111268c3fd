"""A feed that runs beside a test, and what came out of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import polars as pl

from marketdata import sources
from marketdata.exchange_sim import RunningExchange
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.trade import empty_trades
from realtime.feeds.base import Position
from realtime.feeds.liveness import LivenessRules
from realtime.feeds.websocket import WebSocketFeed

KRAKEN, BINANCE = Market.parse("kraken:BTC/USD"), Market.parse("binance:BTC/USDT")
# A second of patience instead of six; a minute where no connection may be given up.
QUICK = LivenessRules(silence=1.5, probe=600.0)
CALM = LivenessRules(silence=60.0, probe=600.0)
PATIENCE_S = 120.0


def settings_for(exchange: RunningExchange) -> Settings:
    values = {name.removeprefix("MARKETDATA_").lower(): value for name, value in exchange.environment.items()}
    return Settings.load(**values, request_interval_ms=0, request_attempts=2)


class Followed:
    """A running feed."""

    def __init__(self, feed: WebSocketFeed) -> None:
        self.feed = feed
        self.frames: dict[Market, list[pl.DataFrame]] = {}
        self.refused: list[tuple[Market | None, pl.DataFrame]] = []
        self.pause_s = 0.0
        self.pauses = 0

    async def take(self, market: Market, trades: pl.DataFrame, received: datetime) -> None:
        assert received.tzinfo is not None
        if self.pause_s:
            self.pauses += 1
            await asyncio.sleep(self.pause_s)
        self.frames.setdefault(market, []).append(trades)

    async def keep(self, market: Market | None, rejects: pl.DataFrame) -> None:
        self.refused.append((market, rejects))

    def trades(self, market: Market) -> pl.DataFrame:
        return pl.concat([empty_trades(), *self.frames.get(market, [])])

    def reasons(self) -> list[str]:
        return [reason for _, rejects in self.refused for reason in rejects["reason"]]

    async def until(self, enough: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not enough():
                await asyncio.sleep(0.02)

    async def more(self, market: Market, count: int) -> None:
        """Until so many more trades of a market have come."""
        before = len(self.trades(market))
        await self.until(lambda: len(self.trades(market)) >= before + count)

    async def reaches(self, market: Market, trade_id: int) -> None:
        def there() -> bool:
            found = self.trades(market)
            return len(found) > 0 and found["trade_id"][-1] >= trade_id

        await self.until(there)


@asynccontextmanager
async def following(
    exchange: RunningExchange,
    *markets: Market,
    resume_from: Mapping[Market, Position] | None = None,
    **options: Any,
) -> AsyncIterator[Followed]:
    """Follow markets of one exchange while the block runs."""
    feed = WebSocketFeed(
        markets[0].exchange,
        markets,
        settings_for(exchange),
        resume_from=resume_from,
        **{"rules": QUICK} | options,
    )
    followed = Followed(feed)
    running = asyncio.create_task(feed.run(followed.take, followed.keep))
    try:
        yield followed
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        sources.close()
