"""Reading freqtrade's files: feather, parquet, json and json.gz, a stretch of rows at a time.

What the columns mean is in :mod:`marketdata.sources.freqtrade`.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
from pyarrow import ipc
from pyarrow import parquet as pq

from marketdata.errors import CorruptFile, UsageError
from marketdata.sources.files import BLOCK_BYTES, LAST_US, Table
from marketdata.sources.rows import integers, times_from_ticks
from marketdata.trade import TIME

TRADE_COLUMNS = pl.Schema(
    {
        "time": TIME,
        "id": pl.Int64(),
        "side": pl.String(),
        "price": pl.Float64(),
        "amount": pl.Float64(),
        "fills": pl.Int32(),
    }
)
CANDLE_COLUMNS = pl.Schema(
    {
        "time": TIME,
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
    }
)
# The order of the columns in JSON, where rows have no names.
_TRADE_NAMES = ("timestamp", "id", "type", "side", "price", "amount", "cost")
_CANDLE_NAMES = ("date", "open", "high", "low", "close", "volume")
_ARROW = {".feather", ".parquet"}
_VALUES = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal128,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_timestamp,
    pa.types.is_date,
)
_ROWS_AT_ONCE = 1 << 18
_BETWEEN_ROWS = re.compile(rb"[\]}]\s*,\s*(?=[\[{])")
_LONGEST_ROW = 1 << 16
_MICROSECONDS_FROM = 10**14  # as milliseconds the year 5138


@dataclass(frozen=True, slots=True)
class Cells:
    """Rows of a stretch of a file, as they were (``raw``), and the bytes of the file read so far."""

    frame: pl.DataFrame
    raw: Sequence[Any]
    bytes_read: int


def first_row(table: Table) -> Any:
    """The first row of a JSON file, a list or an object; ``None`` for other files and where there is none.

    Raises:
        CorruptFile, UsageError: the file is cut or foreign.
    """
    if table.suffix in _ARROW:
        return None
    return next((row for rows, _ in _json_rows(table, 1 << 13) for row in rows), None)


def cells(table: Table, columns: pl.Schema, size: int = BLOCK_BYTES) -> Iterator[Cells]:
    """Yield the rows of a file, a stretch at a time, with TRADE_COLUMNS or CANDLE_COLUMNS.

    Raises:
        CorruptFile: the file is cut or foreign.
        UsageError: it lacks a column, or cannot be read.
    """
    of_trades = columns == TRADE_COLUMNS
    names = _TRADE_NAMES if of_trades else _CANDLE_NAMES
    if table.suffix in _ARROW:
        wanted = [name for name in names if name not in {"type", "cost"}]
        read = _feather if table.suffix == ".feather" else _parquet
        for part, bytes_read in read(table, wanted):
            frame = part.select(wanted)
            with _readable(table):
                typed = _typed(frame, of_trades=of_trades)
            yield Cells(typed, _Rows(frame), bytes_read)
        return
    build = _trades_of_json if of_trades else _candles_of_json
    for rows, bytes_read in _json_rows(table, size):
        yield Cells(build(rows), rows, bytes_read)


class _Rows(Sequence[Any]):
    """The rows of a frame as objects, made when one is asked for; only refused rows are."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __getitem__(self, index: Any) -> Any:
        return self._frame.row(index, named=True)

    def __len__(self) -> int:
        return len(self._frame)


def _typed(frame: pl.DataFrame, *, of_trades: bool) -> pl.DataFrame:
    column = frame.columns[0]
    kind = frame.schema[column]
    if isinstance(kind, pl.Datetime):
        time = pl.col(column).dt.replace_time_zone("UTC") if kind.time_zone is None else pl.col(column)
        time = time.cast(TIME)
    else:
        ms = pl.col(column).cast(pl.Int64, strict=False)
        us = pl.when(ms < _MICROSECONDS_FROM).then(ms * 1000).otherwise(ms)
        time = pl.when(us.is_between(0, LAST_US)).then(us).cast(TIME)
    if not of_trades:
        return frame.select(time.alias("time"), pl.col(frame.columns[1:]).cast(pl.Float64, strict=False))
    return frame.select(
        time.alias("time"),
        pl.col("id").cast(pl.Int64, strict=False),
        pl.col("side").cast(pl.String),
        pl.col("price", "amount").cast(pl.Float64, strict=False),
        pl.lit(None, pl.Int32).alias("fills"),
    )


@contextmanager
def _readable(table: Table) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            msg = f"{str(table)!r} cannot be read: {error.strerror or error}."
            raise UsageError(msg) from error
        msg = f"{str(table)!r} is cut or not what its name says: {str(error).splitlines()[0]}."
        raise CorruptFile(msg, hint="Let freqtrade make it again.") from error


def _feather(table: Table, wanted: list[str]) -> Iterator[tuple[pl.DataFrame, int]]:
    size = table.path.stat().st_size
    with _readable(table), pa.OSFile(str(table.path)) as file:
        stream = ipc.open_file(file)
        _check_columns(table, stream.schema, wanted)
        read, count = [], stream.num_record_batches
        for number in range(count):
            read.append(stream.get_batch(number).select(wanted))
            if sum(batch.num_rows for batch in read) >= _ROWS_AT_ONCE or number == count - 1:
                yield _frame(read), size * (number + 1) // count
                read = []


