"""Candles in the store: the newer revision wins, whoever comes first."""

import random

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata.errors import UnknownName
from marketdata.market import Market
from marketdata.store.candles import STORED_SCHEMA, upsert_candles
from marketdata.store.engine import connect
from marketdata.store.markets import market_id
from marketdata.store.trades import Written
from tests.store.days import BTC, Day, held_candles, one, trades_of_day

DAY = Day(trades_of_day(2_000))
ETH = Market.parse("kraken:ETH/USD")


def issue(revision: int, *, rows: int = 10, volume: float | None = None) -> pl.DataFrame:
    """The first candles of the day as the stream would issue them; the volume is that of the revision."""
    return (
        DAY.candles.head(rows)
        .select(
            pl.exclude("volume"),
            pl.lit(volume if volume is not None else float(revision)).alias("volume"),
            pl.lit(revision, pl.Int32).alias("revision"),
            pl.lit("stream").alias("source"),
            pl.lit("complete").alias("coverage"),
        )
        .select(STORED_SCHEMA.names())
    )


def upsert(database: str, *frames: pl.DataFrame, market: Market = BTC) -> Written:
    done = Written(0, 0)
    with connect(database) as connection:
        for frame in frames:
            done += upsert_candles(connection, {market: frame})
    return done


def test_a_newer_revision_replaces_an_older_one(database: str) -> None:
    assert upsert(database, issue(0)) == Written(10, 0)
    assert upsert(database, issue(2)) == Written(10, 0)
    assert_frame_equal(held_candles(database), issue(2))


def test_an_older_revision_never_wins_and_an_equal_one_changes_nothing(database: str) -> None:
    upsert(database, issue(2))
    assert upsert(database, issue(1)) == Written(0, 10)
    assert upsert(database, issue(2, volume=99.0)) == Written(0, 10)
    assert_frame_equal(held_candles(database), issue(2))


def test_revisions_in_any_order_and_batching_end_at_the_highest(database: str) -> None:
    issues = [issue(revision) for revision in (0, 1, 2, 3, 3, 1)]
    random.Random(1).shuffle(issues)
    with connect(database) as connection:
        first = upsert_candles(connection, {BTC: pl.concat(issues[:3]), ETH: issue(7)})
        second = upsert_candles(connection, {BTC: pl.concat(issues[3:])})
    assert (first.written + first.ignored, second.written + second.ignored) == (40, 30)
    assert_frame_equal(held_candles(database), pl.concat([issue(3), issue(7)]))


def test_the_rest_of_a_candle_comes_with_its_revision(database: str) -> None:
    upsert(database, issue(0).with_columns(pl.lit("partial").alias("coverage")))
    newer = issue(1).with_columns(
        pl.lit(None, pl.Float64).alias("taker_buy_volume"), pl.lit("exchange").alias("source")
    )
    upsert(database, newer)
    assert_frame_equal(held_candles(database), newer)


def test_a_transaction_that_is_rolled_back_leaves_no_candle(database: str) -> None:
    with connect(database) as connection:
        upsert_candles(connection, {BTC: issue(0)})
        connection.rollback()
        with pytest.raises(UnknownName):
            market_id(connection, BTC)
    assert held_candles(database).is_empty()


def test_wider_candles_follow_an_upsert(database: str) -> None:
    upsert(database, issue(0, volume=1.0))
    upsert(database, issue(1, volume=2.0))
    assert one(database, "SELECT sum(volume) FROM candle_1h") == pytest.approx(20.0)
    assert one(database, "SELECT max(revision) FROM candle_1h") == 1
