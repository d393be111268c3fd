"""Trades of exchanges whose ids do not count up, or that have none: each once, holes not provable (pure).

What was missed is known by time only. After each new connection REST is asked from a little before the last
trade on, and meanwhile what the socket brings waits. Then:

- where ids are whole numbers, each id goes on once;
- where they are not, rows are compared by content. A connection, or an answer of REST, is one view of the
  market: what it shows more often at one instant than was handed on is new. So two identical fills of one
  view stay two, and what two views both show goes on once. Ids are then given as
  :func:`marketdata.trade.assign_ids` gives them: the time, and the position at that time.

The protocol is that of :class:`realtime.feeds.sequence.Sequence`.
"""

from collections import Counter, deque
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from marketdata.interval import to_us
from marketdata.trade import empty_trades
from realtime.feeds.base import Position
from realtime.feeds.sequence import Gap, Request
from realtime.seen import Seen

_SETTLE_S, _AGAIN_S, _FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0, 0.5, 15.0
# Exchanges cut times to seconds, and push trades of one moment in any order.
_MARGIN = timedelta(seconds=2)
_KEPT = timedelta(minutes=10)
_POSITION_BITS = 11
# Frames whose times tell the exchange's time; a single one may be wrong, or show what is old.
_HEARD = 50
# A row so far ahead of the others' time has a wrong one; who asks from there on misses what was before.
_AHEAD = timedelta(minutes=1)


