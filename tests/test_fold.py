"""What a candle is, case by case; docs/candles.md says the same in words."""

from datetime import timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata.candle import CANDLE_SCHEMA, EXCHANGE_CANDLE_SCHEMA, broken, empty_candles
from marketdata.errors import UnknownName, UsageError
from marketdata.fold import fill_previous, fold, fold_many, merge, widen
from marketdata.interval import INTERVALS
from marketdata.trade import distinct, empty_trades
from tests.building import MIDNIGHT, simple, trades_of


def test_all_columns_of_a_candle() -> None:
    trades = trades_of(
        [
            (11, 0.5, 100.0, 1.0, "buy", 1),
            (12, 10.0, 103.0, 2.0, "sell", 3),
            (13, 20.0, 99.0, 0.5, "buy", 1),
            (14, 59.999999, 101.0, 4.0, "sell", 2),
            (15, 60.0, 50.0, 1.0, "sell", 1),
        ]
    )
    first, second = fold(trades, "1m").rows(named=True)
    assert first == {
        "open_time": MIDNIGHT,
        "open": 100.0,
        "high": 103.0,
        "low": 99.0,
        "close": 101.0,
        "volume": 7.5,
        "quote_volume": 100.0 + 206.0 + 49.5 + 404.0,
        "trade_count": 7,
        "taker_buy_volume": 1.5,
        "taker_buy_quote_volume": 149.5,
        "first_trade_id": 11,
        "last_trade_id": 14,
        "first_trade_time": MIDNIGHT + timedelta(seconds=0.5),
        "last_trade_time": MIDNIGHT + timedelta(seconds=59.999999),
    }
    assert (second["open_time"], second["open"], second["taker_buy_volume"]) == (
        MIDNIGHT + timedelta(minutes=1),
        50.0,
        0.0,
    )


def test_a_candle_has_the_schema_of_candles() -> None:
    assert fold(simple((1, 0, 1, 1))).schema == CANDLE_SCHEMA
    assert list(EXCHANGE_CANDLE_SCHEMA) == list(CANDLE_SCHEMA)[: len(EXCHANGE_CANDLE_SCHEMA)]


def test_a_trade_on_the_boundary_opens_the_next_candle() -> None:
    candles = fold(simple((1, 59.999999, 1, 1), (2, 60, 2, 1)))
    assert candles["close"].to_list() == [1.0, 2.0]


def test_a_minute_without_a_trade_has_no_candle() -> None:
    candles = fold(simple((1, 0, 1, 1), (2, 180, 2, 1)))
    assert candles["open_time"].to_list() == [MIDNIGHT, MIDNIGHT + timedelta(minutes=3)]


def test_trades_of_the_same_time_are_in_the_order_of_their_ids() -> None:
    candle = fold(simple((3, 5, 30, 1), (1, 5, 10, 1), (2, 5, 20, 1)))
    assert candle.select("open", "close", "first_trade_id", "last_trade_id").row(0) == (10.0, 30.0, 1, 3)


def test_time_goes_before_the_id() -> None:
    candle = fold(simple((1, 9, 10, 1), (2, 5, 20, 1)))
    assert candle.select("open", "close", "first_trade_id", "last_trade_id").row(0) == (20.0, 10.0, 2, 1)


def test_taker_volumes_are_null_in_exactly_the_candles_that_hold_a_trade_of_unknown_side() -> None:
    trades = trades_of([(1, 0, 1, 1, "buy", 1), (2, 1, 1, 1, None, 1), (3, 60, 1, 2, "buy", 1)])
    candles = fold_many(trades, ["1m", "5m"])
    assert candles["1m"]["taker_buy_volume"].to_list() == [None, 2.0]
    assert candles["1m"]["taker_buy_quote_volume"].to_list() == [None, 2.0]
    assert candles["5m"]["taker_buy_volume"].to_list() == [None]
    assert candles["5m"]["volume"].to_list() == [4.0]


