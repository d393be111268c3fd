"""Trades that wait behind a hole in the ids (pure)."""

from typing import Any

import numpy as np
import polars as pl

from marketdata.trade import empty_trades
from realtime.feeds.base import Position

Ids = np.ndarray[Any, np.dtype[np.int64]]


class Waiting:
    """Rows by id, each once; what comes in order costs no sorting."""

    def __init__(self) -> None:
        """Nothing waits."""
        self._parts: list[pl.DataFrame] = []
        self._rows = 0
        self._newest = -1

    def __len__(self) -> int:
        """Number of rows."""
        return self._rows

    @property
    def oldest(self) -> Position | None:
        """The row with the lowest id."""
        if not self._rows:
            return None
        return Position(self._parts[0]["trade_id"][0], self._parts[0]["time"][0])

    def behind_holes(self, before: int) -> Position | None:
        """The row behind the last hole that begins below the id ``before``, and behind the first in any case.

        So one request can fill many holes.
        """
        oldest = self.oldest
        if oldest is None:
            return None
        rows = self.all()
        ids = rows["trade_id"].to_numpy()
        starts = np.flatnonzero(np.diff(ids) > 1) + 1
        starts = starts[ids[starts] <= before]
        return Position(int(ids[starts[-1]]), rows["time"][int(starts[-1])]) if len(starts) else oldest

    def add(self, rows: pl.DataFrame) -> int:
        """Add rows sorted by id, each once; returns how many were there. Those that were there stay."""
        if rows.is_empty():
            return 0
        if rows["trade_id"][0] > self._newest:
            self._parts.append(rows)
            self._rows += len(rows)
            self._newest = rows["trade_id"][-1]
            return 0
        total = self._rows + len(rows)
        together = pl.concat([*self._parts, rows])
        self._set(together.unique("trade_id", keep="first", maintain_order=True).sort("trade_id"))
        return total - self._rows

    def discard(self, ids: pl.Series) -> None:
        """Remove rows with these ids."""
        if self._rows and len(ids) and ids.max() >= self._parts[0]["trade_id"][0]:
            self._set(self.all().filter(~pl.col("trade_id").is_in(ids.implode())))

    def take(self, expected: int) -> pl.DataFrame:
        """Remove and return the rows that count up from ``expected`` on."""
        oldest = self.oldest
        if oldest is None or oldest.trade_id != expected:
            return empty_trades()
        rows = self.all()
        count = run(rows["trade_id"].to_numpy(), expected)
        self._set(rows.slice(count))
        return rows.head(count)

    def keep_lowest(self, count: int) -> Position | None:
        """Remove the rows with the highest ids beyond ``count``; returns the newest one removed."""
        if self._rows <= count:
            return None
        rows = self.all()
        newest = Position(rows["trade_id"][-1], rows["time"][-1])
        self._set(rows.head(count))
        return newest

    def remove_above(self, trade_id: int) -> int:
        """Remove rows with higher ids; returns how many."""
        before = self._rows
        if self._newest > trade_id:
            self._set(self.all().filter(pl.col("trade_id") <= trade_id))
        return before - self._rows

    def clear(self) -> None:
        """Remove all."""
        self._set(empty_trades())

    def all(self) -> pl.DataFrame:
        """All rows by id."""
        if len(self._parts) > 1:
            self._parts = [pl.concat(self._parts)]
        return self._parts[0] if self._parts else empty_trades()

    def _set(self, rows: pl.DataFrame) -> None:
        self._parts = [rows] if len(rows) else []
        self._rows = len(rows)
        self._newest = rows["trade_id"][-1] if len(rows) else -1


def run(ids: Ids, expected: int) -> int:
    """How many of these ids count up from ``expected`` on."""
    off = np.flatnonzero(ids != np.arange(expected, expected + len(ids)))
    return int(off[0]) if len(off) else len(ids)
