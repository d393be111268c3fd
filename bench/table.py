"""Rows of the benchmark table, and how it is printed: what, figure, budget, peer, ratio, versions."""

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.table import Table

_PACKAGES = ("polars", "pyarrow", "duckdb", "ccxt", "dagster")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure.

    Attributes:
        what: what was measured, in a few words.
        figure, unit: the median of the runs.
        budget: what it should reach: ``">= 30"`` or ``"<= 50"`` in the same unit; empty where there is none.
        peer, peer_figure: what else did the same work in the same run, and its figure in the same unit.
        ratio: figure to the peer's, larger is better for us; empty without a peer.
        note: what a reader has to know to believe it.
    """

    what: str
    figure: float
    unit: str
    budget: str = ""
    peer: str = ""
    peer_figure: float | None = None
    ratio: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the budget is reached; ``None`` where there is none."""
        if not self.budget:
            return None
        sign, _, limit = self.budget.partition(" ")
        value = self.ratio if limit.endswith("x") and self.ratio is not None else self.figure
        bound = float(limit.rstrip("x").replace(",", ""))
        return value >= bound if sign == ">=" else value <= bound

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        verdict = {True: "yes", False: "NO", None: ""}[self.holds]
        peer = f"{self.peer} {_number(self.peer_figure)}".strip() if self.peer else ""
        ratio = "" if self.ratio is None else f"{_number(self.ratio)}x"
        return self.what, f"{_number(self.figure)} {self.unit}", self.budget, verdict, peer, ratio, self.note


HEADINGS = ("what", "figure", "budget", "holds", "peer", "ratio", "note")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show(rows: Iterable[Row], console: Console) -> None:
    """Print rows as a table."""
    # Notes are long; a narrow terminal gets the figures, the written page has both.
    headings = HEADINGS if console.width >= 150 else HEADINGS[:-1]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading == "figure" else "left")
    for row in rows:
        table.add_row(*row.cells()[: len(headings)], style="red" if row.holds is False else None)
    console.print(table)


def versions(further: Sequence[str] = ()) -> str:
    """One line: machine, Python and packages."""
    found = []
    for name in (*_PACKAGES, *further):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return f"{machine}, Python {platform.python_version()}, {', '.join(found)}"


def markdown(title: str, rows: Iterable[Row], measured: str) -> str:
    """Rows as a Markdown table under a heading and a line that says where they were measured."""
    lines = [
        f"## {title}",
        "",
        measured,
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
    ]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join([*lines, ""])
