"""Candles of one partition of trades (pure): what a message changes, and what a restart must know."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from marketdata.market import Market
from realtime.candles import CandleCore, Update
from realtime.services.checkpoint import Checkpoint


@dataclass(slots=True)
class Outcome:
    """What is to be told, by market in the order it came about.

    Attributes:
        finals, running: candles, UPDATE_SCHEMA. Finals must go out once, running ones may be lost.
        late: trades behind the grace, TRADE_SCHEMA; ``refused``: trades of the future.
        trades, repeated: how many trades came, and how many of them had been counted before.
    """

    finals: list[tuple[Market, pl.DataFrame]] = field(default_factory=list)
    running: list[tuple[Market, pl.DataFrame]] = field(default_factory=list)
    late: list[tuple[Market, pl.DataFrame]] = field(default_factory=list)
    refused: list[tuple[Market, pl.DataFrame]] = field(default_factory=list)
    trades: int = 0
    repeated: int = 0

    @property
    def must_commit(self) -> bool:
        """Whether there is something that must go out once."""
        return bool(self.finals or self.late or self.refused)

    def take(self, update: Update) -> None:
        """Add what a call of the core has changed."""
        self.repeated += update.repeated
        if not update.candles.is_empty():
            final = update.candles["final"]
            count = int(final.sum())  # finals come first
            if count:
                self.finals.append((update.market, update.candles.head(count)))
            if count < len(final):
                self.running.append((update.market, update.candles.slice(count)))
        for found, rows in ((self.late, update.late), (self.refused, update.refused)):
            if not rows.is_empty():
                found.append((update.market, rows))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The trades that a market's first candles lack.

    Attributes:
        start, end: when they were, microseconds; the end lies behind the first trade that was seen.
        reaches: the id of that trade, which history must bring along; ``None``: it is not known.
    """

    market: Market
    start: int
    end: int
    reaches: int | None = None


class PartitionCandles:
    """The core of one partition, and where it stands."""

    def __init__(self, make_core: Callable[[], CandleCore], start: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            CorruptFile: a market's state is none.
        """
        self._core = make_core()
        self._started = start
        self.position = start.offset
        self._asked: set[Market] = set()
        for market, state in start.states.items():
            self._core.resume(market, state)

    @property
    def replaying(self) -> bool:
        """Whether the messages that come next had been handled before the checkpoint."""
        return self.position < self._started.position

    @property
    def replay_until(self) -> int:
        """The first offset that is new."""
        return self._started.position

    @property
    def markets(self) -> tuple[Market, ...]:
        """Markets seen so far."""
        return self._core.markets

    def add(
        self, batches: Iterable[tuple[Market, int, pl.DataFrame]], end: int, now: datetime, into: Outcome
    ) -> None:
        """Count the trades of messages; batches do not reach across :attr:`replay_until`.

        Args:
            batches: market, offset of its first message, trades.
            end: the offset behind the last message.
            now: the machine's time.
            into: what is to be told is added to it.
        """
        replay = end <= self._started.position
        for market, offset, trades in batches:
            update = self._core.add(market, trades, now, offset=offset, replay=replay)
            if not replay:
                into.trades += len(trades)
            into.take(update)
        self.position = end

    def tick(self, now: datetime, into: Outcome, *, caught_up: bool) -> None:
        """Let time pass. ``caught_up``: no message of the partition is waiting."""
        if self.replaying:
            return
        for update in self._core.tick(now, self._core.markets if caught_up else ()):
            into.take(update)

    def wanted_history(self) -> list["Wanted"]:
        """Of which markets the first candle lacks trades; each is told once."""
        if self.replaying:
            return []
        found = []
        for market in self._core.markets:
            start = None if market in self._asked else self._core.wants_history_from(market)
            first = self._core.first_seen(market)
            if start is not None and first is not None:
                self._asked.add(market)
                found.append(Wanted(market, start, first + 1, self._core.first_id(market)))
        return found

    def complete(self, market: Market, history: pl.DataFrame, now: datetime, into: Outcome) -> None:
        """Complete the first candles of a market by the trades before its first one; not in a replay."""
        into.take(self._core.complete(market, history, now))

    def watermarks(self) -> dict[Market, int]:
        """Up to where the windows of each market are closed, microseconds."""
        marks = {market: self._core.watermark(market) for market in self._core.markets}
        return {market: mark for market, mark in marks.items() if mark is not None}

    def checkpoint(self) -> Checkpoint:
        """Where it stands now."""
        if self.replaying:
            return self._started
        needed = [self._core.needed_offset(market) for market in self._core.markets]
        offset = min((at for at in needed if at is not None), default=self.position)
        states: Mapping[Market, str] = {market: self._core.state(market) for market in self._core.markets}
        return Checkpoint(offset, self.position, states)
