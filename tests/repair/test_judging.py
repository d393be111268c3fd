"""Which days want a repair."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.manifest import Status
from marketdata.market import Market
from marketdata.repair.judging import Begin, Held, Reason, wanted
from marketdata.settings import Tracked

BTC = Market.parse("kraken:BTC/USD")
NOW = datetime(2026, 6, 20, 12, tzinfo=UTC)
TODAY = NOW.date()
GOOD = Held(Status.COMPLETE, "Every id.", 10, "sha256:a", candles="sha256:a", stored="sha256:a")
TRACKED = [Tracked(BTC, date(2020, 1, 1))]


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def asked(held: dict[date, Held], *, days: int = 14, now: datetime = NOW) -> list[date]:
    return [need.day for need in wanted({BTC: held}, TRACKED, now, days=days)]


def test_a_market_without_any_day_is_left_to_the_person() -> None:
    assert asked({}) == []


def test_a_market_of_which_only_the_far_past_was_wanted_is_left_alone() -> None:
    assert asked({ago(n): GOOD for n in range(600, 620)}) == []


def test_days_before_the_first_held_one_were_never_asked_for() -> None:
    assert asked({ago(3): GOOD, ago(1): GOOD}) == [ago(2)]


def test_the_days_since_the_newest_one_are_missing_inside_the_window() -> None:
    assert asked({ago(6): GOOD}, days=14) == [ago(n) for n in range(1, 6)]
    assert asked({ago(6): GOOD}, days=6) == [ago(n) for n in range(1, 6)]
    assert asked({ago(6): GOOD}, days=5) == []


def test_a_short_hole_far_back_is_asked_for_and_a_long_one_is_a_backfill() -> None:
    held = {ago(n): GOOD for n in range(1, 400) if n not in {300, 301, *range(100, 130)}}
    assert asked(held) == [ago(300), ago(301)]


def test_yesterday_is_the_daily_runs_until_one_o_clock() -> None:
    held = {ago(3): GOOD, ago(2): GOOD}
    assert asked(held, now=datetime(2026, 6, 20, 0, 59, tzinfo=UTC)) == []
    assert asked(held, now=datetime(2026, 6, 20, 1, 0, tzinfo=UTC)) == [ago(1)]


def test_the_running_day_is_never_judged() -> None:
    assert asked({ago(1): GOOD, TODAY: Held(damage="It is cut.")}) == []


def test_no_repair_days_means_that_nothing_missing_is_asked_for() -> None:
    assert asked({ago(3): GOOD, ago(1): GOOD}, days=0) == []


@pytest.mark.parametrize(
    ("held", "reason", "begin"),
    [
        (Held(damage="It is cut."), Reason.DAMAGED, Begin.TRADES),
        (Held(Status.GAPS, "2 ids.", 3, "sha256:a", candles="sha256:a"), Reason.INCOMPLETE, Begin.TRADES),
        (Held(Status.UNKNOWN, "Nobody knows.", 3, "sha256:a"), Reason.INCOMPLETE, Begin.TRADES),
        (Held(Status.COMPLETE, "", 3, "sha256:a"), Reason.STALE, Begin.CANDLES),
        (Held(Status.COMPLETE, "", 3, "sha256:a", candles="sha256:b"), Reason.STALE, Begin.CANDLES),
        (Held(Status.COMPLETE, "", 3, "sha256:a", candles="sha256:a"), Reason.STALE, Begin.STORE),
        (Held(Status.COMPLETE, "", 3, "sha256:a", candles="sha256:a", stored="b"), Reason.STALE, Begin.STORE),
    ],
)
def test_a_held_day_is_judged_wherever_it_lies(held: Held, reason: Reason, begin: Begin) -> None:
    days = {ago(1000): held, ago(1): GOOD}
    (need, *_) = [
        n for n in wanted({BTC: days}, TRACKED, NOW, days=0, store_from=date.min) if n.day == ago(1000)
    ]
    assert (need.reason, need.begin) == (reason, begin)
    assert need.evidence


def test_the_store_is_not_asked_for_days_that_retention_removes() -> None:
    days = {ago(100): Held(Status.COMPLETE, "", 3, "sha256:a", candles="sha256:a")}
    assert wanted({BTC: days}, TRACKED, NOW, days=0, store_from=ago(90)) == []


def test_an_outage_of_the_exchange_is_not_asked_for_again() -> None:
    held = Held(Status.GAPS, "Silence.", 3, "sha256:a", candles="sha256:a", outage=True)
    assert asked({ago(5): held, ago(4): GOOD}, days=0) == []


def test_what_was_written_a_moment_ago_is_not_stale_yet() -> None:
    held = Held(Status.COMPLETE, "", 3, "sha256:a", fresh=True)
    assert asked({ago(1): held}) == []


@given(st.sets(st.integers(1, 60), min_size=1), st.integers(0, 30))
def test_what_is_asked_for_is_absent_behind_the_first_held_day_and_newest_first(
    held: set[int], days: int
) -> None:
    found = asked({ago(n): GOOD for n in held}, days=days)
    assert found == sorted(found, reverse=True)
    assert not {ago(n) for n in held} & set(found)
    assert all(day > ago(max(held)) for day in found)
    once = asked({ago(n): GOOD for n in held} | dict.fromkeys(found, GOOD), days=days)
    # A hole becomes short once its end is filled: it takes a round more, and then nothing is left.
    assert len(once) <= 60
