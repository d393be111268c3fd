"""``marketdata repairs``: the ledger as a story, a row a case, or a case with all its entries."""

import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

import orjson
import polars as pl
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from marketdata import recording, story
from marketdata.cli.context import context
from marketdata.cli.table import show, terminal_width
from marketdata.cli.times import parse_time
from marketdata.errors import UnknownName, UsageError
from marketdata.ledger import State, cases

STYLES = {
    State.OPEN: "yellow",
    State.FAILED: "yellow",
    State.REPAIRED: "green",
    State.EXHAUSTED: "red",
    State.NOT_SERVED: "cyan",
    State.INFORMATION: "dim",
}
_DEFAULT = timedelta(days=7)
_SHORTEST_ID, _ID = 4, 8
_NARROW = 100


def run_repairs(*, everything: bool, since: str | None, case: str | None, as_json: bool) -> int:
    """Print the cases, or one of them."""
    here = context()
    entries = recording.entries(here.settings, here.lake)
    if case is not None:
        if everything or since is not None:
            msg = "--case names one case, and --all or --since several."
            raise UsageError(msg, hint="Leave one of them out.")
        chosen = of_case(entries, case)
        if as_json:
            write_json(chosen)
        else:
            show(one_case(chosen))
        return 0
    first = parse_time(since, "--since") if since is not None else None
    if first is None and not everything:
        first = here.now - _DEFAULT
    found = chosen_cases(entries, first, everything=everything or since is not None)
    if as_json:
        write_json(found)
        return 0
    if found.is_empty():
        what = "The ledger is empty." if entries.is_empty() else "Nothing was repaired or found wrong"
        more = "" if entries.is_empty() else f" since {first:%Y-%m-%d %H:%M} UTC; --all shows everything."
        print(what + more)
        return 0
    show(table_of(found))
    return 0


def chosen_cases(entries: pl.DataFrame, since: datetime | None, *, everything: bool) -> pl.DataFrame:
    """The cases that were written of from ``since`` on; mere information only with ``everything``."""
    found = cases(entries)
    if since is not None:
        found = found.filter(pl.col("at") >= since)
    if not everything:
        found = found.filter(pl.col("state") != State.INFORMATION.value)
    return found


def of_case(entries: pl.DataFrame, text: str) -> pl.DataFrame:
    """The entries of the case whose id begins with ``text``.

    Raises:
        UsageError: several do, or it is too short.
        UnknownName: none does.
    """
    if len(text) < _SHORTEST_ID:
        msg = f"{text!r} is too short to name a case."
        raise UsageError(msg, hint=f"Write at least {_SHORTEST_ID} of its digits.")
    chosen = entries.filter(pl.col("case").str.starts_with(text.lower()))
    names = chosen["case"].unique().to_list()
    if len(names) > 1:
        msg = f"{len(names)} cases begin with {text!r}."
        raise UsageError(msg, hint=f"They are {', '.join(sorted(names)[:5])}.")
    if not names:
        raise UnknownName(text, kind="case", known=entries["case"].unique().to_list())
    return chosen


def table_of(found: pl.DataFrame) -> RenderableType:
    """A row a case, the newest last."""
    narrow = terminal_width() < _NARROW
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=f"{len(found):,} case{'' if len(found) == 1 else 's'}; --case ID tells all of one",
        caption_justify="left",
    )
    for name in ("case", "found", "market", "when", "what", "state"):
        table.add_column(name, no_wrap=name not in ("when", "what", "state") or not narrow, overflow="fold")
    if not narrow:
        table.add_column("in the end", overflow="fold", ratio=1)
    for row in found.iter_rows(named=True):
        cells = [
            row["case"][:_ID],
            f"{row['found']:%m-%d %H:%M}",
            f"{row['exchange']}:{row['symbol']}",
            story.stretch(row["start"], row["end"]),
            f"{row['subject']} {row['reason']}",
            Text(story.standing(row), style=STYLES[State(row["state"])]),
        ]
        table.add_row(*cells, *([] if narrow else [row["detail"]]))
    return table


def one_case(entries: pl.DataFrame) -> RenderableType:
    """A case with all its entries: what was found, done and reached, and the numbers before and after."""
    ((case, steps),) = story.told(entries)
    title = Text(f"{case['exchange']}:{case['symbol']} {story.headline(case)}", style="bold")
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for name in ("at", "step"):
        table.add_column(name, no_wrap=True)
    table.add_column("what", overflow="fold", ratio=1)
    for each in steps:
        table.add_row(
            f"{each['at']:%Y-%m-%d %H:%M:%S}",
            Text(story.step(each), style=STYLES[State(each["state"])]),
            "\n".join(_facts(each)),
        )
    return Group(title, Text(f"case {case['case']}", style="dim"), Text(""), table)


def _facts(entry: story.Row) -> Iterator[str]:
    yield entry["detail"]
    yield from story.changes(entry)
    if entry["run_id"]:
        yield f"by {entry['run_id']}"


def write_json(frame: pl.DataFrame) -> None:
    """An object a line; ``before`` and ``after`` as objects."""
    sys.stdout.flush()
    for row in frame.iter_rows(named=True):
        body = {**row, "before": orjson.loads(row["before"]), "after": orjson.loads(row["after"])}
        sys.stdout.buffer.write(orjson.dumps(body, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()