class Overlap:
    """The trades of one market, by time."""

    def __init__(
        self,
        position: Position | None = None,
        *,
        settle: float = _SETTLE_S,
        again: float = _AGAIN_S,
        limit: int = 100_000,
        numbered: bool | None = None,
    ) -> None:
        """Go on behind ``position``; without one the first trade is the beginning.

        Args:
            numbered: whether an id names the same trade by the socket and by REST; ``None``: the first rows
                show whether there are ids.
            settle: seconds after a new connection until REST is asked.
            again: and until it is asked once more, because a subscription may take its time; not before a
                row has told the exchange's time, which the machine's clock may be behind. A connection that
                brings its first row later than that is a reason to ask again then.
            limit: rows that may wait for its answer.
        """
        self._settle, self._again, self._limit = settle, again, limit
        self.position = position
        self.repeats = self.overflows = self.far = self.renumbered = 0
        self._start = position
        # For the newest row of each of the last frames: when, by the exchange's time, ``now`` was 0.
        self._zeros: deque[datetime] = deque(maxlen=_HEARD)
        self._distinct: _Ids | _Contents | None = None
        if numbered is not None:
            self._distinct = _Ids(position) if numbered else _Contents(position)
        self._begun_at: Any = None
        # By connection: each is a view of its own.
        self._waiting: list[list[pl.DataFrame]] = [[]]
        self._rows = 0
        self._behind = self._asking = False
        self._ask_at: float | None = None
        # A second time, from the same trade on; the last time when the connection has brought a row.
        self._heard = False
        self._again_at: float | None = None
        self._again_from: Position | None = None
        self._asked_from: Position | None = None
        self._failed_from: Position | None = None
        self._failed = 0

    @property
    def ids(self) -> bool | None:
        """Whether the exchange numbers its trades; ``None`` before the first."""
        return None if self._distinct is None else isinstance(self._distinct, _Ids)

    @property
    def waiting(self) -> int:
        """Rows that wait for what came before them."""
        return self._rows

    def connected(self, now: float) -> None:
        """There is a new connection: a new view of the market."""
        if self._rows:
            # What waits was shown by the one before, and is not counted yet.
            self._waiting.append([])
        elif self._distinct is not None:
            self._distinct.new_view("socket")
        if self.position is not None:
            self._behind, self._ask_at = True, now + self._settle
            # Of the connections before it something may be missing still, if they did not hold so long.
            self._again_at, self._again_from = now + self._again, self._again_from or self.position
            self._heard = False

    def add(self, trades: pl.DataFrame, now: float) -> pl.DataFrame:
        """Take what the socket brought; return what can be handed on."""
        if trades.is_empty():
            return trades
        newest = trades["time"].max()
        if isinstance(newest, datetime):
            self._zeros.append(newest - timedelta(seconds=now))
        if not self._heard:
            self._heard = True
            if self._again_from is not None and self._again_at is None:
                # Asked too early: the subscription may have taken effect only now.
                self._again_at = now + self._settle
        if not self._behind:
            return self._fresh(trades, "socket", now)
        if self._rows + len(trades) > self._limit:
            # What is let go is in the answer that REST is asked for once more.
            self.overflows += 1
            self._waiting, self._rows = [[] for _ in self._waiting], 0
            self._ask_at = now if self._ask_at is None else self._ask_at
        self._waiting[-1].append(trades)
        self._rows += len(trades)
        return empty_trades()

    def lost(self, now: float) -> None:
        """The socket may have lost some."""
        if self.position is None:
            # They were before the beginning, and there is no place to ask from: nothing would end the wait.
            return
        self._behind, self._ask_at = True, now

    def probe(self, now: float) -> None:
        """Ask REST soon whether there are trades that the socket did not bring."""
        if self.position is not None and not self._behind:
            self.lost(now)

    def request(self, now: float) -> Request | None:
        """What to ask REST for now; the answer must be told."""
        if self._asking or self.position is None:
            return None
        since = self._failed_from or self.position
        if self._ask_at is not None and now >= self._ask_at:
            self._ask_at = None
        elif self._again_at is not None and now >= self._again_at and self._zeros and not self._behind:
            since, self._again_at = self._again_from or since, None
            if self._heard:
                self._again_from = None
        else:
            return None
        self._asking, self._behind, self._asked_from = True, True, since
        if self._distinct is not None:
            self._distinct.new_view("rest")
        return Request(None, None, since.time - _MARGIN, self._exchange_time(now))

    def fetched(self, trades: pl.DataFrame, now: float) -> pl.DataFrame:
        """Take a page of the answer; return what can be handed on."""
        repeats = self.repeats
        ready = self._fresh(trades, "rest", now)
        self.repeats = repeats
        return ready

    def ended(self, now: float) -> tuple[pl.DataFrame, Gap | None]:
        """The answer is complete: what waited can be handed on."""
        self._asking, self._failed, self._failed_from = False, 0, None
        if self._ask_at is not None:
            return empty_trades(), None
        self._behind = False
        waited, self._waiting, self._rows = self._waiting, [[]], 0
        ready = [empty_trades()]
        for at, frames in enumerate(waited):
            if at and self._distinct is not None:
                self._distinct.new_view("socket")
            ready.append(self._fresh(pl.concat([empty_trades(), *frames]), "socket", now))
        return pl.concat(ready), None

    def failed(self, now: float) -> None:
        """REST could not be asked; it is asked again later."""
        self._asking, self._failed, self._failed_from = False, self._failed + 1, self._asked_from
        self._ask_at = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (self._failed - 1))

    def refused(self, now: float) -> tuple[pl.DataFrame, Gap | None]:
        """REST will never serve this: go on without."""
        self._ask_at = None
        return self.ended(now)

    def _exchange_time(self, now: float) -> datetime | None:
        """The exchange's time at the least; the machine's clock may be behind it, or be set back."""
        return max(self._zeros) + timedelta(seconds=now) if self._zeros else None

    def _follow(self, fresh: pl.DataFrame, now: float) -> None:
        """Go on to the newest of these rows, unless its time is ahead of what most frames tell."""
        if len(self._zeros) > 2:
            middle = sorted(self._zeros)[(len(self._zeros) - 1) // 2]
            fresh = fresh.filter(pl.col("time") <= middle + timedelta(seconds=now) + _AHEAD)
        if len(fresh):
            newest = fresh.row(int(fresh["time"].arg_max() or 0), named=True)
            if self.position is None or newest["time"] >= self.position.time:
                self.position = Position(newest["trade_id"], newest["time"])

    def _fresh(self, trades: pl.DataFrame, view: str, now: float) -> pl.DataFrame:
        if trades.is_empty():
            return empty_trades()
        if self.position is None:
            self._begun_at = trades["time"].min()
        if self._begun_at is not None:
            # What was before the beginning was not missed.
            trades = trades.filter(pl.col("time") >= self._begun_at)
        if self._distinct is None:
            # An exchange has ids or has none: the first rows show which.
            numbered = trades["trade_id"].null_count() == 0
            self._distinct = _Ids(self._start) if numbered else _Contents(self._start)
        fresh = self._distinct.fresh(trades, view)
        self.repeats += len(trades) - len(fresh)
        self._follow(fresh, now)
        return fresh


class _Ids:
    """Rows known by their id."""

    def __init__(self, start: Position | None) -> None:
        self._seen = Seen()
        self._start = start

    def new_view(self, view: str) -> None:
        """Ids do not depend on who shows them."""

    def fresh(self, trades: pl.DataFrame, view: str) -> pl.DataFrame:  # noqa: ARG002
        later = trades
        if self._start is not None:
            # Ids need not rise, and that of the start may be wrong: what is newer was not handed on before.
            newer = pl.col("time") > self._start.time
            later = trades.filter((pl.col("trade_id") > self._start.trade_id) | newer)
        return later.filter(pl.Series(self._seen.unseen(later["trade_id"].to_numpy()), dtype=pl.Boolean))


class _Contents:
    """Rows known by what they say, and how often a view shows it."""

    def __init__(self, start: Position | None) -> None:
        self._handed_on: dict[datetime, Counter[tuple[object, ...]]] = {}
        self._views: dict[str, dict[datetime, Counter[tuple[object, ...]]]] = {}
        self._at_time: Counter[datetime] = Counter()
        self._newest: datetime | None = None
        # Of rows at the instant of the start so many had been handed on.
        self._start = start
        self._before = 0 if start is None else start.trade_id - (to_us(start.time) << _POSITION_BITS) + 1

    def new_view(self, view: str) -> None:
        """Nothing has been shown yet."""
        self._views[view] = {}

    def fresh(self, trades: pl.DataFrame, view: str) -> pl.DataFrame:
        """New rows, with ids."""
        shown = self._views.setdefault(view, {})
        keep, ids = [], []
        for time, *rest in trades.select("time", "price", "amount", "side", "fills").iter_rows():
            content = tuple(rest)
            if self._newest is not None and time < self._newest - _KEPT:
                keep.append(False)
                continue
            counts = shown.setdefault(time, Counter())
            counts[content] += 1
            handed_on = self._handed_on.setdefault(time, Counter())
            new = counts[content] > handed_on[content]
            if new:
                handed_on[content] += 1
                place = self._at_time[time]
                self._at_time[time] += 1
                if self._start is not None and time <= self._start.time:
                    # Handed on before the restart: all earlier ones, and the first of that very instant.
                    new = time == self._start.time and place >= self._before
                ids.append((to_us(time) << _POSITION_BITS) + place) if new else None
            keep.append(new)
            if self._newest is None or time > self._newest:
                self._newest = time
        self._forget()
        fresh = trades.filter(pl.Series(keep, dtype=pl.Boolean))
        return fresh.with_columns(pl.Series("trade_id", ids, dtype=pl.Int64))

    def _forget(self) -> None:
        """Keep counts of the last ten minutes; at most twice as many, so that this is rarely done."""
        if self._newest is None or not self._handed_on:
            return
        oldest = next(iter(self._handed_on))
        if oldest >= self._newest - 2 * _KEPT:
            return
        limit = self._newest - _KEPT
        for counts in (self._handed_on, *self._views.values()):
            for time in [time for time in counts if time < limit]:
                del counts[time]
        for time in [time for time in self._at_time if time < limit]:
            del self._at_time[time]