def _parquet(table: Table, wanted: list[str]) -> Iterator[tuple[pl.DataFrame, int]]:
    size, done = table.path.stat().st_size, 0
    with _readable(table), pa.OSFile(str(table.path)) as stream:
        file = pq.ParquetFile(stream)
        _check_columns(table, file.schema_arrow, wanted)
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted, use_threads=False):
            done += batch.num_rows
            yield _frame([batch]), size * done // file.metadata.num_rows


def _frame(batches: list[Any]) -> pl.DataFrame:
    frame = pl.from_arrow(pa.Table.from_batches(batches))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101
    return frame


def _check_columns(table: Table, schema: pa.Schema, wanted: list[str]) -> None:
    names = schema.names
    absent = [name for name in wanted if name not in names]
    if absent:
        msg = f"{str(table)!r} has no column {absent[0]!r}; it has {', '.join(map(ascii, names[:12]))}."
        raise UsageError(msg, hint=f"freqtrade's columns are {', '.join(wanted)}.")
    for name in wanted:
        kind = schema.types[names.index(name)]
        if not _holds_values(kind):
            msg = f"Column {name!r} of {str(table)!r} holds {str(kind)[:80]}, not a number, a text or a time."
            raise CorruptFile(msg, hint="Let freqtrade make it again.")


def _holds_values(kind: pa.DataType) -> bool:
    """Whether a cell is one value that polars can read; at some of the others it panics."""
    if pa.types.is_dictionary(kind):
        return _holds_values(kind.value_type)
    return any(is_one(kind) for is_one in _VALUES)


def _json_rows(table: Table, size: int) -> Iterator[tuple[list[Any], int]]:
    """The rows of one JSON array, as many as stand in ``size`` bytes of text, and the bytes read."""
    with table.open() as stream:
        text = stream.read(size).lstrip()
        if not text.startswith(b"["):
            raise _no_rows(table, text)
        read, text, ended = len(text), text[1:], False
        while not ended:
            more = stream.read(size)
            read += len(more)
            ended = not more
            text += more
            rows, text = _rows_in(table, text, ended=ended)
            if rows:
                yield rows, read


def _rows_in(table: Table, text: bytes, *, ended: bool) -> tuple[list[Any], bytes]:
    """The whole rows at the start of the text, and what is left of it."""
    if ended:
        return _load(b"[" + text, table), b""
    start = max(0, len(text) - _LONGEST_ROW)
    for match in reversed(list(_BETWEEN_ROWS.finditer(text, start))):
        # The text may be cut inside a row that has rows of its own; then it is not whole up to there.
        try:
            return _load(b"[" + text[: match.start() + 1] + b"]", table), text[match.end() :]
        except CorruptFile:
            continue
    if len(text) > 4 * BLOCK_BYTES:
        raise _no_rows(table, text)
    return [], text


def _load(text: bytes, table: Table) -> list[Any]:
    try:
        # Older files of freqtrade have NaN in them, which JSON does not.
        rows: list[Any] = orjson.loads(text.replace(b"NaN", b"null") if b"NaN" in text else text)
    except orjson.JSONDecodeError as error:
        msg = f"{str(table)!r} is cut or no JSON: {error}."
        raise CorruptFile(msg, hint="Let freqtrade make it again.") from error
    return rows


def _no_rows(table: Table, text: bytes) -> UsageError:
    start = ascii(text[:60].decode("utf-8", "replace"))
    msg = f"{str(table)!r} is no JSON array of rows; it starts with {start}."
    return UsageError(msg, hint="freqtrade writes rows as [[time, ...], [time, ...], ...].")


def _trades_of_json(rows: list[Any]) -> pl.DataFrame:
    time, number, _, side, price, amount, _ = _columns(rows, _TRADE_NAMES)
    return pl.DataFrame(
        [
            times_from_ticks("time", time),
            integers("id", [value if value != "" else None for value in number]),
            pl.Series("side", [value if isinstance(value, str) else None for value in side], dtype=pl.String),
            _floats("price", price),
            _floats("amount", amount),
            integers("fills", [_fills(row) for row in rows]).cast(pl.Int32, strict=False),
        ]
    )


def _fills(row: Any) -> int | None:
    info = row.get("info") if isinstance(row, dict) else None
    try:
        return int(info["l"]) - int(info["f"]) + 1 if isinstance(info, dict) else None
    except (KeyError, TypeError, ValueError):
        return None


def _candles_of_json(rows: list[Any]) -> pl.DataFrame:
    time, *numbers = _columns(rows, _CANDLE_NAMES)
    return pl.DataFrame(
        [
            times_from_ticks("time", time),
            *(_floats(name, values) for name, values in zip(_CANDLE_NAMES[1:], numbers, strict=True)),
        ]
    )


def _columns(rows: list[Any], names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Columns of rows that are lists or objects; a row of another length is all nulls."""
    if not rows:
        return [()] * len(names)
    return list(zip(*(_in_order(row, names) for row in rows), strict=True))


def _in_order(row: Any, names: Sequence[str]) -> list[Any]:
    if isinstance(row, list) and len(row) == len(names):
        return row
    return [row.get(name) for name in names] if isinstance(row, dict) else [None] * len(names)


def _floats(name: str, values: Sequence[Any]) -> pl.Series:
    known = [value if type(value) in {float, int} else None for value in values]
    return pl.Series(name, known, dtype=pl.Float64, strict=False)
