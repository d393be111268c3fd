"""The provider that is awaited."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import polars as pl

from marketdata.cancellation import Cancellation
from marketdata.errors import UsageError
from marketdata.interval import Interval
from marketdata.lake import Lake
from marketdata.market import Market
from marketdata.provider.arguments import Fill, Time
from marketdata.provider.provider import Provider
from marketdata.reading import DataRange
from marketdata.settings import Settings

if TYPE_CHECKING:
    from marketdata.provider.asynchronous_live import AsyncLiveCandles

T = TypeVar("T")
# As many as a store has connections at most.
_THREADS = 10


class AsyncProvider:
    """The same calls for asyncio: each is awaited, and none holds up the loop.

    A call works in a thread of its own pool, because reading a frame and folding trades are work too, not
    only waiting. Cancelling a call ends its query on the server.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        database_url: str | None = None,
        lake: str | Lake | None = None,
        kafka: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """See :class:`Provider`."""
        self._provider = Provider(settings, database_url=database_url, lake=lake, kafka=kafka, clock=clock)
        self._threads: ThreadPoolExecutor | None = None

    @property
    def source(self) -> str:
        """``store`` or ``lake``."""
        return self._provider.source

    async def connect(self) -> Self:
        """See :meth:`Provider.connect`."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="marketdata")
            try:
                await self._call(self._provider.connect)
            except BaseException:
                await self.close()
                raise
        return self

    async def close(self) -> None:
        """Close every connection; a second call does nothing."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(self._provider.close)
            threads.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> Self:
        """Connect."""
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    def __repr__(self) -> str:
        """What is read; never a password."""
        return repr(self._provider).replace("Provider", "AsyncProvider", 1)

    async def candles(
        self,
        market: str | Market,
        interval: str | Interval,
        start: Time,
        end: Time,
        fill: Fill = None,
        *,
        details: bool = False,
    ) -> pl.DataFrame:
        """See :meth:`Provider.candles`."""
        return await self._call(self._provider.candles, market, interval, start, end, fill, details=details)

    async def candles_multi(
        self,
        market: str | Market,
        intervals: Sequence[str | Interval],
        start: Time,
        end: Time,
        fill: Fill = None,
        *,
        details: bool = False,
    ) -> dict[str, pl.DataFrame]:
        """See :meth:`Provider.candles_multi`."""
        return await self._call(
            self._provider.candles_multi, market, intervals, start, end, fill, details=details
        )

    async def latest_candles(
        self,
        market: str | Market,
        interval: str | Interval,
        n: int = 200,
        *,
        running: bool = False,
        details: bool = False,
    ) -> pl.DataFrame:
        """See :meth:`Provider.latest_candles`."""
        return await self._call(
            self._provider.latest_candles, market, interval, n, running=running, details=details
        )

    async def warmup(
        self,
        market: str | Market,
        interval: str | Interval,
        n: int = 200,
        before: Time | None = None,
        *,
        details: bool = False,
    ) -> pl.DataFrame:
        """See :meth:`Provider.warmup`."""
        return await self._call(self._provider.warmup, market, interval, n, before, details=details)

    def live(
        self,
        market: str | Market,
        interval: str | Interval,
        n: int = 200,
        *,
        start: Time | None = None,
        running: bool = False,
    ) -> "AsyncLiveCandles":
        """See :meth:`Provider.live`: ``async for candles in provider.live(...)``, and ``async with``."""
        from marketdata.provider.asynchronous_live import AsyncLiveCandles  # noqa: PLC0415 - an extra

        if self._threads is None:
            raise _not_connected()
        live = self._provider.live
        return AsyncLiveCandles(lambda: live(market, interval, n, start=start, running=running))

    async def trades(self, market: str | Market, start: Time, end: Time) -> pl.DataFrame:
        """See :meth:`Provider.trades`."""
        return await self._call(self._provider.trades, market, start, end)

    async def data_range(self, market: str | Market) -> DataRange | None:
        """See :meth:`Provider.data_range`."""
        return await self._call(self._provider.data_range, market)

    async def coverage(
        self, market: str | Market | None = None, start: Time | None = None, end: Time | None = None
    ) -> pl.DataFrame:
        """See :meth:`Provider.coverage`."""
        return await self._call(self._provider.coverage, market, start, end)

    async def markets(self) -> list[Market]:
        """See :meth:`Provider.markets`."""
        return await self._call(self._provider.markets)

    async def find_market(self, market: str | Market) -> Market:
        """See :meth:`Provider.find_market`."""
        return await self._call(self._provider.find_market, market)

    async def _call(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        if self._threads is None:
            raise _not_connected()
        cancellation = Cancellation()

        def watched() -> T:
            with cancellation.watching():
                return work(*arguments, **options)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, watched)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.to_thread(cancellation.cancel))
            raise


def _not_connected() -> UsageError:
    msg = "The provider is not connected."
    return UsageError(
        msg, hint="Await connect() first, or use it as: async with AsyncProvider() as provider: ..."
    )
