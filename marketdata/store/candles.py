"""One-minute candles into the store: the newer revision wins, whoever comes first.

Wider candles follow by themselves: on plain PostgreSQL a trigger keeps them, on TimescaleDB the stretch that
has changed is noted and made anew, see ``marketdata.store.wider``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from psycopg import Connection

from marketdata.candle import CANDLE_SCHEMA
from marketdata.manifest import Manifest, Status, day_window
from marketdata.market import Market
from marketdata.store import locks, streamed, superseded
from marketdata.store.copy import Kinds, copy_in, stage
from marketdata.store.markets import market_id
from marketdata.store.trades import Written

# What the store says of a candle beyond its numbers.
STORED_SCHEMA = pl.Schema(
    {**CANDLE_SCHEMA, "revision": pl.Int32(), "source": pl.String(), "coverage": pl.String()}
)
_TYPES: Kinds = {
    "open_time": "timestamptz",
    "trade_count": "int8",
    "first_trade_id": "int8",
    "last_trade_id": "int8",
    "first_trade_time": "timestamptz",
    "last_trade_time": "timestamptz",
    "revision": "int4",
    "source": "label",
    "coverage": "label",
}
KINDS: Kinds = {"market_id": "int2", **{name: _TYPES.get(name, "float8") for name in STORED_SCHEMA}}
KEY = ("market_id", "open_time")

_NUMBERS = [name for name in CANDLE_SCHEMA if name != "open_time"]
_COLUMNS = ", ".join(KINDS)
_NEWER_WINS = f"""
INSERT INTO candle ({_COLUMNS})
SELECT DISTINCT ON (market_id, open_time) {_COLUMNS} FROM candle_in
ORDER BY market_id, open_time, revision DESC
ON CONFLICT (market_id, open_time) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in STORED_SCHEMA if name != "open_time")}
WHERE candle.revision < excluded.revision
"""  # noqa: S608 - names of columns


def _row(table: str, names: list[str]) -> str:
    return f"({', '.join(f'{table}.{name}' for name in names)})"


# A candle that says something else is a new issue of it; one of which only the evidence has changed is not.
_REPLACED = f"""
INSERT INTO candle ({_COLUMNS}) SELECT {_COLUMNS} FROM candle_in AS coming
WHERE NOT EXISTS (
    SELECT FROM candle AS held WHERE held.market_id = %(market)s AND held.open_time = coming.open_time
    AND held.open_time >= %(start)s AND held.open_time < %(end)s AND (held.source = ANY(%(kept)s) OR (
        held.source = 'stream' AND held.trade_count >= coming.trade_count
        AND NOT {superseded.MINUTE.format("held")}
    ))
)
ORDER BY market_id, open_time
ON CONFLICT (market_id, open_time) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in [*_NUMBERS, "source", "coverage"])},
    revision = CASE WHEN {_row("candle", _NUMBERS)} IS DISTINCT FROM {_row("excluded", _NUMBERS)}
        THEN greatest(candle.revision + 1, excluded.revision)
        ELSE greatest(candle.revision, excluded.revision) END
WHERE {_row("candle", [*_NUMBERS, "source", "coverage"])}
    IS DISTINCT FROM {_row("excluded", [*_NUMBERS, "source", "coverage"])}
"""  # noqa: S608
_VANISHED = f"""
DELETE FROM candle WHERE market_id = %(market)s AND open_time >= %(start)s AND open_time < %(end)s
AND source <> ALL(%(kept)s) AND {superseded.MINUTE.format("candle")}
AND NOT EXISTS (SELECT FROM candle_in WHERE candle_in.open_time = candle.open_time)
"""  # noqa: S608
# Where trades are missing, what fills the hole stays.
_OF_OTHERS = ["exchange", "repair"]


@dataclass(frozen=True, slots=True)
class Replaced:
    """What the replacing of a day's candles came to."""

    changed: int
    removed: int


def upsert_candles(connection: Connection[Any], candles: Mapping[Market, pl.DataFrame]) -> Written:
    """Add candles of any markets; a newer revision replaces, an equal or older one is ignored.

    One transaction, which is the caller's. The market is made known if it is not.

    Args:
        candles: by market, STORED_SCHEMA: CANDLE_SCHEMA of one-minute candles with ``revision``, ``source``
            and ``coverage``, in any order. Of one key the highest revision counts.

    Raises:
        psycopg.Error: the server refuses.
    """
    frames = [
        _numbered(frame, market_id(connection, market, create=True)) for market, frame in candles.items()
    ]
    return upsert(connection, pl.concat(frames)) if frames else Written(0, 0)


def upsert(connection: Connection[Any], candles: pl.DataFrame) -> Written:
    """The same for a frame that has ``market_id`` besides STORED_SCHEMA."""
    locks.lock_candles(connection, candles["market_id"].unique())
    with connection.cursor() as cursor:
        copy_in(cursor, stage(cursor, "candle"), KINDS, [candles])
        written = cursor.execute(_NEWER_WINS).rowcount
    return Written(written, len(candles) - written)


def replace_day(
    connection: Connection[Any], number: int, candles: pl.DataFrame, manifest: Manifest
) -> Replaced:
    """Put the candles of a day (CANDLE_SCHEMA) in place of those held; the transaction is the caller's.

    Candles that are the same are not touched. One that differs gets a higher revision than the one it
    replaces. On a day that is not complete, candles that came from the exchange or a repair stay, and in
    minutes that the manifest does not speak for those of the stream, unless the new one has more trades. What
    the stream had said is kept, to be compared: see :mod:`marketdata.store.streamed`.
    """
    coming = candles.with_columns(
        pl.lit(0, pl.Int32).alias("revision"),
        pl.lit("import" if manifest.source.startswith("file ") else "batch").alias("source"),
        pl.lit(str(manifest.status)).alias("coverage"),
    )
    start, end = day_window(manifest.day)
    kept = [] if manifest.status is Status.COMPLETE else _OF_OTHERS
    values = superseded.values(manifest) | {"market": number, "start": start, "end": end, "kept": kept}
    locks.lock_candles(connection, [number])
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        copy_in(cursor, stage(cursor, "candle"), KINDS, [_numbered(coming, number)])
        cursor.execute("ANALYZE candle_in")
        streamed.keep(connection, number, start, end)
        removed = cursor.execute(_VANISHED, values).rowcount
        changed = cursor.execute(_REPLACED, values).rowcount
    return Replaced(changed, removed)


def _numbered(candles: pl.DataFrame, number: int) -> pl.DataFrame:
    return candles.select(
        pl.lit(number, pl.Int16).alias("market_id"),
        *(pl.col(name).cast(dtype) for name, dtype in STORED_SCHEMA.items()),
    )
