"""Trades of exchanges whose ids do not count up, or that have none."""

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.interval import to_us
from marketdata.trade import TRADE_SCHEMA, assign_ids
from realtime.feeds.base import Position
from realtime.feeds.overlap import Overlap
from realtime.feeds.sequence import Request

START = datetime(2025, 6, 8, tzinfo=UTC)


def rows(*seconds: float, ids: list[int] | None = None, price: float = 1.0) -> pl.DataFrame:
    named = [None] * len(seconds) if ids is None else ids
    values = [
        (i, START + timedelta(seconds=at), price, 1.0, "buy", 1) for i, at in zip(named, seconds, strict=True)
    ]
    return pl.DataFrame(values, schema=TRADE_SCHEMA, orient="row")


def seconds(frame: pl.DataFrame) -> list[float]:
    return [(time - START) / timedelta(seconds=1) for time in frame["time"]]


def asked(since: float, until: float) -> Request:
    begin, end = (START + timedelta(seconds=at) for at in (since, until))
    return Request(None, None, begin, end)


def test_an_id_goes_on_once_in_whatever_order_ids_come() -> None:
    overlap = Overlap()
    assert overlap.add(rows(1, 2, ids=[20, 7]), 0.0)["trade_id"].to_list() == [20, 7]
    assert overlap.add(rows(2, 3, ids=[7, 30]), 0.1)["trade_id"].to_list() == [30]
    assert overlap.repeats == 1


def test_what_rest_has_from_before_the_beginning_was_not_missed() -> None:
    overlap = Overlap(settle=1.0)
    overlap.add(rows(5, ids=[5]), 0.0)
    overlap.connected(1.0)
    overlap.request(2.0)
    assert overlap.fetched(rows(3, 4, 5, 6, ids=[3, 4, 5, 6]), 2.0)["trade_id"].to_list() == [6]


def test_what_the_socket_brings_waits_for_what_was_missed() -> None:
    overlap = Overlap(settle=1.0)
    overlap.add(rows(1, ids=[1]), 0.0)
    overlap.connected(10.0)
    assert overlap.add(rows(9, ids=[9]), 10.5).is_empty()
    assert overlap.request(10.9) is None
    assert overlap.request(11.0) == asked(-1, until=12)
    assert overlap.fetched(rows(1, 5, ids=[1, 5]), 11.1)["trade_id"].to_list() == [5]
    ready, gap = overlap.ended(11.2)
    assert ready["trade_id"].to_list() == [9]
    assert gap is None


def test_what_is_subscribed_late_is_asked_for_once_more() -> None:
    overlap = Overlap(settle=1.0, again=15.0)
    overlap.add(rows(1, ids=[1]), 0.0)
    overlap.connected(10.0)
    overlap.request(11.0)
    overlap.ended(11.0)
    overlap.add(rows(30, ids=[30]), 20.0)
    assert overlap.request(24.9) is None
    assert overlap.request(25.0) == asked(-1, until=35)


def test_what_is_subscribed_late_is_asked_for_when_a_row_has_told_the_exchanges_time() -> None:
    overlap = Overlap(Position(1, START + timedelta(seconds=1)), settle=1.0, again=15.0)
    overlap.connected(10.0)
    assert overlap.request(11.0) == Request(None, None, START - timedelta(seconds=1))
    overlap.ended(11.0)
    assert overlap.request(25.0) is None, "how much there is to ask for is not known"
    overlap.add(rows(50, ids=[50]), 30.0)
    assert overlap.request(30.0) == asked(-1, until=50)


def test_rest_is_asked_up_to_the_exchanges_time_whatever_the_machines_clock_says() -> None:
    overlap = Overlap(settle=1.0)
    overlap.add(rows(100, ids=[1]), 0.0)
    overlap.add(rows(40, ids=[2]), 1.0)
    overlap.connected(20.0)
    assert overlap.request(21.0) == asked(98, until=121)


def test_a_time_that_was_wrong_once_is_forgotten() -> None:
    overlap = Overlap(settle=1.0)
    overlap.add(rows(250, ids=[0]), 0.0)
    for at in range(1, 300):
        overlap.add(rows(at, ids=[at]), float(at))
    overlap.connected(300.0)
    request = overlap.request(301.0)
    assert request is not None
    assert request.until == START + timedelta(seconds=301)


