"""Doubt about a position: newer trades with lower ids (pure).

Ids rise with time. So a row at or below the position is a repeat, unless it is newer than the position's own
trade: then its id is corrupt, or the position's was, or the exchange counts anew. One such row says nothing.
Several, near one another, are a reason to ask REST what was traded since the position's trade; when REST
shows newer trades with lower ids too, the count begins with the first of them.
"""

from datetime import timedelta

import polars as pl

from marketdata.trade import empty_trades
from realtime.feeds.base import Position

_SEVERAL = 3
# Neighbours may have times in another order than their ids: ids within this, and times within that.
_NEAR, _DISORDER = 1_000, timedelta(minutes=1)
# Rows of the socket that are held while it is not clear what they are; those let go show as a hole.
_HELD = 10_000


class Doubt:
    """Rows that contradict a position, of the socket and of REST."""

    def __init__(self) -> None:
        """There is no doubt."""
        self.rows = empty_trades()
        self._shown = empty_trades()

    @property
    def grave(self) -> bool:
        """Whether there is reason to ask REST."""
        return _agree(self.rows)

    def see(self, old: pl.DataFrame, position: Position) -> pl.DataFrame:
        """Keep those rows at or below the position that contradict it; returns the others."""
        odd = old.filter(_contradicts(position))
        if odd.is_empty():
            return old
        self.rows = pl.concat([self.rows, odd]).unique("trade_id", keep="first", maintain_order=True)
        self.rows = self.rows.tail(_HELD)
        return old.join(odd, on="trade_id", how="anti", maintain_order="left")

    def shown(self, page: pl.DataFrame, position: Position) -> pl.DataFrame:
        """Take a page of what REST has since the position's trade.

        Returns the rows of the new count, by id, from its first on; none while REST does not show one.
        """
        above = page.filter(pl.col("trade_id") > position.trade_id)
        rows = pl.concat([self._shown, page]).filter(_lower(position)).unique("trade_id").sort("trade_id")
        odd = rows.filter(_contradicts(position))
        if len(above):
            # Behind these trades the old count went on.
            odd = odd.filter(pl.col("time") > above["time"].max())
        if not _agree(odd.sort("time", "trade_id")):
            self._shown = rows.head(_HELD)
            return empty_trades()
        # Neighbours of the first that are a little older belong to it.
        return rows.filter(pl.col("trade_id").is_between(odd["trade_id"][0] - _NEAR, odd["trade_id"][-1]))

    def ended(self) -> None:
        """The answer of REST is complete."""
        self._shown = empty_trades()

    def clear(self) -> pl.DataFrame:
        """There is none any more; returns the socket's rows that were held."""
        held = self.rows
        if len(held) or len(self._shown):
            self.rows = self._shown = empty_trades()
        return held


def _lower(position: Position) -> pl.Expr:
    return (pl.col("trade_id") <= position.trade_id) & (pl.col("time") > position.time)


def _contradicts(position: Position) -> pl.Expr:
    """Lower and newer by more than neighbours are."""
    far = pl.col("trade_id") < position.trade_id - _NEAR
    return _lower(position) & (far | (pl.col("time") > position.time + _DISORDER))


def _agree(rows: pl.DataFrame) -> bool:
    """Whether the last rows are near one another, as those of one count are."""
    last = rows["trade_id"].tail(_SEVERAL).sort()
    return len(last) == _SEVERAL and last[-1] - last[0] <= _NEAR
