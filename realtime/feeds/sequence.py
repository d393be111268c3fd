"""Trades whose ids count up by one: in order, each once, and what is missing between them (pure).

``now`` is any clock in seconds that does not jump. The protocol, for one market:

1. :meth:`Sequence.connected` after each new connection: what was traded meanwhile is not known.
2. :meth:`Sequence.add` with what the socket brings; it returns what can be handed on, in order.
3. :meth:`Sequence.request` says what to ask REST for, if anything; then :meth:`Sequence.fetched` with each
   page, and one of :meth:`Sequence.ended`, :meth:`Sequence.failed` and :meth:`Sequence.refused`.

A hole is only asked for after ``patience``: frames may come in another order than they were sent. Meanwhile
what lies behind the hole waits. The number of rows that wait is bounded: beyond it the newest are let go, and
asked for by REST when their turn comes. Rows that REST does not serve either are given up after ``tries``;
one that comes later all the same is handed on then.

A position is not trusted for ever: one that newer trades with lower ids contradict is asked about, and given
up when REST shows such trades too (:mod:`realtime.feeds.doubt`). Then the first of them begins a new count.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from marketdata.trade import FUTURE_TOLERANCE, empty_trades
from realtime.feeds.base import Position
from realtime.feeds.doubt import Doubt
from realtime.feeds.waiting import Waiting, run

_PATIENCE_S, _SETTLE_S = 0.25, 1.0
# So many rows come with one answer.
_PAGE = 1_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
# Ids so far beyond what REST serves are no trades of this market.
_FAR = 1_000_000
_KEPT_GAPS = 1_000
# Neighbours may have times in another order than their ids.
_DISORDER = timedelta(seconds=1)
_NOTHING = Position(-1, datetime(1970, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Request:
    """What REST is asked for.

    Attributes:
        first_id: the first id that is missing; ``None`` where ids do not count up.
        last_id: an id that is there (or was), behind one hole or several; ``None``: all there is up to now.
        since: time of the last trade before what is missing.
        until: time of the trade ``last_id``; without one the exchange's time, as far as it is known.
    """

    first_id: int | None
    last_id: int | None
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Ids that nobody serves, inclusive."""

    first_id: int
    last_id: int

    def __len__(self) -> int:
        """How many."""
        return self.last_id - self.first_id + 1


