"""What was found wrong, what was done about it, what holds now: entries of an append-only table (pure).

A case is one thing that is wrong: a market, a stretch of time and a reason. Its entries are a finding, then a
repair an attempt, and an outcome after each. Nothing is changed or removed afterwards; the last entry of a
case says how it stands.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import orjson
import polars as pl

from marketdata.market import Market
from marketdata.trade import TIME

Value = str | int | float | bool | None


class Event(StrEnum):
    """What an entry tells."""

    FINDING = "finding"  # something is wrong
    REPAIR = "repair"  # something was done about it
    OUTCOME = "outcome"  # what holds now


class State(StrEnum):
    """How a case stands after an entry."""

    OPEN = "open"  # found, or a repair is on its way
    REPAIRED = "repaired"  # what was wrong is right
    NOT_SERVED = "not served"  # the exchange has no more; nothing is left to try
    FAILED = "failed"  # this attempt did not help; another one follows
    EXHAUSTED = "exhausted"  # the last attempt did not help; somebody has to look
    INFORMATION = "information"  # nothing to repair


LEDGER_SCHEMA = pl.Schema(
    {
        "entry_id": pl.String(),
        "at": TIME,
        "event": pl.String(),
        "state": pl.String(),
        "case": pl.String(),
        "exchange": pl.String(),
        "symbol": pl.String(),
        "subject": pl.String(),
        "reason": pl.String(),
        "start": TIME,
        "end": TIME,
        "detail": pl.String(),
        "attempt": pl.Int32(),
        "before": pl.String(),
        "after": pl.String(),
        "run_id": pl.String(),
    }
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger.

    Attributes:
        at: when it was written (UTC).
        subject: what it speaks of: ``trades`` or ``candles`` of the lake, ``store``, ``stream``, ``feed``,
            ``quality``.
        reason: what is wrong, in a word or two, the same for all cases of a kind: ``missing``,
            ``incomplete``, ``stale``, ``hole``, ``late trade``, ``drift``.
        start, end: the stretch of time it speaks of, half-open.
        detail: one sentence for a person.
        attempt: of a repair and its outcome, counted from 1.
        before, after: the numbers and names that were wrong, and what holds now.
        run_id: Dagster's run, or the name of the service; empty where nothing ran.
        occurrence: tells cases apart that are otherwise the same: a day that is damaged twice.
    """

    at: datetime
    event: Event
    state: State
    market: Market
    subject: str
    reason: str
    start: datetime
    end: datetime
    detail: str
    attempt: int = 0
    before: Mapping[str, Value] = field(default_factory=dict)
    after: Mapping[str, Value] = field(default_factory=dict)
    run_id: str = ""
    occurrence: str = ""

    @property
    def case(self) -> str:
        """The same for all entries of a case: 16 hexadecimal digits."""
        stretch = (self.start.isoformat(), self.end.isoformat())
        return _digest((str(self.market), self.subject, self.reason, *stretch, self.occurrence))[:16]

    @property
    def entry_id(self) -> str:
        """32 hexadecimal digits of all but ``at``: an entry that is written again is the same entry."""
        what = (self.event, self.state, str(self.attempt), self.detail, _json(self.before), _json(self.after))
        return _digest((self.case, *what, self.run_id))[:32]


def to_frame(entries: Iterable[Entry]) -> pl.DataFrame:
    """LEDGER_SCHEMA; ``before`` and ``after`` as JSON objects with sorted keys."""
    rows = [
        (
            entry.entry_id,
            entry.at,
            entry.event.value,
            entry.state.value,
            entry.case,
            entry.market.exchange,
            entry.market.symbol,
            entry.subject,
            entry.reason,
            entry.start,
            entry.end,
            entry.detail,
            entry.attempt,
            _json(entry.before),
            _json(entry.after),
            entry.run_id,
        )
        for entry in entries
    ]
    return pl.DataFrame(rows, schema=LEDGER_SCHEMA, orient="row")


def in_order(entries: pl.DataFrame) -> pl.DataFrame:
    """Each entry once, by time; those of one moment by case and in the order finding, repair, outcome."""
    step = pl.col("event").replace_strict({event.value: n for n, event in enumerate(Event)})
    once = entries.sort("at", maintain_order=True).unique("entry_id", keep="first", maintain_order=True)
    return once.sort("at", "case", "attempt", step, maintain_order=True)


def cases(entries: pl.DataFrame) -> pl.DataFrame:
    """One row a case: LEDGER_SCHEMA of its last entry, with ``found`` (when it was) and ``attempts``.

    Args:
        entries: LEDGER_SCHEMA, in any order.
    """
    grouped = in_order(entries).group_by("case", maintain_order=True)
    last = grouped.agg(
        pl.col("at").first().alias("found"),
        pl.col("attempt").max().alias("attempts"),
        pl.exclude("case", "attempt").last(),
    )
    names = [name for name in LEDGER_SCHEMA if name != "attempt"]
    return last.select(*names, "found", "attempts").sort("found", "case")


def still_open(entries: pl.DataFrame) -> pl.DataFrame:
    """The cases that wait for a repair: those whose last entry says open or failed."""
    return cases(entries).filter(pl.col("state").is_in([State.OPEN.value, State.FAILED.value]))


def _json(values: Mapping[str, Value]) -> str:
    return orjson.dumps(dict(values), option=orjson.OPT_SORT_KEYS).decode()


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
