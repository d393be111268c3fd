"""Missing ids of a day, at its edges too: filled from what the lake holds, then asked for once more."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl

from marketdata.completeness import Ranges, missing_ranges, without
from marketdata.errors import CorruptFile, PermanentError, TransientError
from marketdata.imported_day import id_space, rejudge
from marketdata.lake import Lake
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata.market import Market
from marketdata.sealing import sealed
from marketdata.sources.base import TradeSource
from marketdata.trade import merge_trades

# Holes closer than a page are asked for together, and a day with more of them than this is left with
# what it has: such ids are not one after the other, whatever the source says.
_PAGE = 1000
_MOST_REQUESTS = 500
# Ids and times of an exchange disagree by a few trades, and so by less than this.
_AT_MIDNIGHT = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Holes:
    """A day's trades in order, the ids around the day, and what became of the missing ones.

    ``refused`` are ids of rows that came and were no trades (void, or garbage on the way); they are asked
    for again like missing ones, and are then neither missing nor "not served".
    """

    trades: pl.DataFrame
    previous_id: int | None
    following_id: int | None
    refused: pl.Series
    not_served: Ranges = ()
    evidence: dict[str, str] = field(default_factory=dict)

    def missing(self) -> Ranges:
        """Ids that should be here and are not."""
        first = None if self.previous_id is None else self.previous_id + 1
        last = None if self.following_id is None else self.following_id - 1
        return missing_ranges(self.trades["trade_id"], first, last)


@dataclass(frozen=True, slots=True)
class _Around:
    """What the lake knows of the last trade before a day and the first one after it."""

    previous_id: int | None
    previous_time: datetime
    following_id: int | None
    following_time: datetime


def fill_holes(
    lake: Lake,
    source: TradeSource,
    holes: Holes,
    *,
    market: Market,
    day: date,
    held: Manifest | None,
    space: str,
    note: Callable[[str], None],
) -> Holes:
    """Fill what can be filled; what the exchange still does not serve is recorded as such.

    Args:
        held: what the lake knows of this day, if anything.
        space: which ids the source gives, see :func:`marketdata.imported_day.id_space`.
        note: told before each request.

    Raises:
        TransientError: from the source.
    """
    known = _known_around(lake, market, day, held, space)
    previous_id, following_id = holes.previous_id, holes.following_id
    edged = replace(
        holes,
        previous_id=known.previous_id if previous_id is None else previous_id,
        following_id=known.following_id if following_id is None else following_id,
    )
    if not edged.missing():
        return holes
    # Only now is the lake's word part of the record; without a hole the day is the same whether or not its
    # neighbours were there first.
    holes = edged
    if held is not None and _same_ids(held, space):
        with suppress(CorruptFile):  # then all of it is asked for
            holes = _add(holes, lake.read_trades(market, *day_window(day)), day)
    requests = _requests(holes.missing())
    asked: list[tuple[int, int]] = []
    found: list[pl.DataFrame] = []
    evidence: dict[str, str] = {}
    for first, last in requests[:_MOST_REQUESTS]:
        note(f"asking once more for ids {first} to {last}")
        try:
            found.append(source.refetch(market, first, last, _around(holes.trades, first, last, known)))
        except PermanentError as error:
            evidence = {"asked_again": f"refused: {error.message}"}
            break
        asked.append((first, last))
    if len(requests) > _MOST_REQUESTS:
        evidence = {"asked_again": f"{_MOST_REQUESTS} of {len(requests)} ranges of ids"}
    holes = _add(holes, pl.concat(found), day) if found else holes
    missing = holes.missing()
    void = [(each, each) for each in holes.refused.drop_nulls().unique()]
    not_served = without(without(missing, without(missing, asked)), void)
    return replace(holes, not_served=not_served, evidence=evidence)


def _requests(missing: Ranges) -> list[tuple[int, int]]:
    """Holes that lie within one page of each other become one request."""
    requests: list[tuple[int, int]] = []
    for first, last in missing:
        if requests and last - requests[-1][0] < _PAGE:
            requests[-1] = (requests[-1][0], last)
        else:
            requests.append((first, last))
    return requests


def _add(holes: Holes, found: pl.DataFrame, day: date) -> Holes:
    """Put trades into the holes they fit; one of a neighbouring day moves the edge instead."""
    missing = holes.missing()
    if not missing or found.is_empty():
        return holes
    first, last = np.array(missing).T
    ids = found["trade_id"].to_numpy()
    hole = np.searchsorted(first, ids, side="right") - 1
    found = found.filter(pl.Series((hole >= 0) & (ids <= last[hole])))
    start, end = day_window(day)
    early, late = found.filter(pl.col("time") < start), found.filter(pl.col("time") >= end)
    if len(holes.trades):
        # Among the day's own ids only a trade at midnight can be of another day; any other time is wrong.
        lowest, highest = holes.trades["trade_id"].min(), holes.trades["trade_id"].max()
        early = early.filter((pl.col("trade_id") < lowest) | (pl.col("time") >= start - _AT_MIDNIGHT))
        late = late.filter((pl.col("trade_id") > highest) | (pl.col("time") < end + _AT_MIDNIGHT))
    inside = found.filter(pl.col("time").is_between(start, end, closed="left"))
    return replace(
        holes,
        trades=merge_trades(holes.trades, inside).trades,
        previous_id=holes.previous_id if early.is_empty() else _int(early["trade_id"].max()),
        following_id=holes.following_id if late.is_empty() else _int(late["trade_id"].min()),
    )


def _int(value: object) -> int:
    assert isinstance(value, int)  # noqa: S101
    return value


def _around(trades: pl.DataFrame, first: int, last: int, known: _Around) -> tuple[datetime, datetime]:
    """Times between which the ids must lie: those of the trades around them."""
    by_id = trades.sort("trade_id")
    ids = by_id["trade_id"].to_numpy()
    before, after = int(np.searchsorted(ids, first)), int(np.searchsorted(ids, last, side="right"))
    times = by_id["time"]
    low = times[before - 1] if before > 0 else known.previous_time
    high = times[after] + timedelta(microseconds=1) if after < len(times) else known.following_time
    return min(low, high), max(low, high)


def _same_ids(manifest: Manifest, space: str) -> bool:
    return manifest.ids is Ids.SEQUENTIAL and id_space(manifest) == space


def _known_around(lake: Lake, market: Market, day: date, held: Manifest | None, space: str) -> _Around:
    """The trades around a day as its neighbours know them, else as the day itself was known before."""
    start, end = day_window(day)
    before = _of_same_ids(_manifest(lake, market, day - timedelta(days=1)), space)
    after = _of_same_ids(_manifest(lake, market, day + timedelta(days=1)), space)
    same = _of_same_ids(held, space)
    previous_id = following_id = None
    if same is not None:
        previous_id = same.previous_id if same.previous_id is not None else _less(same.first_id)
        following_id = same.following_id if same.following_id is not None else _more(same.last_id)
    if before is not None and before.status is Status.COMPLETE:
        told = before.last_id if before.rows else before.previous_id
        previous_id = previous_id if told is None else told
    if after is not None:
        if after.previous_id is not None:
            following_id = after.previous_id + 1
        elif after.status is Status.COMPLETE:
            told = after.first_id if after.rows else after.following_id
            following_id = following_id if told is None else told
    return _Around(
        previous_id,
        start if before is None or before.last_time is None else before.last_time,
        following_id,
        end if after is None or after.first_time is None else after.first_time + timedelta(microseconds=1),
    )


def _manifest(lake: Lake, market: Market, day: date) -> Manifest | None:
    """What is known of a neighbour; a damaged one says nothing, and is no reason to fail this day."""
    try:
        return lake.manifest(market, day)
    except CorruptFile:
        return None


def _of_same_ids(manifest: Manifest | None, space: str) -> Manifest | None:
    return manifest if manifest is not None and _same_ids(manifest, space) else None


def _less(number: int | None) -> int | None:
    return None if number is None else number - 1


def _more(number: int | None) -> int | None:
    return None if number is None else number + 1


def doubt_neighbours(lake: Lake, market: Market, day: date) -> None:
    """Let a day that ends before, or begins after, what its neighbour has seen be a day with gaps.

    A source that shows no trade beyond a day (a file; an exchange that is slow at midnight) proves nothing
    about its edge. Where the neighbour's ids show that trades are missing there, the day is judged again
    with them, and the next fetch asks for what it lacks.

    Raises:
        StorageError, CorruptFile: from the lake.
    """
    for left in (day - timedelta(days=1), day):
        a, b = _manifest(lake, market, left), _manifest(lake, market, left + timedelta(days=1))
        if a is None or b is None or not _same_ids(a, id_space(b)) or b.ids is not Ids.SEQUENTIAL:
            continue
        end_of_a = a.last_id if a.rows else a.previous_id
        if a.following_id is None and end_of_a is not None and (b.previous_id or 0) > end_of_a:
            _judge_again(lake, a, a.previous_id, _more(b.previous_id))
        start_of_b = b.first_id if b.rows else b.following_id
        before_b = max((n for n in (end_of_a, _less(a.following_id)) if n is not None), default=None)
        if b.previous_id is not None or start_of_b is None or before_b is None:
            continue
        if start_of_b > before_b + 1:
            _judge_again(lake, b, before_b, b.following_id)


def _judge_again(lake: Lake, seen: Manifest, previous_id: int | None, following_id: int | None) -> None:
    # Whoever holds the day now will look at its edges afterwards.
    with suppress(TransientError), lake.lock(seen.market, seen.day, patience_s=5):
        if lake.manifest(seen.market, seen.day) == seen:
            sealed(rejudge, lake, replace(seen, previous_id=previous_id, following_id=following_id))
