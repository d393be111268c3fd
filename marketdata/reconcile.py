"""Two sets of candles beside each other: what differs (pure)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from marketdata.interval import to_us
from marketdata.trade import TIME

_PRICES = ("open", "high", "low", "close")
# quote_volume is left out: exchanges round it per trade (Binance) or give it as a rounded vwap (Kraken).
_VOLUMES = ("volume", "taker_buy_volume")
_COLUMNS = (*_PRICES, *_VOLUMES, "trade_count")
Array = np.ndarray[Any, Any]

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


def _alike(  # noqa: PLR0911 - one for each reason to look closer
    ours: pl.DataFrame, theirs: pl.DataFrame, start: datetime, end: datetime, tolerance: float
) -> int | None:
    """How many candles there are, when both sides have the same ones and no value differs; else ``None``.

    This is how nearly all days end, and a hundredth of the work of saying what differs.
    """
    a_of, b_of = _series(ours), _series(theirs)
    mine, yours = _us(a_of["open_time"]), _us(b_of["open_time"])
    if b_of["volume"].null_count():
        return None
    if len(mine) and not to_us(start) <= mine[0] <= mine[-1] < to_us(end):
        return None
    served = b_of["volume"].to_numpy() != 0
    every = bool(served.all())
    if not np.array_equal(mine, yours if every else yours[served]) or (np.diff(mine) <= 0).any():
        return None
    for name in _COLUMNS:
        unknown = [column.null_count() for column in (a_of[name], b_of[name])]
        if any(unknown):
            if name not in _PRICES and (unknown[0] == len(ours) or unknown[1] == len(theirs)):
                continue  # one side does not say it at all
            return None
        a, b = a_of[name].to_numpy(), b_of[name].to_numpy()
        b = b if every else b[served]
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


def _series(frame: pl.DataFrame) -> dict[str, pl.Series]:
    """The columns by name; asking for them one by one takes ten times as long."""
    return {column.name: column for column in frame.get_columns()}


def _us(times: pl.Series) -> Array:
    """Microseconds, without the query that ``to_physical`` is."""
    return times.to_numpy().view(np.int64)


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
    mine, theirs = _Columns.of(said, start, end), _Columns.of(truth, start, end, traded=True)
    _, left, right = np.intersect1d(mine.opens, theirs.opens, assume_unique=True, return_indices=True)
    prices = np.zeros(len(left), np.bool_)
    others = prices.copy()
    for name in _COLUMNS:
        prices_or_others = prices if name in _PRICES else others
        prices_or_others |= _unlike(name, mine, left, theirs, right, tolerance=tolerance)
    wrong = prices | others
    compared = len(mine.opens) + len(theirs.opens) - len(left)
    volume = float(np.nansum(theirs.values["volume"]))
    if compared == len(left) and not wrong.any():
        return Side(compared, compared, {}, Drift(), _NO_DIFFERENCE)
    # Positions in either frame of what differs, -1 where it has no such candle.
    missing = np.delete(np.arange(len(theirs.opens)), right)
    extra = np.delete(np.arange(len(mine.opens)), left)
    none = np.full(len(missing), -1), np.full(len(extra), -1)
    at_mine = np.concatenate([left[wrong], none[0], extra])
    at_theirs = np.concatenate([right[wrong], missing, none[1]])
    order = np.argsort(np.concatenate([mine.opens[left[wrong]], theirs.opens[missing], mine.opens[extra]]))
    both = np.concatenate([prices[wrong], np.zeros(len(missing) + len(extra), np.bool_)])[order]
    found = _found(
        mine,
        at_mine[order],
        theirs,
        at_theirs[order],
        prices=both,
        compared_with=compared_with,
        interval=interval,
    )
    return _side(found, compared, volume)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The numbers of candles, as NumPy has them: polars takes a millisecond for what this takes ten of."""

    opens: Array
    values: dict[str, Array]
    nulls: dict[str, Array | None]
    ids: dict[str, Array | None]
    partial: Array | None

    @classmethod
    def of(cls, candles: pl.DataFrame, start: datetime, end: datetime, *, traded: bool = False) -> "_Columns":
        """Those that open in ``[start, end)``; with ``traded`` those with a volume only."""
        of = _series(candles)
        opens = _us(of["open_time"])
        kept = (opens >= to_us(start)) & (opens < to_us(end))
        if traded:
            kept &= of["volume"].to_numpy() != 0  # what is not known is not 0
        chosen: Any = slice(None) if kept.all() else kept
        values, nulls = {}, {}
        for name in _COLUMNS:
            column = of[name]
            values[name] = column.to_numpy()[chosen].astype(np.float64, copy=False)
            nulls[name] = column.is_null().to_numpy()[chosen] if column.null_count() else None
        ids = {
            name: of[name].to_numpy()[chosen] if name in of and not of[name].null_count() else None
            for name in _IDS
        }
        partial = None
        if "coverage" in of:
            partial = np.array([word == PARTIAL for word in of["coverage"].to_list()], np.bool_)[chosen]
        return cls(opens[chosen], values, nulls, ids, partial)

    def take(self, name: str, at: Array) -> Array:
        """Values at positions; NaN where there is none."""
        values = self.values[name]
        return np.where(at >= 0, values[at], np.nan) if len(values) else np.full(len(at), np.nan)


