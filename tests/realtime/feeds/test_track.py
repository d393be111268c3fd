"""One market of a feed: what is counted as handed on reaches whoever takes it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.trade import TRADE_SCHEMA
from realtime.feeds.base import FeedEvents, Out
from realtime.feeds.recovery import Recovery
from realtime.feeds.sequence import Sequence
from realtime.feeds.track import TakerError, Track
from tests.realtime.feeds.following import KRAKEN

NOON = datetime(2025, 6, 8, 12, tzinfo=UTC)


def row(trade_id: int) -> dict[str, Any]:
    sent = {"trade_id": trade_id, "timestamp": "2025-06-08T12:00:00.000000Z", "price": 100.0, "qty": 1.0}
    return {"info": {**sent, "side": "buy", "symbol": KRAKEN.symbol}}


def track_to(out: Out, recovery: Recovery | None = None) -> Track:
    return Track(
        KRAKEN,
        Sequence(),
        recovery or Recovery(Settings()),
        FeedEvents(),
        out=out,
        refused=None,
        clock=lambda: datetime.now(UTC),
    )


async def given_up(track: Track, taking: asyncio.Event, trade_id: int) -> None:
    """A connection that ends while what it has brought is being taken."""
    reading = asyncio.create_task(track.rows([row(trade_id)], 0.0, lost=False))
    await taking.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


def test_a_trade_that_is_being_taken_when_its_connection_ends_is_taken_once() -> None:
    async def follow() -> None:
        taking, go_on, taken = asyncio.Event(), asyncio.Event(), list[int]()

        async def slowly(_: Market, trades: pl.DataFrame, __: datetime) -> None:
            taking.set()
            await go_on.wait()
            taken.extend(trades["trade_id"])

        track = track_to(slowly)
        await given_up(track, taking, 1)
        go_on.set()
        await track.settled()
        track.tracker.connected(1.0)
        await track.rows([row(1)], 1.0, lost=False)
        await track.rows([row(2)], 1.1, lost=False)
        assert taken == [1, 2]

    asyncio.run(follow())


def test_a_taker_that_fails_behind_the_end_of_a_connection_is_not_passed_over() -> None:
    async def follow() -> None:
        taking, go_on = asyncio.Event(), asyncio.Event()

        async def failing(*_: object) -> None:
            taking.set()
            await go_on.wait()
            raise OSError

        track = track_to(failing)
        await given_up(track, taking, 1)
        go_on.set()
        with pytest.raises(TakerError):
            await track.settled()

    asyncio.run(follow())


def test_rows_without_ids_by_rest_are_not_mixed_with_numbered_ones() -> None:
    unnumbered = pl.DataFrame([(None, NOON, 1.0, 1.0, "buy", 1)], schema=TRADE_SCHEMA, orient="row")

    class Unnumbered(Recovery):
        async def pages(self, *_: object) -> AsyncIterator[pl.DataFrame]:
            yield unnumbered

    async def follow() -> None:
        taken = list[int]()

        async def take(_: Market, trades: pl.DataFrame, __: datetime) -> None:
            taken.extend(trades["trade_id"])

        track = track_to(take, Unnumbered(Settings()))
        await track.rows([row(1)], 0.0, lost=False)
        track.tracker.connected(1.0)
        request = track.tracker.request(1e6)
        assert request is not None
        assert not await track.fill(request)
        await track.rows([row(2)], 1e6, lost=False)
        assert taken == [1, 2]
        assert "not by REST" in track._events.notes[-1]

    asyncio.run(follow())


def test_a_feed_that_ends_does_not_wait_for_a_taker_that_never_does() -> None:
    async def follow() -> None:
        taking = asyncio.Event()

        async def never(*_: object) -> None:
            taking.set()
            await asyncio.Event().wait()

        track = track_to(never)
        await given_up(track, taking, 1)
        async with asyncio.timeout(60):
            await track.end()

    asyncio.run(follow())
