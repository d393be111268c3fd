"""The exchange's own candles, from its raw rows, in whole ticks and lots.

Written apart from ``marketdata.fold`` on purpose: the product is compared with what this module says.
"""

from dataclasses import dataclass

import numpy as np

from marketdata.exchange_sim.cache import SizedCache
from marketdata.exchange_sim.market import DAY_NS, Columns, Floats, Ints
from marketdata.exchange_sim.tape import Tape

_FIELDS = ("open", "high", "low", "close", "lots", "quote", "count", "buy_lots", "buy_quote")


@dataclass(frozen=True, slots=True)
class Candles:
    """Candles that have trades, as parallel arrays.

    ``open_ns`` is the opening time; open, high, low, close are ticks; lots and buy_lots amounts in lots;
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


def of_rows(rows: Columns, width_ns: int, offset_ns: int = 0) -> Candles:
    """Candles of ``width_ns`` on the grid that starts at ``offset_ns``; rows in exchange order."""
    if not len(rows):
        none = np.empty(0, np.int64)
        return Candles(none, *(none for _ in _FIELDS))
    # The time that is shown decides, as it does for whoever rebuilds the candle from the trades.
    bucket = (rows.shown * 100 - offset_ns) // width_ns
    first = np.flatnonzero(np.diff(bucket, prepend=bucket[0] - 1))
    last = np.append(first[1:], len(rows)) - 1
    value = rows.ticks * rows.lots
    bought = rows.taker_buys.astype(np.int64)

    def total(values: Ints) -> Ints:
        return np.add.reduceat(values, first)

    return Candles(
        open_ns=bucket[first] * width_ns + offset_ns,
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


def merged(parts: list[Candles], width_ns: int, offset_ns: int) -> Candles:
    """Wider candles of narrower ones, given in time order."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return of_rows(Columns(*(np.empty(0, np.int64) for _ in range(9))), width_ns)  # type: ignore[arg-type]
    opened = np.concatenate([part.open_ns for part in parts])
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS}
    bucket = (opened - offset_ns) // width_ns
    first = np.flatnonzero(np.diff(bucket, prepend=bucket[0] - 1))
    last = np.append(first[1:], len(bucket)) - 1
    joined["open"], joined["close"] = joined["open"][first], joined["close"][last]
    joined["high"] = np.maximum.reduceat(joined["high"], first)
    joined["low"] = np.minimum.reduceat(joined["low"], first)
    for name in _FIELDS[4:]:
        joined[name] = np.add.reduceat(joined[name], first)
    return Candles(open_ns=bucket[first] * width_ns + offset_ns, **joined)


@dataclass(frozen=True, slots=True)
class Window:
    """A regular run of intervals, those without trades included: there OHLC repeat the last close."""

    open_ns: Ints
    candles: Candles
    # Index into candles, -1 where the interval is empty; and the close that an empty one repeats, 0 if none.
    at: Ints
    previous_close: Ints


class CandleRoom:
    """Candles of tapes; those of whole past days are kept."""

    def __init__(self, limit_bytes: int = 32_000_000) -> None:
        """At most ``limit_bytes`` of candles stay in memory."""
        self._days: SizedCache[Candles] = SizedCache(limit_bytes, lambda candles: 80 * len(candles) + 1_000)

    def between(
        self, tape: Tape, width_ns: int, start_ns: int, stop_ns: int, now_ns: int, offset_ns: int = 0
    ) -> Candles:
        """Candles that open in ``[start_ns, stop_ns)``, on the grid, of rows up to now."""
        end = min(stop_ns, now_ns + 1)
        parts = []
        for day in range(start_ns // DAY_NS, -(-end // DAY_NS)):
            whole = (day + 1) * DAY_NS <= now_ns
            part_width = min(width_ns, DAY_NS)
            if whole:
                key = (tape.listing.market, day, part_width)
                candles = self._days.get(key, lambda day=day: _of_day(tape, day, part_width))  # type: ignore[misc]
            else:
                candles = _of_day(tape, day, part_width, now_ns)
            inside = (candles.open_ns >= start_ns) & (candles.open_ns < stop_ns)
            parts.append(Candles(*(getattr(candles, name)[inside] for name in ("open_ns", *_FIELDS))))
        return merged(parts, width_ns, offset_ns)

    def window(
        self, tape: Tape, width_ns: int, start_ns: int, stop_ns: int, now_ns: int, offset_ns: int = 0
    ) -> Window:
        """Every interval that opens in ``[start_ns, stop_ns)``; ``start_ns`` lies on the grid.

        Intervals before the market's first trade are left out.
        """
        candles = self.between(tape, width_ns, start_ns, stop_ns, now_ns, offset_ns)
        opens = np.arange(start_ns, max(start_ns, stop_ns), width_ns, dtype=np.int64)
        before = tape.after(start_ns - 1)
        close_before = int(tape.rows(before - 1, before).ticks[0]) if before > 0 else 0
        at = np.searchsorted(candles.open_ns, opens, side="right") - 1
        found = np.zeros(len(opens), dtype=bool)
        held = at >= 0
        found[held] = candles.open_ns[at[held]] == opens[held]
        previous = np.full(len(opens), close_before, dtype=np.int64)
        previous[held] = candles.close[at[held]]
        window = Window(opens, candles, np.where(found, at, -1), previous)
        known = previous > 0
        return Window(opens[known], candles, window.at[known], previous[known])

    def clear(self) -> None:
        """Forget everything, after the rows have changed."""
        self._days.clear()


def _of_day(tape: Tape, day: int, width_ns: int, now_ns: int | None = None) -> Candles:
    stop = (day + 1) * DAY_NS - 1
    rows = tape.rows(tape.after(day * DAY_NS - 1), tape.after(stop if now_ns is None else min(stop, now_ns)))
    return of_rows(rows, width_ns)


def decimals(values: Ints, places: int) -> Floats:
    """Integers on a grid as numbers."""
    return np.asarray(values / 10.0**places)
