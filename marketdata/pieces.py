"""Trades without ids from files that begin and end anywhere: what they come to together (pure).

A row of such a file is known by its content and by where it stands among the rows of its time. A file holds
every row of the times that it reaches over. Of the time it begins with it may hold the tail only, and of the
time it ends with the head, when it was cut within that second. So with the rows it is kept where files begin
and end; without that nobody could tell a part from a whole, nor which of two parts comes first.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from marketdata.trade import TIME, TRADE_SCHEMA, assign_ids

_CONTENT = ("price", "amount", "side", "fills")
_Row = tuple[float, float, str | None, int]
# Which part of a moment's rows is held, by whether a file begins in it and whether one ends.
_Part = tuple[bool, bool]
_WHOLE, _HEAD, _TAIL = (False, False), (False, True), (True, False)


@dataclass(frozen=True, slots=True)
class Piece:
    """Trades of one file, or of several together.

    Attributes:
        trades: TRADE_SCHEMA, in order, with ids of :func:`marketdata.trade.assign_ids`.
        begins, ends: times in which a file begins or ends and that no file reaches over. Rows of all other
            times are complete and in their order.
    """

    trades: pl.DataFrame
    begins: frozenset[datetime] = frozenset()
    ends: frozenset[datetime] = frozenset()

    @classmethod
    def of_file(cls, trades: pl.DataFrame) -> "Piece":
        """All rows of a file that may be cut at both ends."""
        return cls(trades, frozenset(trades["time"].head(1)), frozenset(trades["time"].tail(1)))

    def part(self, moment: datetime) -> _Part:
        """Which part of the rows of that time it holds."""
        return moment in self.begins, moment in self.ends

    def reaches_over(self, times: Collection[datetime]) -> frozenset[datetime]:
        """Those of the times of which it is known to hold all rows."""
        inside = pl.Series(sorted(set(times) - self.begins - self.ends), dtype=TIME)
        return frozenset(self.trades["time"].filter(self.trades["time"].is_in(inside.implode())))


def merge_pieces(a: Piece, b: Piece) -> Piece:
    """Bring two pieces of one market into one; what both hold counts once.

    Files cut anywhere may come in any order, and any of them again. No row of either is lost; as long as the
    files tell of the same trades there are never more rows of a time than happened, so that a file that
    reaches over it puts right whatever the parts left open, in number and in order.
    """
    return Piece(
        _united(a, b),
        (a.begins - b.reaches_over(a.begins)) | (b.begins - a.reaches_over(b.begins)),
        (a.ends - b.reaches_over(a.ends)) | (b.ends - a.reaches_over(b.ends)),
    )


def _united(of_a: Piece, of_b: Piece) -> pl.DataFrame:
    a, b = of_a.trades, of_b.trades
    if a.is_empty() or a.equals(b):
        return b
    if b.is_empty():
        return a
    (a_first, a_last), (b_first, b_last) = ((frame["time"][0], frame["time"][-1]) for frame in (a, b))
    if a_last < b_first or b_last < a_first:
        return pl.concat([a, b] if a_last < b_first else [b, a])
    shared = pl.col("time").is_between(max(a_first, b_first), min(a_last, b_last))
    a_shared, b_shared = a.filter(shared), b.filter(shared)
    alike = a_shared.join(b_shared, on=list(TRADE_SCHEMA), how="semi", nulls_equal=True)
    a_times, b_times = a_shared["time"].unique(), b_shared["time"].unique()
    disputed = set(_times_beyond(a_shared, alike)) & set(b_times)
    disputed |= set(_times_beyond(b_shared, alike)) & set(a_times)
    moments = pl.Series("time", sorted(disputed), dtype=TIME)
    ours, theirs = (_rows_by_time(frame, moments) for frame in (a, b))
    settled = [
        (moment, *row)
        for moment in moments
        for row in _same_moment(ours[moment], theirs[moment], of_a.part(moment), of_b.part(moment))
    ]
    schema = {"time": TIME, **{name: TRADE_SCHEMA[name] for name in _CONTENT}}
    undisputed = pl.concat([a, b.filter(~pl.col("time").is_in(a_times.implode()))])
    rows = [
        undisputed.filter(~pl.col("time").is_in(moments.implode())).select(*schema),
        pl.DataFrame(settled, schema=schema, orient="row"),
    ]
    united = pl.concat(rows).sort("time", maintain_order=True)
    return assign_ids(united.with_columns(pl.lit(None, pl.Int64).alias("trade_id")))


def _times_beyond(frame: pl.DataFrame, alike: pl.DataFrame) -> pl.Series:
    """Times of rows that are not in ``alike``."""
    return frame.join(alike, on=["time", "trade_id"], how="anti")["time"].unique()


def _rows_by_time(frame: pl.DataFrame, moments: pl.Series) -> dict[datetime, list[_Row]]:
    rows: dict[datetime, list[_Row]] = {}
    for moment, *row in (
        frame.filter(pl.col("time").is_in(moments.implode())).select("time", *_CONTENT).rows()
    ):
        rows.setdefault(moment, []).append(tuple(row))
    return rows


def _same_moment(a: list[_Row], b: list[_Row], of_a: _Part, of_b: _Part) -> list[_Row]:
    """What happened at one time, of which two pieces hold other rows or another order; ``b`` is one file.

    Who has all rows of the other is right. With the same rows a file that reaches over the moment knows their
    order. A head and a tail are put together over their longest common stretch.
    """
    mine, yours = Counter(a), Counter(b)
    if mine < yours or (mine == yours and of_b == _WHOLE):
        return b
    if yours < mine:
        return a
    if {of_a, of_b} == {_HEAD, _TAIL}:
        return _overlapped(a, b) if of_a == _HEAD else _overlapped(b, a)
    return a if mine == yours else _with_rest(a, b, of_b)


def _with_rest(a: list[_Row], b: list[_Row], of_b: _Part) -> list[_Row]:
    """Rows of both where one is parts with a hole between them, or the two disagree.

    Of identical rows the larger number counts, as it may be the same rows that both hold.
    """
    if of_b == _TAIL:
        return _lacking(a[::-1], b)[::-1] + b
    return b + _lacking(a, b) if of_b == _HEAD else a + _lacking(b, a)


def _overlapped(head: list[_Row], tail: list[_Row]) -> list[_Row]:
    common = next(n for n in range(min(len(head), len(tail)), -1, -1) if head[len(head) - n :] == tail[:n])
    return head + tail[common:]


def _lacking(rows: list[_Row], others: list[_Row]) -> list[_Row]:
    """The rows less those of ``others``; of identical ones the last stay."""
    left = Counter(others)
    kept = []
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
        else:
            kept.append(row)
    return kept
