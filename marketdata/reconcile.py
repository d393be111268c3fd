"""Two sets of candles beside each other: what differs (pure)."""

from dataclasses import dataclass, replace
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


# -- the stream beside the batch, and the batch beside the exchange ------------------------------------------

LATE, MISSING, EXTRA = "late trade", "missing", "extra"
VOLUME, PRICE, PARTIAL = "different volume", "different price", "partial"
CLASSES = (LATE, MISSING, EXTRA, VOLUME, PRICE, PARTIAL)
STREAM, BATCH, EXCHANGE = "stream", "batch", "exchange"
# One row a candle that differs. ``compared_with``: ``stream``, then ``said_`` is the stream's and ``true_``
# the batch's; or ``exchange``, then they are the batch's and the exchange's own. Drifts: percent of what is
# true; the close of a candle that one side does not have drifts nowhere. ``alone``: which of the three the
# other two speak against. ``state`` is given later: what became of it.
DIFFERENCE_SCHEMA = pl.Schema(
    {
        "open_time": TIME,
        "interval": pl.String(),
        "compared_with": pl.String(),
        "finding": pl.String(),
        "said_close": pl.Float64(),
        "true_close": pl.Float64(),
        "said_volume": pl.Float64(),
        "true_volume": pl.Float64(),
        "said_trades": pl.Int64(),
        "true_trades": pl.Int64(),
        "close_drift": pl.Float64(),
        "volume_drift": pl.Float64(),
        "alone": pl.String(),
        "state": pl.String(),
    }
)
_NO_DIFFERENCE = DIFFERENCE_SCHEMA.to_frame()
_IDS = ("first_trade_id", "last_trade_id")


@dataclass(frozen=True, slots=True)
class Drift:
    """How far candles are from the truth, percent: of a candle at most and on average, of all the volume."""

    close_max: float = 0.0
    close_mean: float = 0.0
    volume_max: float = 0.0
    volume_mean: float = 0.0
    volume_day: float = 0.0

    def beyond(self, percent: float) -> bool:
        """Whether the close of a candle, or the volume of all together, has drifted further than this."""
        return self.close_max > percent or self.volume_day > percent


@dataclass(frozen=True, slots=True)
class Side:
    """What one comparison came to.

    Attributes:
        compared: intervals for which at least one side has a candle; ``equal``: those without a finding.
        counts: findings by class.
        differences: DIFFERENCE_SCHEMA, by time.
    """

    compared: int
    equal: int
    counts: dict[str, int]
    drift: Drift
    differences: pl.DataFrame


def classify(
    said: pl.DataFrame,
    truth: pl.DataFrame,
    start: datetime,
    end: datetime,
    *,
    compared_with: str,
    interval: str = "1m",
    tolerance: float = 1e-8,
) -> Side:
    """Say of each candle with ``open_time`` in ``[start, end)`` how it differs from the truth.

    ``missing``: only the truth has it; ``extra``: the truth has none; ``late trade``: of the stream, it is
    made of fewer trades, all of them inside those of the truth; ``partial``: of the stream, it had begun
    before the first trade that was seen; ``different volume`` or ``different price``: neither.

    Args:
        said: CANDLE_SCHEMA, and ``coverage`` where it is known.
        truth: CANDLE_SCHEMA or EXCHANGE_CANDLE_SCHEMA; candles without volume stand for empty intervals.
        compared_with: ``stream`` or ``exchange``.
        tolerance: as in :func:`compare`.
    """
    if (rows := _alike(said, truth, start, end, tolerance)) is not None:
        return Side(rows, rows, {}, Drift(), _NO_DIFFERENCE)
    inside = pl.col("open_time").is_between(start, end, closed="left")
    left = _with_all(said).filter(inside)
    right = _with_all(truth).filter(inside, pl.col("volume").ne_missing(0.0))
    both = left.join(right, on="open_time", how="full", suffix=" theirs", coalesce=True)
    missing, extra = pl.col("close").is_null(), pl.col("close theirs").is_null()
    different = {name: _differs(name, tolerance) for name in _COLUMNS}
    prices = pl.any_horizontal(different[name] for name in _PRICES)
    wrong = both.filter(missing | extra | pl.any_horizontal(different.values()))
    streamed = pl.lit(compared_with == STREAM)
    finding = (
        pl.when(missing).then(pl.lit(MISSING))
        .when(extra).then(pl.lit(EXTRA))
        .when(streamed & (pl.col("coverage") == "partial").fill_null(value=False)).then(pl.lit(PARTIAL))
        .when(streamed & _fewer()).then(pl.lit(LATE))
        .when(prices).then(pl.lit(PRICE))
        .otherwise(pl.lit(VOLUME))
    )  # fmt: skip
    gap = (pl.col("close") - pl.col("close theirs")).abs()
    amount = (pl.col("volume").fill_null(0.0) - pl.col("volume theirs").fill_null(0.0)).abs()
    whole = pl.when(extra).then(pl.col("volume")).otherwise(pl.col("volume theirs"))
    rows_of = wrong.select(
        "open_time",
        pl.lit(interval).alias("interval"),
        pl.lit(compared_with).alias("compared_with"),
        finding.alias("finding"),
        *(
            pl.col(f"{name}{suffix}").alias(f"{prefix}_{short}")
            for name, short in (("close", "close"), ("volume", "volume"), ("trade_count", "trades"))
            for prefix, suffix in (("said", ""), ("true", " theirs"))
        ),
        (100 * gap / pl.col("close theirs")).alias("close_drift"),
        # An exchange that does not say the volume says nothing of its drift.
        pl.when(~missing & ~extra & pl.col("volume theirs").is_null())
        .then(None)
        .otherwise(100 * amount / whole)
        .alias("volume_drift"),
        pl.lit("").alias("alone"),
        pl.lit("").alias("state"),
    )
    found = rows_of.select(DIFFERENCE_SCHEMA.names()).cast(dict(DIFFERENCE_SCHEMA)).sort("open_time")  # type: ignore[arg-type]
    volume = both["volume theirs"].sum()
    return _side(found, len(both), float(volume or 0.0))


