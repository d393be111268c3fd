"""Frames as a table, CSV, JSON lines or Parquet, on stdout or in a file; written piece by piece.

Numbers come out as the shortest text that reads back as the same float64, times as ISO 8601 in UTC.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import polars as pl
import pyarrow.parquet as pq

from marketdata.cli.table import TableSink
from marketdata.errors import StorageError, UnknownName, UsageError

FORMATS = ("table", "csv", "json", "parquet")
_ENDINGS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".txt": "table",
}
_ROWS_AT_ONCE = 50_000
_ISO = "%Y-%m-%dT%H:%M:%S%.6fZ"


class Sink(Protocol):
    """Takes frames of one schema, one after the other."""

    def write(self, frame: pl.DataFrame) -> None:
        """Take the next rows."""

    def close(self) -> None:
        """Write what is still held back."""


def choose_format(asked: str | None, output: Path | None, formats: tuple[str, ...] = FORMATS) -> str:
    """Return the format: as asked, by the ending of the file, the first on a terminal, otherwise csv.

    Raises:
        UnknownName: there is no such format.
        UsageError: binary output to a terminal.
    """
    if asked is not None:
        chosen = asked
        if chosen not in formats:
            raise UnknownName(chosen, kind="format", known=formats, hint=f"Formats: {' '.join(formats)}.")
    elif output is not None:
        ending = output.suffix.lower()
        if ending not in _ENDINGS:
            msg = f"The ending of {str(output)!r} says no format."
            raise UsageError(msg, hint=f"Add --format with one of: {' '.join(formats)}.")
        chosen = _ENDINGS[ending] if _ENDINGS[ending] in formats else formats[0]
    else:
        chosen = formats[0] if sys.stdout.isatty() else "csv"
    if chosen == "parquet" and output is None and sys.stdout.isatty():
        msg = "parquet is binary and would garble the terminal."
        raise UsageError(msg, hint="Add --output FILE.parquet, or send it to a file or a pipe.")
    return chosen


@contextmanager
def destination(output: Path | None) -> Iterator[IO[bytes]]:
    """Open stdout, or a file that appears when all of it is written.

    A link stays, and the file that it leads to is written. What is no file (a pipe, a device) is written to.

    Raises:
        StorageError: the file cannot be written. What stood there before stays.
    """
    if output is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        if output.exists() and not output.is_file():
            with output.open("wb") as file:
                yield file
        else:
            with _appearing(Path(os.path.realpath(output))) as file:
                yield file
    except OSError as error:
        msg = f"{str(output)!r} cannot be written: {error.strerror or error}."
        raise StorageError(msg, hint="Choose another --output.") from error


@contextmanager
def _appearing(output: Path) -> Iterator[IO[bytes]]:
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def sink(
    format: str,  # noqa: A002
    output: Path | None,
    *,
    rows: int = 20,
    optional: Sequence[str] = (),
) -> Iterator[Sink]:
    """Open a sink on stdout or on a file, see :func:`destination`.

    A table shows ``rows`` rows, and leaves ``optional`` columns out where there is no room for them.
    """
    with destination(output) as file:
        target = TableSink(file, rows, optional) if format == "table" else _SINKS[format](file)
        yield target
        target.close()


def _slices(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Few rows at a time: ``head`` gets its lines at once, and little text is in memory."""
    return frame.iter_slices(_ROWS_AT_ONCE) if len(frame) else iter([frame])


class _Csv:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._header = file, True

    def write(self, frame: pl.DataFrame) -> None:
        for rows in _slices(frame):
            text = rows.write_csv(include_header=self._header, datetime_format=_ISO)
            self._file.write(text.encode())
            self._header = False

    def close(self) -> None:
        self._file.flush()


class _Json:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, frame: pl.DataFrame) -> None:
        times = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Datetime)]
        for rows in _slices(frame):
            text = rows.with_columns(pl.col(times).dt.strftime(_ISO)).write_ndjson()
            self._file.write(text.encode())

    def close(self) -> None:
        self._file.flush()


class _Parquet:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._writer: Any = None

    def write(self, frame: pl.DataFrame) -> None:
        table = frame.to_arrow()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, table.schema, compression="zstd", compression_level=3)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._file.flush()


_SINKS: dict[str, Callable[[IO[bytes]], Sink]] = {"csv": _Csv, "json": _Json, "parquet": _Parquet}
