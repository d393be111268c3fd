"""A page cut to the window that was asked for (pure).

Plain numpy: most pages lie wholly inside and need no more than two comparisons.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl


@dataclass(frozen=True, slots=True)
class Cut:
    """What of a page lies in ``[start, end)``, and the ids just outside.

    ``newest`` is the time of the newest trade inside; ``ended`` whether a trade at or after the end was seen.
    Times are in microseconds since the epoch.
    """

    inside: pl.DataFrame
    rejects: pl.DataFrame
    previous_id: int | None
    following_id: int | None
    newest: int | None
    ended: bool


def cut(trades: pl.DataFrame, rejects: pl.DataFrame, start: int, end: int) -> Cut:
    """Cut trades and rejects to a window; a reject whose time is what is wrong with it stays."""
    if len(rejects):
        when = pl.col("time").cast(pl.Int64)
        rejects = rejects.filter(
            pl.col("reason").str.starts_with("time") | when.is_null() | ((when >= start) & (when < end))
        )
    if trades.is_empty():
        return Cut(trades, rejects, None, None, None, ended=False)
    time = trades["time"].cast(pl.Int64).to_numpy()
    oldest, newest = int(time.min()), int(time.max())
    if oldest >= start and newest < end:
        return Cut(trades, rejects, None, None, newest, ended=False)
    before, after = time < start, time >= end
    inside = ~(before | after)
    return Cut(
        trades.filter(pl.Series(inside)),
        rejects,
        _edge(trades, time, before, last=True),
        _edge(trades, time, after, last=False),
        int(time[inside].max()) if inside.any() else None,
        ended=bool(after.any()),
    )


def _edge(
    trades: pl.DataFrame,
    time: "np.ndarray[Any, np.dtype[np.int64]]",
    where: "np.ndarray[Any, np.dtype[np.bool_]]",
    *,
    last: bool,
) -> int | None:
    """Id of the last (or first) trade by time and id among those ``where``; ``None`` without ids."""
    if not where.any() or trades["trade_id"].null_count():
        return None
    ids = trades["trade_id"].to_numpy()[where]
    order = np.lexsort((ids, time[where]))
    return int(ids[order[-1 if last else 0]])
