"""When a socket is dead, and how long to wait for the next."""

from hypothesis import given
from hypothesis import strategies as st

from marketdata.market import Market
from realtime.feeds.backoff import Backoff
from realtime.feeds.liveness import Liveness, LivenessRules

MARKET, OTHER = Market.parse("kraken:BTC/USD"), Market.parse("kraken:ETH/USD")
RULES = LivenessRules(silence=6.0, probe=60.0, delay=5.0)


def test_a_socket_that_says_nothing_at_all_is_dead() -> None:
    liveness = Liveness([MARKET], RULES, 0.0)
    assert liveness.dead(5.9) is None
    assert liveness.dead(6.0) == "silent"


def test_a_market_may_be_quiet_for_hours_while_heartbeats_come() -> None:
    liveness = Liveness([MARKET], RULES, 0.0)
    for second in range(4 * 3_600):
        liveness.frame(second)
        for market in liveness.to_probe(second):
            liveness.probed(market, second + 0.5, missed=False)
        assert liveness.dead(second + 0.9) is None


def test_a_quiet_market_is_asked_about_once_in_a_while() -> None:
    liveness = Liveness([MARKET, OTHER], RULES, 0.0)
    liveness.trades(OTHER, 30.0)
    assert liveness.to_probe(59.0) == []
    assert liveness.to_probe(60.0) == [MARKET]
    assert liveness.to_probe(61.0) == []
    assert liveness.to_probe(90.0) == [OTHER]


def test_a_socket_that_does_not_bring_what_rest_has_is_dead_though_it_beats() -> None:
    liveness = Liveness([MARKET], RULES, 0.0)
    liveness.frame(60.0)
    liveness.to_probe(60.0)
    liveness.probed(MARKET, 61.0, missed=True)
    liveness.frame(66.0)
    assert liveness.dead(65.9) is None
    assert liveness.dead(66.0) == "trades not pushed"


def test_a_trade_that_rest_had_a_little_earlier_is_no_sign_of_death() -> None:
    liveness = Liveness([MARKET], RULES, 0.0)
    liveness.to_probe(60.0)
    liveness.probed(MARKET, 61.0, missed=True)
    liveness.trades(MARKET, 61.5)
    liveness.frame(70.0)
    assert liveness.dead(70.0) is None


def test_what_was_missed_before_a_connection_says_nothing_about_it() -> None:
    liveness = Liveness([MARKET], RULES, 0.0)
    liveness.probed(MARKET, 1.0, missed=True)
    liveness.frame(10.0)
    assert liveness.dead(10.0) is None


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=60))
def test_pauses_double_up_to_a_bound_and_are_never_none(randoms: list[float]) -> None:
    given_out = iter(randoms)
    backoff = Backoff(lambda: next(given_out), first=0.25, longest=30.0)
    for failures in range(len(randoms)):
        longest = min(30.0, 0.25 * 2**failures)
        assert longest / 2 <= backoff.after(0.0) <= longest


def test_after_a_connection_that_held_the_pause_is_short_again() -> None:
    backoff = Backoff(lambda: 0.0, first=0.25, stable=30.0)
    for _ in range(8):
        backoff.after(1.0)
    assert backoff.after(29.0) > 1.0
    assert backoff.after(30.0) == 0.125


def test_a_trade_that_the_socket_brought_while_rest_was_asked_is_no_sign_of_death() -> None:
    liveness = Liveness([MARKET], RULES, 0.0)
    assert liveness.to_probe(60.0) == [MARKET]
    liveness.trades(MARKET, 60.1)
    # REST has it too, and its answer is handed on first: what the socket brings waits for it.
    liveness.probed(MARKET, 60.4, missed=True)
    for second in range(61, 90, 5):
        liveness.frame(second)
        assert liveness.dead(second) is None
