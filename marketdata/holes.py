"""Missing ids of a day: filled from what the lake holds, then asked for once more."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl

from marketdata.completeness import Ranges, missing_ranges, without
from marketdata.errors import PermanentError
from marketdata.imported_day import id_space
from marketdata.lake import Lake
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata.market import Market
from marketdata.sources.base import TradeSource
from marketdata.trade import merge_trades

# Holes closer than a page are asked for together, and a day with more of them than this is left with
# what it has: such ids are not one after the other, whatever the source says.
_PAGE = 1000
_MOST_REQUESTS = 500


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

    def missing(self, previous_id: int | None = None) -> Ranges:
        """Ids that should be here and are not; ``previous_id`` stands in where no page has shown it."""
        previous = self.previous_id if self.previous_id is not None else previous_id
        first = None if previous is None else previous + 1
        last = None if self.following_id is None else self.following_id - 1
        return missing_ranges(self.trades["trade_id"], first, last)


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
    neighbour = _last_id_before(lake, market, day, space)
    missing = holes.missing(neighbour)
    if not missing:
        return holes
    if holes.previous_id is None:
        # Only now is the neighbour's word part of the record; without a hole the day is the same
        # whether or not its neighbour was there first.
        holes = replace(holes, previous_id=neighbour)
    if held is not None and _same_ids(held, space):
        holes = _add(holes, lake.read_trades(market, *day_window(day)), day)
    requests = _requests(holes.missing())
    asked: list[tuple[int, int]] = []
    found: list[pl.DataFrame] = []
    evidence: dict[str, str] = {}
    for first, last in requests[:_MOST_REQUESTS]:
        note(f"asking once more for ids {first} to {last}")
        try:
            found.append(source.refetch(market, first, last, _around(holes.trades, first, last, day)))
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


def _around(trades: pl.DataFrame, first: int, last: int, day: date) -> tuple[datetime, datetime]:
    """Times between which the ids must lie: those of the trades around them, else the edges of the day."""
    start, end = day_window(day)
    by_id = trades.sort("trade_id")
    ids = by_id["trade_id"].to_numpy()
    before, after = int(np.searchsorted(ids, first)), int(np.searchsorted(ids, last, side="right"))
    times = by_id["time"]
    low = times[before - 1] if before > 0 else start
    high = times[after] + timedelta(microseconds=1) if after < len(times) else end
    return min(low, high), max(low, high)


def ids_of(market: Market) -> str:
    """Which ids a source gives when it does not say: Binance's own REST pages hold aggregated trades."""
    return "aggTrade" if market.exchange == "binance" else "trade"


def _same_ids(manifest: Manifest, space: str) -> bool:
    return manifest.ids is Ids.SEQUENTIAL and id_space(manifest) == space


def _last_id_before(lake: Lake, market: Market, day: date, space: str) -> int | None:
    """Last id before the day as the day before knows it, when it is complete and speaks of the same ids."""
    manifest = lake.manifest(market, day - timedelta(days=1))
    if manifest is None or manifest.status is not Status.COMPLETE or not _same_ids(manifest, space):
        return None
    return manifest.last_id if manifest.rows else manifest.previous_id
