"""A market under load: so many trades a second, evenly spaced, that no day of it is ever held in memory."""

import zlib

import numpy as np

from marketdata.errors import UsageError
from marketdata.exchange_sim.listing import Listing
from marketdata.exchange_sim.market import DAY_NS, Columns, Ints, concat

MINUTE_NS = 60_000_000_000
_SECOND_NS = 1_000_000_000
_FASTEST = 1_000_000
# Prices and amounts repeat after this many trades: what they are costs an index.
_PATTERN = 65_536


class LoadTape:
    """Trade ``n`` (from 0) has id ``n + 1`` and happens ``n / rate`` seconds after the beginning."""

    shows_ids = True
    computed = False

    def __init__(self, listing: Listing, seed: int, rate: float, begin_ns: int) -> None:
        """``rate`` is trades a second; times are whole microseconds.

        Raises:
            UsageError: the rate is not positive, or more than a million.
        """
        if not 0 < rate <= _FASTEST:
            msg = f"A load of {rate!r} trades a second cannot be made."
            raise UsageError(msg, hint=f"More than 0, at most {_FASTEST:,}.")
        self.listing, self._rate, self._begin = listing, rate, begin_ns // 1_000 * 1_000
        rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(listing.market.encode())]))
        level = listing.base.level / listing.quote.level * 10.0**listing.tick
        steps = rng.random(_PATTERN) - 0.5
        # A walk that ends where it began, so that repeats join.
        walk = np.cumsum(steps - steps.mean()) * max(1.0, level * 1e-6)
        self._ticks = np.maximum(1, np.rint(level + walk)).astype(np.int64)
        value = listing.order_value / listing.quote.level * (0.05 + rng.random(_PATTERN))
        lots = value * 10.0 ** (listing.tick + listing.lot) / self._ticks
        self._lots = np.maximum(1, np.rint(lots)).astype(np.int64)
        self._buys = rng.random(_PATTERN) < 0.5
        self._limit = rng.random(_PATTERN) < 0.5

    def after(self, time_ns: int) -> int:
        """Position of the first row whose ``time_ns`` is greater."""
        near = max(0, int((time_ns - self._begin) * self._rate / _SECOND_NS))
        around = np.arange(max(0, near - 4), near + 5, dtype=np.int64)
        return int(around[0] + np.searchsorted(self._times(around), time_ns, side="right"))

    def at_id(self, row_id: int) -> int:
        """Position of the first row whose id is at least ``row_id``; ids start at 1."""
        return max(0, row_id - 1)

    def rows(self, start: int, stop: int) -> Columns:
        """The rows at positions ``start <= p < stop``."""
        if stop <= max(start, 0):
            return concat([])
        position = np.arange(max(start, 0), stop, dtype=np.int64)
        at = position % _PATTERN
        time_ns = self._times(position)
        return Columns(
            id=position + 1,
            time_ns=time_ns,
            shown=time_ns // 100,
            ticks=self._ticks[at],
            lots=self._lots[at],
            taker_buys=self._buys[at],
            limit=self._limit[at],
            fills=np.ones(len(position), dtype=np.int64),
            first_fill=position + 1,
        )

    def day_once(self, day: int) -> Columns:
        """All rows of a UTC day, at a high rate very many."""
        return self.rows(self.after(day * DAY_NS - 1), self.after((day + 1) * DAY_NS - 1))

    def _times(self, position: Ints) -> Ints:
        us = (position * (1e6 / self._rate)).astype(np.int64)
        return np.asarray(self._begin + us * 1_000)