def test_fills_that_exceed_32_bits_are_counted() -> None:
    most = 2**31 - 1
    trades = trades_of([(1, 0, 1, 1, "buy", most), (2, 1, 1, 1, "buy", most)])
    assert fold(trades, "1w")["trade_count"].to_list() == [2 * most]


def test_a_sum_too_large_for_a_float_is_infinite_and_warns_nobody() -> None:
    candle = fold(simple((1, 0, 1e8, 1e300), (2, 1, 1e8, 1e300)))
    assert candle["quote_volume"].to_list() == [float("inf")]
    assert candle["close"].to_list() == [1e8]


def test_no_trades_make_no_candles() -> None:
    assert_frame_equal(fold(empty_trades()), empty_candles())
    assert_frame_equal(widen(empty_candles(), "1h"), empty_candles())
    assert_frame_equal(merge(), empty_candles())
    assert {name: len(frame) for name, frame in fold_many(empty_trades(), ["1h", "1s"]).items()} == {
        "1h": 0,
        "1s": 0,
    }


def test_trades_without_ids_are_refused_because_open_and_close_would_be_drawn_by_lot() -> None:
    trades = trades_of([(None, 0, 1, 1, "buy", 1), (7, 0, 2, 1, "buy", 1)])
    with pytest.raises(UsageError, match=r"1 of 2 trades have no trade_id.*assign_ids"):
        fold(trades)


def test_an_unknown_interval_is_refused() -> None:
    with pytest.raises(UnknownName, match="'2m'"):
        fold(simple((1, 0, 1, 1)), "2m")


def test_fold_many_answers_in_the_order_asked_for() -> None:
    trades = simple((1, 0, 1, 1), (2, 4000, 2, 1))
    assert list(fold_many(trades, ["1d", "1s", "1h", "1s"])) == ["1d", "1s", "1h"]


def test_fold_counts_a_repeated_trade_twice_and_distinct_removes_it() -> None:
    trades = simple((1, 0, 1, 1), (2, 1, 2, 1))
    replayed = pl.concat([trades, trades[1:]])
    assert fold(replayed)["volume"].to_list() == [3.0]
    assert_frame_equal(fold(distinct(replayed)), fold(trades))


def test_the_week_of_a_sunday_began_on_the_monday_before() -> None:
    sunday = simple((1, -1, 1, 1), (2, 0, 2, 1))
    assert fold(sunday, "1w")["open_time"].to_list() == [MIDNIGHT - timedelta(days=7), MIDNIGHT]


def test_of_interleaved_parts_the_earliest_trade_opens_and_the_latest_closes() -> None:
    trades = simple((1, 0, 10, 1), (2, 1, 20, 1), (3, 2, 30, 1), (4, 3, 40, 1))
    inner, outer = fold(trades[1:3]), fold(trades[[0, 3]])
    assert_frame_equal(merge(inner, outer), fold(trades))
    assert_frame_equal(merge(outer, inner), fold(trades))


def test_folding_more_than_a_block_of_trades_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trades = simple(*[(n, 7 * n, 100 + n % 13, 1 + n % 3) for n in range(1000)])
    whole = fold_many(trades, INTERVALS)
    monkeypatch.setattr("marketdata.fold._BLOCK", 17)
    monkeypatch.setattr("marketdata.fold._SLICE", 34)
    for name, candles in fold_many(trades, INTERVALS).items():
        assert_frame_equal(candles, whole[name], rel_tol=1e-12)


def test_chunks_of_a_frame_do_not_show_in_the_sums() -> None:
    trades = simple(*[(n, 0.1 * n, 100 + n / 7, 1 / (n + 1)) for n in range(3000)])
    chunked = pl.concat([trades.slice(at, 11) for at in range(0, len(trades), 11)], rechunk=False)
    assert chunked.n_chunks() > 1
    assert fold(chunked).equals(fold(trades))