def test_an_answer_that_failed_is_asked_for_from_the_same_trade_on() -> None:
    overlap = Overlap(settle=1.0, again=15.0)
    overlap.add(rows(1, ids=[1]), 0.0)
    overlap.connected(10.0)
    assert overlap.request(11.0) == asked(-1, until=12)
    overlap.failed(11.0)
    assert overlap.request(11.4) is None
    assert overlap.request(11.5) == asked(-1, until=12.5)


def test_two_alike_in_one_view_are_two_and_in_two_views_are_the_same() -> None:
    overlap = Overlap()
    overlap.connected(0.0)
    assert len(overlap.add(rows(1, 1), 0.0)) == 2
    overlap.lost(1.0)
    overlap.request(1.0)
    assert overlap.fetched(rows(1, 1, 1), 1.0)["trade_id"].to_list() == [(to_us(START) + 1_000_000 << 11) + 2]
    overlap.ended(1.0)
    overlap.connected(2.0)
    overlap.request(3.0)
    overlap.ended(3.0)
    assert overlap.add(rows(1, 1, 1, 2), 3.0)["time"].len() == 1


def test_ids_are_those_that_the_lake_gives() -> None:
    overlap = Overlap()
    given_out = pl.concat([overlap.add(rows(at), 0.0) for at in (1, 1, 2, 3, 3, 3)])
    assert given_out.equals(assign_ids(rows(1, 1, 2, 3, 3, 3)))


def test_a_restart_goes_on_inside_one_moment() -> None:
    before = Overlap()
    last = before.add(rows(1, 2, 2), 0.0).row(-1, named=True)
    after = Overlap(Position(last["trade_id"], last["time"]))
    after.connected(0.0)
    after.request(1.0)
    fetched = after.fetched(rows(1, 2, 2, 2, 3), 1.0)
    assert seconds(fetched) == [2, 3]
    assert fetched["trade_id"][0] == last["trade_id"] + 1


def test_a_full_buffer_is_let_go_and_asked_for_again() -> None:
    overlap = Overlap(limit=2)
    overlap.add(rows(1, ids=[1]), 0.0)
    overlap.connected(0.0)
    overlap.request(1.0)
    for trade_id in (2, 3, 4):
        overlap.add(rows(trade_id, ids=[trade_id]), 1.0)
    overlap.ended(2.0)
    assert overlap.request(2.0) is not None
    out = overlap.fetched(rows(1, 2, 3, 4, 5, ids=[1, 2, 3, 4, 5]), 2.0)
    out = pl.concat([out, overlap.ended(2.0)[0]])
    assert sorted(out["trade_id"]) == [2, 3, 4, 5]


@settings(max_examples=50)
@given(data=st.data())
def test_without_ids_each_fill_goes_on_once_over_cuts_and_answers(data: st.DataObject) -> None:
    times = sorted(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=25), label="times"))
    overlap, out, now = Overlap(), list[float](), 0.0
    at = 0
    while at < len(times):
        overlap.connected(now)
        # A connection begins at a moment, and ends at one: rows of one moment come together.
        moments = sorted(set(times[at:]))
        until = data.draw(st.sampled_from(moments), label="cut after")
        stop = max(place for place, time in enumerate(times) if time == until) + 1
        out += seconds(overlap.add(rows(*times[at:stop]), now))
        now += 1.0
        if overlap.request(now) is not None:
            first = min((time for time in times if time >= times[0]), default=0)
            shown = [time for time in times[:stop] if time >= first]
            out += seconds(overlap.fetched(rows(*shown), now))
            out += seconds(overlap.ended(now)[0])
        # What comes before the next connection is missed.
        missed = data.draw(st.integers(0, 3), label="missed")
        at = min(len(times), stop + missed)
        while 0 < at < len(times) and times[at] == times[at - 1]:
            at += 1
        now += 100.0
    overlap.connected(now)
    if overlap.request(now + 1.0) is not None:
        out += seconds(overlap.fetched(rows(*times), now))
        out += seconds(overlap.ended(now)[0])
    assert sorted(out) == times


