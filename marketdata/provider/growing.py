"""Live candles as they grow: final ones once, corrections, wider ones of narrower ones (pure)."""

from collections.abc import Callable, Iterable, Iterator, Set
from itertools import groupby
from operator import itemgetter
from typing import Any

import polars as pl

from marketdata import fold
from marketdata.candle import CANDLE_SCHEMA
from marketdata.interval import Interval

# What a live candle says beyond its numbers. ``revision``: counts its issues, of a wider candle the highest
# of those it is made of; ``final``: it is over; ``partial``: it had begun before the first trade that was
# seen; ``correction``: its time, or a later one, was yielded as final before.
MARKS = pl.Schema(
    {
        "revision": pl.Int32(),
        "final": pl.Boolean(),
        "partial": pl.Boolean(),
        "correction": pl.Boolean(),
    }
)
LIVE_SCHEMA = pl.Schema({**CANDLE_SCHEMA, **MARKS})
# Candles of the narrower interval: what history and the topic both give.
BASE_SCHEMA = pl.Schema({**CANDLE_SCHEMA, "revision": pl.Int32(), "partial": pl.Boolean()})
# How many candles of ``base`` are remembered at least, and read of history at once at most; and of a wider
# interval, how many of its own.
_REMEMBERED = 5_000
_WINDOWS = 3
_COUNT = list(CANDLE_SCHEMA).index("trade_count")

# open_time in microseconds first; then the values of BASE_SCHEMA's other columns, times in microseconds.
Row = tuple[Any, ...]


def rows_of(base: pl.DataFrame) -> Iterator[Row]:
    """Rows of BASE_SCHEMA, times in microseconds; a revision that is not known is null."""
    return zip(*(base[name].to_physical().to_list() for name in BASE_SCHEMA), strict=True)


def frame_of(rows: Iterable[Row]) -> pl.DataFrame:
    """The other way round."""
    frame = pl.DataFrame(list(rows), schema=_PHYSICAL, orient="row")
    return frame.cast(dict(BASE_SCHEMA))  # type: ignore[arg-type]


_PHYSICAL = {
    name: pl.Int64() if isinstance(kind, pl.Datetime) else kind for name, kind in BASE_SCHEMA.items()
}
_REVISION, _PARTIAL = len(CANDLE_SCHEMA), len(CANDLE_SCHEMA) + 1


def is_newer(row: Row, known: Row | None) -> bool:
    """Whether a candle of the topic is a later issue than the one that is known.

    The higher revision is, and of the same revision the one of more trades. Candles folded from trades tell
    no revision: of these, too, the one of more trades is.
    """
    if known is None:
        return True
    if row[:_REVISION] == known[:_REVISION]:
        return False
    if known[_REVISION] is not None and row[_REVISION] != known[_REVISION]:
        return bool(row[_REVISION] > known[_REVISION])
    return bool(row[_COUNT] > known[_COUNT])


