"""A table for people: the first and the last rows, right-aligned numbers, the count."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import IO, Literal

import polars as pl
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

_DECIMALS = 8
_WIDE = 120
_UNBOUNDED = 100_000
_SPACE = 3  # between two columns
_FOLDED = 12  # a word that is longer may go over several lines


def show(renderable: RenderableType) -> None:
    """Write something of rich's to stdout, behind what was printed before it."""
    sys.stdout.flush()
    draw(renderable, sys.stdout.buffer)


def draw(renderable: RenderableType, file: IO[bytes]) -> None:
    """Write something of rich's: in colour and to its width on a terminal, plain and wide elsewhere.

    A table is as wide as its figures: a number that rich cuts to fit looks like another number.
    """
    terminal = file.isatty()
    console = Console(
        file=StringIO(),
        width=terminal_width(),
        force_terminal=terminal,
        highlight=False,
    )
    if isinstance(renderable, Table):
        console.width = max(console.width, _least_width(renderable, console))
    with console.capture() as text:
        console.print(renderable)
    encoding = sys.stdout.encoding if terminal else "utf-8"
    file.write(text.get().encode(encoding, "replace"))
    file.flush()


def terminal_width() -> int:
    """Columns of the terminal, or what COLUMNS says."""
    return shutil.get_terminal_size((_WIDE, 24)).columns


def _least_width(table: Table, console: Console) -> int:
    """How wide a table has to be for every column that may not be wrapped to be whole."""
    unbounded = console.options.update_width(_UNBOUNDED)
    widths = []
    for column in table.columns:
        cells = [
            console.measure(cell, options=unbounded) for cell in (column.header, column.footer, *column.cells)
        ]
        words = min(max(cell.minimum for cell in cells), _FOLDED)
        widths.append(max(cell.maximum for cell in cells) if column.no_wrap else words)
    return sum(widths) + _SPACE * len(widths) - 1


class TableSink:
    """Keeps the first and the last rows only, however many there are."""

    def __init__(self, file: IO[bytes], rows: int, optional: Sequence[str] = ()) -> None:
        """Show at most ``rows`` rows on ``file``; without ``optional`` columns where there is no room."""
        self._file, self._rows, self._optional = file, rows, optional
        self._all: list[pl.DataFrame] = []  # as long as they may all be shown
        self._tail: list[pl.DataFrame] = []
        self._count = 0

    def write(self, frame: pl.DataFrame) -> None:
        """Take the next rows."""
        room = max(self._rows - self._count, 0)
        self._count += len(frame)
        if room or not self._all:
            self._all.append(frame.head(room))
        self._tail = [pl.concat([*self._tail, frame.tail(self._rows)]).tail(self._rows)]

    def close(self) -> None:
        """Draw it."""
        if self._all:
            draw(self._table(pl.concat(self._all), self._tail[0]), self._file)

    def _table(self, head: pl.DataFrame, tail: pl.DataFrame) -> Table:
        first = (self._rows + 1) // 2
        cut = self._count > self._rows
        shown = pl.concat([head.head(first), tail.tail(self._rows - first)]) if cut else head
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            caption=f"{self._count:,} row{'' if self._count == 1 else 's'}",
            caption_justify="left",
        )
        texts = {name: _texts(shown[name]) for name in shown.columns}
        for name in self._optional:
            if _width(texts) > terminal_width():
                texts.pop(name, None)
        for name in texts:
            numeric = shown[name].dtype.is_numeric()
            text = shown[name].dtype == pl.String
            justify: Literal["left", "right"] = "right" if numeric else "left"
            table.add_column(name, justify=justify, no_wrap=not text, overflow="fold")
        columns = list(texts.values())
        for place, row in enumerate(zip(*columns, strict=True)):
            if cut and place == first:
                table.add_row(*["…"] * len(columns), style="dim")
            table.add_row(*row)
        return table


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    """Of the whole table, with the space beside each column."""
    return sum(max(len(name), *map(len, cells), 0) + _SPACE for name, cells in columns.items()) - 1


def _texts(column: pl.Series) -> list[str]:
    """The cells of one column, all with the decimals that the most precise of them needs."""
    if column.dtype.is_float():
        values = column.to_list()
        decimals = max((_decimals(value) for value in values if value is not None), default=0)
        return ["" if value is None else f"{value:,.{decimals}f}" for value in values]
    if isinstance(column.dtype, pl.Datetime):
        return _times(column)
    if column.name.endswith("_id") or not column.dtype.is_integer():
        return ["" if value is None else str(value) for value in column.to_list()]
    return ["" if value is None else f"{value:,}" for value in column.to_list()]


def _decimals(value: float) -> int:
    return len(f"{value:.{_DECIMALS}f}".rstrip("0").partition(".")[2])


def _times(column: pl.Series) -> list[str]:
    """No more of the time than is needed: minutes, seconds or microseconds."""
    known = column.drop_nulls().to_physical()
    if (known % 60_000_000 == 0).all():
        form = "%Y-%m-%d %H:%M"
    elif (known % 1_000_000 == 0).all():
        form = "%Y-%m-%d %H:%M:%S"
    else:
        form = "%Y-%m-%d %H:%M:%S%.6f"
    return column.dt.strftime(form).fill_null("").to_list()
