"""Stream, batch and exchange beside each other: the class of each candle that differs."""

from datetime import timedelta

import polars as pl
import pytest

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.fold import fold
from marketdata.reconcile import DIFFERENCE_SCHEMA, Side, classify, three_way
from tests.building import MIDNIGHT, simple

# Four trades a minute, ten minutes: ids 0..39.
TRADES = simple(*[(n, 15 * n + 5, 100.0 + n % 7, 1.0 + n % 3) for n in range(40)])
BATCH = fold(TRADES)
END = MIDNIGHT + timedelta(minutes=10)
DAY = (MIDNIGHT, END)
NOTHING = (MIDNIGHT, MIDNIGHT)
EXCHANGE = BATCH.select(EXCHANGE_CANDLE_SCHEMA.names())


def without(*ids: int) -> pl.DataFrame:
    """The candles of a stream that has not seen these trades."""
    return fold(TRADES.filter(~pl.col("trade_id").is_in(ids)))


def changed(candles: pl.DataFrame, minute: int, **values: float) -> pl.DataFrame:
    there = pl.col("open_time") == MIDNIGHT + timedelta(minutes=minute)
    return candles.with_columns(
        pl.when(there).then(pl.lit(value, candles[name].dtype)).otherwise(name).alias(name)
        for name, value in values.items()
    )


def against(stream: pl.DataFrame, truth: pl.DataFrame = BATCH, side: str = "stream") -> Side:
    return classify(stream, truth, *DAY, compared_with=side)


def found(side: Side) -> list[tuple[int, str]]:
    rows = side.differences.select("open_time", "finding").rows()
    return [((opens - MIDNIGHT) // timedelta(minutes=1), kind) for opens, kind in rows]


def test_equal_candles_have_no_finding_and_no_drift() -> None:
    side = against(BATCH)
    assert (side.compared, side.equal, side.counts) == (10, 10, {})
    assert side.differences.schema == DIFFERENCE_SCHEMA
    assert side.drift.volume_day == side.drift.close_max == 0


def test_a_candle_that_lacks_trades_of_the_truth_is_a_late_trade() -> None:
    side = against(without(9, 30))
    assert found(side) == [(2, "late trade"), (7, "late trade")]
    assert side.counts == {"late trade": 2}
    assert side.differences.select("said_trades", "true_trades").rows() == [(3, 4), (3, 4)]


def test_a_minute_that_only_the_truth_has_is_missing_and_one_that_it_has_not_is_extra() -> None:
    assert found(against(without(12, 13, 14, 15))) == [(3, "missing")]
    assert found(against(BATCH, without(12, 13, 14, 15))) == [(3, "extra")]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"volume": 99.0}, "different volume"),
        ({"taker_buy_volume": 0.5}, "different volume"),
        ({"close": 104.5}, "different price"),
        ({"high": 400.0, "volume": 1.0, "trade_count": 1}, "different price"),
        ({"volume": 1.0, "trade_count": 9}, "different volume"),
    ],
)
def test_what_no_trade_that_came_late_explains_differs_in_volume_or_price(
    values: dict[str, float], kind: str
) -> None:
    assert found(against(changed(BATCH, 4, **values))) == [(4, kind)]


def test_trades_outside_those_of_the_truth_are_no_late_trade() -> None:
    early = changed(without(9), 2, first_trade_id=-5)
    assert found(against(early)) == [(2, "different volume")]


def test_a_first_candle_that_began_before_the_stream_is_partial() -> None:
    said = without(0, 1).with_columns(
        pl.when(pl.col("open_time") == MIDNIGHT)
        .then(pl.lit("partial"))
        .otherwise(pl.lit("unknown"))
        .alias("coverage")
    )
    assert found(against(said)) == [(0, "partial")]


def test_fewer_trades_than_the_exchange_are_not_called_late() -> None:
    assert found(against(without(9), EXCHANGE, "exchange")) == [(2, "different volume")]


def test_drift_is_percent_of_what_is_true_of_a_candle_and_of_the_day() -> None:
    side = against(changed(changed(BATCH, 4, close=101.0), 6, volume=2.0))
    true_close, true_volume = BATCH["close"][4], BATCH["volume"][6]
    rows = side.differences.select("close_drift", "volume_drift").rows()
    close, volume = 100 * abs(101 - true_close) / true_close, 100 * abs(2 - true_volume) / true_volume
    assert rows == [(pytest.approx(close), 0.0), (0.0, pytest.approx(volume))]
    assert side.drift.close_max == pytest.approx(close)
    assert side.drift.close_mean == pytest.approx(close / 10)
    assert side.drift.volume_max == pytest.approx(volume)
    assert side.drift.volume_day == pytest.approx(100 * abs(2 - true_volume) / BATCH["volume"].sum())
    assert side.drift.beyond(0.5)
    assert not side.drift.beyond(99.0)


def test_a_missing_candle_drifts_by_all_its_volume_and_by_no_price() -> None:
    side = against(without(12, 13, 14, 15))
    assert side.differences.select("close_drift", "volume_drift").rows() == [(None, 100.0)]


def test_an_exchange_that_says_no_volume_says_nothing_of_its_drift() -> None:
    silent = changed(EXCHANGE, 4, close=101.0).with_columns(pl.lit(None, pl.Float64).alias("volume"))
    side = against(BATCH, silent, "exchange")
    assert side.differences["volume_drift"].to_list() == [None]
    assert side.drift.volume_day == 0


def test_of_three_the_one_that_stands_alone_is_named() -> None:
    stream, exchange = three_way(without(9), BATCH, EXCHANGE, streamed=DAY, served=DAY)
    assert (stream.differences["alone"].to_list(), len(exchange.differences)) == (["stream"], 0)
    stream, exchange = three_way(BATCH, BATCH, changed(EXCHANGE, 4, close=104.5), streamed=DAY, served=DAY)
    assert (len(stream.differences), exchange.differences["alone"].to_list()) == (0, ["exchange"])
    stream, exchange = three_way(BATCH, without(9), EXCHANGE, streamed=DAY, served=DAY)
    assert stream.differences["alone"].to_list() == exchange.differences["alone"].to_list() == ["batch"]
    stream, exchange = three_way(
        changed(BATCH, 2, volume=50.0), without(9), EXCHANGE, streamed=DAY, served=DAY
    )
    assert stream.differences["alone"].to_list() == exchange.differences["alone"].to_list() == [""]


def test_where_one_of_three_says_nothing_none_stands_alone() -> None:
    half = (MIDNIGHT, MIDNIGHT + timedelta(minutes=5))
    stream, exchange = three_way(without(9, 30), BATCH, EXCHANGE, streamed=DAY, served=half)
    assert stream.differences["alone"].to_list() == ["stream", ""]
    assert (exchange.compared, exchange.equal) == (5, 5)
    stream, exchange = three_way(BATCH.clear(), BATCH, EXCHANGE, streamed=NOTHING, served=DAY)
    assert (stream.compared, exchange.compared) == (0, 10)
