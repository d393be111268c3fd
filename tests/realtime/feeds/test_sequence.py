"""Holes, repeats and order of ids that count up."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.trade import TRADE_SCHEMA
from realtime.feeds.base import Position
from realtime.feeds.sequence import Gap, Request, Sequence

START = datetime(2025, 6, 8, tzinfo=UTC)


def trades(*ids: int, price: float = 1.0) -> pl.DataFrame:
    rows = [(i, START + timedelta(seconds=i), price, 1.0, "buy", 1) for i in ids]
    return pl.DataFrame(rows, schema=TRADE_SCHEMA, orient="row")


def ids(frame: pl.DataFrame) -> list[int]:
    return frame["trade_id"].to_list()


def at(trade_id: int) -> datetime:
    return START + timedelta(seconds=trade_id)


def behind(trade_id: int, **options: int) -> Sequence:
    return Sequence(Position(trade_id, at(trade_id)), **options)


def test_trades_that_count_up_go_on_at_once() -> None:
    sequence = Sequence()
    assert ids(sequence.add(trades(7, 8), 0.0)) == [7, 8]
    assert ids(sequence.add(trades(9), 0.1)) == [9]
    assert sequence.request(100.0) is None


def test_a_trade_that_came_twice_goes_on_once() -> None:
    sequence = behind(4)
    assert ids(sequence.add(trades(5, 5, 6), 0.0)) == [5, 6]
    assert ids(sequence.add(trades(5, 6), 0.1)) == []
    assert sequence.repeats == 3


def test_trades_out_of_order_wait_for_the_one_before() -> None:
    sequence = behind(4)
    assert ids(sequence.add(trades(6), 0.0)) == []
    assert ids(sequence.add(trades(5), 0.1)) == [5, 6]
    assert sequence.request(100.0) is None


def test_a_hole_is_asked_for_after_a_while_and_not_before() -> None:
    sequence = behind(4)
    sequence.add(trades(8), 0.0)
    assert sequence.request(0.2) is None
    assert sequence.request(0.25) == Request(5, 8, at(4), at(8))
    assert sequence.request(0.3) is None, "the answer is awaited"


def test_many_holes_are_asked_for_together() -> None:
    sequence = behind(4)
    sequence.add(trades(6, 9, 10, 1_008), 0.0)
    assert sequence.request(1.0) == Request(5, 9, at(4), at(9))
    assert ids(sequence.fetched(trades(5, 6, 7, 8, 9), 1.0)) == [5, 6, 7, 8, 9, 10]


def test_what_rest_brings_goes_on_before_what_waited() -> None:
    sequence = behind(4)
    sequence.add(trades(8, 9), 0.0)
    sequence.request(1.0)
    assert ids(sequence.fetched(trades(5, 6), 1.1)) == [5, 6]
    assert ids(sequence.add(trades(10), 1.2)) == []
    assert ids(sequence.fetched(trades(7, 8), 1.3)) == [7, 8, 9, 10]
    assert sequence.ended(1.4)[1] is None
    assert sequence.request(100.0) is None


def test_a_new_connection_asks_what_was_missed_when_the_market_is_quiet() -> None:
    sequence = behind(4)
    sequence.connected(0.0)
    assert sequence.request(0.9) is None
    assert sequence.request(1.0) == Request(5, None, at(4))
    assert ids(sequence.fetched(trades(5, 6), 1.1)) == [5, 6]


def test_a_new_connection_whose_first_trade_follows_needs_no_request() -> None:
    sequence = behind(4)
    sequence.connected(0.0)
    sequence.add(trades(5), 0.5)
    assert sequence.request(100.0) is None


def test_ids_that_rest_does_not_serve_are_given_up_after_some_tries() -> None:
    sequence = behind(4, tries=2)
    sequence.add(trades(7), 0.0)
    for _ in range(2):
        now = next(moment / 10 for moment in range(1_000) if sequence.request(moment / 10))
        sequence.fetched(trades(7), now)
        ready, gap = sequence.ended(now)
    assert ids(ready) == [7]
    assert gap == Gap(5, 6)


def test_a_trade_that_was_given_up_goes_on_once_when_it_comes_all_the_same() -> None:
    sequence = behind(4, tries=1)
    sequence.add(trades(8), 0.0)
    sequence.request(1.0)
    sequence.fetched(trades(8), 1.0)
    assert sequence.ended(1.0)[1] == Gap(5, 7)
    assert ids(sequence.add(trades(6, 9), 2.0)) == [6, 9]
    assert ids(sequence.add(trades(6), 3.0)) == []


def test_nothing_is_given_up_while_rest_is_behind_the_socket() -> None:
    sequence = behind(4, tries=2)
    sequence.add(trades(7), 0.0)
    for moment in range(1_000):
        if sequence.request(moment / 10):
            assert sequence.ended(moment / 10)[1] is None
    assert sequence.waiting == 1
    sequence.request(1_000.0)
    assert ids(sequence.fetched(trades(5, 6), 1_000.0)) == [5, 6, 7]


def test_an_id_beyond_all_reason_does_not_hold_up_the_market() -> None:
    sequence = behind(4, tries=2)
    sequence.add(trades(900_000, 5), 0.0)
    assert ids(sequence.add(trades(6), 0.1)) == [6]
    for moment in range(100):
        if sequence.request(moment / 10):
            sequence.ended(moment / 10)
    assert sequence.waiting == 1, "a million ahead could still be"
    wild = trades(5).with_columns(pl.lit(10**15).alias("trade_id"))
    sequence = behind(4, tries=2)
    sequence.add(wild, 0.0)
    for moment in range(100):
        if sequence.request(moment / 10):
            sequence.ended(moment / 10)
    assert (sequence.waiting, sequence.far) == (0, 1)
    assert sequence.request(1_000.0) is None


def test_rest_that_fails_is_asked_again_later_each_time() -> None:
    sequence = behind(4)
    sequence.add(trades(7), 0.0)
    asked = []
    for moment in range(600):
        if sequence.request(moment / 10):
            asked.append(moment / 10)
            sequence.failed(moment / 10)
    pauses = [round(b - a, 3) for a, b in pairwise(asked)]
    assert pauses == sorted(pauses)
    assert ids(sequence.add(trades(8), 60.0)) == [], "nothing goes on before the hole is filled"


def test_rest_that_refuses_for_good_lets_the_market_go_on() -> None:
    sequence = behind(4)
    sequence.add(trades(7), 0.0)
    sequence.request(1.0)
    ready, gap = sequence.refused(1.0)
    assert ids(ready) == [7]
    assert gap == Gap(5, 6)


def test_a_full_buffer_lets_go_and_asks_for_it_later() -> None:
    sequence = behind(0, limit=3)
    for trade_id in range(3, 10):
        sequence.add(trades(trade_id), 0.0)
    assert sequence.waiting == 3
    assert sequence.request(1.0) == Request(1, 3, at(0), at(3))
    assert ids(sequence.fetched(trades(1, 2), 1.0)) == [1, 2, 3, 4, 5]
    sequence.ended(1.0)
    assert sequence.request(10.0) == Request(6, 9, at(5), at(9))
    assert ids(sequence.fetched(trades(6, 7, 8, 9), 10.0)) == [6, 7, 8, 9]
    sequence.ended(10.0)
    assert sequence.request(100.0) is None
    assert sequence.overflows > 0


def test_what_rest_says_of_an_id_goes_before_what_the_socket_said() -> None:
    sequence = behind(4)
    sequence.add(trades(6, price=9.0), 0.0)
    sequence.request(1.0)
    ready = sequence.fetched(trades(5, 6), 1.0)
    assert ready["price"].to_list() == [1.0, 1.0]


Rows = list[tuple[int, int]]


def timed(rows: Rows) -> pl.DataFrame:
    """Trades with these ids and seconds."""
    values = [(i, at(second), 1.0, 1.0, "buy", 1) for i, second in rows]
    return pl.DataFrame(values, schema=TRADE_SCHEMA, orient="row")


class Exchange:
    """What is traded goes over a socket, and REST serves it by time; its ids may be any."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence, self.traded, self.out = sequence, Rows(), Rows()
        self.now = 0.0

    def trade(self, *rows: tuple[int, int], sent: Rows | None = None) -> None:
        """These are traded; ``sent``: what the socket makes of them."""
        self.traded += rows
        for row in rows if sent is None else sent:
            self.now += 1.0
            self.take(self.sequence.add(timed([row]), self.now))
            self.rest()

    def rest(self) -> None:
        request = self.sequence.request(self.now)
        if request is None:
            return
        found = [row for row in self.traded if at(row[1]) >= request.since]
        if request.last_id is not None:
            found = [row for row in found if row[0] <= request.last_id]
        for start in range(0, len(found), 7):
            self.take(self.sequence.fetched(timed(found[start : start + 7]), self.now))
        self.take(self.sequence.ended(self.now)[0])

    def settle(self) -> None:
        for _ in range(60):
            self.now += 1.0
            self.rest()

    def take(self, ready: pl.DataFrame) -> None:
        self.out += [
            (i, int((time - START).total_seconds())) for i, time in ready.select("trade_id", "time").rows()
        ]


