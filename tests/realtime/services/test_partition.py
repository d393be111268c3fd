"""One partition of trades: restarts anywhere change nothing."""

from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.errors import CorruptFile
from marketdata.market import Market
from realtime.candles import CandleCore
from realtime.services.checkpoint import Checkpoint
from realtime.services.partition import Outcome, PartitionCandles, Wanted
from tests.realtime.test_candle_laws import BTC, INTERVALS, RULES, START, check, deliveries, none_too_late
from tests.realtime.test_candles import at, trades

ETH = Market.parse("kraken:ETH/USD")


def make_core() -> CandleCore:
    return CandleCore(INTERVALS, RULES)


@given(deliveries(), deliveries(), st.lists(st.integers(1, 60), max_size=3), st.booleans())
@settings(max_examples=60)
def test_a_restart_anywhere_changes_no_candle_of_any_market(
    one: tuple[pl.DataFrame, list[pl.DataFrame]],
    other: tuple[pl.DataFrame, list[pl.DataFrame]],
    stops: list[int],
    history_late: bool,
) -> None:
    """A message is a batch; they are handled two by two, so that the borders of batches move at a restart."""
    log: list[tuple[Market, pl.DataFrame]] = []
    for pair in zip(one[1], other[1], strict=False):
        log += zip((BTC, ETH), pair, strict=True)
    log += [(BTC, batch) for batch in one[1][len(other[1]) :]]
    log += [(ETH, batch) for batch in other[1][len(one[1]) :]]
    partition, now, out = PartitionCandles(make_core, Checkpoint(0, 0)), START, Outcome()
    asked: list[Wanted] = []
    while partition.position < len(log):
        start = partition.position
        end = min(start + 2, len(log))
        if partition.replaying:
            end = min(end, partition.replay_until)
        if start in stops and not partition.replaying:
            stops.remove(start)
            saved = partition.checkpoint()
            partition = PartitionCandles(make_core, Checkpoint.parse(saved.offset, saved.text()))
            continue
        now += timedelta(milliseconds=50)
        partition.add([(log[n][0], n, log[n][1]) for n in range(start, end)], end, now, out)
        asked += partition.wanted_history()
        if not history_late:
            for wanted in asked:
                partition.complete(wanted.market, log[0][1].head(0), now, out)
            asked.clear()
    for minutes in (0, 5):  # after a restart a market is quiet from its first sign of life on
        partition.tick(now + timedelta(minutes=minutes), out, caught_up=True)
    for market, delivery in ((BTC, one), (ETH, other)):
        check(delivery, [frame for name, frame in out.finals if name == market])
        for name, late in out.late:
            assert name != market or none_too_late(late, delivery[1])


def test_a_first_candle_that_waits_for_its_history_is_asked_for_again_after_a_restart() -> None:
    partition, out = PartitionCandles(make_core, Checkpoint(7, 7)), Outcome()
    partition.add([(BTC, 7, trades((50, 30, 100)))], 8, at(30), out)
    assert len(partition.wanted_history()) == 1
    assert partition.wanted_history() == []
    saved = partition.checkpoint()
    assert saved.offset == 7
    again = PartitionCandles(make_core, Checkpoint.parse(saved.offset, saved.text()))
    assert again.replaying
    assert again.wanted_history() == []
    again.add([(BTC, 7, trades((50, 30, 100)))], 8, at(40), out)
    assert not again.replaying
    assert [wanted.market for wanted in again.wanted_history()] == [BTC]


def test_a_market_of_which_every_trade_was_refused_begins_anew_after_a_restart() -> None:
    partition, out = PartitionCandles(make_core, Checkpoint(0, 0)), Outcome()
    partition.add([(BTC, 0, trades((50, 4000, 100)))], 1, at(30), out)
    assert len(out.refused) == 1
    saved = partition.checkpoint()
    again = PartitionCandles(make_core, Checkpoint.parse(saved.offset, saved.text()))
    again.add([(BTC, 1, trades((51, 30, 100)))], 2, at(30), out)
    assert len(again.wanted_history()) == 1


def test_quiet_markets_are_not_closed_while_messages_wait() -> None:
    partition, out = PartitionCandles(make_core, Checkpoint(0, 0)), Outcome()
    partition.add([(BTC, 0, trades((50, 30, 100)))], 1, at(30), out)
    partition.tick(at(600), out, caught_up=False)
    assert not out.finals
    partition.tick(at(600), out, caught_up=True)
    assert out.finals


def test_an_offset_committed_without_a_state_is_where_to_begin() -> None:
    assert Checkpoint.parse(12, "") == Checkpoint(12, 12)


def test_a_hundred_markets_fit_into_the_metadata_of_an_offset() -> None:
    """Kafka takes 4,096 bytes of metadata."""
    core = make_core()
    for number in range(100):
        core.add(Market("kraken", f"C{number}/USD"), trades((50, 30 + number / 7, 100)), at(30))
    text = Checkpoint(10**9, 10**9 + 5, {market: core.state(market) for market in core.markets}).text()
    assert len(text) < 4_096
    assert len(Checkpoint.parse(10**9, text).states) == 100


@pytest.mark.parametrize("text", ["x", "candles/1 ", "candles/1 abc", "candles/2 " + "a" * 20, "candles/1 é"])
def test_metadata_of_another_program_is_told_apart(text: str) -> None:
    with pytest.raises(CorruptFile, match="group"):
        Checkpoint.parse(3, text)
