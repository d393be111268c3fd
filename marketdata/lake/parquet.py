"""How a frame becomes a Parquet file of the lake, and what is read back from its footer.

Bytes depend on the rows and the metadata alone: the same day written twice is the same file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
from pyarrow import parquet as pq

from marketdata.errors import CorruptFile
from marketdata.lake.filesystem import Storage
from marketdata.lake.paths import Part

# What DuckDB gives to one thread, and about 90 minutes of a market with 2 million trades a day.
ROW_GROUP = 131_072
# Ids and times rise in small steps, so their differences are stored; what repeats goes in a dictionary.
_DELTA = (
    "trade_id",
    "time",
    "open_time",
    "first_trade_id",
    "last_trade_id",
    "first_trade_time",
    "last_trade_time",
)
_DICTIONARY = ("side", "fills", "reason", "trade_count")
# And these where no larger share of their first rows is different; else the numbers themselves, which zstd
# makes smaller (docs/decisions/encodings-of-the-lake.md).
_DIFFERENT = {"price": 0.05, "amount": 0.2}
_LOOKED_AT = 32_768
# What reading damaged bytes ends in; OSError too, but not only then.
_DAMAGE = (
    pa.ArrowException,
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    UnicodeDecodeError,
    OSError,
)


def write(frame: pl.DataFrame, metadata: dict[bytes, bytes], stream: Any) -> None:
    """Write a frame: zstd 3, statistics, the given key-value metadata."""
    table = frame.rechunk().to_arrow()
    table = table.replace_schema_metadata(metadata)
    names = table.schema.names
    sorted_by = [name for name in ("open_time", "time", "trade_id") if name in names]
    pq.write_table(
        table,
        stream,
        compression="zstd",
        compression_level=3,
        row_group_size=ROW_GROUP,
        use_dictionary=[name for name in names if name in _DICTIONARY or _repeats(frame, name)],
        column_encoding={name: "DELTA_BINARY_PACKED" for name in names if name in _DELTA},
        write_statistics=True,
        sorting_columns=pq.SortingColumn.from_ordering(
            table.schema, [(name, "ascending") for name in sorted_by]
        ),
    )


def _repeats(frame: pl.DataFrame, name: str) -> bool:
    if name not in _DIFFERENT:
        return False
    first = frame[name].head(_LOOKED_AT)
    return first.n_unique() <= _DIFFERENT[name] * len(first)


def read(
    storage: Storage,
    key: str,
    schema: pl.Schema,
    *,
    time: str = "time",
    within: tuple[datetime, datetime] | None = None,
) -> pl.DataFrame:
    """Read a file of the lake, whole or the rows whose ``time`` lies in ``within`` (half-open).

    Row groups outside the range are not read.

    Raises:
        CorruptFile: it is cut, or not what the lake keeps at this place.
    """
    return read_with_metadata(storage, key, schema, time=time, within=within)[0]


def read_with_metadata(
    storage: Storage,
    key: str,
    schema: pl.Schema,
    *,
    time: str = "time",
    within: tuple[datetime, datetime] | None = None,
) -> tuple[pl.DataFrame, dict[bytes, bytes]]:
    """The same and the key-value metadata, both of the same file: another one may replace it meanwhile."""
    with storage.errors(key):
        try:
            with storage.fs.open_input_file(storage.full(key)) as file:
                parquet = pq.ParquetFile(file)
                frame = _as(_read(parquet, schema, time, within), schema)
                return frame, dict(parquet.metadata.metadata or {})
        except _DAMAGE as error:
            if not is_damage(error):
                raise
            raise corrupt(storage, key, str(error)) from error


@contextmanager
def opened(
    storage: Storage, key: str, schema: pl.Schema
) -> Iterator[tuple[dict[bytes, bytes], Iterator[pl.DataFrame]]]:
    """The metadata of a file, and its rows one row group at a time, both of the same file.

    A file that another one replaces meanwhile stays as it was.

    Raises:
        FileNotFoundError: there is no file.
        CorruptFile: it is cut, or not what the lake keeps at this place.
    """

    @contextmanager
    def damage() -> Iterator[None]:
        with storage.errors(key):
            try:
                yield
            except _DAMAGE as error:
                if not is_damage(error):
                    raise
                raise corrupt(storage, key, str(error)) from error

    with damage():
        file = storage.fs.open_input_file(storage.full(key))
    with file:
        with damage():
            parquet = pq.ParquetFile(file)

        def groups() -> Iterator[pl.DataFrame]:
            for number in range(parquet.num_row_groups):
                with damage():
                    table = parquet.read_row_group(number, columns=schema.names(), use_threads=False)
                    frame = pl.from_arrow(table)
                    assert isinstance(frame, pl.DataFrame)  # noqa: S101
                    frame = _as(frame, schema)
                yield frame

        yield dict(parquet.metadata.metadata or {}), groups()


def _as(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """The columns and types of a schema; a query costs as much as reading a small day, so only if due."""
    if frame.columns == schema.names() and frame.dtypes == schema.dtypes():
        return frame
    return frame.select(schema.names()).cast(schema)


def _read(
    parquet: Any, schema: pl.Schema, time: str, within: tuple[datetime, datetime] | None
) -> pl.DataFrame:
    if within is None:
        table = parquet.read(columns=schema.names(), use_threads=False)
    else:
        groups = [
            n for n in range(parquet.num_row_groups) if _touches(parquet.metadata.row_group(n), time, within)
        ]
        table = parquet.read_row_groups(groups, columns=schema.names(), use_threads=False)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101
    return frame if within is None else frame.filter(pl.col(time) >= within[0], pl.col(time) < within[1])


def _touches(group: Any, time: str, within: tuple[datetime, datetime]) -> bool:
    """Whether a row group can hold rows of the range, by its statistics."""
    index = next((n for n in range(group.num_columns) if group.column(n).path_in_schema == time), None)
    bounds = None if index is None else group.column(index).statistics
    if bounds is None or not bounds.has_min_max:
        return True
    return bool(bounds.max >= within[0] and bounds.min < within[1])


def read_metadata(storage: Storage, key: str) -> dict[bytes, bytes] | None:
    """The key-value metadata of a file, from its footer alone; ``None`` when there is no file.

    Raises:
        CorruptFile: it is cut, or no Parquet file.
    """
    footer = read_footer(storage, key)
    return None if footer is None else footer[0]


def read_footer(storage: Storage, key: str) -> tuple[dict[bytes, bytes], int] | None:
    """The key-value metadata of a file and the number of its rows; ``None`` when there is no file.

    Raises:
        CorruptFile: it is cut, or no Parquet file.
    """
    with storage.errors(key):
        try:
            with storage.fs.open_input_file(storage.full(key)) as file:
                footer = pq.read_metadata(file)
                return dict(footer.metadata or {}), footer.num_rows
        except FileNotFoundError:
            return None
        except _DAMAGE as error:
            if not is_damage(error):
                raise
            raise corrupt(storage, key, str(error)) from error


def corrupt(storage: Storage, key: str, why: str) -> CorruptFile:
    """The error for a file that cannot be what it should be."""
    first = why.strip().splitlines()[0].rstrip(".") if why.strip() else "unreadable"
    msg = f"{storage.show(key)!r} is cut or no file of this lake: {first}."
    return CorruptFile(msg, hint=_repair(key))


def _repair(key: str) -> str:
    part = Part.parse(key)
    if part is None or part.kind not in {"trades", "candles"}:
        return "Move it away; what it held is then fetched or imported again."
    until = part.day + timedelta(days=1)
    command = f"marketdata backfill {part.market} --start {part.day} --end {until} --refresh"
    return f"To fetch the day again: {command}"


def is_damage(error: BaseException) -> bool:
    """Whether the bytes are at fault, not the way to them: Arrow reports both as OSError.

    What the system refuses has a number, and what S3 refuses is said to be of AWS. All else (there are as
    many sentences as there are ways to read a file) is about what the bytes say.
    """
    return not isinstance(error, OSError) or (error.errno is None and "AWS Error" not in str(error))
