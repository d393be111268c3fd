"""Frames into binary COPY: the bytes are laid out by NumPy, a column at a time, no row is a Python object.

PostgreSQL's binary COPY is a header, rows and an end mark. A row is the number of its fields (int16) and for
each field its length (int32, -1 for null) and its value, big-endian. So the rows of a frame are an array of
one record type; where a value is null, or a text shorter than the longest, the bytes it does not have are
left out at the end. ``docs/decisions/days-are-copied-in-binary.md`` has what this and others cost.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import polars as pl
from psycopg import Cursor
from psycopg.sql import SQL, Composable, Identifier

Kind = Literal["int2", "int4", "int8", "float8", "timestamptz", "label"]
Kinds = Mapping[str, Kind]
"""Columns by name, in the order of the COPY. A ``label`` is a text or an enum with few distinct values."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_NUMBERS = {"int2": ">i2", "int4": ">i4", "int8": ">i8", "float8": ">f8", "timestamptz": ">i8"}
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END = b"\xff\xff"
_EPOCH_2000 = 946_684_800_000_000  # microseconds from 1970 to 2000, where PostgreSQL's clock starts
# About 10 MB of a trade's bytes: large enough for NumPy, small beside the memory of a process.
_ROWS = 131_072


def copy_in(
    cursor: Cursor[Any], table: str | Composable, kinds: Kinds, frames: Iterable[pl.DataFrame]
) -> int:
    """COPY frames into a table and return the number of rows.

    One piece of a frame is encoded while the one before it travels: two pieces of 131,072 rows in memory.

    Args:
        table: name in the search path, or a composed one with its schema.
        kinds: the columns to be sent; frames hold them all, others are left out.

    Raises:
        psycopg.Error: the server refuses; its transaction is at an end then.
    """
    named = Identifier(table) if isinstance(table, str) else table
    columns = SQL(", ").join(map(Identifier, kinds))
    rows = 0
    with cursor.copy(SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(named, columns)) as copy:
        copy.write(_HEADER)
        for count, data in _ahead(_encoded(frames, kinds)):
            rows += count
            copy.write(data.data)
        copy.write(_END)
    return rows


def stage(cursor: Cursor[Any], table: str) -> Identifier:
    """An empty temporary table of the columns of ``table``, the same one for the life of the connection."""
    name = Identifier(f"{table}_in")
    make = "CREATE TEMPORARY TABLE IF NOT EXISTS {} (LIKE {}) ON COMMIT DELETE ROWS"
    cursor.execute(SQL(make).format(name, Identifier(table)))
    held = cursor.execute(SQL("SELECT EXISTS (SELECT FROM {})").format(name)).fetchone()
    if held is not None and held[0]:
        cursor.execute(SQL("TRUNCATE {}").format(name))
    return name


def encode(frame: pl.DataFrame, kinds: Kinds) -> Bytes:
    """The rows of a frame in the binary COPY format, without header and end."""
    fields: list[tuple[str, Any]] = [("fields", ">i2")]
    labels: dict[str, _Labels] = {}
    for name, kind in kinds.items():
        if kind == "label":
            labels[name] = _Labels(frame[name])
        fields += [
            (f"{name} length", ">i4"),
            (name, labels[name].dtype if kind == "label" else _NUMBERS[kind]),
        ]
    rows = np.empty(len(frame), np.dtype(fields))
    rows["fields"] = len(kinds)
    absent: list[tuple[str, np.ndarray[Any, np.dtype[np.bool_]]]] = []
    for name, kind in kinds.items():
        column = frame[name]
        if kind == "label":
            found = labels[name]
            rows[name], rows[f"{name} length"] = found.values, found.lengths
            if found.absent is not None:
                absent.append((name, found.absent))
            continue
        numbers = column.to_physical() if kind == "timestamptz" else column
        nulls = numbers.is_null().to_numpy() if numbers.null_count() else None
        values = (numbers.fill_null(0) if nulls is not None else numbers).to_numpy()
        width = rows.dtype[name].itemsize
        rows[name] = values - _EPOCH_2000 if kind == "timestamptz" else values
        rows[f"{name} length"] = width if nulls is None else np.where(nulls, -1, width)
        if nulls is not None:
            absent.append((name, np.broadcast_to(nulls[:, None], (len(frame), width))))
    table = rows.view(np.uint8).reshape(len(frame), rows.dtype.itemsize)
    if not absent:
        return table.reshape(-1)
    kept = np.ones(table.shape, np.bool_)
    assert rows.dtype.fields is not None  # noqa: S101
    for name, gone in absent:
        begin = rows.dtype.fields[name][1]
        kept[:, begin : begin + gone.shape[1]] = ~gone
    return table[kept]


class _Labels:
    """A column of few distinct texts: bytes and length of each row, and which of the bytes are too many."""

    def __init__(self, column: pl.Series) -> None:
        if isinstance(column.dtype, pl.Enum):
            texts = column.dtype.categories.to_list()
        else:
            texts = column.drop_nulls().unique().sort().to_list()
            column = column.cast(pl.Enum(texts))
        known = [text.encode() for text in texts]
        # What stands behind the last label is null.
        codes = column.to_physical().cast(pl.UInt32).fill_null(len(known)).to_numpy()
        width = max(map(len, known), default=0) or 1
        lengths = np.array([*map(len, known), -1], np.int32)
        self.dtype = f"S{width}"
        self.values = np.array([*known, b""], self.dtype)[codes]
        self.lengths = lengths[codes]
        too_many = np.arange(width) >= lengths[:, None]
        self.absent = None if (self.lengths == width).all() else too_many[codes]


def _encoded(frames: Iterable[pl.DataFrame], kinds: Kinds) -> Iterator[tuple[int, Bytes]]:
    for frame in frames:
        for piece in frame.iter_slices(_ROWS):
            if len(piece):
                yield len(piece), encode(piece, kinds)


def _ahead(items: Iterator[tuple[int, Bytes]]) -> Iterator[tuple[int, Bytes]]:
    """The same items, the next one made while the caller works on this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="copy") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
