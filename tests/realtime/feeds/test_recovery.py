"""What REST is asked for, whatever the machine's clock says."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources import OnlyNewestServed
from marketdata.trade import TRADE_SCHEMA
from realtime.feeds.recovery import Recovery
from realtime.feeds.sequence import Request
from tests.realtime.feeds.following import BINANCE

SECOND = timedelta(seconds=1)


class Asked:
    """A source that has nothing, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.ranges: list[tuple[datetime, datetime]] = []

    def pages(self, _: Market, start: datetime, end: datetime) -> Iterator[Any]:
        self.ranges.append((start, end))
        return iter(())


def test_an_exchange_whose_clock_is_ahead_is_asked_up_to_its_own_time() -> None:
    theirs = datetime.now(UTC) + 40 * SECOND
    asked = Asked()
    recovery = Recovery(Settings(), lambda *_: asked)  # type: ignore[arg-type]

    async def ask(request: Request) -> None:
        async for _ in recovery.pages(BINANCE, request):
            raise AssertionError

    asyncio.run(ask(Request(None, None, theirs - 25 * SECOND, theirs)))
    recovery.close()
    assert asked.ranges[0][0] == theirs - 26 * SECOND
    assert asked.ranges[-1][1] == theirs


def test_of_an_exchange_that_serves_only_its_newest_trades_those_are_had_and_it_is_said() -> None:
    begun = datetime.now(UTC) - 60 * SECOND
    newest = pl.DataFrame([(7, begun + 30 * SECOND, 1.0, 1.0, "buy", 1)], schema=TRADE_SCHEMA, orient="row")

    class Source:
        def pages(self, *_: object) -> Iterator[Any]:
            msg = "otherx serves only its newest trade of BTC/USDT."
            raise OnlyNewestServed(msg, newest=newest)

    had: list[pl.DataFrame] = []

    async def ask() -> None:
        recovery = Recovery(Settings(), lambda *_: Source())  # type: ignore[arg-type, return-value]
        pages = recovery.pages(BINANCE, Request(None, None, begun, None))
        had.append(await anext(pages))
        await anext(pages)

    with pytest.raises(OnlyNewestServed, match="only its newest"):
        asyncio.run(ask())
    assert pl.concat(had).equals(newest)
