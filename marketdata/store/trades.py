"""Trades into the store: a whole day in place of the one that is there, or rows as they come."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl
from psycopg import Connection
from psycopg.errors import UniqueViolation
from psycopg.sql import SQL, Identifier

from marketdata.errors import StorageError
from marketdata.manifest import Manifest, Status, day_window
from marketdata.store import superseded
from marketdata.store.copy import Kinds, copy_in, stage

# exchange and symbol have become market_id.
KINDS: Kinds = {
    "market_id": "int2",
    "time": "timestamptz",
    "trade_id": "int8",
    "price": "float8",
    "amount": "float8",
    "side": "label",
    "fills": "int4",
}
KEY = ("market_id", "time", "trade_id")

_OF_DAY = "market_id = %(market)s AND time >= %(start)s AND time < %(end)s"
_COLUMNS = ", ".join(KINDS)
_TAKE = f"INSERT INTO trade ({_COLUMNS}) SELECT {_COLUMNS} FROM trade_in ON CONFLICT DO NOTHING"  # noqa: S608
_PUT = f"""
INSERT INTO trade ({_COLUMNS}) SELECT {_COLUMNS} FROM trade_in
ON CONFLICT ({", ".join(KEY)}) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in KINDS if name not in KEY)}
"""  # noqa: S608
# The chunk that holds a whole day, when TimescaleDB has compressed it.
_COMPRESSED = """
SELECT chunk_schema, chunk_name FROM timescaledb_information.chunks
WHERE hypertable_schema = current_schema() AND hypertable_name = 'trade' AND is_compressed
  AND range_start <= %s AND range_end >= %s
"""


@dataclass(frozen=True, slots=True)
class Written:
    """Rows that are new in the store, and rows it had already (for candles: or had newer)."""

    written: int
    ignored: int

    def __add__(self, other: "Written") -> "Written":
        """Both together."""
        return Written(self.written + other.written, self.ignored + other.ignored)


def count_superseded(connection: Connection[Any], market_id: int, manifest: Manifest) -> int:
    """Trades that the store holds of what a manifest speaks for: of a complete day, all."""
    condition, values = _superseded(market_id, manifest)
    return _count(connection, condition, values)


def replace_day(
    connection: Connection[Any], market_id: int, manifest: Manifest, frames: Iterable[pl.DataFrame]
) -> int:
    """Put the trades of a day (TRADE_SCHEMA, in order) in place of those held; returns the number of rows.

    Of a day that is not complete, trades that its manifest does not speak for stay, see
    :mod:`marketdata.store.superseded`. The transaction is the caller's, and so is the lock of the day.
    """
    # TimescaleDB's limit protects from updates by mistake; a day of a busy market has millions of rows. To a
    # server without it the name says nothing.
    connection.execute("SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
    condition, values = _superseded(market_id, manifest)
    connection.execute(f"DELETE FROM trade WHERE {condition}", values)  # noqa: S608
    kept = among = 0
    if manifest.status is not Status.COMPLETE:
        kept = _count(connection, _OF_DAY, values)
        values |= {"first_time": manifest.first_time}
        among = _count(connection, f"{_OF_DAY} AND time BETWEEN %(first_time)s AND %(last_time)s", values)
    # Asked only now: what has been deleted from cannot be compressed before this transaction has ended.
    chunk = _compressed_chunk(connection, manifest.day)
    numbered = (_numbered(frame, market_id) for frame in frames)
    with connection.cursor() as cursor:
        if among:
            # One of them may be a trade of the file as well.
            copy_in(cursor, stage(cursor, "trade"), KINDS, numbered)
            return cursor.execute(_PUT).rowcount
        if chunk is None:
            return copy_in(cursor, "trade", KINDS, numbered)
        rows = _into_compressed(cursor, chunk, numbered)
    held = _count(connection, _OF_DAY, values)
    if held != kept + rows:
        msg = f"{rows:,} trades of {manifest.day} were copied into a compressed chunk that had {kept:,}."
        msg += f" {held:,} can be read."
        raise StorageError(msg, hint="Nothing was changed. Decompress that chunk and load the day again.")
    return rows


def _superseded(market_id: int, manifest: Manifest) -> tuple[str, dict[str, Any]]:
    """Condition and values for the trades that a load of this manifest takes the place of."""
    start, end = day_window(manifest.day)
    values = {"market": market_id, "start": start, "end": end}
    if manifest.status is Status.COMPLETE:
        return _OF_DAY, values
    return f"{_OF_DAY} AND {superseded.TRADE}", values | superseded.values(manifest)


def _count(connection: Connection[Any], condition: str, values: dict[str, Any]) -> int:
    row = connection.execute(f"SELECT count(*) FROM trade WHERE {condition}", values).fetchone()  # noqa: S608
    return int(row[0]) if row else 0


def _into_compressed(cursor: Any, chunk: Identifier, frames: Iterable[pl.DataFrame]) -> int:
    """COPY into a compressed chunk.

    Each row that comes through the hypertable is looked for among the compressed ones, those just deleted
    included, which takes a hundred microseconds. There can be none, for the day is locked and holds nothing
    between the first and the last of them. So only the first row takes this way, which marks the chunk as
    partly compressed; the others go into the chunk.
    """
    rows = 0
    for frame in frames:
        if not rows and len(frame):
            rows += copy_in(cursor, "trade", KINDS, [frame.head(1)])
            frame = frame.slice(1)  # noqa: PLW2901
        rows += copy_in(cursor, chunk, KINDS, [frame])
    return rows


def add(connection: Connection[Any], trades: pl.DataFrame, *, expect_new: bool = True) -> Written:
    """Add trades of any markets; those that the store holds already are left as they are.

    Args:
        trades: ``market_id`` and TRADE_SCHEMA. A key that repeats inside it counts as ignored.
        expect_new: try a plain COPY first, which is three times as fast and fails at the first known row.
    """
    new = trades.unique(KEY, keep="first", maintain_order=False).sort(KEY)
    with connection.cursor() as cursor:
        if expect_new:
            try:
                with connection.transaction():
                    return Written(copy_in(cursor, "trade", KINDS, [new]), len(trades) - len(new))
            except UniqueViolation:
                pass
        copy_in(cursor, stage(cursor, "trade"), KINDS, [new])
        written = cursor.execute(_TAKE).rowcount
    return Written(written, len(trades) - written)


def _numbered(trades: pl.DataFrame, market_id: int) -> pl.DataFrame:
    return trades.with_columns(pl.lit(market_id, pl.Int16).alias("market_id"))


def _compressed_chunk(connection: Connection[Any], day: date) -> Identifier | None:
    known = connection.execute("SELECT to_regclass('timescaledb_information.chunks')").fetchone()
    if known is None or known[0] is None:
        return None
    row = connection.execute(SQL(_COMPRESSED), day_window(day)).fetchone()
    return None if row is None else Identifier(*row)
