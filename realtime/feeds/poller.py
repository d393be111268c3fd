"""Candles by REST, for venues without a stream: each as soon as it has closed, none left out."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import structlog

from marketdata.errors import TransientError, UnknownName, UsageError
from marketdata.interval import Interval
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources import CandleSource, candle_source
from realtime.feeds.base import CandlesOut, FeedEvents
from realtime.feeds.schedule import Ask, Schedule
from realtime.services.clock import SteadyClock

_LOG = structlog.stdlib.get_logger(__name__)
_THREADS = 4


class CandlePoller:
    """Candles of some markets, as their exchanges serve them."""

    def __init__(
        self,
        markets: Iterable[Market],
        settings: Settings,
        *,
        interval: str | Interval = "1m",
        buffer: timedelta = timedelta(seconds=2),
        resume_from: Mapping[Market, datetime] | None = None,
        source_of: Callable[[str], CandleSource] | None = None,
        clock: Callable[[], datetime] | None = None,
        longest_sleep_s: float = 5.0,
    ) -> None:
        """Ask for each candle ``buffer`` after its end.

        Args:
            resume_from: by market the open time of the last candle that was handed on; what has closed since
                is fetched first. A market without one begins with the interval that runs now.
            source_of: the source of an exchange's candles.
            clock: the time; a :class:`SteadyClock` by default.
            longest_sleep_s: so often the clock is looked at.

        Raises:
            UsageError: no market is named.
            UnknownName: an exchange does not serve candles of this width; carries the nearest one.
        """
        self.markets, self.interval = tuple(dict.fromkeys(markets)), Interval.parse(interval)
        if not self.markets:
            msg = "No market is named."
            raise UsageError(msg, hint="Name one, such as kraken:BTC/USD.")
        self.events = FeedEvents()
        self._longest_sleep_s = longest_sleep_s
        self._clock = clock or SteadyClock()
        made = source_of or (lambda exchange: candle_source(exchange, settings))
        self._sources = {
            exchange: made(exchange) for exchange in {market.exchange for market in self.markets}
        }
        for exchange, source in self._sources.items():
            if self.interval not in source.intervals:
                known = [each.name for each in source.intervals]
                raise UnknownName(self.interval.name, kind=f"interval of {exchange}'s candles", known=known)
        now, resume_from = self._clock(), resume_from or {}
        self._schedules = {
            market: Schedule(
                self.interval,
                resume_from[market] + self.interval.width
                if market in resume_from
                else self.interval.floor(now),
                buffer=buffer,
            )
            for market in self.markets
        }

    async def run(self, out: CandlesOut) -> None:
        """Hand candles on until it is cancelled: new ones in order of time, and again those that changed.

        Raises:
            PermanentError: an exchange refuses, and will again.
            UnknownName: an exchange does not list a market.
        """
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="poller")
        try:
            async with asyncio.TaskGroup() as tasks:
                for market in self.markets:
                    tasks.create_task(self._follow(market, out, pool))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, market: Market, out: CandlesOut, pool: ThreadPoolExecutor) -> None:
        schedule, source = self._schedules[market], self._sources[market.exchange]
        loop = asyncio.get_running_loop()
        while True:
            ask = self._to_ask(market, schedule, source)
            if ask is None:
                wait = (schedule.due() - self._clock()) / timedelta(seconds=1)
                await asyncio.sleep(min(max(0.0, wait), self._longest_sleep_s))
                continue
            self.events.requests += 1
            try:
                served = await loop.run_in_executor(
                    pool, source.candles, market, self.interval, ask.start, ask.end
                )
            except TransientError as error:
                schedule.failed(self._clock())
                self._note(f"{market} could not be asked: {error.message}")
                continue
            self.events.last_frame = self._clock()
            new = schedule.answered(ask, served, self._clock())
            if len(new):
                await out(market, self.interval, new, self._clock())
                self.events.trades += len(new)
                self.events.last_trade[market] = new["open_time"][-1]

    def _to_ask(self, market: Market, schedule: Schedule, source: CandleSource) -> Ask | None:
        """What is due; after a long outage without what the exchange serves no more."""
        now = self._clock()
        ask = schedule.ask(now)
        oldest = source.candles_from(self.interval, now) if ask is not None else None
        if ask is None or oldest is None or ask.start >= oldest:
            return ask
        given_up = schedule.skip_to(oldest)
        if given_up is not None:
            count = (given_up.end - given_up.start) // self.interval.width
            self.events.not_served += count
            _LOG.error("candles not served", market=str(market), start=str(given_up.start), count=count)
            self._note(f"{market} {count:,} candles from {given_up.start} on are not served any more")
        return schedule.ask(now)

    def _note(self, text: str) -> None:
        self.events.notes.append(f"{self._clock():%Y-%m-%dT%H:%M:%S} {text}")
