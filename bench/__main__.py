"""``make bench``: run the benchmarks and print their tables; ``--write`` puts them in the documents."""

import argparse
import importlib
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import table

MODULES = {
    "fold": "Trades to candles",
    "quality": "The quality profile of a day",
    "reconciling": "Reconciling a year",
    "streaming_core": "Live candles, without a broker",
    "streaming": "Live candles through Kafka",
    "soak": "Live candles for ten minutes",
    "importing": "Files into the lake",
    "backfill": "Memory and first data of a backfill",
    "store_writing": "Writing to the store",
    "store_reading": "Reading from the store",
    "orchestration": "A backfill through Dagster's daemon and webserver",
}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
_INTRODUCTION = """\
# Benchmarks

`make bench ARGS=--write` measures these and writes this page; `make bench ARGS=fold` prints one part. Figures
are medians; a peer does the same work in the same run, so that a noisy machine disturbs both.
[budgets.md](budgets.md) says of each missed budget why.
"""


def _sections(fresh: dict[str, str]) -> Iterator[str]:
    """Every section of the page: those just measured, and the others as they stand there."""
    text = PAGE.read_text("utf-8") if PAGE.exists() else ""
    held = {part.partition("\n")[0]: f"## {part.strip()}\n" for part in text.split("\n## ")[1:]}
    for name, title in MODULES.items():
        section = fresh.get(name) or held.get(title)
        if section is not None:
            yield section


def main() -> int:
    """Run what was asked for; 1 if a budget is missed."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(MODULES)}; default: all")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args()
    for part in options.parts:
        if part not in MODULES:
            parser.error(f"unknown part {part!r}; known: {', '.join(MODULES)}")
    console = Console(highlight=False)
    console.print(table.versions())
    pages: dict[str, str] = {}
    missed = 0
    for name in options.parts or MODULES:
        began = time.monotonic()
        console.rule(MODULES[name], align="left")
        rows = importlib.import_module(f"bench.{name}").run()
        table.show(rows, console)
        console.print(f"[dim]{time.monotonic() - began:.0f} s[/dim]")
        missed += sum(row.holds is False for row in rows)
        measured = f"Measured {datetime.now(UTC):%Y-%m-%d} on {table.versions()}."
        pages[name] = table.markdown(MODULES[name], rows, measured)
    if options.write:
        PAGE.write_text("\n".join([_INTRODUCTION, *_sections(pages)]), "utf-8")
        console.print(f"Written to {PAGE.relative_to(PAGE.parents[1])}.")
    if missed:
        console.print(f"[red]{missed} budgets are missed.[/red]")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
