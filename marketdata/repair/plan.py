"""What to do now about days that want a repair, decided from the ledger alone (pure).

Each attempt that did not help makes the next one wait longer, and the last one is told as exhausted. An
exchange that fails day after day is asked for one day at a time, after pauses as long as it has been failing;
when it answers again, the days it has failed are taken up anew.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson
import polars as pl

from marketdata.ledger import Entry, Event, State, Value, in_order
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from marketdata.repair.judging import Evidence, Held, Need, Reason, judge

SUBJECT = "trades"
_FINAL = {State.REPAIRED, State.NOT_SERVED, State.INFORMATION}
_WORST_FIRST = (Reason.MISSING, Reason.DAMAGED, Reason.INCOMPLETE, Reason.STALE)
# From so many failures on, of at least two days, it is the exchange that fails and not a day.
_FAILURES, _DAYS = 3, 2


class Ended(StrEnum):
    """How the run of an attempt ended."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # and a retry may help: the exchange, the network
    REFUSED = "refused"  # and a retry cannot help
    BROKEN = "broken"  # a check stopped it, its process died, somebody ended it


@dataclass(frozen=True, slots=True)
class Seen:
    """A run that was started for a case."""

    case: str
    attempt: int
    run_id: str
    ended: Ended
    error: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """How many at once and how often; ``pauses`` after the first, second, ... attempt, the last repeats."""

    at_once: int = 10
    attempts: int = 5
    pauses: tuple[timedelta, ...] = (timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2))

    def pause(self, attempt: int) -> timedelta:
        """How long to wait after this attempt."""
        return self.pauses[min(attempt, len(self.pauses)) - 1]


