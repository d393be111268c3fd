"""Two sets of candles beside each other: what differs (pure)."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from marketdata.interval import to_us
from marketdata.trade import TIME

_PRICES = ("open", "high", "low", "close")
# quote_volume is left out: exchanges round it per trade (Binance) or give it as a rounded vwap (Kraken).
_VOLUMES = ("volume", "taker_buy_volume")
_COLUMNS = (*_PRICES, *_VOLUMES, "trade_count")

_FINDINGS = pl.Schema(
    {
        "open_time": TIME,
        "finding": pl.String(),
        "column": pl.String(),
        "ours": pl.Float64(),
        "theirs": pl.Float64(),
    }
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two sets of candles say about the same range.

    Attributes:
        compared: intervals for which at least one side has a candle; ``equal``: those without a finding.
        different: one row a finding: ``open_time``, ``finding`` ("missing": only they have the candle,
            "extra": only we have it, "different"), ``column``, ``ours``, ``theirs``. For a missing or an
            extra candle ``column`` is ``close``.
    """

    compared: int
    equal: int
    different: pl.DataFrame


def compare(
    ours: pl.DataFrame, theirs: pl.DataFrame, start: datetime, end: datetime, *, tolerance: float = 1e-8
) -> Comparison:
    """Compare candles with ``open_time`` in ``[start, end)``.

    Args:
        ours: CANDLE_SCHEMA (or EXCHANGE_CANDLE_SCHEMA), each ``open_time`` once.
        theirs: EXCHANGE_CANDLE_SCHEMA. Candles without volume stand for empty intervals and are left out.
        tolerance: of prices, relative; of volumes, relative and at least absolute (exchanges give eight
            decimals). Counts must be equal. Volumes and counts are compared where both sides have them.
    """
    if (rows := _alike(ours, theirs, start, end, tolerance)) is not None:
        return Comparison(rows, rows, _FINDINGS.to_frame())
    inside = pl.col("open_time").is_between(start, end, closed="left")
    left = ours.lazy().filter(inside).select("open_time", *_COLUMNS)
    right = theirs.lazy().filter(inside, pl.col("volume").ne_missing(0.0)).select("open_time", *_COLUMNS)
    both = left.join(right, on="open_time", how="full", suffix=" theirs", coalesce=True).collect()
    missing, extra = pl.col("close").is_null(), pl.col("close theirs").is_null()
    faults = {name: _differs(name, tolerance) for name in _COLUMNS}
    wrong = both.filter(missing | extra | pl.any_horizontal(*faults.values()))
    if wrong.is_empty():
        return Comparison(len(both), len(both), _FINDINGS.to_frame())
    alone = pl.when(missing).then(pl.lit("missing")).when(extra).then(pl.lit("extra"))
    found = [_finding(wrong.filter(missing | extra), alone, "close")]
    found += [_finding(wrong.filter(fault), pl.lit("different"), name) for name, fault in faults.items()]
    order = pl.Enum(_COLUMNS)
    different = pl.concat(found).sort("open_time", pl.col("column").cast(order))
    return Comparison(len(both), len(both) - len(wrong), different)


def _alike(
    ours: pl.DataFrame, theirs: pl.DataFrame, start: datetime, end: datetime, tolerance: float
) -> int | None:
    """How many candles there are, when both sides have the same ones and no value differs; else ``None``.

    This is how nearly all days end, and a hundredth of the work of saying what differs.
    """
    mine, yours = (frame["open_time"].to_physical().to_numpy() for frame in (ours, theirs))
    if theirs["volume"].null_count() or (len(mine) and not to_us(start) <= mine[0] <= mine[-1] < to_us(end)):
        return None
    served = theirs["volume"].to_numpy() != 0
    if not np.array_equal(mine, yours[served]) or (np.diff(mine) <= 0).any():
        return None
    for name in _COLUMNS:
        unknown = [column.null_count() for column in (ours[name], theirs[name])]
        if any(unknown):
            if name not in _PRICES and (unknown[0] == len(ours) or unknown[1] == len(theirs)):
                continue  # one side does not say it at all
            return None
        a, b = ours[name].to_numpy(), theirs[name].to_numpy()[served]
        if name == "trade_count":
            if (a != b).any():
                return None
            continue
        scale = np.maximum(np.abs(a), np.abs(b))
        if name in _VOLUMES:
            scale = np.maximum(scale, 1.0)
        if not (np.abs(a - b) <= tolerance * scale).all():
            return None
    return len(mine)


def _differs(name: str, tolerance: float) -> pl.Expr:
    """Whether the two sides disagree; not where one of them has no value."""
    a, b = pl.col(name), pl.col(f"{name} theirs")
    if name == "trade_count":
        return (a != b).fill_null(value=False)
    scale = pl.max_horizontal(a.abs(), b.abs())
    if name in _VOLUMES:
        scale = pl.max_horizontal(scale, pl.lit(1.0))
    return (a.is_not_null() & b.is_not_null() & ~((a - b).abs() <= tolerance * scale)).fill_null(value=False)


def _finding(rows: pl.DataFrame, finding: pl.Expr, column: str) -> pl.DataFrame:
    return rows.select(
        "open_time",
        finding.alias("finding"),
        pl.lit(column).alias("column"),
        pl.col(column).cast(pl.Float64).alias("ours"),
        pl.col(f"{column} theirs").cast(pl.Float64).alias("theirs"),
    ).cast(_FINDINGS)
