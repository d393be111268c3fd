"""Dead feeds into the ledger and out as alerts; beside the feeds, which wait for nothing of it."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Protocol

import polars as pl
import structlog

from marketdata import recording
from marketdata.alerting import of_entries
from marketdata.alerts import send
from marketdata.errors import MarketDataError
from marketdata.lake import Lake
from marketdata.ledger import Entry, still_open, to_frame
from marketdata.market import Market
from marketdata.settings import Settings
from realtime.feeds.base import FeedEvents
from realtime.feeds.watch import REASON, SUBJECT, Watch
from realtime.services.clock import SteadyClock

_LOG = structlog.stdlib.get_logger(__name__)


class Watched(Protocol):
    """A feed of one exchange."""

    events: FeedEvents

    @property
    def exchange(self) -> str:
        """Its exchange."""
        ...

    @property
    def markets(self) -> Sequence[Market]:
        """Its markets."""
        ...


class FeedWatch:
    """Looks at feeds now and then."""

    def __init__(
        self,
        settings: Settings,
        lake: Lake,
        feeds: Sequence[Watched],
        *,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Begin with what a service before this one has left open in the ledger."""
        self._settings, self._lake, self._feeds = settings, lake, tuple(feeds)
        self._clock = clock or SteadyClock()
        self._watch = Watch(
            {feed.exchange: feed.markets for feed in self._feeds},
            timedelta(seconds=settings.feed_dead_seconds),
            self._clock(),
            known=self._known(),
        )
        self._waiting: list[Entry] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="feed-watch")
        self._writing: Future[int] | None = None

    def look(self) -> None:
        """Look once. What is new is written by a thread; what cannot be written is tried again."""
        if self._writing is not None and self._writing.done():
            self._written(self._writing)
        frames = {feed.exchange: feed.events.last_frame for feed in self._feeds}
        self._waiting += self._watch.look(frames, self._clock())
        if self._waiting and self._writing is None:
            self._writing = self._pool.submit(self._write, tuple(self._waiting))

    def close(self) -> None:
        """Wait until what is new is written."""
        if self._writing is not None:
            self._written(self._writing)
        if self._waiting:
            self._written(self._pool.submit(self._write, tuple(self._waiting)))
        self._pool.shutdown()

    def _written(self, writing: "Future[int]") -> None:
        self._writing = None
        try:
            del self._waiting[: writing.result()]
        except MarketDataError as error:
            _LOG.warning("a dead feed cannot be written to the ledger yet", error=str(error))

    def _write(self, entries: Sequence[Entry]) -> int:
        for told in dict.fromkeys(f"{entry.market.exchange}: {entry.detail}" for entry in entries):
            _LOG.warning("the ledger is told", what=told)
        recording.record(self._settings, self._lake, entries)
        send(self._settings, self._lake, of_entries(self._settings, to_frame(entries)))
        return len(entries)

    def _known(self) -> dict[str, list[datetime]]:
        try:
            found = still_open(recording.entries(self._settings, self._lake))
        except MarketDataError as error:
            _LOG.warning("the ledger cannot be read", error=str(error))
            return {}
        mine = found.filter(pl.col("subject") == SUBJECT, pl.col("reason") == REASON)
        known: dict[str, list[datetime]] = {}
        for exchange, since in mine.select("exchange", "start").unique().sort("start").rows():
            known.setdefault(exchange, []).append(since)
        return known
