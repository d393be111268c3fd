"""The exchange's own candles, from its raw rows, in whole ticks and lots.

Written apart from ``marketdata.fold`` on purpose: the product is compared with what this module says.
"""

from dataclasses import dataclass

import numpy as np

from marketdata.exchange_sim.cache import SizedCache
from marketdata.exchange_sim.market import DAY_NS, Bools, Columns, Ints
from marketdata.exchange_sim.tape import Tape

_PRICES = ("open", "high", "low", "close")
_ROWS_AT_ONCE = 500_000
_FIELDS = (*_PRICES, "lots", "quote", "count", "buy_lots", "buy_quote")


@dataclass(frozen=True, slots=True)
class Candles:
    """Candles as parallel arrays.

    ``open_ns`` is the opening time; open, high, low, close are ticks; lots and buy_lots are amounts;
    quote and buy_quote are sums of ticks times lots; count is of raw trades.
    """

    open_ns: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    lots: Ints
    quote: Ints
    count: Ints
    buy_lots: Ints
    buy_quote: Ints

    def __len__(self) -> int:
        """Candles."""
        return len(self.open_ns)

    def take(self, where: Bools) -> "Candles":
        """The candles of a mask."""
        return Candles(*(getattr(self, name)[where] for name in ("open_ns", *_FIELDS)))


@dataclass(frozen=True, slots=True)
class Grid:
    """Intervals of ``width_ns``, one of which opens ``offset_ns`` after the epoch."""

    width_ns: int
    offset_ns: int = 0

    def number(self, time_ns: Ints) -> Ints:
        """The number of the interval that holds each time."""
        return np.asarray((time_ns - self.offset_ns) // self.width_ns)

    def open_ns(self, number: Ints) -> Ints:
        """When the intervals of these numbers open."""
        return np.asarray(number * self.width_ns + self.offset_ns)


def no_candles() -> Candles:
    """No candle."""
    return Candles(*(np.empty(0, np.int64) for _ in ("open_ns", *_FIELDS)))


def of_rows(rows: Columns, grid: Grid) -> Candles:
    """Candles of rows in exchange order."""
    if not len(rows):
        return no_candles()
    # The time that is shown decides, as it does for whoever rebuilds the candle from the trades.
    bucket = grid.number(rows.shown * 100)
    first = np.flatnonzero(np.diff(bucket, prepend=bucket[0] - 1))
    last = np.append(first[1:], len(rows)) - 1
    value = rows.ticks * rows.lots
    bought = rows.taker_buys.astype(np.int64)

    def total(values: Ints) -> Ints:
        return np.add.reduceat(values, first)

    return Candles(
        open_ns=grid.open_ns(bucket[first]),
        open=rows.ticks[first],
        high=np.maximum.reduceat(rows.ticks, first),
        low=np.minimum.reduceat(rows.ticks, first),
        close=rows.ticks[last],
        lots=total(rows.lots),
        quote=total(value),
        count=total(rows.fills),
        buy_lots=total(rows.lots * bought),
        buy_quote=total(value * bought),
    )


def merged(parts: list[Candles], grid: Grid) -> Candles:
    """Wider candles of narrower ones, given in time order."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return no_candles()
    opened = np.concatenate([part.open_ns for part in parts])
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS}
    bucket = grid.number(opened)
    first = np.flatnonzero(np.diff(bucket, prepend=bucket[0] - 1))
    last = np.append(first[1:], len(bucket)) - 1
    joined["open"], joined["close"] = joined["open"][first], joined["close"][last]
    joined["high"] = np.maximum.reduceat(joined["high"], first)
    joined["low"] = np.minimum.reduceat(joined["low"], first)
    for name in _FIELDS[4:]:
        joined[name] = np.add.reduceat(joined[name], first)
    return Candles(open_ns=grid.open_ns(bucket[first]), **joined)


class CandleRoom:
    """Candles of tapes; those of whole past days are kept."""

    def __init__(self, limit_bytes: int) -> None:
        """At most ``limit_bytes`` of candles stay in memory."""
        self._days: SizedCache[Candles] = SizedCache(limit_bytes, lambda candles: 80 * len(candles) + 1_000)

    def between(self, tape: Tape, grid: Grid, start_ns: int, stop_ns: int, *, now_ns: int) -> Candles:
        """Candles that open in ``[start_ns, stop_ns)``, of rows up to now; ``start_ns`` is on the grid."""
        parts = []
        for day in range(start_ns // DAY_NS, -(-min(stop_ns, now_ns + 1) // DAY_NS)):
            candles = self._of_day(tape, day, min(grid.width_ns, DAY_NS), now_ns)
            parts.append(candles.take((candles.open_ns >= start_ns) & (candles.open_ns < stop_ns)))
        return merged(parts, grid)

    def regular(self, tape: Tape, grid: Grid, start_ns: int, stop_ns: int, *, now_ns: int) -> Candles:
        """Every interval that opens in ``[start_ns, stop_ns)``; ``start_ns`` is on the grid.

        One without trades has count 0, no volume, and repeats the last close; intervals before the
        market's first trade are left out.
        """
        candles = self.between(tape, grid, start_ns, stop_ns, now_ns=now_ns)
        opens = np.arange(start_ns, max(start_ns, stop_ns), grid.width_ns, dtype=np.int64)
        before = tape.after(start_ns - 1)
        close_before = tape.rows(before - 1, before).ticks[-1] if before > 0 else 0
        at = np.searchsorted(candles.open_ns, opens, side="right")
        closes = np.concatenate([[close_before], candles.close])[at]
        opens, at, closes = opens[closes > 0], at[closes > 0], closes[closes > 0]
        held = np.concatenate([[-1], candles.open_ns])[at] == opens
        columns = {
            name: np.where(
                held,
                np.concatenate([[0], getattr(candles, name)])[at],
                closes if name in _PRICES else 0,
            )
            for name in _FIELDS
        }
        return Candles(open_ns=opens, **columns)

    def _of_day(self, tape: Tape, day: int, width_ns: int, now_ns: int) -> Candles:
        if (day + 1) * DAY_NS <= now_ns:
            key = (tape.listing.market, day, width_ns)
            return self._days.get(key, lambda: _of_past_day(tape, day, Grid(width_ns)))
        return _between(tape, tape.after(day * DAY_NS - 1), tape.after(now_ns), Grid(width_ns))


def _of_past_day(tape: Tape, day: int, grid: Grid) -> Candles:
    if tape.computed:
        return of_rows(tape.day_once(day), grid)
    return _between(tape, tape.after(day * DAY_NS - 1), tape.after((day + 1) * DAY_NS - 1), grid)


def _between(tape: Tape, start: int, stop: int, grid: Grid) -> Candles:
    """Candles of the rows at these positions, which may be more than fit into memory."""
    parts = [
        of_rows(tape.rows(at, min(at + _ROWS_AT_ONCE, stop)), grid)
        for at in range(start, stop, _ROWS_AT_ONCE)
    ]
    return merged(parts, grid)