def counted(first_id: int, first_second: int, count: int) -> Rows:
    return [(first_id + n, first_second + n) for n in range(count)]


def test_a_corrupt_first_id_does_not_silence_the_market() -> None:
    exchange = Exchange(Sequence())
    exchange.trade((500, 0), sent=[(10**15, 0)])
    exchange.trade(*counted(501, 1, 100))
    exchange.settle()
    assert exchange.out == [(10**15, 0), *counted(501, 1, 100)]
    assert exchange.sequence.renumbered == 1


def test_a_corrupt_id_to_go_on_behind_does_not_silence_the_market() -> None:
    exchange = Exchange(Sequence(Position(10**15, at(0))))
    exchange.traded = counted(490, -10, 40)
    exchange.trade(*counted(530, 30, 5))
    exchange.settle()
    assert exchange.out == counted(501, 1, 34), "what was traded before the socket was there too"


@pytest.mark.parametrize(("position", "begins"), [(50_000, 1), (2_000, 1), (50_000, 40_000), (100, 1)])
def test_an_exchange_that_counts_anew_is_followed_and_nothing_is_lost(position: int, begins: int) -> None:
    exchange = Exchange(behind(position - 20))
    before, after = counted(position - 19, position - 19, 20), counted(begins, position + 1, 100)
    exchange.trade(*before)
    exchange.trade(*after)
    exchange.settle()
    assert exchange.out == before + after
    assert exchange.sequence.renumbered == 1