def test_filled_intervals_stand_at_the_previous_close_and_are_marked() -> None:
    candles = fold(simple((1, 60, 5, 2), (2, 180, 7, 1)))
    end = MIDNIGHT + timedelta(minutes=5)
    filled = fill_previous(candles, "1m", MIDNIGHT, end, previous_close=4.0)
    assert filled["filled"].to_list() == [True, False, True, False, True]
    for name in ("open", "high", "low", "close"):
        assert filled[name].to_list() == [4.0, 5.0, 5.0, 7.0, 7.0]
    assert filled["volume"].to_list() == [0.0, 2.0, 0.0, 1.0, 0.0]
    assert filled["trade_count"].to_list() == [0, 1, 0, 1, 0]
    assert filled["first_trade_id"].to_list() == [None, 1, None, 2, None]
    assert filled.drop("filled").schema == CANDLE_SCHEMA


def test_without_a_previous_close_the_intervals_before_the_first_candle_stay_absent() -> None:
    candles = fold(simple((1, 120, 5, 2)))
    filled = fill_previous(candles, "1m", MIDNIGHT, MIDNIGHT + timedelta(minutes=4))
    assert filled["open_time"].to_list() == [MIDNIGHT + timedelta(minutes=m) for m in (2, 3)]


def test_filling_keeps_an_unknown_taker_volume_unknown() -> None:
    candles = fold(trades_of([(1, 0, 5, 2, None, 1)]))
    filled = fill_previous(candles, "1m", MIDNIGHT, MIDNIGHT + timedelta(minutes=2))
    assert filled["taker_buy_volume"].to_list() == [None, 0.0]


def test_filling_starts_on_the_grid_and_drops_what_lies_outside() -> None:
    candles = fold(simple((1, 0, 5, 2), (2, 60, 6, 1), (3, 240, 7, 1)))
    start, end = MIDNIGHT + timedelta(seconds=1), MIDNIGHT + timedelta(seconds=181)
    filled = fill_previous(candles, "1m", start, end)
    assert filled["open_time"].to_list() == [MIDNIGHT + timedelta(minutes=m) for m in (1, 2, 3)]
    assert fill_previous(candles, "1m", end, start).is_empty()


def test_candles_of_trades_break_no_invariant() -> None:
    trades = simple(*[(n, 7 * n, 100 + n % 13, 1 / (1 + n % 3)) for n in range(1000)])
    for name, candles in fold_many(trades, INTERVALS).items():
        assert broken(candles, name).is_empty()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (pl.col("open_time") + pl.duration(seconds=1), "open_time is not on the grid"),
        (pl.lit(0.0).alias("low"), "low is not above 0"),
        (pl.lit(99.0).alias("open"), "open is not between low and high"),
        (pl.lit(12.0).alias("close"), "close is not between low and high"),
        (pl.lit(None, pl.Float64).alias("close"), "a value is null"),
        (pl.lit(0.0).alias("volume"), "volume is not above 0"),
        (pl.col("quote_volume") * 3, "quote_volume does not fit the prices"),
        (pl.lit(0, pl.Int64).alias("trade_count"), "trade_count is not above 0"),
        (pl.lit(4.0).alias("taker_buy_volume"), "taker_buy_volume is not between 0 and volume"),
        (pl.lit(None, pl.Float64).alias("taker_buy_volume"), "only one taker volume is known"),
        (pl.col("first_trade_time") - pl.duration(minutes=1), "first trade is not inside"),
        (pl.col("last_trade_time") + pl.duration(minutes=1), "last trade is not inside"),
    ],
)
def test_a_candle_that_no_trades_can_have_made_is_named(change: pl.Expr, rule: str) -> None:
    candles = fold(simple((1, 1, 10, 1), (2, 2, 11, 2)))
    rules = broken(candles.with_columns(change), "1m")["rule"].to_list()
    assert rule in rules


def test_a_candle_that_stands_twice_is_named() -> None:
    candle = fold(simple((1, 1, 10, 1)))
    assert broken(pl.concat([candle, candle]), "1m")["rule"].to_list() == ["open_time repeats or goes back"]
