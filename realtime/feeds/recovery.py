"""What a socket missed, by REST: page after page, in a thread of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import polars as pl

from marketdata.errors import NoData
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources import OnlyNewestServed, TradeSource, trade_source
from realtime.feeds.sequence import Request

# So many ids are asked for by id; more are read page by page from the time of the last trade on.
_BY_ID = 2_000
# One rate limit spaces their requests; more would only wait.
_THREADS = 4
# Rows of neighbouring ids may have times in another order.
_MARGIN = timedelta(seconds=1)

SourceOf = Callable[[Market, date, datetime], TradeSource]


class Recovery:
    """Asks the history sources, with the rate limit and the retries that they have."""

    def __init__(self, settings: Settings, source_of: SourceOf | None = None) -> None:
        """Ask with these settings; ``source_of`` gives other sources than the exchange's."""
        self._pool: ThreadPoolExecutor | None = None
        self._source_of = source_of or (lambda market, day, now: trade_source(market, day, settings, now))

    def sequential(self, market: Market) -> bool:
        """Whether a hole in a market's ids proves a missing trade."""
        now = datetime.now(UTC)
        return self._source_of(market, now.date(), now).sequential_ids

    async def pages(self, market: Market, request: Request) -> AsyncIterator[pl.DataFrame]:
        """Answer a request: frames of TRADE_SCHEMA, in order; the next is fetched when this one is taken.

        Where an exchange serves only its newest trades these come before the error that says so.

        Raises:
            TransientError: retries are used up.
            PermanentError: a retry cannot help.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="recovery")
        stop = threading.Event()
        pages = self._pages(market, request, stop)
        loop = asyncio.get_running_loop()
        try:
            while (page := await loop.run_in_executor(self._pool, next, pages, None)) is not None:
                yield page
        finally:
            # A thread cannot be cancelled; the one under way ends after its page.
            stop.set()

    def close(self) -> None:
        """Ask no more, until there is another request."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _pages(self, market: Market, request: Request, stop: threading.Event) -> Iterator[pl.DataFrame]:
        first, last = request.first_id, request.last_id
        now = datetime.now(UTC)
        if first is not None and last is not None and last - first < _BY_ID and request.until is not None:
            source = self._source_of(market, request.until.date(), now)
            around = (request.since - _MARGIN, request.until + _MARGIN)
            yield source.refetch(market, first, last, around).sort("trade_id")
            return
        # In a busy market there is always more: what came after the question is the socket's to bring. The
        # machine's clock may be behind the exchange's, and alone does not say when that was.
        until = max(now, request.since + _MARGIN)
        if request.until is not None:
            until = max(until, request.until if last is None else request.until + _MARGIN)
        for start, end in _days(request.since - _MARGIN, until):
            source = self._source_of(market, start.date(), now)
            for trades in _frames(source, market, start, end):
                if stop.is_set():
                    return
                if first is None and trades["trade_id"].null_count() not in {0, len(trades)}:
                    msg = f"{market.exchange} numbers some of its trades and others not."
                    raise NoData(msg)
                yield trades
                newest = trades["trade_id"].max()
                if last is not None and isinstance(newest, int) and newest >= last:
                    return


def _frames(source: TradeSource, market: Market, start: datetime, end: datetime) -> Iterator[pl.DataFrame]:
    try:
        for page in source.pages(market, start, end):
            yield page.trades
    except OnlyNewestServed as error:
        yield error.newest
        raise


def _days(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The range, cut at the days."""
    while start < end:
        stop = min(day_window(start.date())[1], end)
        yield start, stop
        start = stop