class Sequence:
    """The trades of one market, by ids that count up by one."""

    ids = True

    def __init__(
        self,
        position: Position | None = None,
        *,
        patience: float = _PATIENCE_S,
        settle: float = _SETTLE_S,
        limit: int = 100_000,
        tries: int = 4,
    ) -> None:
        """Go on behind ``position``; without one the first trade is the beginning.

        Args:
            patience: seconds that a hole may be a matter of order.
            settle: seconds after a new connection until REST is asked if the socket brings nothing.
            limit: rows that may wait behind a hole.
            tries: times that REST is asked for rows it does not have but should.
        """
        self._patience, self._settle, self._limit, self._tries = patience, settle, limit, tries
        self.repeats = self.overflows = self.far = self.renumbered = 0
        self.gaps: list[Gap] = []
        self._begun = position is not None
        # The last row handed on, and the row before the first of all.
        self._last = position or _NOTHING
        self._beginning = self._last.trade_id
        # Of all that was handed on: a single row's time may be wrong.
        self._newest_time = self._last.time
        self._doubt = Doubt()
        self._doubt_at: float | None = None
        self._doubted = 0
        self._waiting = Waiting()
        # The newest row that was let go, and is asked for when what is before it has come.
        self._let_go: Position | None = None
        self._unsure = False
        self._asking: Request | None = None
        self._ask_at: float | None = None
        self._newest_fetched = -1
        self._tried = self._shown = self._failed = 0

    @property
    def position(self) -> Position | None:
        """The last trade handed on."""
        return self._last if self._begun else None

    @property
    def waiting(self) -> int:
        """Rows that wait behind a hole."""
        return len(self._waiting)

    def connected(self, now: float) -> None:
        """There is a new connection."""
        if self._begun:
            self._unsure = True
            self._ask_at = now + self._settle

    def add(self, trades: pl.DataFrame, now: float) -> pl.DataFrame:
        """Take what the socket brought; return what can be handed on."""
        newest = trades["trade_id"].max()
        if (
            self._unsure
            and self._asking is None
            and isinstance(newest, int)
            and newest >= self._last.trade_id
        ):
            # From now on a hole shows by itself: what the new connection brings is numbered.
            self._unsure, self._ask_at = False, None
        return self._take(trades, now)

    def request(self, now: float) -> Request | None:
        """What to ask REST for now; the answer must be told."""
        if self._asking is not None:
            return None
        if self._doubt_at is not None and now >= self._doubt_at and self._doubt.grave:
            newest = self._doubt.rows["time"].max()
            self._asking = Request(
                None, None, self._since(), newest if isinstance(newest, datetime) else None
            )
        elif self._ask_at is not None and now >= self._ask_at:
            self._asking = self._wanted()
        self._newest_fetched = -1
        return self._asking

    def lost(self, now: float) -> None:
        """The socket may have lost some: that shows as a hole."""

    def probe(self, now: float) -> None:
        """Ask REST soon whether there are trades that the socket did not bring."""
        if self._begun and self._asking is None and not self._unsure:
            self._unsure = True
            self._ask_at = now if self._ask_at is None else min(now, self._ask_at)

    def fetched(self, trades: pl.DataFrame, now: float) -> pl.DataFrame:
        """Take a page of the answer; return what can be handed on."""
        newest = trades["trade_id"].max()
        if isinstance(newest, int):
            self._newest_fetched = max(self._newest_fetched, newest)
        repeats = self.repeats
        # What REST says of an id goes before what a socket said.
        self._waiting.discard(trades["trade_id"])
        ready = self._take_by_count(trades, now) if self._doubting else self._take(trades, now)
        self.repeats = repeats
        return ready

    def ended(self, now: float) -> tuple[pl.DataFrame, Gap | None]:
        """The answer is complete: what can be handed on because ids were given up, and those ids."""
        if self._doubting:
            # If REST has not shown it, that may be its delay; the next trade by the old count ends the doubt.
            self._doubt.ended()
            self._doubted += 1
            self._doubt_at = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (self._doubted - 1))
        self._answered()
        if not self._hole():
            self._settled(now)
            return empty_trades(), None
        self._tried += 1
        if self._newest_fetched > self._last.trade_id:
            self._shown += 1
            if self._shown >= self._tries:
                return self._give_up(now)
        elif self._tried >= self._tries:
            # REST does not know of what waits. That may be its delay; but ids beyond reason are no trades.
            reason = max(self._newest_fetched, self._last.trade_id) + _FAR
            self.far += self._waiting.remove_above(reason)
            if self._let_go is not None and self._let_go.trade_id > reason:
                self._let_go = None
        if self._hole():
            self._ask_at = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (self._tried - 1))
        else:
            self._settled(now)
        return empty_trades(), None

    def failed(self, now: float) -> None:
        """REST could not be asked; it is asked again later, and nothing behind the hole goes on."""
        self._failed += 1
        again = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (self._failed - 1))
        if self._doubting:
            self._doubt_at = again
        else:
            self._ask_at = again
        self._asking = None

    def refused(self, now: float) -> tuple[pl.DataFrame, Gap | None]:
        """REST will never serve this: go on without."""
        if self._doubting and self._doubt.grave:
            # There is only the socket's word.
            ready = self._begin_anew(self._doubt.clear().sort("trade_id"), now)
            self._answered()
            return ready, None
        self._answered()
        if not self._hole():
            self._settled(now)
            return empty_trades(), None
        return self._give_up(now)

    def _hole(self) -> bool:
        return bool(len(self._waiting)) or self._let_go is not None

    @property
    def _doubting(self) -> bool:
        """Whether what is being asked is what has been traded since the position, by whatever ids."""
        return self._asking is not None and self._asking.first_id is None

    def _since(self, there: Position | None = None) -> datetime:
        """The time of the last trade, unless it cannot be: then what no accepted row's time is ahead by."""
        bound = self._newest_time - FUTURE_TOLERANCE
        if there is not None and there.time < self._last.time - _DISORDER:
            return bound
        return max(self._last.time, bound)

    def _wanted(self) -> Request:
        first = self._last.trade_id + 1
        there = self._waiting.behind_holes(first + _PAGE) or self._let_go
        since = self._since(there)
        if there is None:
            return Request(first, None, since)
        return Request(first, there.trade_id, since, max(self._last.time, there.time))

    def _take(self, trades: pl.DataFrame, now: float) -> pl.DataFrame:
        if trades.is_empty():
            return trades
        ids = trades["trade_id"].to_numpy()
        if not self._begun:
            first = int(ids.argmin())
            self._begun, self._beginning = True, int(ids[first]) - 1
            self._last = Position(self._beginning, trades["time"][first])
        expected = self._last.trade_id + 1
        late, fresh, ready = empty_trades(), trades, trades
        if run(ids, expected) < len(ids):
            late, fresh = self._sorted_out(trades)
            ready = empty_trades()
        if len(self._waiting) or ready.is_empty():
            self.repeats += self._waiting.add(fresh)
            ready = self._waiting.take(expected)
            self._bound()
        if len(ready):
            self._moved(ready)
            self._tried = self._shown = self._doubted = 0
            self.repeats += len(self._doubt.clear())
        self._look(now, moved=bool(len(ready)))
        return pl.concat([late, ready]) if len(late) else ready

    def _sorted_out(self, trades: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows that had been given up, and rows behind the position; each once, by id."""
        distinct = trades.unique("trade_id", keep="first").sort("trade_id")
        self.repeats += len(trades) - len(distinct)
        old = distinct.filter(pl.col("trade_id") <= self._last.trade_id)
        fresh = distinct.slice(len(old))
        late = old.head(0)
        if self.gaps:
            given_up = pl.Series([self._was_given_up(i) for i in old["trade_id"]], dtype=pl.Boolean)
            late, old = old.filter(given_up), old.filter(~given_up)
        old = self._doubt.see(old, Position(self._last.trade_id, self._newest_time))
        self.repeats += int((old["trade_id"] > self._beginning).sum())
        return late, fresh

    def _take_by_count(self, page: pl.DataFrame, now: float) -> pl.DataFrame:
        """Take a page that may begin anew: first what goes by the old count."""
        held = self._doubt.rows
        anew = self._doubt.shown(page, Position(self._last.trade_id, self._newest_time))
        ready = self._take(page.filter(pl.col("trade_id") > self._last.trade_id), now)
        if anew.is_empty():
            return ready
        self._doubt.clear()
        held = held.filter(pl.col("trade_id") > anew["trade_id"][0])
        rows = pl.concat([anew, held]).unique("trade_id", keep="first").sort("trade_id")
        return pl.concat([ready, self._begin_anew(rows, now)])

    def _begin_anew(self, rows: pl.DataFrame, now: float) -> pl.DataFrame:
        """Count from the first of these rows on; what waits by the old count is no trade of this market."""
        self.renumbered += 1
        self.far += len(self._waiting)
        self._waiting.clear()
        self._let_go, self.gaps = None, []
        self._doubt_at, self._doubted, self._tried, self._shown = None, 0, 0, 0
        self._last = Position(rows["trade_id"][0] - 1, rows["time"][0])
        self._beginning, self._newest_time = self._last.trade_id, self._last.time
        self._newest_fetched = rows["trade_id"][-1]
        return self._take(rows, now)

    def _moved(self, ready: pl.DataFrame) -> None:
        self._last = Position(ready["trade_id"][-1], ready["time"][-1])
        newest = ready["time"].max()
        if isinstance(newest, datetime):
            self._newest_time = max(self._newest_time, newest)

    def _was_given_up(self, trade_id: int) -> bool:
        """Whether an id stood in a gap; from now on it does not."""
        for at, gap in enumerate(self.gaps):
            if gap.first_id <= trade_id <= gap.last_id:
                parts = [Gap(gap.first_id, trade_id - 1), Gap(trade_id + 1, gap.last_id)]
                self.gaps[at : at + 1] = [part for part in parts if part.first_id <= part.last_id]
                return True
        return False

    def _bound(self) -> None:
        newest = self._waiting.keep_lowest(self._limit)
        if newest is not None:
            self.overflows += 1
            if self._let_go is None or newest.trade_id > self._let_go.trade_id:
                self._let_go = newest

    def _look(self, now: float, *, moved: bool) -> None:
        """Set when to ask REST."""
        if self._doubt_at is None and self._doubt.grave:
            self._doubt_at = now + self._patience
        if self._let_go is not None and self._let_go.trade_id <= self._last.trade_id:
            self._let_go = None
        if not self._hole():
            if self._asking is None and not self._unsure:
                self._settled(now)
        elif self._ask_at is None or moved:
            # Behind a full buffer nothing is a matter of order.
            self._ask_at = now + (self._patience if len(self._waiting) else 0.0)

    def _answered(self) -> None:
        if self._asking is not None and self._asking.last_id is None:
            self._unsure = False
        self._asking, self._failed = None, 0

    def _settled(self, now: float) -> None:
        self._ask_at, self._tried, self._shown = now if self._unsure else None, 0, 0

    def _give_up(self, now: float) -> tuple[pl.DataFrame, Gap | None]:
        """Go on at the lowest id that is there."""
        first = self._last.trade_id + 1
        oldest = self._waiting.oldest
        if oldest is not None:
            last = Position(oldest.trade_id - 1, self._last.time)
        elif self._let_go is not None:
            last, self._let_go = self._let_go, None
        else:
            return empty_trades(), None
        gap = Gap(first, last.trade_id)
        self.gaps = [*self.gaps, gap][-_KEPT_GAPS:]
        self._last = last
        self._settled(now)
        ready = self._waiting.take(last.trade_id + 1)
        if len(ready):
            self._moved(ready)
        self._look(now, moved=True)
        return ready, gap