def test_an_exchange_that_counts_anew_while_the_socket_is_away_is_followed() -> None:
    exchange = Exchange(behind(50_000))
    missed = [*counted(50_001, 50_001, 10), *counted(1, 50_011, 30)]
    exchange.trade(*missed, sent=[])
    exchange.sequence.connected(exchange.now)
    exchange.trade(*counted(31, 50_041, 10))
    exchange.settle()
    assert exchange.out == [*missed, *counted(31, 50_041, 10)]


def test_stray_ids_reset_nothing() -> None:
    exchange = Exchange(behind(50_000))
    wanted = Rows()
    for first in range(50_001, 50_101, 10):
        rows = counted(first, first, 10)
        wanted += rows
        strays = [(7, first + 3), (first - 20_000, first + 3)]
        exchange.trade(*rows, sent=[*rows[:4], *strays, *rows[4:]])
    exchange.settle()
    assert (exchange.out, exchange.sequence.renumbered) == (wanted, 0)


def test_a_socket_that_sends_lower_ids_which_rest_does_not_show_resets_nothing() -> None:
    exchange = Exchange(behind(50_000))
    rows = counted(50_001, 50_001, 20)
    exchange.trade(*rows, sent=counted(1, 50_001, 20))
    exchange.settle()
    assert (exchange.out, exchange.sequence.renumbered) == (rows, 0)


def test_old_trades_that_come_once_more_stay_repeats() -> None:
    exchange = Exchange(behind(50_000))
    rows = counted(50_001, 50_001, 2_000)
    exchange.trade(*rows[:2], sent=[])
    exchange.take(exchange.sequence.add(timed(rows), 1.0))
    exchange.take(exchange.sequence.add(timed(rows[-50:]), 2.0))
    exchange.take(exchange.sequence.add(timed(rows[:50]), 3.0))
    assert exchange.sequence.request(100.0) is None
    assert (exchange.out, exchange.sequence.repeats) == (rows, 100)