def test_a_wrong_id_to_go_on_behind_does_not_silence_the_market() -> None:
    overlap = Overlap(Position(10**15, START + timedelta(seconds=5)), settle=1.0)
    overlap.connected(0.0)
    overlap.request(1.0)
    assert overlap.fetched(rows(4, 5, 6, ids=[4, 5, 6]), 1.0)["trade_id"].to_list() == [6]
    overlap.ended(1.0)
    assert overlap.add(rows(7, ids=[7]), 2.0)["trade_id"].to_list() == [7]


def test_what_is_lost_before_the_first_trade_holds_nothing_up() -> None:
    overlap = Overlap(settle=1.0)
    overlap.lost(0.0)
    assert seconds(overlap.add(rows(1, 2, ids=[1, 2]), 0.0)) == [1, 2]
    assert overlap.request(1.0) is None
    assert seconds(overlap.add(rows(3, ids=[3]), 1.0)) == [3]


def test_a_connection_that_ends_early_does_not_take_its_second_question_with_it() -> None:
    overlap = Overlap(settle=1.0, again=15.0)
    overlap.add(rows(1, ids=[1]), 0.0)
    overlap.connected(10.0)
    assert overlap.request(11.0) == asked(-1, until=12)
    overlap.ended(11.0)
    # The subscription took effect at 17: what was traded between 11 and 17 nobody has brought.
    overlap.add(rows(18, ids=[18]), 17.0)
    overlap.connected(20.0)
    overlap.request(21.0)
    overlap.ended(21.0)
    overlap.add(rows(22, ids=[22]), 21.0)
    assert overlap.request(35.0) == asked(-1, until=36)
    assert seconds(overlap.fetched(rows(1, 13, 18, 22, ids=[1, 13, 18, 22]), 35.0)) == [13]
    overlap.ended(35.0)
    overlap.connected(40.0)
    assert overlap.request(41.0) == asked(20, until=42), "what was asked for twice is not asked for again"


def test_a_subscription_that_takes_longer_than_that_is_asked_about_when_it_brings_something() -> None:
    overlap = Overlap(settle=1.0, again=15.0)
    overlap.add(rows(1, ids=[1]), 0.0)
    overlap.connected(10.0)
    for at in (11.0, 25.0):
        assert overlap.request(at) == asked(-1, until=at + 1)
        overlap.ended(at)
    overlap.add(rows(41, ids=[41]), 40.0)
    assert overlap.request(40.5) is None
    assert overlap.request(41.0) == asked(-1, until=42)
    assert seconds(overlap.fetched(rows(1, 30, 41, ids=[1, 30, 41]), 41.0)) == [30]
    overlap.ended(41.0)
    assert overlap.request(100.0) is None


def test_what_two_connections_showed_while_rest_was_asked_goes_on_once() -> None:
    overlap = Overlap(settle=1.0)
    overlap.add(rows(1, 2), 0.0)
    overlap.connected(3.0)
    overlap.add(rows(4, 5, 5), 5.0)
    overlap.request(5.5)
    overlap.failed(6.0)
    # The next connection begins with its last trades, which the one before had shown.
    overlap.connected(7.0)
    overlap.add(rows(4, 5, 5, 6), 7.1)
    overlap.request(8.5)
    out = seconds(overlap.fetched(rows(1, 2, 4, 5, 5), 8.5)) + seconds(overlap.ended(8.5)[0])
    assert out == [4, 5, 5, 6]
    assert seconds(overlap.add(rows(6, 7), 9.0)) == [6, 7], "two alike in one view are two"


def test_a_time_ahead_of_the_others_is_no_place_to_ask_from() -> None:
    overlap = Overlap(settle=1.0)
    for at in (1, 2, 3):
        overlap.add(rows(at, ids=[at]), float(at))
    assert seconds(overlap.add(rows(240, ids=[4]), 4.0)) == [240]
    overlap.connected(10.0)
    request = overlap.request(11.0)
    assert request is not None
    assert request.since == START + timedelta(seconds=1)
    assert seconds(overlap.fetched(rows(3, 5, 7, ids=[3, 5, 6]), 11.0)) == [5, 7]


def test_times_that_jump_for_good_are_followed() -> None:
    overlap = Overlap(settle=1.0)
    for at in range(100):
        # The machine slept for an hour, and its clock did not count that.
        overlap.add(rows(at + 3600 * (at >= 20), ids=[at]), float(at))
    assert overlap.position is not None
    assert overlap.position.trade_id == 99
