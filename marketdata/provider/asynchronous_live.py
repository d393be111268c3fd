"""Live candles that are awaited."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import polars as pl

from marketdata.cancellation import Cancellation
from marketdata.provider.live import LiveCandles


class AsyncLiveCandles(AsyncIterator[pl.DataFrame]):
    """The same frames for asyncio; a thread of its own waits for them. See :meth:`AsyncProvider.live`.

    Cancelling the wait for a frame, as ``asyncio.wait_for`` does, loses none: the next wait has it.
    """

    def __init__(self, begin: Callable[[], LiveCandles]) -> None:
        """Nothing is read before the first frame is awaited; ``begin`` is called then."""
        self._begin = begin
        self._live: LiveCandles | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="marketdata-live")
        self._waiting: asyncio.Future[pl.DataFrame | None] | None = None
        self._cancellation = Cancellation()
        self._closed = False

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> pl.DataFrame:
        """The next candles; see :class:`LiveCandles`.

        Raises:
            StopAsyncIteration: it was closed.
        """
        if self._closed:
            raise StopAsyncIteration
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().run_in_executor(self._thread, self._next)
        waiting = self._waiting
        # Whoever is cancelled here leaves it to the next wait, also in the moment in which it has come.
        await asyncio.wait([waiting])
        self._waiting = None
        found = waiting.result()
        if found is None:
            raise StopAsyncIteration
        return found

    def _next(self) -> pl.DataFrame | None:
        with self._cancellation.watching():
            if self._live is None:
                self._live = self._begin()
            return None if self._closed else next(self._live, None)

    async def close(self) -> None:
        """Disconnect; a read of history that is under way is ended. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._live is not None:
            self._live.stop()
        waiting, self._waiting = self._waiting, None
        await asyncio.to_thread(self._cancellation.cancel)
        if waiting is not None:
            await asyncio.wait([waiting])
            waiting.exception()  # whoever closes does not want to know any more
        if self._live is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._live.close)
        self._thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        await self.close()
