"""Live candles, fact by fact."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from marketdata.errors import CorruptFile, UnknownName, UsageError
from marketdata.fold import fold
from marketdata.interval import to_us
from marketdata.market import Market
from marketdata.trade import TRADE_SCHEMA
from realtime.candles import CandleCore, Rules, Update

BTC, ETH = Market.parse("kraken:BTC/USD"), Market.parse("kraken:ETH/USD")
NOON = datetime(2025, 6, 8, 12, tzinfo=UTC)
RULES = Rules(delay=timedelta(seconds=1), grace=timedelta(seconds=5))


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def trades(*rows: tuple[int, float, float]) -> pl.DataFrame:
    """(id, seconds after noon, price); one unit each, bought."""
    full = [(number, to_us(at(seconds)), price, 1.0, "buy", 1) for number, seconds, price in rows]
    return pl.DataFrame(full, schema=TRADE_SCHEMA.names(), orient="row").cast(dict(TRADE_SCHEMA))


def told(update: Update) -> list[tuple[str, float, float, int, bool]]:
    """(interval, seconds after noon, close, revision, final) of each candle."""
    columns = update.candles.select("interval", "open_time", "close", "revision", "final")
    return [(name, (time - NOON).total_seconds(), *rest) for name, time, *rest in columns.iter_rows()]


def core(*intervals: str, rules: Rules = RULES) -> CandleCore:
    """A core that has long been running."""
    made = CandleCore(intervals or ["1m"], rules)
    made.add(BTC, trades((1, -3600, 1)), at(-3600))
    made.complete(BTC, trades(), at(-3600))
    made.add(BTC, trades((2, -1800, 1)), at(-1800))
    return made


def test_a_trade_shows_at_once_in_the_running_candle() -> None:
    assert told(core().add(BTC, trades((9, 3, 100)), at(3)))[-1] == ("1m", 0, 100, 0, False)


def test_a_window_closes_when_a_trade_is_the_delay_behind_its_end() -> None:
    one = core()
    one.add(BTC, trades((9, 3, 100), (10, 59, 101)), at(59))
    assert (
        told(one.add(BTC, trades((11, 60.9, 7)), at(61)))
        == [
            ("1m", 0, 101, 0, False),
            ("1m", 60, 7, 0, False),
        ][1:]
    )
    assert told(one.add(BTC, trades((12, 61, 8)), at(62)))[0] == ("1m", 0, 101, 0, True)


def test_a_trade_3_s_late_re_issues_the_candle() -> None:
    one = core()
    one.add(BTC, trades((9, 3, 100), (11, 61, 7)), at(61))
    update = one.add(BTC, trades((10, 59.5, 99)), at(62.5))
    assert told(update)[0] == ("1m", 0, 99, 1, True)
    assert update.late.is_empty()


def test_a_late_trade_that_makes_the_first_candle_of_its_window_is_no_revision() -> None:
    one = core()
    one.add(BTC, trades((11, 61, 7)), at(61))
    assert told(one.add(BTC, trades((10, 59.5, 99)), at(62)))[0] == ("1m", 0, 99, 0, True)


def test_behind_the_grace_a_trade_is_late_and_changes_nothing() -> None:
    one = core()
    one.add(BTC, trades((9, 3, 100), (11, 66, 7)), at(66))
    update = one.add(BTC, trades((10, 59.5, 99)), at(67))
    assert told(update) == []
    assert update.late["trade_id"].to_list() == [10]


def test_a_trade_too_late_for_one_second_still_counts_in_its_minute() -> None:
    one = core("1s", "1m")
    one.add(BTC, trades((9, 3, 100), (11, 30, 7)), at(30))
    update = one.add(BTC, trades((10, 3.5, 500)), at(31))
    assert update.late["trade_id"].to_list() == [10]
    (minute,) = update.candles.filter(pl.col("interval") == "1m").rows(named=True)
    assert (minute["high"], minute["trade_count"]) == (500, 3)
    assert update.candles.filter(pl.col("interval") == "1s").is_empty()


def test_a_quiet_market_closes_by_the_clock() -> None:
    one = core()
    one.add(BTC, trades((9, 58, 100)), at(58))
    assert one.tick(at(64.9), [BTC]) == []
    (update,) = one.tick(at(65), [BTC])  # 7 s without a trade, counted from 5 s on
    assert told(update) == [("1m", 0, 100, 0, True)]


def test_what_a_feed_missed_for_minutes_re_issues_the_candles_closed_meanwhile() -> None:
    one = core()
    one.add(BTC, trades((9, 58, 100)), at(58))
    one.tick(at(65), [BTC])
    one.tick(at(300), [BTC])
    update = one.add(BTC, trades((10, 59, 101), (11, 61, 102), (12, 299, 103)), at(301))
    assert update.late.is_empty()
    finals = [row for row in told(update) if row[-1]]
    assert finals == [("1m", 0, 101, 1, True), ("1m", 60, 102, 0, True)]


def test_a_long_silence_seals_what_the_clock_has_closed() -> None:
    one = core()
    one.add(BTC, trades((9, 58, 100)), at(58))
    one.tick(at(58 + 660), [BTC])
    update = one.add(BTC, trades((10, 59, 101), (11, 719, 102)), at(720))
    assert update.late["trade_id"].to_list() == [10]


def test_a_market_whose_trades_are_waiting_is_not_closed_by_the_clock() -> None:
    one = core()
    one.add(BTC, trades((9, 58, 100)), at(58))
    assert one.tick(at(600)) == []


def test_a_clock_that_differs_from_the_exchanges_closes_nothing_early() -> None:
    one = core()
    one.add(BTC, trades((9, 3, 100)), at(250))
    assert one.tick(at(260), [BTC]) == []
    assert told(one.add(BTC, trades((10, 12, 101)), at(261)))[-1] == ("1m", 0, 101, 0, False)


def test_repeated_trades_count_once() -> None:
    one = core()
    batch = trades((9, 3, 100), (10, 4, 101))
    one.add(BTC, batch, at(4))
    update = one.add(BTC, pl.concat([batch, trades((11, 5, 102))]), at(5))
    assert update.repeated == 2
    assert update.candles["trade_count"].to_list() == [3]


def test_a_trade_of_the_future_is_refused_and_closes_nothing() -> None:
    one = core()
    one.add(BTC, trades((9, 3, 100)), at(3))
    update = one.add(BTC, trades((10, 4000, 1), (11, 4, 101)), at(4))
    assert update.refused["trade_id"].to_list() == [10]
    assert told(update) == [("1m", 0, 101, 0, False)]


def test_running_candles_go_out_five_times_a_second_at_most() -> None:
    one = core()
    sent = [told(one.add(BTC, trades((10 + n, 3 + n / 100, n + 1)), at(3 + n / 100))) for n in range(100)]
    assert sum(map(bool, sent)) == 5
    (update,) = one.tick(at(4.01))
    assert told(update) == [("1m", 0, 100, 0, False)]  # the last one is not held back for ever
    assert one.tick(at(9)) == []


def test_a_clock_that_is_set_back_keeps_nobody_waiting() -> None:
    one = core()
    one.add(BTC, trades((10, 3, 1)), at(7200))
    assert told(one.add(BTC, trades((11, 4, 2)), at(4)))[-1] == ("1m", 0, 2, 0, False)
    (update,) = one.tick(at(80), [BTC])
    assert told(update)[0] == ("1m", 0, 2, 0, True)


def test_an_interval_without_trades_has_no_candle() -> None:
    one = core("1s")
    update = one.add(BTC, trades((9, 3, 100), (10, 9, 101)), at(9))
    assert [row[:2] for row in told(update) if row[1] > 0] == [("1s", 3), ("1s", 9)]


def test_the_first_candle_is_partial_until_history_completes_it() -> None:
    one = CandleCore(["1m"], RULES)
    first = one.add(BTC, trades((50, 30, 100)), at(30))
    assert first.candles["partial"].to_list() == [True]
    assert one.wants_history_from(BTC) == to_us(NOON)
    history = trades((47, -5, 1), (48, 3, 90), (49, 20, 80), (50, 30, 100))
    update = one.complete(BTC, history, at(31))
    (row,) = update.candles.rows(named=True)
    assert (row["open"], row["low"], row["close"], row["trade_count"]) == (90, 80, 100, 3)
    assert (row["partial"], row["final"]) == (False, False)
    assert one.wants_history_from(BTC) is None


def test_a_partial_candle_that_closed_is_issued_again_when_history_comes() -> None:
    one = CandleCore(["1s", "1m"], RULES)
    one.add(BTC, trades((50, 30, 100)), at(30))
    closed = one.add(BTC, trades((51, 90, 100)), at(90))
    assert closed.candles.filter(pl.col("final") & pl.col("partial")).height == 2
    update = one.complete(BTC, trades((49, 20, 80), (50, 30, 100)), at(91))
    finals = update.candles.filter(pl.col("final") & (pl.col("interval") == "1m"))
    assert finals.select("open", "revision", "partial").rows() == [(80, 1, False)]


def restarted(
    one: CandleCore, log: list[pl.DataFrame], now: datetime, *intervals: str, **rules: Any
) -> CandleCore:
    """Another core that goes on where this one stands, after its batches."""
    needed = one.needed_offset(BTC)
    again = CandleCore(intervals or ["1m"], replace(RULES, **rules))
    again.resume(BTC, one.state(BTC))
    for offset in range(len(log) if needed is None else needed, len(log)):
        again.add(BTC, log[offset], now, offset=offset, replay=True)
    return again


HISTORY = trades((47, -5, 1), (48, 3, 90), (49, 20, 80), (50, 30, 100))


def test_a_restart_asks_again_for_the_history_of_a_candle_that_may_still_change() -> None:
    one = CandleCore(["1m"], RULES)
    log = [trades((50, 30, 100))]
    one.add(BTC, log[0], at(30), offset=0)
    one.complete(BTC, HISTORY, at(31))
    again = restarted(one, log, at(32))
    assert (again.wants_history_from(BTC), again.first_id(BTC)) == (to_us(NOON), 50)
    running = again.add(BTC, trades((51, 33, 70)), at(33), offset=1)
    assert running.candles.select("trade_count", "partial").rows() == [(2, True)]
    again.complete(BTC, HISTORY, at(34))
    closed = again.add(BTC, trades((52, 61, 60)), at(61), offset=2).candles.filter("final")
    assert closed.select("trade_count", "low", "revision", "partial").rows() == [(4, 70, 0, False)]


def test_after_a_restart_a_late_trade_waits_for_the_history_of_the_candle_that_was_final() -> None:
    one = CandleCore(["1m"], RULES)
    log = [trades((50, 30, 100)), trades((52, 61, 60))]
    one.add(BTC, log[0], at(30), offset=0)
    one.complete(BTC, HISTORY, at(31))
    assert told(one.add(BTC, log[1], at(61), offset=1))[0] == ("1m", 0, 100, 0, True)
    again = restarted(one, log, at(62))
    assert again.add(BTC, trades((51, 40, 70)), at(63), offset=2).candles.filter("final").is_empty()
    assert again.tick(at(64)) == []
    finals = again.complete(BTC, HISTORY, at(65)).candles.filter("final")
    assert finals.select("trade_count", "low", "revision", "partial").rows() == [(4, 70, 1, False)]


def test_a_restart_does_not_repeat_a_whole_candle_because_its_history_came_again() -> None:
    one = CandleCore(["1m"], RULES)
    log = [trades((50, 30, 100)), trades((52, 61, 60))]
    one.add(BTC, log[0], at(30), offset=0)
    one.complete(BTC, HISTORY, at(31))
    one.add(BTC, log[1], at(61), offset=1)
    again = restarted(one, log, at(62))
    assert again.complete(BTC, HISTORY, at(63)).candles.filter("final").is_empty()


def test_history_is_not_asked_for_again_once_its_candles_are_sealed() -> None:
    one = CandleCore(["1m"], RULES)
    log = [trades((50, 30, 100)), trades((52, 90, 60))]
    one.add(BTC, log[0], at(30), offset=0)
    one.complete(BTC, HISTORY, at(31))
    one.add(BTC, log[1], at(90), offset=1)
    assert restarted(one, log, at(91)).wants_history_from(BTC) is None


def test_a_wider_interval_than_before_the_restart_asks_for_what_its_candle_lacks() -> None:
    one = core("1m")
    everything = trades(*((100 + n, n * 30, n + 1) for n in range(61)))
    log = [everything[n] for n in range(60)]
    for offset, batch in enumerate(log):
        one.add(BTC, batch, at(offset * 30), offset=offset)
    again = restarted(one, log, at(1790), "1m", "1h")
    assert again.wants_history_from(BTC) == to_us(NOON)
    again.complete(BTC, everything, at(1795))
    closed = again.add(BTC, trades((999, 3601, 5)), at(3601), offset=60).candles.filter("final")
    hours = closed.filter(pl.col("interval") == "1h")
    assert hours.select("open", "trade_count", "revision", "partial").rows() == [(1, 60, 0, False)]
    # The minutes that had gone out are not told again.
    minutes = closed.filter(pl.col("interval") == "1m")["open_time"]
    assert minutes.to_list() == [at(29 * 60)]


def test_a_longer_grace_than_before_the_restart_does_not_open_what_was_sealed() -> None:
    one = core()
    log = [trades((100 + n, n * 30, 1)) for n in range(20)]
    for offset, batch in enumerate(log):
        one.add(BTC, batch, at(offset * 30), offset=offset)
    again = restarted(one, log, at(580), grace=timedelta(minutes=10))
    update = again.add(BTC, trades((999, 303, 7)), at(581), offset=20)
    assert (update.candles.filter("final").is_empty(), len(update.late)) == (True, 1)


def test_what_was_before_the_window_of_the_first_trade_is_late() -> None:
    one = CandleCore(["1m"], RULES)
    one.add(BTC, trades((50, 30, 100)), at(30))
    update = one.add(BTC, trades((40, -1, 5)), at(31))
    assert (update.candles.is_empty(), update.late["trade_id"].to_list()) == (True, [40])


def test_history_that_never_comes_does_not_hold_memory_for_ever() -> None:
    one = CandleCore(["1m"], RULES)
    one.add(BTC, trades((50, 30, 100)), at(30), offset=0)
    one.add(BTC, trades((51, 90, 100)), at(90), offset=1)
    assert one.needed_offset(BTC) == 0
    one.add(BTC, trades((52, 300, 100)), at(300), offset=2)
    assert (one.needed_offset(BTC), one.wants_history_from(BTC)) == (2, None)


def test_a_restart_reads_from_the_oldest_window_that_may_change() -> None:
    one = core("1s", "1m")
    for n, seconds in enumerate((3, 30, 62, 64, 66.5)):
        one.add(BTC, trades((10 + n, seconds, 1)), at(seconds), offset=n)
    # 12:01:05.5 less 5 s of grace: the minute from 12:01 and, of the seconds, those from 12:01:00.
    assert one.needed_offset(BTC) == 2


def test_markets_are_apart() -> None:
    one = core()
    one.add(ETH, trades((1, 3, 5)), at(3))
    one.add(BTC, trades((9, 300, 100)), at(300))
    assert one.tick(at(301)) == []
    assert told(one.add(ETH, trades((2, 5, 6)), at(301)))[-1] == ("1m", 0, 6, 0, False)


def test_a_market_can_have_rules_of_its_own() -> None:
    one = CandleCore(["1m"], RULES, of_market={ETH: Rules(delay=timedelta(seconds=30))})
    for market in (BTC, ETH):
        one.add(market, trades((1, 3, 5)), at(3))
    assert told(one.add(BTC, trades((2, 70, 5)), at(70)))[0][-1] is True
    assert told(one.add(ETH, trades((2, 70, 5)), at(70)))[0][-1] is False


def test_final_candles_are_those_of_the_fold() -> None:
    one = core("1s")
    rows = [(100 + n, n * 0.137, 100 + n % 7) for n in range(500)]
    found = [
        one.add(BTC, trades(*rows[start : start + 7]), at(rows[start][1])).candles
        for start in range(0, 500, 7)
    ]
    finals = pl.concat(found).filter(pl.col("final") & (pl.col("open_time") >= NOON))
    whole = fold(trades(*rows), "1s").head(len(finals))
    assert finals.drop("interval", "revision", "final", "partial").equals(whole)
    assert len(finals) > 60


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"mark": "x"}'])
def test_a_state_that_is_none_says_what_to_do(text: str) -> None:
    with pytest.raises(CorruptFile, match="committed offsets"):
        CandleCore().resume(BTC, text)


def test_intervals_must_fit_into_each_other() -> None:
    with pytest.raises(UsageError, match="at least one"):
        CandleCore([])
    with pytest.raises(UnknownName, match="1m"):
        CandleCore(["1min"])
