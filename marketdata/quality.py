"""What is odd about a day's trades: each rule one function, its threshold an argument (pure).

A finding says where to look; it refuses nothing. Rules return FINDING_SCHEMA, by time.
"""

from datetime import timedelta

import polars as pl

from marketdata.trade import TIME

# value: how far beyond; its unit is the rule's own and named in its docstring.
FINDING_SCHEMA = pl.Schema({"rule": pl.String(), "time": TIME, "trade_id": pl.Int64(), "value": pl.Float64()})


def repeated_ids(trades: pl.DataFrame, *, at_most: int = 1) -> pl.DataFrame:
    """Ids that stand in more than ``at_most`` rows; one finding an id, at its first row.

    Args:
        trades: ``time`` and ``trade_id`` in any order, as they arrived.

    Returns:
        ``value``: how often the id is there.
    """
    counted = trades.group_by("trade_id").agg(pl.col("time").min(), pl.len().alias("value"))
    return _findings("repeated id", counted.filter(pl.col("value") > at_most))


def id_holes(trades: pl.DataFrame, *, at_most: int = 0) -> pl.DataFrame:
    """Holes of more than ``at_most`` ids between two held ones, where ids follow one another.

    Returns:
        One finding a hole: ``trade_id`` is the first id missing, ``time`` that of the trade before the hole,
        ``value`` the number of ids missing.
    """
    by_id = trades.sort("trade_id").unique("trade_id", keep="first", maintain_order=True)
    missing = (pl.col("trade_id").shift(-1) - pl.col("trade_id") - 1).alias("value")
    holes = by_id.select("time", pl.col("trade_id") + 1, missing).filter(pl.col("value") > at_most)
    return _findings("id hole", holes)


def clock_skew(trades: pl.DataFrame, *, more_than: timedelta = timedelta(seconds=10)) -> pl.DataFrame:
    """Trades whose receive time is off their own time by more than is usual here.

    A clock that is steadily off says nothing of a single trade (and receive time decides nothing here), so
    the usual offset, the median, is taken away first.

    Args:
        trades: ``time``, ``trade_id`` and ``received`` (when the trade arrived; TIME).
        more_than: how far from the usual offset counts.

    Returns:
        ``value``: received minus time minus the usual offset, in seconds.
    """
    if trades.is_empty():
        return FINDING_SCHEMA.to_frame()
    offset = pl.col("received") - pl.col("time")
    beyond = trades.with_columns((offset - offset.median()).alias("value"))
    skewed = beyond.filter(pl.col("value").abs() > more_than)
    return _findings("clock skew", skewed.with_columns(pl.col("value").dt.total_microseconds() / 1e6))


def _findings(rule: str, rows: pl.DataFrame) -> pl.DataFrame:
    named = rows.select(pl.lit(rule).alias("rule"), "time", "trade_id", pl.col("value").cast(pl.Float64))
    return named.sort("time", "trade_id")
