"""The windows of one market, in event time (pure): what :mod:`realtime.candles` keeps for each."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain

import numpy as np
import orjson
import polars as pl

from marketdata import fold
from marketdata.candle import CANDLE_SCHEMA
from marketdata.errors import CorruptFile
from marketdata.fold import Columns
from marketdata.interval import Interval
from marketdata.market import Market
from marketdata.trade import empty_trades, in_order
from realtime.seen import Seen

# What goes out: candles of several intervals of one market. ``final``: no longer running; ``partial``: begun
# before the first trade that was seen, and not completed from history.
UPDATE_SCHEMA = pl.Schema(
    {
        "interval": pl.String(),
        **CANDLE_SCHEMA,
        "revision": pl.Int32(),
        "final": pl.Boolean(),
        "partial": pl.Boolean(),
    }
)
FUTURE = "time in the future"
_NEVER = -(1 << 62)
# Made once: an empty frame costs as much as folding ten trades.
_NO_CANDLES, _NO_TRADES = UPDATE_SCHEMA.to_frame(), empty_trades()


@dataclass(frozen=True, slots=True)
class Rules:
    """How a market's windows close.

    Attributes:
        delay: how long a window waits behind its end for trades out of order.
        grace: how long behind its end a closed window still takes late trades.
        idle: without a trade for so long the newest one ages with the clock, this far behind it.
        every: running candles of a market go out at most this often.
        future: a trade this far ahead of the machine's clock is refused, for it would close everything.
        history: how long the windows that had begun before the first trade are kept for their history.
        silence: without a trade the grace begins this long after the window has closed by the clock: a feed
            that was cut off brings what it missed in order, and candles closed meanwhile are issued again.
    """

    delay: timedelta = timedelta(milliseconds=500)
    grace: timedelta = timedelta(seconds=30)
    idle: timedelta = timedelta(seconds=5)
    every: timedelta = timedelta(milliseconds=200)
    future: timedelta = timedelta(minutes=5)
    history: timedelta = timedelta(minutes=2)
    silence: timedelta = timedelta(minutes=10)


@dataclass(slots=True)
class Update:
    """What a call has changed in one market.

    Attributes:
        candles: UPDATE_SCHEMA; final ones before running ones, each interval in order of time.
        late: trades that came behind the grace of at least the narrowest interval, TRADE_SCHEMA.
        refused: trades of the future, TRADE_SCHEMA; the reason is :data:`FUTURE`.
        repeated: how many trades had been counted before.
    """

    market: Market
    candles: pl.DataFrame = field(default_factory=lambda: _NO_CANDLES)
    late: pl.DataFrame = field(default_factory=lambda: _NO_TRADES)
    refused: pl.DataFrame = field(default_factory=lambda: _NO_TRADES)
    repeated: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return self.candles.is_empty() and self.late.is_empty() and self.refused.is_empty()


class Windows:
    """Windows of one market. Times are microseconds since the epoch."""

    def __init__(self, market: Market, intervals: Sequence[Interval], rules: Rules) -> None:
        self._market, self._intervals, self._rules = market, intervals, rules
        second = timedelta(microseconds=1)
        self._delay, self._grace = rules.delay // second, rules.grace // second
        self._idle, self._every = rules.idle // second, rules.every // second
        self._future, self._history = rules.future // second, rules.history // second
        self._silence = rules.silence // second
        self._base: Columns | None = None
        self._seen = Seen()
        self._newest = _NEVER  # time of the newest trade
        self._mark = _NEVER  # watermark: what it has passed is closed
        self._firm = _NEVER  # behind it by what only the clock has closed: the grace counts from here
        self._issued: dict[Interval, dict[int, int]] = {interval: {} for interval in intervals}  # revisions
        # Windows that changed since they last went out.
        self._changed: dict[Interval, set[int]] = {interval: set() for interval in intervals}
        self._arrived, self._told = _NEVER, _NEVER
        # Up to here, inclusive, not every trade has come by itself: the time of the first one. It is known as
        # long as a window that opened by then may change, for a restart must ask for that history again.
        self._first: int | None = None
        self._first_id: int | None = None
        self._lacks = False  # that history: what opened up to there is partial
        self._whole = False  # what had gone out of it was whole
        # Windows that ended before the first trade, or before a restart's replay, are nobody's here: part of
        # what they hold was never seen, or is no longer known.
        self._begin = _NEVER
        self._settled: set[Interval] = set()  # their window of the first trade had gone out, whole
        self._owed: set[Interval] = set()  # and has changed since, which cannot be told without the history
        self._held_until: int | None = None  # machine's time until which it waits for its history
        self._cold, self._resumed, self._waits = True, False, False
        self._offsets: deque[tuple[int, int]] = deque()  # (offset, newest time in the batch)

    # -- what comes in ------------------------------------------------------------------------------

    def add(self, trades: pl.DataFrame, now: int, *, offset: int | None, replay: bool) -> Update:
        update = Update(self._market)
        trades = in_order(trades)
        time = trades["time"].cast(pl.Int64).to_numpy()
        self._settle(now, replay=replay)
        limit = self._newest if replay else now + self._future
        if len(time) and time[-1] > limit:
            if not replay:  # in a replay it was refused before
                update.refused = trades.filter(pl.Series(time > limit))
            trades = trades.filter(pl.Series(time <= limit))
            time = trades["time"].cast(pl.Int64).to_numpy()
        fresh = self._seen.unseen(trades["trade_id"].to_numpy())
        if not fresh.all():
            update.repeated = len(fresh) - int(fresh.sum())
            trades = trades.filter(pl.Series(fresh))
            time = time[fresh]
        if not len(time):
            return update if replay else self._tell(update, now)
        if self._cold:
            self._first, self._first_id = int(time[0]), int(trades["trade_id"][0])
            self._cold, self._lacks, self._held_until = False, True, now + self._history
            self._begin = self._first
        base = self._intervals[0]
        sealed = self._sealed(base)
        if time[0] < sealed:
            late = time < sealed
            if not replay:
                update.late = trades.filter(pl.Series(late))
            held = time >= self._oldest()
            trades, time = trades.filter(pl.Series(held)), time[held]
        if offset is not None:
            self._offsets.append((offset, int(time[-1]) if len(time) else _NEVER))
        if len(time):
            self._merge(trades, quiet=replay)
        if replay:
            return update
        if len(time):
            self._newest = max(self._newest, int(time[-1]))
            self._arrived = now  # repeats and trades that came too late say nothing of how far the market is
        before = self._mark, self._firm
        self._mark = max(self._mark, self._newest - self._delay)
        self._firm = max(self._firm, self._newest - self._delay)
        return self._tell(update, now, before)

    def tick(self, now: int, *, idle: bool) -> Update:
        self._settle(now, replay=False)
        before = self._mark, self._firm
        if idle and self._newest != _NEVER and now - self._arrived >= self._idle:
            self._mark = max(self._mark, self._newest + now - self._arrived - self._idle)
            self._firm = max(self._firm, self._mark - self._silence)
        return self._tell(Update(self._market), now, before)

    def complete(self, history: pl.DataFrame, now: int) -> Update:
        update = Update(self._market)
        self._settle(now, replay=False)
        start = self.wants_history_from()
        if start is None:
            return update
        trades = in_order(history)
        time = trades["time"].cast(pl.Int64).to_numpy()
        wanted = (time >= start) & (time <= self._newest)
        trades = trades.filter(pl.Series(wanted))
        fresh = self._seen.unseen(trades["trade_id"].to_numpy())
        update.repeated = len(fresh) - int(fresh.sum())
        trades = trades.filter(pl.Series(fresh))
        first = self._first
        assert first is not None  # noqa: S101  # or no history were wanted
        if not trades.is_empty():
            self._merge(trades, quiet=self._whole)
        # They go out again also where history had nothing to add: they are no longer partial. What had gone
        # out whole before a restart stays as it is, unless it has changed since.
        for interval, changed in self._changed.items():
            if interval in self._owed or interval not in self._settled:
                changed.add(interval.floor_us(first))
        self._owed.clear()
        self._settled.clear()
        self._lacks, self._whole, self._held_until, self._told = False, True, None, _NEVER
        return self._tell(update, now, completed=first)

    def _merge(self, trades: pl.DataFrame, *, quiet: bool) -> None:
        part = fold.folded(trades, self._intervals[0])
        opens = part["open_time"]
        if not quiet:
            for interval, changed in self._changed.items():
                changed.update({interval.floor_us(at) for at in opens.tolist()})
        held = self._base
        if held is None or opens[0] > held["open_time"][-1]:
            self._base = part if held is None else _joined(held, part)
            return
        at = int(np.searchsorted(held["open_time"], opens[0]))
        both = {name: np.concatenate((column[at:], part[name])) for name, column in held.items()}
        self._base = _joined({name: column[:at] for name, column in held.items()}, fold.merged_parts(both))

    def _settle(self, now: int, *, replay: bool) -> None:
        """After a restart: once the replay has ended, windows that were closed by then had gone out."""
        # A clock that was set back would keep running candles and quiet markets waiting meanwhile.
        if now < self._told:
            self._told = _NEVER
        self._arrived = min(self._arrived, now)
        if self._resumed and replay:
            self._arrived = now
        elif self._resumed:
            self._resumed = False
            if self._base is not None:
                for interval, issued in self._issued.items():
                    until = interval.floor_us(self._mark)
                    found = sorted({interval.floor_us(at) for at in self._base["open_time"].tolist()})
                    self._issued[interval] = {at: issued.get(at, 0) for at in found if at < until}
            if self._whole and self._first is not None:
                first = self._first
                self._settled = {
                    interval
                    for interval in self._intervals
                    if interval.floor_us(first) < max(interval.floor_us(self._mark), self._bound(interval))
                }
            self._arrived = max(self._arrived, now)
            if self._waits:
                self._held_until, self._waits = now + self._history, False
        if self._held_until is not None and now > self._held_until:
            self._held_until = None

    # -- what goes out ------------------------------------------------------------------------------

    def _tell(
        self,
        update: Update,
        now: int,
        before: tuple[int, int] | None = None,
        *,
        completed: int | None = None,
    ) -> Update:
        """Add the candles that are due, given what had been closed and firm before."""
        closed, firm = (self._mark, self._firm) if before is None else before
        parts = [self._finals(interval, closed, firm, completed) for interval in self._intervals]
        if now - self._told >= self._every and any(self._changed.values()):
            parts += [self._running(interval) for interval in self._intervals]
            self._told = now
        found = [part for part in parts if part is not None]
        if found:
            update.candles = self._frame(found)
        self._trim()
        return update

    def _finals(self, interval: Interval, closed: int, firm: int, completed: int | None) -> "_Part | None":
        """Windows that have closed since, and closed ones that have changed and are not sealed."""
        before, until = self._floor(interval, closed), self._floor(interval, self._mark)
        sealed = self._sealed(interval, firm)
        if completed is not None:
            sealed = min(sealed, interval.floor_us(completed))
        over = {at for at in self._changed[interval] if at < until}
        self._changed[interval] -= over
        if self._lacks and interval in self._settled and self._first is not None:
            whole = interval.floor_us(self._first)
            if whole in over:
                over.remove(whole)
                self._owed.add(interval)
        again = {at for at in over if sealed <= at < before}
        if until == before and not again:
            return None
        wide = self._windows(interval, min(again, default=before), until, again, behind=before)
        if wide is None:
            return None
        issued = self._issued[interval]
        opens = wide["open_time"].tolist()
        revisions = [issued[at] + 1 if at in issued else 0 for at in opens]
        issued.update(zip(opens, revisions, strict=True))
        return _Part(interval, wide, revisions, final=True)

    def _running(self, interval: Interval) -> "_Part | None":
        """Windows that have changed and are not closed."""
        changed = self._changed[interval]
        if not changed:
            return None
        wide = self._windows(interval, min(changed), 1 << 62, changed, behind=1 << 62)
        changed.clear()
        return None if wide is None else _Part(interval, wide, [0] * len(wide["open_time"]), final=False)

    def _windows(
        self, interval: Interval, start: int, until: int, among: set[int], *, behind: int
    ) -> Columns | None:
        """Candles of ``[start, until)`` that are among the given ones or open at ``behind`` or later."""
        if self._base is None:
            return None
        start = max(start, self._bound(interval))
        low, high = (int(at) for at in np.searchsorted(self._base["open_time"], (start, until)))
        if low == high:
            return None
        wide = {name: column[low:high] for name, column in self._base.items()}
        if interval != self._intervals[0]:
            wide = fold.widened(wide, interval)
        chosen = wide["open_time"] >= behind
        if among:
            chosen |= np.isin(wide["open_time"], np.fromiter(among, np.int64, len(among)))
        if not chosen.any():
            return None
        return wide if chosen.all() else {name: column[chosen] for name, column in wide.items()}

    def _frame(self, parts: Sequence["_Part"]) -> pl.DataFrame:
        """Candles of several intervals as one frame: making frames is most of what a small batch costs."""
        columns = {
            name: np.concatenate([part.candles[name] for part in parts]) for name in CANDLE_SCHEMA.names()
        }
        opens = columns["open_time"]
        sizes = [len(part.revisions) for part in parts]
        lacks = self._lacks and self._first is not None
        partial = opens <= self._first if lacks else np.zeros(len(opens), np.bool_)
        # In the order of the schema: adding columns to a frame and choosing among them are two queries.
        return pl.DataFrame(
            [
                pl.Series("interval", np.repeat([part.interval.name for part in parts], sizes), pl.String),
                *fold.series_of(columns),
                pl.Series("revision", list(chain.from_iterable(part.revisions for part in parts)), pl.Int32),
                pl.Series("final", np.repeat([part.final for part in parts], sizes)),
                pl.Series("partial", partial),
            ]
        )

    # -- how far things are ---------------------------------------------------------------------------

    @staticmethod
    def _floor(interval: Interval, time: int) -> int:
        return _NEVER if time <= _NEVER else interval.floor_us(time)

    def _sealed(self, interval: Interval, mark: int | None = None) -> int:
        """Windows that open before this can no longer change."""
        mark = self._firm if mark is None else mark
        return max(self._bound(interval), self._floor(interval, mark - self._grace))

    def _bound(self, interval: Interval) -> int:
        return self._floor(interval, self._begin)

    def _oldest(self) -> int:
        """Trades from here on are in a window that may still change."""
        oldest = min(self._sealed(interval) for interval in self._intervals)
        start = self.wants_history_from()
        return oldest if start is None else min(oldest, start)

    def _trim(self) -> None:
        oldest = self._oldest()
        if self._base is not None and self._base["open_time"][0] < oldest:
            at = int(np.searchsorted(self._base["open_time"], oldest))
            rest = {name: column[at:].copy() for name, column in self._base.items()}
            self._base = rest if len(rest["open_time"]) else None
        for interval, issued in self._issued.items():
            sealed = min(self._sealed(interval), max(oldest, interval.floor_us(oldest)))
            while issued and (first := next(iter(issued))) < sealed:
                del issued[first]
        while self._offsets and self._offsets[0][1] < oldest:
            self._offsets.popleft()
        if (
            self._first is not None
            and self.wants_history_from() is None
            and self._may_not_change(self._first)
        ):
            self._first = self._first_id = None

    def _may_not_change(self, time: int) -> bool:
        """Whether every window that had opened by then is sealed."""
        return all(interval.floor_us(time) < self._sealed(interval) for interval in self._intervals)

    def wants_history_from(self) -> int | None:
        if self._first is None or not (self._held_until is not None or self._waits):
            return None
        return min(interval.floor_us(self._first) for interval in self._intervals)

    def first_seen(self) -> int | None:
        return self._first

    def first_id(self) -> int | None:
        return self._first_id

    def watermark(self) -> int | None:
        return None if self._mark == _NEVER else self._mark

    def needed_offset(self) -> int | None:
        return self._offsets[0][0] if self._offsets else None

    def state(self) -> str:
        revisions = {
            interval.name: {str(at): revision for at, revision in issued.items() if revision}
            for interval, issued in self._issued.items()
        }
        told = {name: found for name, found in revisions.items() if found}
        body = {
            "mark": self._mark,
            "firm": self._firm,
            "newest": self._newest,
            "first": self._first,
            "revisions": told,
        }
        if self._first is None:
            body["oldest"] = self._oldest()  # from here on a replay brings every trade
        else:
            body |= {"id": self._first_id, "whole": self._whole}
        return orjson.dumps(body).decode()

    def resume(self, state: str) -> None:
        try:
            body = orjson.loads(state)
            self._mark, self._newest = int(body["mark"]), int(body["newest"])
            self._firm = int(body["firm"])
            self._first = None if body["first"] is None else int(body["first"])
            revisions = {
                Interval.parse(name): {int(at): int(revision) for at, revision in found.items()}
                for name, found in body["revisions"].items()
            }
            self._first_id = None if body.get("id") is None else int(body["id"])
            self._whole = bool(body.get("whole"))
            oldest = int(body.get("oldest", _NEVER))
        except (ValueError, TypeError, KeyError) as error:
            msg = f"{state!r} is no state of the candle service."
            raise CorruptFile(msg, hint="Remove the committed offsets of the group to start anew.") from error
        self._issued |= revisions
        self._cold, self._resumed = self._newest == _NEVER, True
        if self._first is None and oldest > _NEVER:
            # With a wider interval than before, its window of then had begun before the replay.
            self._begin = oldest
            if any(interval.floor_us(oldest) != oldest for interval in self._intervals):
                self._first, self._whole = oldest - 1, True
        elif self._first is not None:
            self._begin = self._first
        self._lacks = self._waits = self._first is not None


@dataclass(frozen=True, slots=True)
class _Part:
    """Candles of one interval on their way out."""

    interval: Interval
    candles: Columns
    revisions: list[int]
    final: bool


def _joined(left: Columns, right: Columns) -> Columns:
    return {name: np.concatenate((column, right[name])) for name, column in left.items()}
