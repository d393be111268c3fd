"""Candles put right in the store: a higher revision where one says something else, and what holds then."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import polars as pl
from psycopg import Connection

from marketdata.interval import Interval
from marketdata.market import Market
from marketdata.store import candles as candle_rows
from marketdata.store import locks, streamed
from marketdata.store.candles import STORED_SCHEMA
from marketdata.store.markets import market_id

_NAMES = ", ".join(STORED_SCHEMA)
_HELD = f"""
SELECT {_NAMES} FROM candle WHERE market_id = %(market)s AND open_time >= %(start)s AND open_time < %(end)s
"""  # noqa: S608 - names of columns
_REMOVE = (
    "DELETE FROM candle WHERE market_id = %s AND open_time = ANY(%s) AND open_time >= %s AND open_time < %s"
)
# Sums of floats depend on the order of the trades; everything else must be the same.
_SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
_TOLERANCE = 1e-9
_MINUTE = Interval.parse("1m").width


def put_right(
    connection: Connection[Any],
    market: Market,
    candles: pl.DataFrame,
    *,
    source: str,
    coverage: str,
    replace: bool = True,
    remove: Sequence[datetime] = (),
) -> tuple[pl.DataFrame, int, int]:
    """Put candles in place of those held that say something else; the transaction is the caller's.

    Args:
        candles: CANDLE_SCHEMA, one minute wide.
        replace: whether a candle that is held may be replaced, or only holes are filled.
        remove: ``open_time`` of candles that should not be there.

    Returns:
        Those of the given candles that hold now (UPDATE of STORED_SCHEMA, with their revisions), how many of
        them are new or changed, and how many were removed.
    """
    number = market_id(connection, market, create=True)
    locks.durably(connection)
    locks.lock_candles(connection, [number])
    opens = [*candles["open_time"], *remove]
    values = {"market": number, "start": min(opens), "end": max(opens) + _MINUTE}
    streamed.keep(connection, number, values["start"], values["end"])
    rows = connection.execute(_HELD, values).fetchall()
    held = pl.DataFrame(rows, schema=STORED_SCHEMA, orient="row")
    coming = (
        candles.join(held, on="open_time", how="left", suffix=" held", maintain_order="left")
        .with_columns(same=_same(), absent=pl.col("revision").is_null())
        .with_columns(
            pl.when("same")
            .then("revision")
            .otherwise(pl.col("revision").fill_null(-1) + 1)
            .alias("revision"),
            pl.when("same").then("source").otherwise(pl.lit(source)).alias("source"),
            pl.when("same").then("coverage").otherwise(pl.lit(coverage)).alias("coverage"),
        )
    )
    if not replace:
        coming = coming.filter(pl.col("same") | pl.col("absent"))
    changed = coming.filter(~pl.col("same")).select(STORED_SCHEMA.names())
    if len(changed):
        given = changed.with_columns(pl.lit(number, pl.Int16).alias("market_id"))
        candle_rows.upsert(connection, given)
    removed = 0
    if remove:
        wanted = (number, list(remove), min(remove), max(remove) + _MINUTE)
        removed = connection.execute(_REMOVE, wanted).rowcount
    return coming.select(STORED_SCHEMA.names()), len(changed), removed


def _same() -> pl.Expr:
    """Whether the candle that is held says the same; not where none is."""
    equal = [pl.col("revision").is_not_null()]
    for name in STORED_SCHEMA:
        if name in ("open_time", "revision", "source", "coverage"):
            continue
        mine, theirs = pl.col(name), pl.col(f"{name} held")
        if name in _SUMS:
            scale = pl.max_horizontal(mine.abs(), theirs.abs())
            near = ((mine - theirs).abs() <= _TOLERANCE * scale).fill_null(value=False)
            equal.append(near | (mine.is_null() & theirs.is_null()))
        else:
            equal.append(mine.eq_missing(theirs))
    return pl.all_horizontal(equal)