def _unlike(
    name: str, mine: _Columns, left: Array, theirs: _Columns, right: Array, *, tolerance: float
) -> Array:
    """Whether the two sides disagree, candle by candle; not where one of them has no value."""
    a, b = mine.values[name][left], theirs.values[name][right]
    if name == "trade_count":
        unlike = a != b
    else:
        scale = np.maximum(np.abs(a), np.abs(b))
        if name in _VOLUMES:
            scale = np.maximum(scale, 1.0)
        unlike = ~(np.abs(a - b) <= tolerance * scale)
    for columns, at in ((mine, left), (theirs, right)):
        nulls = columns.nulls[name]
        if nulls is not None:
            unlike &= ~nulls[at]
    return np.asarray(unlike)


def _found(
    mine: _Columns,
    at_mine: Array,
    theirs: _Columns,
    at_theirs: Array,
    *,
    prices: Array,
    compared_with: str,
    interval: str,
) -> pl.DataFrame:
    """One row a candle that differs, DIFFERENCE_SCHEMA."""
    missing, extra = at_mine < 0, at_theirs < 0
    opens = np.where(missing, _at(theirs.opens, at_theirs), _at(mine.opens, at_mine))
    finding = np.where(prices, PRICE, VOLUME).astype(object)
    if compared_with == STREAM:
        finding[_fewer(mine, at_mine, theirs, at_theirs)] = LATE
        if mine.partial is not None:
            finding[_at(mine.partial, at_mine) & ~missing] = PARTIAL
    finding[missing], finding[extra] = MISSING, EXTRA
    close, true_close = mine.take("close", at_mine), theirs.take("close", at_theirs)
    volume, true_volume = mine.take("volume", at_mine), theirs.take("volume", at_theirs)
    whole = np.where(extra, volume, true_volume)
    off = np.where(missing | extra, whole, np.abs(volume - true_volume))
    count = len(opens)
    numbers = {
        "said_close": close,
        "true_close": true_close,
        "said_volume": volume,
        "true_volume": true_volume,
        "said_trades": mine.take("trade_count", at_mine),
        "true_trades": theirs.take("trade_count", at_theirs),
        "close_drift": 100 * np.abs(close - true_close) / true_close,
        # An exchange that does not say the volume says nothing of its drift.
        "volume_drift": 100 * off / whole,
    }
    words = {"interval": interval, "compared_with": compared_with, "alone": "", "state": ""}
    columns = [
        pl.Series("open_time", opens.astype("datetime64[us]")).dt.replace_time_zone("UTC"),
        pl.Series("finding", finding.tolist(), pl.String),
        *(pl.Series(name, [word] * count, pl.String) for name, word in words.items()),
        *(
            pl.Series(name, values, nan_to_null=True).cast(DIFFERENCE_SCHEMA[name])
            for name, values in numbers.items()
        ),
    ]
    named = {column.name: column for column in columns}
    return pl.DataFrame([named[name] for name in DIFFERENCE_SCHEMA])


def _at(values: Array, at: Array) -> Array:
    """Values at positions, whatever where there is none."""
    return values[at] if len(values) else np.zeros(len(at), values.dtype)


def _fewer(mine: _Columns, at_mine: Array, theirs: _Columns, at_theirs: Array) -> Array:
    """Whether a candle is made of some of the trades of the truth, as far as its numbers can tell."""

    def pair(name: str) -> tuple[Array, Array]:
        return mine.take(name, at_mine), theirs.take(name, at_theirs)

    (count, count_of), (volume, volume_of) = pair("trade_count"), pair("volume")
    (high, high_of), (low, low_of) = pair("high"), pair("low")
    fewer = (count < count_of) & (volume < volume_of) & (high <= high_of) & (low >= low_of)
    for name, sign in zip(_IDS, (1, -1), strict=True):
        ids, ids_of = mine.ids[name], theirs.ids[name]
        if ids is not None and ids_of is not None:
            fewer &= sign * (_at(ids, at_mine) - _at(ids_of, at_theirs)) >= 0
    return np.asarray(fewer)


def _side(found: pl.DataFrame, compared: int, volume: float) -> Side:
    kinds = found["finding"].to_list()
    counts = {name: count for name in CLASSES if (count := kinds.count(name))}
    said, true = (found[f"{side}_volume"].fill_null(0.0).to_numpy() for side in ("said", "true"))
    known = found["volume_drift"].is_not_null().to_numpy()
    off = float(np.abs(said - true)[known].sum())
    drift = Drift(
        close_max=_number(found["close_drift"].max()),
        close_mean=_number(found["close_drift"].sum()) / max(compared, 1),
        volume_max=_number(found["volume_drift"].max()),
        volume_mean=_number(found["volume_drift"].sum()) / max(compared, 1),
        volume_day=100 * off / volume if volume > 0 else 100.0 * (off > 0),
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
    wrong = [set(side.differences["open_time"].to_list()) for side in (first, second)]
    unlike = pl.Series(sorted(wrong[0] | wrong[1]), dtype=TIME).implode()
    some, others = (frame.filter(pl.col("open_time").is_in(unlike)) for frame in (stream, exchange))
    third = classify(some, others, start, end, compared_with=EXCHANGE, tolerance=tolerance)
    wrong.append(set(third.differences["open_time"].to_list()))

    def alone(opens: datetime) -> str:
        if not start <= opens < end:
            return ""
        of_stream, of_batch, of_both = (opens in each for each in wrong)
        if not of_batch:
            return STREAM
        if not of_stream:
            return EXCHANGE
        return "" if of_both else BATCH

    return _named(first, alone), _named(second, alone)


def _named(side: Side, alone: Callable[[datetime], str]) -> Side:
    """The comparison with the one of three named that stands alone."""
    if side.differences.is_empty():
        return side
    names = pl.Series("alone", list(map(alone, side.differences["open_time"].to_list())), pl.String)
    return replace(side, differences=side.differences.with_columns(names))
