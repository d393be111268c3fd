"""Trades: schema, validation, identity and order (pure).

A frame of trades is of one market and has TRADE_SCHEMA; exchange and symbol are the lake's partition keys
and are added when frames of several markets meet. Order is (``time``, ``trade_id``).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

import numpy as np
import orjson
import polars as pl

from marketdata.interval import to_us

SIDE = pl.Enum(["buy", "sell"])
TIME = pl.Datetime("us", "UTC")

# trade_id: the exchange's integer id, or a fingerprint (assign_ids). price in quote, amount in base units.
# side: of the taker; null where the source does not say. fills: raw executions in the row.
TRADE_SCHEMA = pl.Schema(
    {
        "trade_id": pl.Int64(),
        "time": TIME,
        "price": pl.Float64(),
        "amount": pl.Float64(),
        "side": SIDE,
        "fills": pl.Int32(),
    }
)

# What was refused, and why. raw is the source's own row as JSON; a time that no datetime can hold is null.
REJECT_SCHEMA = pl.Schema({"reason": pl.String(), "trade_id": pl.Int64(), "time": TIME, "raw": pl.String()})

# Before the first block of Bitcoin there was nothing to trade.
_FIRST_TIME = "2009-01-03T00:00:00+00:00"
_HELD_BY_DATETIME = to_us(datetime(1, 1, 1, tzinfo=UTC)), to_us(datetime(9999, 12, 31, tzinfo=UTC))
# Clocks of exchange and receiver may differ this much before a trade counts as "in the future".
FUTURE_TOLERANCE = timedelta(minutes=5)

# An id given by assign_ids: microseconds since the epoch (52 bits, until 2112), then the position.
_POSITION_BITS = 11


_NO_TRADES, _NO_REJECTS = TRADE_SCHEMA.to_frame(), REJECT_SCHEMA.to_frame()


def empty_trades() -> pl.DataFrame:
    """A frame of no trades."""
    return _NO_TRADES.clone()


def empty_rejects() -> pl.DataFrame:
    """A frame of no rejects."""
    return _NO_REJECTS.clone()


def is_in_order(trades: pl.DataFrame) -> bool:
    """Whether the rows are sorted by (time, trade_id)."""
    time, trade_id = trades["time"], trades["trade_id"]
    if not time.is_sorted():
        return False
    if trade_id.is_sorted():
        return True
    same_time = time.cast(pl.Int64).diff() == 0
    return not (same_time & (trade_id.diff() < 0)).any()


def in_order(trades: pl.DataFrame) -> pl.DataFrame:
    """The rows sorted by (time, trade_id); at no cost worth naming where they are already."""
    return trades if is_in_order(trades) else trades.sort("time", "trade_id", maintain_order=True)


def distinct(trades: pl.DataFrame) -> pl.DataFrame:
    """Each (time, trade_id) once, in order: what is left of any replay of the same trades."""
    trades = in_order(trades)
    same = (pl.col("time").to_physical().diff() == 0) & (pl.col("trade_id").diff() == 0)
    return trades.filter(~same.fill_null(value=False))


@dataclass(frozen=True, slots=True)
class Validated:
    """Rows split into those that are trades and those that are not, with a reason each."""

    accepted: pl.DataFrame
    rejected: pl.DataFrame


def validate(
    rows: pl.DataFrame,
    *,
    now: datetime,
    raw: Sequence[Any] | None = None,
    ids: bool = True,
    sides: bool = False,
) -> Validated:
    """Split rows into accepted trades and rejects with a reason each.

    Args:
        rows: the columns of TRADE_SCHEMA, null where a value could not be read. Other columns are dropped;
            a value that does not fit the type of its column counts as unreadable.
        now: the time of the check; a trade more than five minutes later is in the future.
        raw: the source's own rows, same length, kept in the rejects; without it the row itself is kept.
        ids: whether the source has ids; if not, ``trade_id`` may be null.
        sides: whether the source always says who was the taker; if not, ``side`` may be null.

    Returns:
        Accepted rows in the order given, TRADE_SCHEMA; rejects, REJECT_SCHEMA.
    """
    first = to_us(datetime.fromisoformat(_FIRST_TIME))
    last = to_us(now + FUTURE_TOLERANCE)
    time = pl.col("time").to_physical()
    price, amount = pl.col("price"), pl.col("amount")
    rules: list[tuple[str, pl.Expr]] = [
        ("time absent or unreadable", pl.col("time").is_null()),
        ("time before 2009", time < first),
        ("time in the future", time > last),
        ("price absent or unreadable", price.is_null()),
        ("price not finite", ~price.is_finite()),
        ("price not positive", price <= 0),
        ("amount absent or unreadable", amount.is_null()),
        ("amount not finite", ~amount.is_finite()),
        ("amount not positive", amount <= 0),
        ("price times amount not finite", ~(price * amount).is_finite()),
        ("fills not positive", pl.col("fills").is_null() | (pl.col("fills") < 1)),
    ]
    if ids:
        rules.insert(0, ("trade id absent or unreadable", pl.col("trade_id").is_null()))
        rules.insert(1, ("trade id negative", pl.col("trade_id") < 0))
    if sides:
        rules.append(("side absent or unreadable", pl.col("side").is_null()))
    given = rows.select(TRADE_SCHEMA.names())
    rows = given.cast(TRADE_SCHEMA, strict=False)
    for name in ("trade_id", "side"):
        if rows[name].null_count() > given[name].null_count():
            lost = (given[name].is_not_null() & rows[name].is_null()).alias(f"{name} lost")
            rows = rows.with_columns(lost)
            rules.append((f"{name.replace('_', ' ')} absent or unreadable", pl.col(lost.name)))
    bad = rows.select(pl.any_horizontal(rule for _, rule in rules).fill_null(value=True)).to_series()
    if not bad.any():
        return Validated(rows, empty_rejects())
    reason = pl.coalesce(*[pl.when(rule).then(pl.lit(name)) for name, rule in rules])
    where = bad.arg_true()
    shown = pl.when(time.is_between(*_HELD_BY_DATETIME)).then("time").alias("time")
    kept = (
        [raw[i] for i in where]
        if raw is not None
        else [_plain(row) for row in given[where].with_columns(rows[where].select(shown)).rows(named=True)]
    )
    rejected = rows.filter(bad).select(
        reason.alias("reason"),
        "trade_id",
        shown,
        pl.Series("raw", [as_json(row) for row in kept], dtype=pl.String),
    )
    return Validated(rows.filter(~bad).select(TRADE_SCHEMA.names()), rejected)


def as_json(row: Any) -> str:
    """A row as rejects keep it, whatever an exchange has put into it."""
    try:
        return orjson.dumps(row, default=str).decode()
    except TypeError:  # an integer beyond 64 bits, half a surrogate pair, many levels
        pass
    try:
        return json.dumps(row, default=str, skipkeys=True)
    except RecursionError:
        return '"more levels than can be written"'


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what JSON has no word for (NaN, infinity) as text."""
    return {
        name: str(value) if isinstance(value, float) and not isfinite(value) else value
        for name, value in row.items()
    }


