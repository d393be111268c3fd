"""The ledger as a story: what a person reads of a case, in a terminal, in the UI and in the report (pure)."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson
import polars as pl

from marketdata.ledger import Event, State, cases, in_order

_DAY = timedelta(days=1)
_LONGEST = 60
_MOST_IN_MARKDOWN = 10
Row = Mapping[str, Any]


def stretch(start: datetime, end: datetime) -> str:
    """A stretch of time as short as it can be said: a day, days, or times of a day (UTC)."""
    if start == end:
        return f"{start:%Y-%m-%d %H:%M:%S}"
    whole = start.time() == end.time() == datetime.min.time()
    if whole:
        last = end - _DAY
        return f"{start:%Y-%m-%d}" if last.date() == start.date() else f"{start:%Y-%m-%d} to {last:%Y-%m-%d}"
    seconds = "" if not start.second and not end.second else ":%S"
    until = f"%H:%M{seconds}" if end - start < _DAY else f"%Y-%m-%d %H:%M{seconds}"
    return f"{start.strftime(f'%Y-%m-%d %H:%M{seconds}')} to {end.strftime(until)}"


def standing(case: Row) -> str:
    """How a case stands: ``repaired, tried once``, ``open``, ``given up, tried 5 times``."""
    state, attempts = case["state"], case["attempts"]
    times = {0: "", 1: "once"}.get(attempts, f"{attempts} times")
    if state == State.EXHAUSTED:
        return f"given up, tried {times}" if times else "given up"
    if state == State.REPAIRED:
        return f"repaired, tried {times}" if times else "repaired"
    if state in (State.OPEN, State.FAILED):
        return f"open, tried {times}" if times else "open"
    return str(state)


def changes(entry: Row) -> list[str]:
    """What an entry says of numbers: ``rows 1,437 → 1,440``; of a finding how they are."""
    before: dict[str, Any] = orjson.loads(entry["before"])
    after: dict[str, Any] = orjson.loads(entry["after"])
    told = []
    for name in dict.fromkeys((*before, *after)):
        if name in before and name in after:
            if before[name] != after[name]:
                told.append(f"{name} {_shown(before[name])} → {_shown(after[name])}")
        elif name in after or entry["event"] == Event.FINDING:
            told.append(f"{name} {_shown(after.get(name, before.get(name)))}")
    return told


def step(entry: Row) -> str:
    """``finding``, ``attempt 2``, or how it stands after it."""
    if entry["event"] == Event.FINDING:
        return "finding"
    if entry["event"] == Event.REPAIR:
        return f"attempt {entry['attempt']}" if entry["attempt"] else "repair"
    return "given up" if entry["state"] == State.EXHAUSTED else str(entry["state"])


def headline(case: Row) -> str:
    """One line of a case, without its market."""
    when = stretch(case["start"], case["end"])
    return f"{when}, {case['subject']} {case['reason']}: {standing(case)}"


def told(entries: pl.DataFrame) -> Iterator[tuple[Row, list[Row]]]:
    """Each case with its entries, in the order they were found."""
    ordered = in_order(entries)
    for case in cases(ordered).iter_rows(named=True):
        yield case, list(ordered.filter(pl.col("case") == case["case"]).iter_rows(named=True))


def markdown(entries: pl.DataFrame) -> str:
    """The cases as Markdown: a line each, and below it what was found, done and reached."""
    stories = list(told(entries))
    if not stories:
        return "The ledger has nothing of this day."
    lines: list[str] = []
    for case, steps in stories[-_MOST_IN_MARKDOWN:]:
        lines.append(f"- **{safe(headline(case))}** (`{case['case']}`)")
        lines += [
            f"  - {each['at']:%Y-%m-%d %H:%M:%S} {step(each)}: {safe(_sentence(each))}" for each in steps
        ]
    more = len(stories) - _MOST_IN_MARKDOWN
    if more > 0:
        lines.append(f"- and {more} earlier: `marketdata repairs --all`")
    return "\n".join(lines)


def of_stretch(entries: pl.DataFrame, market: str, start: datetime, end: datetime) -> pl.DataFrame:
    """Entries about a market and a stretch of time that touches ``[start, end)``."""
    exchange, _, symbol = market.partition(":")
    touches = (pl.col("start") < end) & ((pl.col("end") > start) | (pl.col("start") >= start))
    return entries.filter(pl.col("exchange") == exchange, pl.col("symbol") == symbol, touches)


def _sentence(entry: Row) -> str:
    return " ".join([entry["detail"], *_bracketed(changes(entry))])


def _bracketed(parts: Iterable[str]) -> list[str]:
    joined = ", ".join(parts)
    return [f"({joined})"] if joined else []


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**9 else str(value)
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    if text.startswith("sha256:"):
        return text[: len("sha256:") + 8]
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def safe(text: str) -> str:
    """The same as text of Markdown, whatever is in it."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("`", "'")
