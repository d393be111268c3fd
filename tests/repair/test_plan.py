"""What is asked for, how often and in which order, decided from the ledger alone."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest

from marketdata.ledger import LEDGER_SCHEMA, Event, State, cases, to_frame
from marketdata.manifest import Status
from marketdata.market import Market
from marketdata.repair.judging import Held, Reason, wanted
from marketdata.repair.plan import Ended, Plan, Rules, Seen, open_cases, plan
from marketdata.settings import Tracked

BTC, ETH = Market.parse("kraken:BTC/USD"), Market.parse("kraken:ETH/USD")
NOW = datetime(2026, 6, 20, 12, tzinfo=UTC)
TODAY = NOW.date()
GOOD = Held(Status.COMPLETE, "Every id.", 10, "sha256:a", candles="sha256:a")
GAPS = Held(Status.GAPS, "3 trades are missing.", 7, "sha256:b", missing=3, candles="sha256:b")
TRACKED = [Tracked(BTC, date(2026, 1, 1)), Tracked(ETH, date(2026, 1, 1))]


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


class World:
    """The ledger, the days and the runs, with a clock that is stepped."""

    def __init__(
        self, days: dict[Market, dict[date, Held]], rules: Rules | None = None, *, window: int = 0
    ) -> None:
        self.days, self.rules, self.now, self.window = days, rules or Rules(), NOW, window
        self.ledger = LEDGER_SCHEMA.to_frame()
        self.runs: list[Seen] = []
        self.busy: set[tuple[Market, date]] = set()

    def tick(self, after: timedelta = timedelta(seconds=30)) -> Plan:
        self.now += after
        needs = wanted(self.days, TRACKED, self.now, days=self.window)
        found = plan(needs, self.days, self.ledger, self.runs, busy=self.busy, now=self.now, rules=self.rules)
        self.ledger = pl.concat([self.ledger, to_frame(found.entries)])
        for request in found.requests:
            run_id = f"run-{len(self.runs)}"
            self.runs.append(Seen(request.case, request.attempt, run_id, Ended.RUNNING))
        return found

    def end(self, ended: Ended, error: str = "") -> None:
        """All runs that are on their way end."""
        self.runs = [
            Seen(run.case, run.attempt, run.run_id, ended, error) if run.ended is Ended.RUNNING else run
            for run in self.runs
        ]

    def states(self) -> list[str]:
        return cases(self.ledger)["state"].to_list()


def test_the_story_of_a_day_is_a_finding_a_repair_and_an_outcome() -> None:
    world = World({BTC: {ago(2): GAPS, ago(1): GOOD}})
    (request,) = world.tick().requests
    assert (request.need.day, request.need.reason, request.attempt) == (ago(2), Reason.INCOMPLETE, 1)
    assert world.tick().requests == []  # on its way
    world.end(Ended.SUCCEEDED)
    world.days[BTC][ago(2)] = GOOD
    assert world.tick().still_open == 0
    events = world.ledger["event"].to_list()
    assert events == [Event.FINDING, Event.REPAIR, Event.OUTCOME]
    last = world.ledger.row(-1, named=True)
    assert (last["state"], last["attempt"], last["run_id"]) == (State.REPAIRED, 1, "run-0")
    assert '"rows":7' in last["before"]
    assert '"rows":10' in last["after"]
    assert world.tick().entries == []


def test_pauses_grow_and_the_last_attempt_is_exhausted_though_each_run_succeeded() -> None:
    world = World({BTC: {ago(2): GAPS, ago(1): GOOD}})
    asked: list[datetime] = []
    for _ in range(24 * 12):
        if world.tick(timedelta(minutes=5)).requests:
            asked.append(world.now)
        world.end(Ended.SUCCEEDED)
    waits = [round((b - a) / timedelta(minutes=5)) * 5 for a, b in pairwise(asked)]
    assert waits == [10, 35, 125, 125]  # a tick until the run has ended, and the pause
    assert world.states() == [State.EXHAUSTED]
    assert open_cases(world.ledger) == []  # its runs are of no interest any more


def test_a_permanent_failure_is_never_tried_again() -> None:
    world = World({BTC: {ago(2): GAPS, ago(1): GOOD}})
    assert len(world.tick().requests) == 1
    world.end(Ended.REFUSED, "kraken refused.")
    assert not any(world.tick(timedelta(hours=1)).requests for _ in range(48))
    assert world.states() == [State.EXHAUSTED]
    assert "kraken refused." in world.ledger.row(-1, named=True)["detail"]


def test_an_exhausted_day_whose_evidence_has_changed_is_a_new_case() -> None:
    world = World({BTC: {ago(2): GAPS, ago(1): GOOD}}, Rules(attempts=1))
    world.tick()
    world.end(Ended.SUCCEEDED)
    assert world.tick().requests == []
    world.days[BTC][ago(2)] = Held(Status.GAPS, "1 trade is missing.", 9, "sha256:c", missing=1)
    assert [request.attempt for request in world.tick().requests] == [1]
    assert world.ledger["case"].n_unique() == 2


def test_a_day_damaged_twice_is_two_cases() -> None:
    world = World({BTC: {ago(2): GOOD, ago(1): GOOD}})
    for _ in range(2):
        world.days[BTC][ago(2)] = Held(damage="It is cut.")
        assert len(world.tick().requests) == 1
        world.days[BTC][ago(2)] = GOOD
        world.end(Ended.SUCCEEDED)
        world.tick()
    assert world.states() == [State.REPAIRED, State.REPAIRED]
    assert world.ledger["case"].n_unique() == 2


def test_few_at_a_time_and_the_newest_first() -> None:
    days = {ago(n): GAPS for n in range(1, 30)}
    world = World({BTC: dict(days), ETH: dict(days)}, Rules(at_once=4))
    first = world.tick().requests
    assert [(r.need.market, r.need.day) for r in first] == [
        (BTC, ago(1)), (ETH, ago(1)), (BTC, ago(2)), (ETH, ago(2)),
    ]  # fmt: skip
    assert world.tick().requests == []
    for request in first[:2]:
        world.days[request.need.market][request.need.day] = GOOD
    assert [r.need.day for r in world.tick().requests] == [ago(3), ago(3)]


def test_what_a_run_is_working_on_is_left_alone_and_is_no_finding() -> None:
    world = World({BTC: {ago(2): GAPS, ago(1): GOOD}})
    world.busy = {(BTC, ago(2))}
    found = world.tick()
    assert (found.entries, found.requests) == ([], [])


def test_what_somebody_else_made_whole_is_told_so() -> None:
    world = World({BTC: {ago(3): GOOD, ago(1): GOOD}}, Rules(attempts=1), window=14)
    world.tick()
    world.end(Ended.SUCCEEDED)
    world.tick()
    assert world.states() == [State.EXHAUSTED]
    world.days[BTC][ago(2)] = GOOD
    (entry,) = world.tick().entries
    assert entry.state is State.REPAIRED
    assert "by hand" in entry.detail


def test_an_exchange_that_fails_for_a_day_is_asked_seldom_and_then_everything_is_filled() -> None:
    held = {ago(20): GOOD, ago(1): GOOD}
    world = World({BTC: dict(held), ETH: dict(held)}, window=14)
    asked = 0
    for _ in range(24 * 20):
        asked += len(world.tick(timedelta(minutes=3)).requests)
        world.end(Ended.FAILED, "503")
    assert asked <= 30
    assert State.EXHAUSTED in world.states()  # somebody was told
    filled: list[date] = []
    for _ in range(60):
        requests = world.tick(timedelta(minutes=3)).requests
        for request in requests:
            world.days[request.need.market][request.need.day] = GOOD
            filled.append(request.need.day)
        world.end(Ended.SUCCEEDED)
    # The hole of 18 days is longer than the window; the rest of it, and the day that has ended, follow.
    assert len(filled) == 2 * len(set(filled)) == 2 * 19
    assert filled[1:] == sorted(filled[1:], reverse=True)  # after the one that showed that it answers
    assert wanted(world.days, TRACKED, world.now, days=14) == []


def test_one_failing_market_does_not_slow_the_others_down() -> None:
    days = {ago(n): GAPS for n in range(1, 6)}
    world = World({BTC: days, ETH: {ago(1): GAPS}})
    requests = world.tick().requests
    assert len(requests) == 6
    world.runs = [
        Seen(run.case, run.attempt, run.run_id, Ended.SUCCEEDED if n == 1 else Ended.FAILED)
        for n, run in enumerate(world.runs)
    ]
    world.tick()
    assert world.states().count(State.FAILED) == 6


def test_ids_that_the_exchange_does_not_serve_end_the_case_as_such() -> None:
    world = World({BTC: {ago(2): GAPS, ago(1): GOOD}})
    world.tick()
    world.days[BTC][ago(2)] = Held(Status.COMPLETE, "But 3.", 7, "sha256:b", not_served=3, candles="sha256:b")
    world.end(Ended.SUCCEEDED)
    (_, outcome) = world.tick().entries
    assert outcome.state is State.NOT_SERVED
    assert "3 more are not served" in outcome.detail
    assert world.tick().still_open == 0


@pytest.mark.parametrize("lost", [1, 2])
def test_a_tick_that_died_before_its_runs_were_started_asks_again_with_the_same_key(lost: int) -> None:
    world = World({BTC: {ago(2): GAPS, ago(1): GOOD}})
    keys = set()
    for _ in range(lost + 1):
        (request,) = world.tick().requests
        keys.add(request.run_key)
        world.runs.clear()
    assert len(keys) == 1
    assert world.ledger.height == 1
