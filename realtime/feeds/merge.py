"""Trades of several markets in one order of time, and when each is due at some speed (pure)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from marketdata.market import Market
from marketdata.trade import empty_trades

_SECOND_US = 1_000_000
# A replay at a speed hands on so often, in seconds of the wall clock.
_TICK_S = 0.02


@dataclass(frozen=True, slots=True)
class Slice:
    """The trades of a stretch of time, by market; the market with the earliest first.

    ``start_us`` and ``end_us`` are microseconds since the epoch; ``start_us`` is the first trade's.
    """

    start_us: int
    end_us: int
    trades: list[tuple[Market, pl.DataFrame]]


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast: 1 as it was, 60 a minute a second, 0 as fast as it goes."""

    speed: float

    @property
    def slice_us(self) -> int:
        """The stretch of market time that is handed on at once."""
        return max(1, int(_TICK_S * self.speed * _SECOND_US)) if self.speed else _SECOND_US

    def due(self, first_us: int, end_us: int) -> float:
        """Seconds after the beginning at which a stretch that ends there is due."""
        return (end_us - first_us) / _SECOND_US / self.speed if self.speed else 0.0


def merged(streams: Mapping[Market, Iterator[pl.DataFrame]], slice_us: int) -> Iterator[Slice]:
    """Bring streams together, a stretch of time after the other; stretches without a trade are left out.

    No trade comes before a trade of another market that is more than ``slice_us`` older. A frame of each
    stream is held, no more.

    Args:
        streams: by market, frames of TRADE_SCHEMA in order of time.
        slice_us: length of a stretch, microseconds.
    """
    heads = {market: _Head(frames) for market, frames in streams.items()}
    while True:
        firsts = [first for head in heads.values() if (first := head.first_us()) is not None]
        if not firsts:
            return
        start = min(firsts)
        end = start // slice_us * slice_us + slice_us
        found = [(market, head.take(end)) for market, head in heads.items()]
        found = [(market, trades) for market, trades in found if len(trades)]
        found.sort(key=lambda each: each[1]["time"][0])
        yield Slice(start, end, found)


class _Head:
    """A stream, and what has been read of it."""

    def __init__(self, frames: Iterator[pl.DataFrame]) -> None:
        self._frames = frames
        self._held = empty_trades()

    def first_us(self) -> int | None:
        """Time of the next trade; ``None`` at the end."""
        while self._held.is_empty():
            following = next(self._frames, None)
            if following is None:
                return None
            self._held = following
        return int(self._held["time"].to_physical()[0])

    def take(self, end_us: int) -> pl.DataFrame:
        """The trades before a time."""
        parts: list[pl.DataFrame] = []
        while (first := self.first_us()) is not None and first < end_us:
            count = int(self._held["time"].to_physical().search_sorted(end_us, "left"))
            parts.append(self._held.head(count))
            self._held = self._held.slice(count)
        return pl.concat(parts) if parts else empty_trades()