def assign_ids(trades: pl.DataFrame) -> pl.DataFrame:
    """Give trades of a source without ids a stable 63-bit ``trade_id``; rows in order of arrival.

    The id is the time and the row's position among rows of the same time: ``time << 11 | position``. So
    (``time``, ``trade_id``) is the order of the file also where the source knows whole seconds only, two
    identical fills stay two, ids rise over all days of a market, and they compress to a fraction of a byte
    (a hash of the row costs 6.3 bytes a row, more than all else but the amount). What two files say about
    the same time is compared by content, see :mod:`marketdata.pieces`.

    Every row of one time must be in the frame; whole days and whole files satisfy that. A 2,049th row of
    one microsecond takes the ids of the next, which (``time``, ``trade_id``) still tells apart.
    """
    if trades.is_empty():
        return trades.select(TRADE_SCHEMA.names())
    time = trades["time"].to_physical().to_numpy()
    order = None if (time[1:] >= time[:-1]).all() else np.argsort(time, kind="stable")
    in_order = time if order is None else time[order]
    index = np.arange(len(time))
    starts = np.where(np.r_[True, in_order[1:] != in_order[:-1]], index, 0)
    ids = (in_order << _POSITION_BITS) + (index - np.maximum.accumulate(starts))
    if order is None:
        trade_id = ids
    else:
        trade_id = np.empty_like(ids)
        trade_id[order] = ids
    return trades.with_columns(pl.Series("trade_id", trade_id)).select(TRADE_SCHEMA.names())


@dataclass(frozen=True, slots=True)
class Merged:
    """Trades in order, each once.

    ``repeated`` rows said the same as a row that was kept; ``conflicts`` (REJECT_SCHEMA) carry the id of a
    row that was kept but say something else.
    """

    trades: pl.DataFrame
    repeated: int
    conflicts: pl.DataFrame


def merge_trades(*frames: pl.DataFrame) -> Merged:
    """Bring frames of one market into one, sorted by (time, trade_id), each trade once; the first wins.

    Args:
        frames: TRADE_SCHEMA with ids of the exchange. Ids of :func:`assign_ids` do not say which trade a row
            is; such rows are compared by content, see :mod:`marketdata.pieces`.
    """
    trades = pl.concat(frames) if frames else empty_trades()
    sorted_by_id = trades["trade_id"].is_sorted()
    by_id = trades if sorted_by_id else trades.sort("trade_id", maintain_order=True)
    again = (by_id["trade_id"].diff() == 0).fill_null(value=False)
    if not again.any():
        return Merged(in_order(trades), 0, empty_rejects())
    kept, others = by_id.filter(~again), by_id.filter(again)
    names = TRADE_SCHEMA.names()
    losers = others.join(kept, on=names, how="anti", nulls_equal=True, maintain_order="left")
    losers = losers.unique(maintain_order=True)
    conflicts = losers.select(
        pl.lit("id repeated with other values").alias("reason"),
        "trade_id",
        "time",
        pl.struct(pl.col(names)).struct.json_encode().alias("raw"),
    )
    return Merged(in_order(kept), len(others) - len(conflicts), conflicts)