def _with_all(candles: pl.DataFrame) -> pl.DataFrame:
    """The columns that are looked at; null where a side does not have one."""
    absent = [name for name in (*_IDS, "coverage") if name not in candles.columns]
    return candles.with_columns(
        pl.lit(None, pl.String() if name == "coverage" else pl.Int64()).alias(name) for name in absent
    ).select("open_time", *_COLUMNS, *_IDS, "coverage")


def _fewer() -> pl.Expr:
    """Whether a candle is made of some of the trades of the truth, as far as its numbers can tell."""

    def theirs(name: str) -> pl.Expr:
        return pl.col(f"{name} theirs")

    inside = (
        (pl.col("trade_count") < theirs("trade_count")),
        (pl.col("volume") < theirs("volume")),
        (pl.col("high") <= theirs("high")) & (pl.col("low") >= theirs("low")),
        (pl.col("first_trade_id") >= theirs("first_trade_id")).fill_null(value=True),
        (pl.col("last_trade_id") <= theirs("last_trade_id")).fill_null(value=True),
    )
    return pl.all_horizontal(inside).fill_null(value=False)


def _side(found: pl.DataFrame, compared: int, volume: float) -> Side:
    counts = {name: count for name in CLASSES if (count := int((found["finding"] == name).sum()))}
    off = (found["said_volume"].fill_null(0.0) - found["true_volume"].fill_null(0.0)).abs()
    known = found["volume_drift"].is_not_null()
    off_known = float(off.filter(known).sum())
    drift = Drift(
        close_max=_number(found["close_drift"].max()),
        close_mean=_number(found["close_drift"].sum()) / max(compared, 1),
        volume_max=_number(found["volume_drift"].max()),
        volume_mean=_number(found["volume_drift"].sum()) / max(compared, 1),
        volume_day=100 * off_known / volume if volume > 0 else 100.0 * (off_known > 0),
    )
    return Side(compared, compared - len(found), counts, drift, found)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


Window = tuple[datetime, datetime]


def three_way(
    stream: pl.DataFrame,
    batch: pl.DataFrame,
    exchange: pl.DataFrame,
    *,
    streamed: Window,
    served: Window,
    tolerance: float = 1e-8,
) -> tuple[Side, Side]:
    """Compare one-minute candles of the stream with the batch's, and the batch's with the exchange's own.

    Where all three speak of a candle, ``alone`` names the one that the other two speak against.

    Args:
        stream, batch: CANDLE_SCHEMA. exchange: EXCHANGE_CANDLE_SCHEMA.
        streamed, served: the stretches the stream and the exchange speak of; empty where they say nothing.
    """
    first = classify(stream, batch, *streamed, compared_with=STREAM, tolerance=tolerance)
    second = classify(batch, exchange, *served, compared_with=EXCHANGE, tolerance=tolerance)
    start, end = max(streamed[0], served[0]), min(streamed[1], served[1])
    if start >= end or (first.differences.is_empty() and second.differences.is_empty()):
        return first, second
    third = classify(stream, exchange, start, end, compared_with=EXCHANGE, tolerance=tolerance)
    shared = pl.col("open_time").is_between(start, end, closed="left")
    wrong = {
        side: frame["open_time"].implode()
        for side, frame in ((1, first.differences), (2, second.differences), (3, third.differences))
    }

    def differs(number: int) -> pl.Expr:
        return pl.col("open_time").is_in(wrong[number])

    alone = (
        pl.when(~shared).then(pl.lit(""))
        .when(~differs(2)).then(pl.lit(STREAM))
        .when(~differs(1)).then(pl.lit(EXCHANGE))
        .when(~differs(3)).then(pl.lit(BATCH))
        .otherwise(pl.lit(""))
    ).alias("alone")  # fmt: skip
    return (
        replace(first, differences=first.differences.with_columns(alone)),
        replace(second, differences=second.differences.with_columns(alone)),
    )
