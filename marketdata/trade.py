"""Trades: schema, validation, identity and order (pure).

A frame of trades is of one market and has TRADE_SCHEMA; exchange and symbol are the lake's partition keys
and are added when frames of several markets meet. Order is (``time``, ``trade_id``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
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

# What was refused, and why. raw is the source's own row as JSON.
REJECT_SCHEMA = pl.Schema({"reason": pl.String(), "trade_id": pl.Int64(), "time": TIME, "raw": pl.String()})

# Before the first block of Bitcoin there was nothing to trade.
_FIRST_TIME = "2009-01-03T00:00:00+00:00"
# Clocks of exchange and receiver may differ this much before a trade counts as "in the future".
FUTURE_TOLERANCE = timedelta(minutes=5)

_HASH_BITS = 48
_HASH_MASK = (1 << _HASH_BITS) - 1
_MAX_POSITION = (1 << (63 - _HASH_BITS)) - 1


def empty_trades() -> pl.DataFrame:
    """A frame of no trades."""
    return TRADE_SCHEMA.to_frame()


def empty_rejects() -> pl.DataFrame:
    """A frame of no rejects."""
    return REJECT_SCHEMA.to_frame()


def is_in_order(trades: pl.DataFrame) -> bool:
    """Whether the rows are sorted by (time, trade_id)."""
    time, trade_id = trades["time"], trades["trade_id"]
    if not time.is_sorted():
        return False
    if trade_id.is_sorted():
        return True
    same_time = time.to_physical().diff() == 0
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
        rows: the columns of TRADE_SCHEMA, null where a value could not be read. Other columns are dropped.
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
        ("fills not positive", pl.col("fills").is_null() | (pl.col("fills") < 1)),
    ]
    if ids:
        rules.insert(0, ("trade id absent or unreadable", pl.col("trade_id").is_null()))
        rules.insert(1, ("trade id negative", pl.col("trade_id") < 0))
    if sides:
        rules.append(("side absent or unreadable", pl.col("side").is_null()))
    rows = rows.select(TRADE_SCHEMA.names())
    bad = rows.select(pl.any_horizontal(rule for _, rule in rules).fill_null(value=True)).to_series()
    if not bad.any():
        return Validated(rows.cast(TRADE_SCHEMA), empty_rejects())
    reason = pl.coalesce(*[pl.when(rule).then(pl.lit(name)) for name, rule in rules])
    where = bad.arg_true()
    refused = rows[where]
    kept = [raw[i] for i in where] if raw is not None else list(refused.iter_rows(named=True))
    rejected = refused.select(
        reason.alias("reason"),
        "trade_id",
        "time",
        pl.Series("raw", [orjson.dumps(row, default=str).decode() for row in kept], dtype=pl.String),
    )
    return Validated(rows.filter(~bad).cast(TRADE_SCHEMA), rejected)


def assign_ids(trades: pl.DataFrame) -> pl.DataFrame:
    """Give trades of a source without ids a stable 63-bit ``trade_id``; rows in order of arrival.

    The low 48 bits are a hash of (time, price, amount, side, ordinal among identical rows): identity.
    Importing a file twice therefore adds nothing and two identical fills stay two. The high 15 bits are
    the row's position among rows of the same time, so that (``time``, ``trade_id``) is the order of the
    file also where the source knows whole seconds only: by the hash alone open and close of such
    candles would be drawn by lot.

    Every row of one time must be in the frame; whole days and whole files satisfy that.
    """
    if trades.is_empty():
        return trades.select(TRADE_SCHEMA.names())
    time = trades["time"].to_physical().to_numpy()
    order = np.argsort(time, kind="stable")
    in_order = time[order]
    starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]])
    sizes = np.diff(np.r_[starts, len(in_order)])
    position = np.empty(len(time), dtype=np.int64)
    position[order] = np.arange(len(time)) - np.repeat(starts, sizes)
    shared = np.empty(len(time), dtype=bool)
    shared[order] = np.repeat(sizes > 1, sizes)
    ordinal = np.zeros(len(time), dtype=np.int64)
    if shared.any():
        groups = trades.filter(pl.Series(shared))
        ordinal[shared] = groups.select(
            pl.int_range(pl.len(), dtype=pl.Int64).over("time", "price", "amount", "side")
        ).to_series()
    side = trades["side"].to_physical().fill_null(255).to_numpy()
    fingerprint = _mix(
        time.view(np.uint64),
        trades["price"].to_numpy().view(np.uint64),
        trades["amount"].to_numpy().view(np.uint64),
        side.astype(np.uint64),
        ordinal.view(np.uint64),
    )
    hashed = (fingerprint & np.uint64(_HASH_MASK)).astype(np.int64)
    trade_id = (np.minimum(position, _MAX_POSITION) << _HASH_BITS) | hashed
    return trades.with_columns(pl.Series("trade_id", trade_id)).select(TRADE_SCHEMA.names())


def _mix(*columns: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Hash rows of 64-bit words; the finaliser of splitmix64, so the same on every machine and version."""
    state = np.full(len(columns[0]), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in columns:
        state = (state ^ column) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


@dataclass(frozen=True, slots=True)
class Merged:
    """Trades in order, each once.

    ``repeated`` rows said the same as a row that was kept; ``conflicts`` (REJECT_SCHEMA) carry the id of a
    row that was kept but say something else.
    """

    trades: pl.DataFrame
    repeated: int
    conflicts: pl.DataFrame


def merge_trades(*frames: pl.DataFrame, fingerprints: bool = False) -> Merged:
    """Bring frames of one market into one, sorted by (time, trade_id), each trade once; the first wins.

    Args:
        frames: TRADE_SCHEMA with ids.
        fingerprints: whether the ids were given by :func:`assign_ids`. Then a trade is known by its time
            and hash, and of two positions the larger is right: a file that starts or ends inside a group
            of equal times can only undercount.
    """
    trades = pl.concat(frames) if frames else empty_trades()
    if fingerprints:
        trades = trades.sort("time", "trade_id")
        identity = (pl.col("trade_id") & _HASH_MASK).alias("identity")
        unique = (
            trades.with_columns(identity)
            .unique(subset=["time", "identity"], keep="last", maintain_order=True)
            .drop("identity")
        )
        return Merged(unique, len(trades) - len(unique), empty_rejects())
    if trades["trade_id"].n_unique() == len(trades):
        return Merged(trades.sort("time", "trade_id"), 0, empty_rejects())
    unique = trades.unique("trade_id", keep="first", maintain_order=True)
    others = trades.unique(maintain_order=True).filter(pl.col("trade_id").is_duplicated())
    losers = others.filter(~pl.col("trade_id").is_first_distinct())
    conflicts = losers.select(
        pl.lit("id repeated with other values").alias("reason"),
        "trade_id",
        "time",
        pl.struct(pl.col(TRADE_SCHEMA.names())).struct.json_encode().alias("raw"),
    )
    repeated = len(trades) - len(unique) - len(conflicts)
    return Merged(unique.sort("time", "trade_id"), repeated, conflicts)
