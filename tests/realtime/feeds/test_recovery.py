"""What REST is asked for, whatever the machine's clock says."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from marketdata.market import Market
from marketdata.settings import Settings
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