@dataclass(frozen=True, slots=True)
class Request:
    """A repair to start now."""

    need: Need
    case: str
    attempt: int

    @property
    def run_key(self) -> str:
        """The same request again is the same run."""
        need = self.need
        return f"{need.market}|{need.day}:{need.reason}:{self.case}:{self.attempt}:{need.digest}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Entries to write first, and then what to start, the newest day first.

    ``still_open`` says how many cases wait for something.
    """

    entries: list[Entry]
    requests: list[Request]
    still_open: int


@dataclass
class _Case:
    """One case as the ledger has it."""

    template: Entry
    state: State = State.OPEN
    last_at: datetime | None = None
    repairs: dict[int, str] = field(default_factory=dict)  # attempt: run id
    ended: dict[int, Mapping[str, Any]] = field(default_factory=dict)  # attempt: what its outcome says
    after: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.template.case

    @property
    def reason(self) -> Reason:
        return Reason(self.template.reason)

    @property
    def key(self) -> tuple[Market, date]:
        return self.template.market, self.template.start.date()

    @property
    def attempt(self) -> int:
        return max(self.repairs, default=0)

    def take(self, entry: Entry) -> None:
        """Go on with one more entry."""
        self.state, self.last_at = entry.state, entry.at
        if entry.event is Event.REPAIR:
            self.repairs[entry.attempt] = entry.run_id
        if entry.event is Event.OUTCOME:
            self.after = self.ended[entry.attempt] = entry.after


class _Exchange:
    """How an exchange has answered lately."""

    def __init__(self) -> None:
        self.failures: list[tuple[datetime, date]] = []
        self.answered: datetime | None = None

    def take(self, entry: Entry) -> None:
        if entry.event is not Event.OUTCOME or entry.reason == Reason.STALE or not entry.attempt:
            return
        if entry.after.get("run") == Ended.FAILED:
            self.failures.append((entry.at, entry.start.date()))
        else:
            self.failures, self.answered = [], entry.at

    @property
    def failing(self) -> bool:
        return len(self.failures) >= _FAILURES and len({day for _, day in self.failures}) >= _DAYS

    def next_try(self, rules: Rules) -> datetime:
        first, last = self.failures[0][0], self.failures[-1][0]
        return last + min(max(last - first, rules.pauses[0]), rules.pauses[-1])


def plan(
    needs: Iterable[Need],
    evidence: Evidence,
    entries: pl.DataFrame,
    seen: Iterable[Seen],
    *,
    busy: Collection[tuple[Market, date]],
    now: datetime,
    rules: Rules,
    store_from: date | None = None,
) -> Plan:
    """Decide.

    Args:
        needs: the newest first.
        evidence: the held days, from which it is told that a case is over.
        entries: LEDGER_SCHEMA, all of them.
        seen: runs that were started for open cases, see :func:`open_cases`.
        busy: days that any run is working on: they are left alone.
        store_from: the first day that the store should have; ``None``: the evidence says nothing of it.
    """
    planner = _Planner(evidence, entries, seen, busy=busy, now=now, rules=rules, store_from=store_from)
    return planner.plan(list(needs))


def open_cases(entries: pl.DataFrame) -> list[str]:
    """Cases of days that have a run, or may have one."""
    history, _ = _history(entries)
    waiting = {State.OPEN, State.FAILED}
    return [case.id for cases in history.values() for case in cases if case.state in waiting]


class _Planner:
    def __init__(
        self,
        evidence: Evidence,
        entries: pl.DataFrame,
        seen: Iterable[Seen],
        *,
        busy: Collection[tuple[Market, date]],
        now: datetime,
        rules: Rules,
        store_from: date | None,
    ) -> None:
        self._evidence, self._busy, self._now, self._rules = evidence, busy, now, rules
        self._store_from = store_from
        self._history, self._exchanges = _history(entries)
        self._seen: dict[str, dict[int, Seen]] = {}
        for run in seen:
            self._seen.setdefault(run.case, {})[run.attempt] = run
        self._written: list[Entry] = []

    def plan(self, needs: list[Need]) -> Plan:
        for cases in list(self._history.values()):
            for case in cases:
                if case.state not in _FINAL:
                    self._look(case)
        due = [found for need in needs if (found := self._due(need)) is not None]
        requests = self._choose(due)
        still_open = sum(case.state not in _FINAL for cases in self._history.values() for case in cases)
        return Plan(self._written, requests, still_open)

    def _look(self, case: _Case) -> None:
        """Write down what has become of a case since."""
        for number, started in sorted(self._seen.get(case.id, {}).items()):
            if number not in case.repairs:
                what = f"Attempt {number} of {self._rules.attempts} was started."
                self._write(case, Event.REPAIR, State.OPEN, what, attempt=number, run_id=started.run_id)
        if self._over(case):
            self._close(case)
            return
        attempt = case.attempt
        if not attempt or attempt in case.ended:
            return
        run = self._seen.get(case.id, {}).get(attempt)  # Dagster may have forgotten it
        ended = Ended.BROKEN if run is None else run.ended
        if ended is Ended.RUNNING:
            return
        self._did_not_help(case, attempt, ended, "Its run is gone." if run is None else run.error)

    def _over(self, case: _Case) -> bool:
        """Whether what the case speaks of is not so any more; an absent file proves nothing."""
        market, day = case.key
        held = self._evidence.get(market, {}).get(day)
        if held is None or (held.fresh and case.reason is Reason.STALE):
            return False
        if case.reason is Reason.STALE and self._store_from is None and "store" in case.template.before:
            return False
        need = self._judge(case)
        return need is None or _WORST_FIRST.index(need.reason) > _WORST_FIRST.index(case.reason)

    def _close(self, case: _Case) -> None:
        held = self._held(case)
        attempt = case.attempt if case.attempt not in case.ended else 0
        what = f"The day has {held.rows:,} trades."
        if held.status is not Status.COMPLETE:
            what += f" {held.reason}"
        if held.not_served:
            what += f" {held.not_served:,} more are not served."
        if not attempt:
            what += " It was made whole by another run, or by hand."
        not_served = case.reason is Reason.INCOMPLETE and held.not_served
        self._write(
            case,
            Event.OUTCOME,
            State.NOT_SERVED if not_served else State.REPAIRED,
            what,
            attempt=attempt,
            after={**held.facts, "run": Ended.SUCCEEDED.value},
            run_id=case.repairs.get(attempt, ""),
        )

    def _did_not_help(self, case: _Case, attempt: int, ended: Ended, error: str) -> None:
        market, day = case.key
        held = self._evidence.get(market, {}).get(day)
        need = self._judge(case)
        facts: dict[str, Value] = {} if held is None else dict(held.facts)
        facts |= {"run": ended.value, "evidence": "" if need is None else need.digest}
        if ended is Ended.FAILED and case.reason is not Reason.STALE:
            exchange = self._exchanges.setdefault(market.exchange, _Exchange())
            days = {d for _, d in exchange.failures} | {day}
            if len(exchange.failures) + 1 >= _FAILURES and len(days) >= _DAYS:
                facts["exchange"] = "failing"
        exhausted = attempt >= self._rules.attempts or ended is Ended.REFUSED
        if exhausted:
            what = "A retry cannot help." if ended is Ended.REFUSED else f"{attempt} attempts did not help."
        else:
            pause = int(self._rules.pause(attempt).total_seconds() / 60)
            what = f"Attempt {attempt} of {self._rules.attempts} did not help; the next is in {pause} min."
        still = "" if need is None else f" {need.evidence}"
        self._write(
            case,
            Event.OUTCOME,
            State.EXHAUSTED if exhausted else State.FAILED,
            f"{what} {error}".rstrip() if error else what + still,
            attempt=attempt,
            after=facts,
            run_id=case.repairs.get(attempt, ""),
        )

    def _due(self, need: Need) -> tuple[Need, _Case] | None:
        """The case of a need, when an attempt is due."""
        cases = self._history.setdefault((need.market, need.day, need.reason), [])
        case = cases[-1] if cases else None
        if (need.market, need.day) in self._busy:
            return None
        if case is not None and case.state is State.EXHAUSTED:
            if not (self._answers_again(case) or case.after.get("evidence") != need.digest):
                return None
            case = None
        elif case is not None and case.state in _FINAL:
            case = None
        if case is None:
            case = _Case(_template(need, len(cases) + 1))
            cases.append(case)
            self._write(case, Event.FINDING, State.OPEN, need.evidence, before=need.before)
            return need, case
        attempt = case.attempt
        if attempt and attempt not in case.ended:
            return None  # on its way
        if attempt and case.last_at is not None and not self._answers_again(case):
            return (need, case) if self._now >= case.last_at + self._rules.pause(attempt) else None
        return need, case

    def _answers_again(self, case: _Case) -> bool:
        """Whether an exchange that failed this day and others has answered since."""
        exchange = self._exchanges.get(case.key[0].exchange)
        return (
            case.after.get("exchange") == "failing"
            and exchange is not None
            and exchange.answered is not None
            and case.last_at is not None
            and exchange.answered >= case.last_at
        )

    def _choose(self, due: list[tuple[Need, _Case]]) -> list[Request]:
        """Few at a time, and of an exchange that fails one."""
        running = [
            case
            for cases in self._history.values()
            for case in cases
            if case.state not in _FINAL and case.attempt and case.attempt not in case.ended
        ]
        places = self._rules.at_once - len(running)
        asked = {case.key[0].exchange for case in running if case.reason is not Reason.STALE}
        taken: set[tuple[Market, date]] = {case.key for case in running}
        requests: list[Request] = []
        for need, case in due:
            name = need.market.exchange
            exchange = self._exchanges.get(name)
            failing = need.reason is not Reason.STALE and exchange is not None and exchange.failing
            if (
                failing
                and exchange is not None
                and (name in asked or self._now < exchange.next_try(self._rules))
            ):
                continue
            if len(requests) >= places or case.key in taken:
                continue
            if need.reason is not Reason.STALE:
                asked.add(name)
            taken.add(case.key)
            requests.append(Request(need, case.id, case.attempt + 1))
        return requests

    def _held(self, case: _Case) -> Held:
        market, day = case.key
        return self._evidence[market][day]

    def _judge(self, case: _Case) -> Need | None:
        market, day = case.key
        store = self._store_from is not None and day >= self._store_from
        return judge(market, day, self._evidence.get(market, {}).get(day), store=store)

    def _write(  # noqa: PLR0917 - an entry's own words
        self,
        case: _Case,
        event: Event,
        state: State,
        detail: str,
        attempt: int = 0,
        before: Mapping[str, Value] | None = None,
        after: Mapping[str, Value] | None = None,
        run_id: str = "",
    ) -> None:
        entry = replace(
            case.template,
            at=self._now,
            event=event,
            state=state,
            detail=detail,
            attempt=attempt,
            before=before if before is not None else case.template.before,
            after=after or {},
            run_id=run_id,
        )
        case.take(entry)
        self._exchanges.setdefault(entry.market.exchange, _Exchange()).take(entry)
        self._written.append(entry)


def _template(need: Need, number: int) -> Entry:
    start, end = day_window(need.day)
    return Entry(
        at=start,
        event=Event.FINDING,
        state=State.OPEN,
        market=need.market,
        subject=SUBJECT,
        reason=need.reason.value,
        start=start,
        end=end,
        detail=need.evidence,
        before=need.before,
        occurrence="" if number == 1 else str(number),
    )


def _history(
    entries: pl.DataFrame,
) -> tuple[dict[tuple[Market, date, Reason], list[_Case]], dict[str, _Exchange]]:
    """Cases of days by day and reason, the oldest first, and how the exchanges have answered."""
    ours = entries.filter(
        pl.col("subject") == SUBJECT, pl.col("reason").is_in([reason.value for reason in Reason])
    )
    history: dict[tuple[Market, date, Reason], list[_Case]] = {}
    exchanges: dict[str, _Exchange] = {}
    by_id: dict[str, _Case] = {}
    for row in in_order(ours).iter_rows(named=True):
        entry = _entry(row)
        case = by_id.get(row["case"])
        if case is None:
            cases = history.setdefault((entry.market, entry.start.date(), Reason(entry.reason)), [])
            number = len(cases) + 1
            template = replace(entry, occurrence="" if number == 1 else str(number))
            if template.case != row["case"] or entry.end != day_window(entry.start.date())[1]:
                continue  # somebody else's, of another stretch of time
            case = by_id[row["case"]] = _Case(template)
            cases.append(case)
        case.take(entry)
        exchanges.setdefault(entry.market.exchange, _Exchange()).take(entry)
    return history, exchanges


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(
        at=row["at"],
        event=Event(row["event"]),
        state=State(row["state"]),
        market=Market(row["exchange"], row["symbol"]),
        subject=row["subject"],
        reason=row["reason"],
        start=row["start"],
        end=row["end"],
        detail=row["detail"],
        attempt=row["attempt"],
        before=orjson.loads(row["before"]),
        after=orjson.loads(row["after"]),
        run_id=row["run_id"],
    )