def test_the_last_trades_shown_once_more_behind_a_wrong_time_stay_repeats() -> None:
    sequence = behind(50_000)
    sequence.add(timed([*counted(50_001, 50_001, 50), (50_051, 0)]), 0.0)
    sequence.connected(1.0)
    assert sequence.add(timed(counted(50_002, 50_002, 49)), 1.1).is_empty()
    assert sequence.request(1.9) is None
    assert sequence.request(2.0) == Request(50_052, None, at(50_050) - timedelta(minutes=5))


def test_a_time_that_is_ahead_does_not_hide_the_hole_behind_it() -> None:
    sequence = behind(4)
    sequence.add(timed([(5, 200), (8, 8)]), 0.0)
    request = sequence.request(1.0)
    assert request is not None
    assert request.since <= at(5)


def test_newer_trades_with_lower_ids_go_on_when_rest_refuses_to_tell() -> None:
    sequence = Sequence(Position(10**15, at(0)))
    for row in counted(501, 1, 5):
        sequence.add(timed([row]), float(row[1]))
    request = sequence.request(6.0)
    assert request == Request(None, None, at(0), at(5))
    ready, gap = sequence.refused(6.0)
    assert (ids(ready), gap) == ([501, 502, 503, 504, 505], None)


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_stray_ids_come_every_trade_of_the_market_goes_on_once(data: st.DataObject) -> None:
    exchange = Exchange(behind(5_000))
    rows = counted(5_001, 5_001, data.draw(st.integers(1, 40), label="trades"))
    strays = st.tuples(st.integers(0, 4_999), st.integers(-100, 100))
    for row in rows:
        stray = data.draw(st.one_of(st.none(), strays), label="stray")
        sent = [row] if stray is None else [(stray[0], row[1] + stray[1]), row]
        exchange.trade(row, sent=[] if data.draw(st.integers(0, 4), label="lost") == 0 else sent)
    exchange.sequence.connected(exchange.now)
    exchange.settle()
    assert (exchange.out, exchange.sequence.renumbered) == (rows, 0)


@settings(max_examples=40)
@given(data=st.data())
def test_every_trade_goes_on_once_and_in_order_whatever_the_socket_does(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40), label="trades")
    market = list(range(1, count + 1))
    lost = set(data.draw(st.lists(st.sampled_from(market), max_size=15), label="lost"))
    repeated = data.draw(st.lists(st.sampled_from(market), max_size=10), label="repeated")
    arrivals = [i for i in market if i not in lost] + repeated
    moves = data.draw(st.lists(st.integers(-5, 5), min_size=len(arrivals), max_size=len(arrivals)))
    arrivals = [i for _, _, i in sorted((at + moves[at], at, i) for at, i in enumerate(arrivals))]
    unserved = set(data.draw(st.lists(st.sampled_from(market), max_size=3), label="not served"))
    unserved &= lost - set(repeated)
    sequence = behind(0, limit=data.draw(st.integers(1, 30), label="limit"), tries=3)
    out: list[int] = []
    now, seen = 0.0, 0

    def rest() -> None:
        request = sequence.request(now)
        if request is None:
            return
        if data.draw(st.booleans(), label="fails"):
            sequence.failed(now)
            return
        assert request.first_id is not None
        last = request.last_id if request.last_id is not None else seen
        page = [i for i in range(request.first_id, min(last, seen) + 1) if i not in unserved]
        for start in range(0, len(page), 7):
            out.extend(ids(sequence.fetched(trades(*page[start : start + 7]), now)))
        out.extend(ids(sequence.ended(now)[0]))

    for trade_id in arrivals:
        now += 0.2
        seen = max(seen, trade_id)
        if data.draw(st.integers(0, 9), label="cut") == 0:
            sequence.connected(now)
        out.extend(ids(sequence.add(trades(trade_id), now)))
        rest()
    seen = count
    sequence.connected(now)
    for _ in range(200):
        now += 1.0
        rest()
        if len(out) == count - len(unserved):
            break
    assert out == [i for i in market if i not in unserved]
