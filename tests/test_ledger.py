"""The ledger's laws: entries are never lost, never twice, and the last one of a case says how it stands."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata.errors import CorruptFile
from marketdata.lake import Lake, ledger, paths
from marketdata.ledger import Entry, Event, State, cases, in_order, still_open, to_frame
from marketdata.market import Market
from marketdata.settings import Settings

BTC = Market("kraken", "BTC/USD")
DAY = datetime(2026, 6, 18, tzinfo=UTC)
NOON = datetime(2026, 6, 20, 12, tzinfo=UTC)


def finding(*, at: datetime = NOON, reason: str = "incomplete", occurrence: str = "") -> Entry:
    return Entry(
        at=at,
        event=Event.FINDING,
        state=State.OPEN,
        market=BTC,
        subject="trades",
        reason=reason,
        start=DAY,
        end=DAY + timedelta(days=1),
        detail="3 trades are missing: ids 5 to 7.",
        before={"rows": 1437, "missing": "5-7", "drift": 0.1 + 0.2, "checked": True, "source": None},
        occurrence=occurrence,
    )


def step(event: Event, state: State, *, at: datetime, attempt: int = 1) -> Entry:
    found = finding()
    return Entry(
        at=at,
        event=event,
        state=state,
        market=found.market,
        subject=found.subject,
        reason=found.reason,
        start=found.start,
        end=found.end,
        detail="Fetched again." if event is Event.REPAIR else "Every id is there.",
        attempt=attempt,
        after={"rows": 1440} if event is Event.OUTCOME else {},
        run_id="run-1",
    )


def a_case() -> list[Entry]:
    """A finding, its repair a minute later, and its outcome."""
    return [
        finding(),
        step(Event.REPAIR, State.OPEN, at=NOON + timedelta(minutes=1)),
        step(Event.OUTCOME, State.REPAIRED, at=NOON + timedelta(minutes=2)),
    ]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path), settings=Settings.load(_env_file=None, home=tmp_path))


def held(lake: Lake) -> list[str]:
    return lake.storage.files(paths.LEDGER)


def test_a_case_stands_as_its_last_entry_says_and_remembers_when_it_was_found() -> None:
    rows = cases(to_frame(reversed(a_case()))).rows(named=True)
    assert [(row["state"], row["found"], row["attempts"]) for row in rows] == [("repaired", NOON, 1)]


def test_a_case_waits_until_it_is_repaired_not_served_or_exhausted() -> None:
    story = a_case()[:2]
    assert len(still_open(to_frame(story))) == 1
    for state, waits in {
        State.FAILED: 1,
        State.REPAIRED: 0,
        State.NOT_SERVED: 0,
        State.EXHAUSTED: 0,
        State.INFORMATION: 0,
    }.items():
        ended = [*story, step(Event.OUTCOME, state, at=NOON + timedelta(minutes=2))]
        assert len(still_open(to_frame(ended))) == waits, state


def test_a_day_that_is_damaged_twice_is_two_cases() -> None:
    both = to_frame([finding(), finding(occurrence="sha256:2")])
    assert cases(both)["case"].n_unique() == 2


def test_entries_of_one_moment_come_as_finding_repair_outcome() -> None:
    at_once = [
        step(Event.OUTCOME, State.REPAIRED, at=NOON),
        step(Event.REPAIR, State.OPEN, at=NOON),
        finding(),
    ]
    assert in_order(to_frame(at_once))["event"].to_list() == ["finding", "repair", "outcome"]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.sampled_from(State)), max_size=12),
    st.randoms(use_true_random=False),
)
def test_in_whatever_order_and_however_often_entries_are_written_the_story_is_the_same(
    drawn: list[tuple[int, int, State]], random
) -> None:
    entries = [
        step(Event.OUTCOME, state, at=NOON + timedelta(minutes=minute), attempt=attempt)
        for minute, attempt, state in drawn
    ]
    shuffled = entries + entries[:3]
    random.shuffle(shuffled)
    # Two entries of one moment and one attempt stand in no order of their own.
    keys = ["at", "case", "attempt", "entry_id"]
    first, second = (in_order(to_frame(some)).sort(keys) for some in (entries, shuffled))
    assert_frame_equal(first, second)


def test_the_lake_gives_back_what_was_appended_each_entry_once(lake: Lake) -> None:
    assert ledger.append(lake, a_case()) == 3
    ledger.append(lake, a_case()[:1])
    assert_frame_equal(ledger.read(lake), to_frame(a_case()))
    assert ledger.read(lake, NOON + timedelta(minutes=1), NOON + timedelta(minutes=2))["event"].to_list() == [
        "repair"
    ]


def test_a_day_that_is_over_becomes_one_file_at_the_next_append(lake: Lake) -> None:
    for number in range(5):
        ledger.append(lake, [finding(occurrence=str(number))])
    assert len(held(lake)) == 5
    before = ledger.read(lake)
    tomorrow = finding(at=NOON + timedelta(days=1), occurrence="tomorrow")
    ledger.append(lake, [tomorrow])
    assert len(held(lake)) == 2
    assert_frame_equal(ledger.read(lake), in_order(pl.concat([before, to_frame([tomorrow])])))
    ledger.append(lake, [finding(occurrence="a late one of the day before")])
    ledger.append(lake, [tomorrow])
    assert len(held(lake)) == 2
    assert len(ledger.read(lake)) == 7


def test_many_appends_of_one_day_do_not_become_many_files(lake: Lake) -> None:
    for number in range(3 * ledger.MOST_FILES):
        ledger.append(lake, [finding(occurrence=str(number))])
    assert len(held(lake)) <= ledger.MOST_FILES + 1
    assert len(ledger.read(lake)) == 3 * ledger.MOST_FILES


def test_readers_never_see_an_entry_missing_while_days_are_merged(lake: Lake) -> None:
    count = 4 * ledger.MOST_FILES
    seen: list[int] = []
    failed: list[BaseException] = []
    written = 0

    def write() -> None:
        nonlocal written
        for number in range(count):
            ledger.append(lake, [finding(occurrence=str(number))])
            written = number + 1

    def read() -> None:
        try:
            while written < count:
                least = written
                found = len(ledger.read(lake))
                seen.append(found - least)
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=write), Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert seen
    assert min(seen) >= 0


def test_two_that_merge_at_once_lose_nothing(lake: Lake) -> None:
    for number in range(ledger.MOST_FILES - 1):
        ledger.append(lake, [finding(occurrence=str(number))])
    tomorrow = NOON + timedelta(days=1)
    threads = [
        Thread(target=ledger.append, args=(lake, [finding(at=tomorrow, occurrence=f"tomorrow {n}")]))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ledger.read(lake)) == ledger.MOST_FILES - 1 + 4


def test_a_merge_that_was_killed_before_it_removed_anything_is_finished_by_the_next(lake: Lake) -> None:
    for number in range(3):
        ledger.append(lake, [finding(occurrence=str(number))])
    parts = {key: lake.storage.local(key).read_bytes() for key in held(lake)}
    ledger.append(lake, [finding(at=NOON + timedelta(days=1))])
    for key, body in parts.items():
        lake.storage.local(key).write_bytes(body)
    assert len(ledger.read(lake)) == 4
    ledger.append(lake, [finding(at=NOON + timedelta(days=1), reason="missing")])
    assert len(held(lake)) == 3
    assert len(ledger.read(lake)) == 5


def test_a_file_that_is_cut_is_said_and_hinders_no_append(lake: Lake) -> None:
    ledger.append(lake, [finding()])
    ledger.append(lake, [finding(reason="missing")])
    cut = lake.storage.local(held(lake)[0])
    cut.write_bytes(cut.read_bytes()[:200])
    assert ledger.append(lake, [finding(at=NOON + timedelta(days=1))]) == 1
    with pytest.raises(CorruptFile, match=cut.name):
        ledger.read(lake)
