"""One request for the candles of all days of a run, where one answer holds all that the exchange serves."""

import threading
from datetime import datetime

import numpy as np
import polars as pl

from marketdata.interval import Interval, to_us
from marketdata.market import Market
from marketdata.sources.base import CandleSource


class AskedOnce:
    """A candle source that asks once for what another serves only the newest of (Kraken: 720 an interval).

    Its answers are those of the moment of the first question, which is right for days that are over. A
    source without such a limit is asked each time.
    """

    def __init__(self, source: CandleSource, now: datetime) -> None:
        """Ask ``source``, at ``now``."""
        self.name, self.exchange, self.intervals = source.name, source.exchange, source.intervals
        self._source, self._now = source, now
        self._lock = threading.Lock()
        self._served: dict[tuple[Market, Interval], pl.DataFrame] = {}

    def candles(self, market: Market, interval: Interval, start: datetime, end: datetime) -> pl.DataFrame:
        """See :meth:`marketdata.sources.base.CandleSource.candles`."""
        oldest = self.candles_from(interval, self._now)
        if oldest is None or start < oldest or end > self._now:
            return self._source.candles(market, interval, start, end)
        with self._lock:
            if (market, interval) not in self._served:
                asked = self._source.candles(market, interval, oldest, self._now)
                self._served[market, interval] = asked.sort("open_time")
            served = self._served[market, interval]
        times = served["open_time"].to_physical().to_numpy()
        first, last = np.searchsorted(times, (to_us(start), to_us(end)))
        return served[int(first) : int(last)]

    def candles_from(self, interval: Interval, now: datetime) -> datetime | None:
        """See :meth:`marketdata.sources.base.CandleSource.candles_from`."""
        return self._source.candles_from(interval, now)
