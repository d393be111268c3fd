"""Tables on disk: found in folders, patterns and zips; text is read in blocks of whole lines.

A file may be larger than memory, so nothing here holds more than two blocks. What a format means is not
known here: see :mod:`marketdata.sources.formats`.
"""

import glob
import gzip
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar, cast, overload

import polars as pl

from marketdata.errors import CorruptFile, MarketDataError, UsageError

T = TypeVar("T")

BLOCK_BYTES = 8 << 20  # about 250,000 rows of Kraken's CSV
# 9999-12-31: the last time that can be shown.
LAST_US = 253_402_300_799_999_999
ROW_SUFFIXES = (".feather", ".parquet", ".json", ".json.gz")
SUFFIXES = (".csv", ".csv.gz", ".zip", *ROW_SUFFIXES)
# What the standard library raises on a cut or foreign zip or gzip file.
_BROKEN = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Table:
    """One table: a file, or a member of a zip.

    ``stored_bytes`` is what it takes on disk, ``text_bytes`` what it holds; ``None`` where the one who found
    the table did not look.
    """

    path: Path
    member: str | None = None
    stored_bytes: int | None = field(default=None, compare=False)
    text_bytes: int | None = field(default=None, compare=False)

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
    def suffix(self) -> str:
        """The last ending of the file on disk, in lower case: ``.csv``, ``.gz``, ``.zip``, ``.feather``."""
        return self.path.suffix.lower()

    @property
    def is_rows(self) -> bool:
        """Whether it is a file of typed rows (Arrow, Parquet, JSON) and not a table of text."""
        return self.member is None and self.path.name.lower().endswith(ROW_SUFFIXES)

    @property
    def is_checked(self) -> bool:
        """Whether its end is known to be its end: a zip or gzip that is cut shows, plain text does not."""
        return self.member is not None or self.suffix == ".gz"

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
        """Bytes that reading it will give; of a gzip what its end says, ``None`` where that cannot be."""
        if self.text_bytes is not None:
            return self.text_bytes
        if self.member is not None:
            with _readable(self), zipfile.ZipFile(self.path) as archive:
                return archive.getinfo(self.member).file_size
        stored = self.path.stat().st_size
        if not self.is_checked:
            return stored
        with self.path.open("rb") as file:
            file.seek(max(0, stored - 4))
            # Modulo 4 GB, and of the last part where several were put together: good enough for a bar.
            said = int.from_bytes(file.read(4), "little")
        return said if said >= stored else None

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


@dataclass(slots=True)
class Found:
    """What lies in some paths.

    Attributes:
        tables: what may be imported, by its ending.
        unreadable: zips that cannot be opened or hold no table.
        passed_over: files in folders with other endings, counted by ending.
    """

    tables: list[Table] = field(default_factory=list)
    unreadable: list[tuple[Path, MarketDataError]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def find(paths: Iterable[str | Path]) -> list[Table]:
    """Every table in the paths: files, folders (searched to any depth), globs and the members of zips.

    Raises:
        UsageError: a path does not exist, or there is nothing in it that may be a table.
        CorruptFile: a zip cannot be opened.
    """
    found = search(paths)
    for _, error in found.unreadable:
        raise error
    return found.tables


def search(paths: Iterable[str | Path], outside: Path | None = None) -> Found:
    """Like :func:`find`, but a zip that cannot be read is told and not raised.

    Args:
        paths: files, folders or globs.
        outside: a folder that is passed over: the lake itself may lie among the files.

    Raises:
        UsageError: a path does not exist, or there is nothing in it that may be a table.
    """
    found = Found()
    for text in map(str, paths):
        names = [text] if Path(text).exists() else sorted(glob.glob(text, recursive=True))  # noqa: PTH207
        if not names:
            msg = f"There is no file {text!r}."
            raise UsageError(msg, hint="Give files, folders or a pattern such as 'downloads/**/*.zip'.")
        before = len(found.tables) + len(found.unreadable)
        for name in names:
            _search(Path(name), found, outside, given=name == text)
        if len(found.tables) + len(found.unreadable) == before:
            msg = f"There is no {', '.join(SUFFIXES)} file in {text!r}."
            raise UsageError(msg)
    found.tables = list(dict.fromkeys(found.tables))
    return found


def _search(path: Path, found: Found, outside: Path | None, *, given: bool) -> None:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            inside = file.relative_to(path).parts
            hidden = any(part.startswith(".") for part in inside)
            if not hidden and file.is_file() and (outside is None or outside not in file.absolute().parents):
                _search(file, found, outside, given=False)
        return
    if not given and not path.name.lower().endswith(SUFFIXES):
        found.passed_over[path.suffix or path.name] += 1
        return
    try:
        found.tables += _tables(path)
    except MarketDataError as error:
        found.unreadable.append((path, error))


def _tables(path: Path) -> list[Table]:
    if path.suffix.lower() != ".zip":
        return [Table(path, stored_bytes=path.stat().st_size)]
    with _readable(Table(path)), zipfile.ZipFile(path) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.filename)
    tables = [
        Table(path, member.filename, member.compress_size, member.file_size)
        for member in members
        if member.filename.lower().endswith(".csv")
        and "__MACOSX" not in PurePosixPath(member.filename).parts
        and not member.is_dir()
    ]
    if not tables:
        msg = f"There is no .csv file in {str(path)!r}."
        raise UsageError(msg)
    return tables


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made by another thread while the last one is worked on."""
    nothing = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(next, items, nothing)
        while (item := coming.result()) is not nothing:
            coming = pool.submit(next, items, nothing)
            yield cast(T, item)


def blocks(table: Table, size: int = BLOCK_BYTES, skip: int = 0) -> Iterator[bytes]:
    """Yield the text of a table in blocks of whole lines, about ``size`` bytes each.

    The first ``skip`` bytes of text, which must end a line, are passed over. A last line without an end is a
    block of its own.

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
    # What begins like a compressed file polars would decompress: b"x\x01" is enough.
    if not block[:1].isdigit():
        return _parse_slowly(block, columns)
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
