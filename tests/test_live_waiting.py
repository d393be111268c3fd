"""Waits for live candles that are given up: what has come meanwhile is the next wait's."""

import asyncio
import queue
from collections.abc import Awaitable, Callable
from typing import cast

import polars as pl
import pytest

from marketdata.errors import TransientError
from marketdata.provider.asynchronous_live import AsyncLiveCandles
from marketdata.provider.live import LiveCandles


class Frames:
    """Frames that come when they are told to."""

    def __init__(self) -> None:
        self.come: queue.SimpleQueue[int | Exception | None] = queue.SimpleQueue()

    def __next__(self) -> pl.DataFrame:
        came = self.come.get()
        if isinstance(came, Exception):
            raise came
        if came is None:
            raise StopIteration
        return pl.DataFrame({"number": [came]})

    def stop(self) -> None:
        self.come.put(None)

    def close(self) -> None:
        """Nothing is open."""


def followed(test: Callable[[Frames, AsyncLiveCandles], Awaitable[None]]) -> None:
    async def run() -> None:
        frames = Frames()
        async with AsyncLiveCandles(lambda: cast("LiveCandles", frames)) as live:
            await test(frames, live)

    asyncio.run(run())


async def given_up_as_it_comes(frames: Frames, live: AsyncLiveCandles, came: int | Exception) -> None:
    """Cancel a wait when its frame is there and it was not woken yet."""
    wait = asyncio.ensure_future(anext(live))
    while (waiting := live._waiting) is None:
        await asyncio.sleep(0)
    waiting.add_done_callback(lambda _: wait.cancel())
    await asyncio.sleep(0)
    frames.come.put(came)
    with pytest.raises(asyncio.CancelledError):
        await wait


async def numbers(frames: Frames, live: AsyncLiveCandles) -> list[int]:
    """Of all frames that are left."""
    frames.come.put(None)
    return [frame["number"][0] async for frame in live]


def test_a_frame_that_comes_as_a_wait_runs_out_is_the_next_waits() -> None:
    async def test(frames: Frames, live: AsyncLiveCandles) -> None:
        await given_up_as_it_comes(frames, live, 1)
        frames.come.put(2)
        assert await numbers(frames, live) == [1, 2]

    followed(test)


def test_an_error_that_comes_as_a_wait_runs_out_is_the_next_waits() -> None:
    async def test(frames: Frames, live: AsyncLiveCandles) -> None:
        await given_up_as_it_comes(frames, live, TransientError("gone", hint="again"))
        frames.come.put(1)
        with pytest.raises(TransientError, match="gone"):
            await anext(live)
        assert await numbers(frames, live) == [1]

    followed(test)


def test_a_frame_that_comes_between_two_waits_is_not_lost() -> None:
    async def test(frames: Frames, live: AsyncLiveCandles) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(live), 0.01)
        frames.come.put(1)
        frames.come.put(2)
        assert await numbers(frames, live) == [1, 2]

    followed(test)