class Growing:
    """Candles of one interval, made of final and running candles of ``base``, which may be the same.

    Times are microseconds since the epoch.
    """

    def __init__(
        self,
        base: Interval,
        wide: Interval,
        *,
        told_until: int,
        reload: Callable[[int, int], pl.DataFrame],
        running: bool = False,
    ) -> None:
        """Nothing is known yet.

        Args:
            told_until: candles that open before this have been yielded.
            reload: gives what history has of ``base`` between two times, BASE_SCHEMA.
            running: yield candles that are not over, too.
        """
        self._base, self._wide, self._reload, self._running = base, wide, reload, running
        self._told_until = told_until
        self._held_from = told_until
        self._rows: dict[int, Row] = {}
        self._open: dict[int, Row] = {}
        self._horizon = told_until

    def know(self, base: pl.DataFrame) -> None:
        """Take what history has, BASE_SCHEMA, without yielding it yet."""
        self._rows.update((row[0], row) for row in rows_of(base))
        self._look(self._rows)

    def add(self, finals: pl.DataFrame, running: pl.DataFrame | None = None, over: int = 0) -> pl.DataFrame:
        """Take candles of the topic, and give what is to be yielded.

        Args:
            finals: BASE_SCHEMA, in any order.
            running: BASE_SCHEMA, the newest of each last.
            over: candles that end at or before this are over, also where no trade has come since.

        Returns:
            LIVE_SCHEMA: corrections and finals by ``open_time``, then running ones.
        """
        rows = list(rows_of(finals))
        early = [row for row in rows if row[0] < self._held_from]
        changed = self._take(row for row in rows if row[0] >= self._held_from)
        self._look(changed)
        self._horizon = max(self._horizon, over)
        told = [*self._recall(early), *self._corrected(changed)]
        told += self._closed()
        told += self._unfinished(running)
        self._forget()
        return pl.concat(told) if told else LIVE_SCHEMA.to_frame()

    def renew(self, finals: pl.DataFrame) -> pl.DataFrame:
        """Candles of long ago as the topic has corrected them, where history may have them otherwise.

        Args:
            finals: BASE_SCHEMA, of before the ``told_until`` it began with, in any order.

        Returns:
            LIVE_SCHEMA by ``open_time``, as corrections.
        """
        told = [LIVE_SCHEMA.to_frame()]
        for renewed in self._recall(rows_of(finals)):
            told.append(renewed)
            self._forget()
        return pl.concat(told)

    def _take(self, finals: Iterable[Row], recalled: Set[int] = frozenset()) -> set[int]:
        """Keep what is newer than what is known; returns its times."""
        changed: set[int] = set()
        for row in finals:
            known = self._rows.get(row[0])
            # History may have been put right already, after it was yielded and before the topic told of it.
            again = row[_REVISION] > 0 and row[0] in recalled
            if is_newer(row, known) or (again and known is not None and row[:_REVISION] == known[:_REVISION]):
                changed.add(row[0])
                self._rows[row[0]] = row
            elif known is not None and known[_REVISION] is None and row[_COUNT] == known[_COUNT]:
                self._rows[row[0]] = (*known[:_REVISION], *row[_REVISION:])
        return changed

    def _look(self, opens: Iterable[int]) -> None:
        self._horizon = max(self._horizon, max(opens, default=0) + self._base.us)

    def _corrected(self, changed: set[int]) -> list[pl.DataFrame]:
        """Candles made anew that had been told, or whose place had been passed."""
        windows = {self._wide.floor_us(time) for time in changed}
        past = {window for window in windows if window < self._told_until}
        if not past:
            return []
        if self._base == self._wide:
            return [self._marked((self._rows[time] for time in sorted(past)), correction=True)]
        return [self._made(self._inside(past), correction=True)]

    def _recall(self, finals: Iterable[Row]) -> Iterator[pl.DataFrame]:
        """Corrections of candles of long ago, made with what history has, a stretch of it at a time."""
        for rows in self._stretches(finals):
            first, last = self._wide.floor_us(rows[0][0]), self._wide.floor_us(rows[-1][0])
            held = {row[0]: row for row in rows_of(self._reload(first, last + self._wide.us))}
            recalled = held.keys() - self._rows.keys()
            self._rows = held | self._rows
            changed = self._take(rows, recalled)
            yield from self._corrected(changed)
            # What the topic said is kept, to know it when it comes again.
            for time in recalled - changed:
                del self._rows[time]

    def _stretches(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """Rows by time, together where one read of history serves them: 5,000 candles, or a window."""
        windows = max(1, _REMEMBERED * self._base.us // self._wide.us)

        def stretch(row: Row) -> int:
            return int(self._wide.floor_us(row[0]) // self._wide.us // windows)

        return (list(found) for _, found in groupby(sorted(rows, key=itemgetter(0)), stretch))

    def _closed(self) -> list[pl.DataFrame]:
        """Candles that are over and were not told yet."""
        limit = self._horizon - self._wide.us  # the last open time of a candle that is over
        until = self._wide.floor_us(limit) + self._wide.us
        if until <= self._told_until:
            return []
        due = [row for time, row in self._rows.items() if self._told_until <= time < until]
        self._told_until = until
        self._open = {time: row for time, row in self._open.items() if time >= until}
        if not due:
            return []
        return [self._marked(sorted(due)) if self._base == self._wide else self._made(due)]

    def _unfinished(self, running: pl.DataFrame | None) -> list[pl.DataFrame]:
        if not self._running or running is None:
            return []
        came = {row[0]: row for row in rows_of(running) if row[0] >= self._told_until}
        self._open |= came
        self._open = {time: row for time, row in self._open.items() if time not in self._rows}
        windows = {self._wide.floor_us(time) for time in came if time in self._open}
        if not windows:
            return []
        if self._base == self._wide:
            return [self._marked((self._open[time] for time in sorted(windows)), final=False)]
        rows = self._inside(windows)
        rows += [row for time, row in self._open.items() if self._wide.floor_us(time) in windows]
        return [self._made(rows, final=False)]

    def _inside(self, windows: Set[int]) -> list[Row]:
        first, end = min(windows), max(windows) + self._wide.us
        return [
            row
            for time, row in self._rows.items()
            if first <= time < end and self._wide.floor_us(time) in windows
        ]

    def _made(self, rows: Iterable[Row], *, final: bool = True, correction: bool = False) -> pl.DataFrame:
        """Wide candles of rows of theirs."""
        base = frame_of(sorted(rows, key=lambda row: row[0]))
        opens = self._wide.floor_expr(pl.col("open_time"))
        marks = base.group_by(opens, maintain_order=True).agg(
            pl.col("revision").max(), pl.col("partial").any()
        )
        wide = fold.widen(base.select(CANDLE_SCHEMA.names()), self._wide)
        return _live(wide.join(marks, on="open_time", how="left", maintain_order="left"), final, correction)

    def _marked(self, rows: Iterable[Row], *, final: bool = True, correction: bool = False) -> pl.DataFrame:
        return _live(frame_of(rows), final, correction)

    def _forget(self) -> None:
        """Keep enough to know a repeat from a correction, and to make a wider candle anew."""
        if len(self._rows) <= 2 * _REMEMBERED:
            return
        rows = sorted(self._rows.items())
        window = self._wide.floor_us(rows[-_REMEMBERED][0])
        self._held_from = max(self._held_from, min(window, self._told_until - _WINDOWS * self._wide.us))
        self._rows = {time: row for time, row in rows if time >= self._held_from}


def _live(candles: pl.DataFrame, final: bool, correction: bool) -> pl.DataFrame:
    return candles.with_columns(
        pl.col("revision").fill_null(0),
        final=pl.lit(final),
        correction=pl.lit(correction),
    ).select(LIVE_SCHEMA.names())


def history_frame(candles: pl.DataFrame) -> pl.DataFrame:
    """Candles of history, with details, as LIVE_SCHEMA."""
    return _live(candles.with_columns(partial=pl.lit(value=False)), final=True, correction=False)


def put_right(candles: pl.DataFrame, corrected: pl.DataFrame) -> pl.DataFrame:
    """Candles that have not been yielded, with later issues in their place; LIVE_SCHEMA by ``open_time``."""
    if corrected.is_empty():
        return candles
    both = pl.concat([candles, corrected.with_columns(correction=pl.lit(value=False))])
    return both.unique("open_time", keep="last").sort("open_time")
