"""Which candles to ask for, and when (pure).

A candle is asked for when its interval has ended, a buffer later, by its time: "the latest" may be the one
before or the one that still runs. An interval without a trade has no candle, and looks like one whose candle
is late. So the newest is asked for again a few times; then each look asks from the newest that was handed on,
for an hour of minutes at the most, and what comes later all the same, or has changed, is handed on then.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.interval import Interval

_LONGEST_PAUSE = timedelta(seconds=60)
# So many intervals back at the most: exchanges serve far more in one answer.
_FARTHEST = 60


@dataclass(frozen=True, slots=True)
class Ask:
    """Candles with ``open_time`` in ``[start, end)``."""

    start: datetime
    end: datetime


class Schedule:
    """The candles of one market and interval."""

    def __init__(
        self,
        interval: Interval,
        begin: datetime,
        *,
        buffer: timedelta = timedelta(seconds=2),
        look_back: int = 3,
        tries: int = 3,
        retry: timedelta = timedelta(seconds=2),
    ) -> None:
        """Want every candle from ``begin`` on.

        Args:
            buffer: how long after its end a candle is asked for.
            look_back: intervals before the newest that are asked for once more each time, at the least.
            tries: times that the newest is asked for while there is none.
            retry: between two of these.
        """
        self.interval = interval
        self._buffer, self._look_back, self._tries, self._retry = buffer, look_back, tries, retry
        self._begin = interval.ceil(begin)
        # The first open time that was not asked for.
        self._next = self._begin
        self._tried = self._failed = 0
        self._not_before: datetime | None = None
        self._handed_on = EXCHANGE_CANDLE_SCHEMA.to_frame()
        self._newest: datetime | None = None

    def due(self) -> datetime:
        """When to ask next."""
        due = self._next + self.interval.width + self._buffer
        return due if self._not_before is None else max(due, self._not_before)

    def ask(self, now: datetime) -> Ask | None:
        """What to ask for now: all that has ended, and a few before, that may have come late or changed."""
        if now < self.due():
            return None
        end = self.interval.floor(now - self._buffer)
        return Ask(self._start(), end)

    def answered(self, ask: Ask, candles: pl.DataFrame, now: datetime) -> pl.DataFrame:
        """Take the answer; return the candles that are new or have changed, in order."""
        self._failed, self._not_before = 0, None
        inside = candles.filter(pl.col("open_time").is_between(ask.start, ask.end, closed="left"))
        inside = inside.unique("open_time", keep="last").sort("open_time")
        new = inside.join(
            self._handed_on,
            on=EXCHANGE_CANDLE_SCHEMA.names(),
            how="anti",
            nulls_equal=True,
            maintain_order="left",
        )
        newest = ask.end - self.interval.width
        self._tried += 1
        if len(inside) and inside["open_time"][-1] >= newest:
            self._tried, self._next = 0, ask.end
        elif self._tried >= self._tries:
            # As far as anyone can tell the market was quiet; it is among those looked back at.
            self._tried, self._next = 0, ask.end
        else:
            self._not_before = now + self._retry
        if len(new):
            last = new["open_time"][-1]
            self._newest = last if self._newest is None else max(last, self._newest)
        others = self._handed_on.join(new, on="open_time", how="anti")
        self._handed_on = pl.concat([others, new]).filter(pl.col("open_time") >= self._start())
        return new

    def _start(self) -> datetime:
        """Candles behind the newest one may be late, or there are none."""
        width = self.interval.width
        back = self._next - self._look_back * width
        if self._newest is None:
            back = self._begin
        elif self._newest < back:
            back = self._newest + width
        return max(self._begin, self._next - _FARTHEST * width, back)

    def failed(self, now: datetime) -> None:
        """The exchange could not be asked; nothing is skipped, and what was missed is asked for together."""
        self._failed += 1
        self._not_before = now + min(_LONGEST_PAUSE, self._retry * 2 ** min(self._failed - 1, 10))

    def skip_to(self, oldest: datetime) -> Ask | None:
        """Give up what the exchange does not serve any more; returns what that was."""
        oldest = self.interval.ceil(oldest)
        if oldest <= self._next:
            return None
        given_up, self._next = Ask(self._next, oldest), oldest
        self._begin = max(self._begin, oldest)
        return given_up
