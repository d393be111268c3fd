"""Tables of text on disk: plain, ``.gz`` or inside a ``.zip``; read in blocks of whole lines.

A file may be larger than memory, so nothing here holds more than one block. What a format means is not
known here: see :mod:`marketdata.sources.kraken_csv` and :mod:`marketdata.sources.binance_csv`.
"""

import glob
import gzip
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast, overload

import polars as pl

from marketdata.errors import CorruptFile, UsageError

BLOCK_BYTES = 8 << 20  # about 250,000 rows of Kraken's CSV
# 9999-12-31: the last time that can be shown.
LAST_US = 253_402_300_799_999_999
_SUFFIXES = (".csv", ".csv.gz", ".zip")
# What the standard library raises on a cut or foreign zip or gzip file.
_BROKEN = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Table:
    """One table of text: a file, or a member of a zip."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        """The path, and the member inside it."""
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    @property
    def stem(self) -> str:
        """The name without folders and suffixes: ``XBTUSD``, ``BTCUSDT-trades-2025-06-08``."""
        return PurePosixPath(self.member or self.path.name).name.split(".")[0]

    @property
    def folders(self) -> tuple[str, ...]:
        """The names of the folders above it, inside the zip and outside, in lower case."""
        inside = PurePosixPath(self.member).parent.parts if self.member else ()
        return tuple(part.lower() for part in (*self.path.parent.parts, *inside))

    @property
    def is_checked(self) -> bool:
        """Whether its end is known to be its end: a zip or gzip that is cut shows, plain text does not."""
        return self.member is not None or self.path.name.endswith(".gz")

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open it for reading.

        Raises:
            CorruptFile: the zip or gzip around it is cut or foreign (also while it is read).
            UsageError: the file cannot be read.
        """
        with ExitStack() as stack, _readable(self):
            if self.member is not None:
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                yield stack.enter_context(archive.open(self.member))
            elif self.is_checked:
                yield cast(IO[bytes], stack.enter_context(gzip.open(self.path)))
            else:
                yield stack.enter_context(self.path.open("rb"))

    def size(self) -> int | None:
        """Bytes of text in it, or ``None`` where only reading it would tell (gzip)."""
        if self.member is not None:
            with _readable(self), zipfile.ZipFile(self.path) as archive:
                return archive.getinfo(self.member).file_size
        return None if self.is_checked else self.path.stat().st_size

    def first_lines(self, count: int) -> list[bytes]:
        """The first lines that are not empty, without their ends; at most 4,096 bytes of each."""
        lines: list[bytes] = []
        with self.open() as stream:
            while len(lines) < count and (line := stream.readline(4096)):
                if line.strip():
                    lines.append(line.rstrip(b"\r\n"))
        return lines


@contextmanager
def _readable(table: Table) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        msg = f"{str(table)!r} is cut or not what its name says: {error}."
        raise CorruptFile(msg, hint="Download it again.") from error
    except OSError as error:
        msg = f"{str(table)!r} cannot be read: {error.strerror or error}."
        raise UsageError(msg) from error


def find(paths: Iterable[str | Path]) -> list[Table]:
    """Every table in the paths: files, folders (searched to any depth), globs and the members of zips.

    Raises:
        UsageError: a path does not exist, or there is no ``.csv``, ``.csv.gz`` or ``.zip`` in it.
        CorruptFile: a zip cannot be opened.
    """
    tables: list[Table] = []
    for text in map(str, paths):
        names = [text] if Path(text).exists() else sorted(glob.glob(text, recursive=True))  # noqa: PTH207
        if not names:
            msg = f"There is no file {text!r}."
            raise UsageError(msg, hint="Give files, folders or a pattern such as 'downloads/*.csv'.")
        found = [table for name in names for table in _tables(Path(name))]
        if not found:
            msg = f"There is no {', '.join(_SUFFIXES)} file in {text!r}."
            raise UsageError(msg)
        tables += found
    return list(dict.fromkeys(tables))


def _tables(path: Path) -> list[Table]:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith(_SUFFIXES))
        return [table for file in files for table in _tables(file)]
    if path.suffix.lower() != ".zip":
        return [Table(path)]
    with _readable(Table(path)), zipfile.ZipFile(path) as archive:
        members = [m.filename for m in archive.infolist() if not m.is_dir()]
    return [
        Table(path, name)
        for name in sorted(members)
        if name.lower().endswith(".csv") and "__MACOSX" not in PurePosixPath(name).parts
    ]


def blocks(table: Table, size: int = BLOCK_BYTES, skip: int = 0) -> Iterator[bytes]:
    """Yield the text of a table in blocks of whole lines, about ``size`` bytes each.

    The first ``skip`` bytes of text, which must end a line, are passed over.

    Raises:
        CorruptFile: the file is cut or foreign, or a line is longer than a block: that is no table of text.
        UsageError: the file cannot be read.
    """
    with table.open() as stream:
        while skip and (passed := len(stream.read(min(skip, size)))):
            skip -= passed
        yield from _whole_lines(stream, size)


def _whole_lines(stream: IO[bytes], size: int) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(size):
        end = chunk.rfind(b"\n") + 1
        if end == 0 and len(rest) + len(chunk) > size:
            msg = f"A line is longer than {size:,} bytes, so it is not a CSV file."
            raise CorruptFile(msg)
        if end:
            yield rest + chunk[:end]
            rest = chunk[end:]
        else:
            rest += chunk
    if rest.strip():
        yield rest


def parse(block: bytes, columns: pl.Schema) -> "tuple[pl.DataFrame, Lines]":
    """Read the lines of a block into columns: one row for every line that is not empty.

    A cell that cannot be read is null, and so are all cells of a line with too few or too many.
    """
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    try:
        frame = pl.read_csv(block, has_header=False, schema=columns, quote_char=None)
    except pl.exceptions.PolarsError:
        pass
    else:
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        if len(frame) == lines and not any(column.has_nulls() for column in frame):
            return frame, Lines(block, None)
    return _parse_slowly(block, columns)


def _parse_slowly(block: bytes, columns: pl.Schema) -> "tuple[pl.DataFrame, Lines]":
    lines = text_lines(block)
    line = pl.col("line")
    cells = line.str.split_exact(",", len(columns) - 1).struct.rename_fields(columns.names())
    frame = (
        pl.DataFrame({"line": lines}, schema={"line": pl.String})
        .with_columns(cells.alias("cell"), (line.str.count_matches(",") == len(columns) - 1).alias("fits"))
        .select(
            pl.when("fits").then(pl.col("cell").struct.field(name).str.strip_chars()).cast(kind, strict=False)
            for name, kind in columns.items()
        )
    )
    return frame, Lines(block, lines)


def text_lines(block: bytes) -> list[str]:
    """The lines of a block that are not empty; bytes that are no UTF-8 are replaced."""
    return [line.rstrip("\r") for line in block.decode("utf-8", "replace").split("\n") if line.strip()]


class Lines(Sequence[str]):
    """The lines of a block, split when the first is asked for; only refused rows are."""

    def __init__(self, block: bytes, lines: list[str] | None) -> None:
        """Keep the block, or its lines where :func:`parse` had to split them."""
        self._block, self._lines = block, lines

    def _split(self) -> list[str]:
        if self._lines is None:
            self._lines = text_lines(self._block)
        return self._lines

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """The line of a row."""
        return self._split()[index]

    def __len__(self) -> int:
        """Number of lines."""
        return len(self._split())
