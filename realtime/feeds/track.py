"""One market of a feed: rows in from the socket and from REST, trades out, one after the other."""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime

import polars as pl
import structlog

from marketdata.errors import MarketDataError, NoData, TransientError
from marketdata.market import Market
from realtime.feeds.base import FeedEvents, Out, Position, Refused
from realtime.feeds.connection import Rows
from realtime.feeds.overlap import Overlap
from realtime.feeds.recovery import Recovery
from realtime.feeds.rows import trades_of
from realtime.feeds.sequence import Gap, Request, Sequence

_LOG = structlog.stdlib.get_logger(__name__)
_MARK_S, _KEPT_S = 30.0, 600.0


class TakerError(Exception):
    """Whoever takes the trades has failed; its error is the cause."""


class Track:
    """A market, what is known of its order, and who takes its trades."""

    def __init__(
        self,
        market: Market,
        tracker: Sequence | Overlap,
        recovery: Recovery,
        events: FeedEvents,
        *,
        out: Out,
        refused: Refused | None,
        clock: Callable[[], datetime],
    ) -> None:
        """Hand trades on to ``out`` and rejects to ``refused``; ``clock`` tells the time."""
        self.market, self.tracker = market, tracker
        self._recovery, self._events, self._clock = recovery, events, clock
        self._out, self._refused = out, refused
        # The socket's trades and REST's must not overtake each other on the way out.
        self._turn = asyncio.Lock()
        self._taking: asyncio.Task[None] | None = None
        self._far = self._renumbered = 0
        # Where the market was, now and then, from ten minutes ago on.
        self._marks: deque[tuple[float, Position]] = deque()
        if tracker.position is not None:
            self._marks.append((-_KEPT_S, tracker.position))

    @property
    def safe(self) -> Position | None:
        """A position from which one who begins once more misses nothing: ten minutes ago, or the beginning.

        What was handed on since may not have arrived where its taker sends it.
        """
        return self._marks[0][1] if self._marks else None

    async def rows(self, rows: Rows, now: float, *, lost: bool) -> None:
        """Take what the socket brought; ``lost``: others before it may be missing.

        Once begun it goes on to its end, also when who waits for it is cancelled, as a connection that is
        given up is: what the tracker has counted is not asked for again. See :meth:`settled`.
        """
        self._taking = asyncio.create_task(self._take(rows, now, lost=lost))
        await asyncio.shield(self._taking)

    async def settled(self) -> None:
        """Wait until what a connection brought is handed on; if this is cancelled, that ends too.

        Raises:
            TakerError: whoever takes the trades has failed.
        """
        if self._taking is not None:
            await self._taking

    async def end(self) -> None:
        """Hand on nothing more."""
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.gather(self._taking, return_exceptions=True)

    async def _take(self, rows: Rows, now: float, *, lost: bool) -> None:
        async with self._turn:
            read = trades_of(self.market.exchange, rows, now=self._clock(), ids=self.tracker.ids)
            if len(read.rejected):
                await self._reject(read.rejected)
            if lost:
                self._events.overflows += 1
                self.tracker.lost(now)
            overflows, repeats = self.tracker.overflows, self.tracker.repeats
            ready = self.tracker.add(read.accepted, now)
            self._events.overflows += self.tracker.overflows - overflows
            self._events.repeats += self.tracker.repeats - repeats
            await self._hand_on(ready)

    async def fill(self, request: Request) -> bool:
        """Ask REST; whether it had trades that had not been handed on."""
        found = 0
        clock = asyncio.get_running_loop().time
        self._events.requests += 1
        try:
            async for page in self._recovery.pages(self.market, request):
                if self.tracker.ids and page["trade_id"].null_count():
                    msg = f"{self.market.exchange} numbers its trades by its socket and not by REST."
                    raise NoData(msg)
                async with self._turn:
                    ready = self.tracker.fetched(page, clock())
                    self._see()
                    found += await self._hand_on(ready, fetched=True)
        except TransientError as error:
            _LOG.warning("nothing by REST yet", market=str(self.market), error=str(error))
            self.tracker.failed(clock())
        except MarketDataError as error:
            _LOG.error("going on without what was missed", market=str(self.market), error=str(error))
            self._note(f"{self.market} goes on without what was missed: {error.message}")
            await self._go_on(self.tracker.refused)
        else:
            await self._go_on(self.tracker.ended)
        if found:
            _LOG.info("fetched what was missed", market=str(self.market), trades=found)
            self._note(f"{self.market} {found:,} trades that were missed came by REST")
        return found > 0

    async def _go_on(self, end: Callable[[float], tuple[pl.DataFrame, Gap | None]]) -> None:
        async with self._turn:
            ready, gap = end(asyncio.get_running_loop().time())
            self._see()
            if gap is not None:
                _LOG.error("not served", market=str(self.market), first=gap.first_id, last=gap.last_id)
                self._note(f"{self.market} ids {gap.first_id} to {gap.last_id} are not served")
                self._events.not_served += len(gap)
            await self._hand_on(ready)

    def _see(self) -> None:
        """Count what the tracker has let go, and tell when it counts anew."""
        if self.tracker.far > self._far:
            self._events.rejected["id far beyond the exchange's newest"] += self.tracker.far - self._far
        if self.tracker.renumbered > self._renumbered:
            self._events.renumbered += self.tracker.renumbered - self._renumbered
            # Positions by the old count are no place to begin once more.
            self._marks.clear()
            _LOG.error("ids begin anew", market=str(self.market))
            self._note(f"{self.market} ids begin anew: newer trades have lower ones, by REST too")
        self._far, self._renumbered = self.tracker.far, self.tracker.renumbered

    async def _reject(self, rejects: pl.DataFrame) -> None:
        self._events.rejected.update(rejects["reason"].to_list())
        if self._refused is not None:
            try:
                await self._refused(self.market, rejects)
            except Exception as error:
                raise TakerError from error

    async def _hand_on(self, trades: pl.DataFrame, *, fetched: bool = False) -> int:
        if trades.is_empty():
            return 0
        if not self._marks:
            self._marks.append((-_KEPT_S, Position(trades["trade_id"][0] - 1, trades["time"][0])))
        try:
            await self._out(self.market, trades, self._clock())
        except Exception as error:
            raise TakerError from error
        self._events.trades += len(trades)
        self._events.fetched += len(trades) if fetched else 0
        self._mark(asyncio.get_running_loop().time())
        newest = trades["time"].max()
        if isinstance(newest, datetime):
            self._events.last_trade[self.market] = newest
        return len(trades)

    def _mark(self, now: float) -> None:
        position = self.tracker.position
        if position is not None and now - self._marks[-1][0] >= _MARK_S:
            self._marks.append((now, position))
            while now - self._marks[1][0] >= _KEPT_S:
                self._marks.popleft()

    def _note(self, text: str) -> None:
        self._events.notes.append(f"{self._clock():%Y-%m-%dT%H:%M:%S} {text}")
