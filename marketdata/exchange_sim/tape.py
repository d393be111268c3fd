"""Tapes: the rows of one market by position, whether computed or captured.

A position counts the rows of a market from its first trade on, without gaps. Every request is arithmetic
on positions: find where an id or a time is, cut at the clock, read the rows between.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from marketdata.exchange_sim.cache import SizedCache
from marketdata.exchange_sim.listing import Listing
from marketdata.exchange_sim.market import DAY_NS, Columns, concat, rows_before, trades_of_day

# A day of so few rows is kept whoever asks for it: its prices cost more than its rows.
_FEW_ROWS = 2_000
IdRanges = tuple[tuple[int, int], ...]


class Tape(Protocol):
    """The rows of one market, in exchange order."""

    listing: Listing
    # The ids of Kraken's rows are shown since 2021 only; old captures have none.
    shows_ids: bool
    # Whether rows may take a while, because a whole day is computed for them.
    computed: bool

    def after(self, time_ns: int) -> int:
        """Position of the first row whose ``time_ns`` is greater."""
        ...

    def at_id(self, row_id: int) -> int:
        """Position of the first row whose id is at least ``row_id``."""
        ...

    def rows(self, start: int, stop: int) -> Columns:
        """The rows at positions ``start <= p < stop``."""
        ...

    def day_once(self, day: int) -> Columns:
        """All rows of a UTC day, for one use: what is computed for it is not kept."""
        ...


class SyntheticTape:
    """The computed market. ``days`` is shared by all tapes of one exchange process."""

    shows_ids = True
    computed = True

    def __init__(self, listing: Listing, seed: int, days: SizedCache[Columns]) -> None:
        """Nothing is computed before it is asked for."""
        self.listing, self._seed, self._days = listing, seed, days

    def day(self, day: int) -> Columns:
        """All rows of a UTC day (days since 1970)."""
        key = (self.listing.market, day)
        return self._days.get(key, lambda: trades_of_day(self._seed, self.listing, day))

    def day_once(self, day: int) -> Columns:
        """All rows of a UTC day, for one use: what is computed for it is not kept unless it is little."""
        before, after = (rows_before(self._seed, self.listing, at) for at in (day, day + 1))
        if after - before <= _FEW_ROWS:
            return self.day(day)
        held = self._days.peek((self.listing.market, day))
        return trades_of_day(self._seed, self.listing, day) if held is None else held

    def after(self, time_ns: int) -> int:
        """Position of the first row whose ``time_ns`` is greater."""
        day = time_ns // DAY_NS
        if day < self.listing.first_day:
            return 0
        before = rows_before(self._seed, self.listing, day)
        return before + int(np.searchsorted(self.day(day).time_ns, time_ns, side="right"))

    def at_id(self, row_id: int) -> int:
        """Position of the first row whose id is at least ``row_id``; ids start at 1."""
        return max(0, row_id - 1)

    def rows(self, start: int, stop: int) -> Columns:
        """The rows at positions ``start <= p < stop``."""
        parts = []
        day = self._day_at(start)
        while start < stop:
            before = rows_before(self._seed, self.listing, day)
            after = rows_before(self._seed, self.listing, day + 1)
            parts.append(self.day(day).take(slice(start - before, min(stop, after) - before)))
            start, day = min(stop, after), day + 1
        return concat(parts)

    def _day_at(self, position: int) -> int:
        listing, seed = self.listing, self._seed
        day = listing.first_day + int(position / listing.rate)
        while rows_before(seed, listing, day) > position:
            day -= 1
        while rows_before(seed, listing, day + 1) <= position:
            day += 1
        return day


class FixedTape:
    """Rows that are given: a capture, or trades made by a test."""

    computed = False

    def __init__(self, listing: Listing, columns: Columns, *, shows_ids: bool = True) -> None:
        """``columns`` must be in exchange order."""
        self.listing, self._columns, self.shows_ids = listing, columns, shows_ids

    def after(self, time_ns: int) -> int:
        """Position of the first row whose ``time_ns`` is greater."""
        return int(np.searchsorted(self._columns.time_ns, time_ns, side="right"))

    def at_id(self, row_id: int) -> int:
        """Position of the first row whose id is at least ``row_id``."""
        return int(np.searchsorted(self._columns.id, row_id))

    def rows(self, start: int, stop: int) -> Columns:
        """The rows at positions ``start <= p < stop``."""
        return self._columns.take(slice(max(0, start), max(0, stop)))

    def day_once(self, day: int) -> Columns:
        """All rows of a UTC day."""
        return self.rows(self.after(day * DAY_NS - 1), self.after((day + 1) * DAY_NS - 1))


class Reader:
    """A tape as the public sees it: up to now, and without the rows the exchange does not serve."""

    def __init__(self, tape: Tape, now_ns: Callable[[], int], not_served: IdRanges = ()) -> None:
        """``not_served`` are inclusive id ranges that no endpoint ever shows as trades."""
        self.tape, self.listing, self._now_ns, self.not_served = tape, tape.listing, now_ns, not_served

    def end(self) -> int:
        """Position after the last row that has happened."""
        return self.tape.after(self._now_ns())

    def page(self, start: int, count: int, stop: int | None = None) -> Columns:
        """Up to ``count`` served rows from position ``start`` on, before ``stop`` and before now."""
        stop = self.end() if stop is None else min(stop, self.end())
        start = max(start, 0)
        parts: list[Columns] = []
        while count > 0 and start < stop:
            upto = min(stop, start + count)
            rows = self.served(self.tape.rows(start, upto))
            parts.append(rows)
            count -= len(rows)
            start = upto
        return concat(parts)

    def newest(self, count: int, stop: int | None = None) -> Columns:
        """The last ``count`` served rows before ``stop`` and before now."""
        stop = self.end() if stop is None else min(stop, self.end())
        parts: list[Columns] = []
        while count > 0 and stop > 0:
            start = max(0, stop - count)
            rows = self.served(self.tape.rows(start, stop))
            parts.insert(0, rows)
            count -= len(rows)
            stop = start
        return concat(parts)

    def served(self, rows: Columns) -> Columns:
        """The rows without those the exchange does not serve."""
        hidden = np.zeros(len(rows), dtype=bool)
        for first, last in self.not_served:
            hidden |= (rows.id >= first) & (rows.id <= last)
        return rows.take(~hidden) if hidden.any() else rows
