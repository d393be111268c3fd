"""Candles put right: in the store, in wider ones, and for those who read them live."""

import time
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata import Provider
from marketdata.bus.topics import Topics, create_topics
from marketdata.candle import CANDLE_SCHEMA
from marketdata.correcting import correct
from marketdata.errors import TransientError
from marketdata.fold import fold
from marketdata.settings import Settings
from marketdata.store import streamed
from marketdata.store.candles import STORED_SCHEMA, upsert_candles
from marketdata.store.engine import connect
from marketdata.store.load import replace_day
from tests.store.conftest import database, server
from tests.store.days import BTC, DAY, Day, held_candles, held_trades, one, trades_of_day
from tests.test_live import take

__all__ = ["database", "server"]
TRUTH = Day(trades_of_day(14_400))
TEN = TRUTH.candles.head(10)
NAMES = CANDLE_SCHEMA.names()
END = TEN["open_time"][-1] + timedelta(minutes=1)


def without(minute: int, trades: int = 1) -> pl.DataFrame:
    """The first ten candles as a stream makes them that has not seen the last trades of a minute."""
    opens = TEN["open_time"][minute]
    inside = TRUTH.trades.filter(
        pl.col("time").is_between(opens, opens + timedelta(minutes=1), closed="left")
    )
    lost = inside.tail(trades)["trade_id"].to_list()
    return fold(TRUTH.trades.filter(~pl.col("trade_id").is_in(lost)), "1m").head(10)


def said(candles: pl.DataFrame, source: str = "stream", revision: int = 0) -> pl.DataFrame:
    return candles.with_columns(
        pl.lit(revision, pl.Int32).alias("revision"),
        pl.lit(source).alias("source"),
        pl.lit("unknown").alias("coverage"),
    ).select(STORED_SCHEMA.names())


def stream(url: str, candles: pl.DataFrame, revision: int = 0) -> None:
    with connect(url) as connection:
        upsert_candles(connection, {BTC: said(candles, revision=revision)})


@pytest.fixture
def settings(database: str, tmp_path: Path) -> Settings:
    return Settings.load(home=tmp_path, database_url=database, kafka_bootstrap_servers=None)


def test_a_wrong_candle_gets_a_higher_revision_and_a_right_one_keeps_its_own(
    settings: Settings, database: str
) -> None:
    stream(database, without(3))
    done = correct(settings, BTC, TEN)
    assert (done.changed, done.removed, done.published) == (1, 0, 0)
    held = held_candles(database)
    assert_frame_equal(held.select(NAMES), TEN, rel_tol=1e-9)
    assert held["revision"].to_list() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert held["source"].to_list() == ["stream"] * 3 + ["repair"] + ["stream"] * 6
    assert held["coverage"][3] == "complete"


def test_correcting_twice_changes_nothing_and_gives_the_same_revisions(
    settings: Settings, database: str
) -> None:
    stream(database, without(3), revision=4)
    first = correct(settings, BTC, TEN)
    again = correct(settings, BTC, TEN)
    assert (first.changed, again.changed) == (1, 0)
    assert_frame_equal(first.candles, again.candles)
    assert again.candles["revision"][3] == 5


def test_wider_candles_follow(settings: Settings, database: str) -> None:
    stream(database, without(3))
    correct(settings, BTC, TEN)
    assert one(database, "SELECT sum(volume) FROM candle_5m") == pytest.approx(TEN["volume"].sum())
    assert one(database, "SELECT count(*) FROM candle_stale") == 0


def test_a_hole_is_filled_and_nothing_that_is_held_is_touched_where_that_was_asked(
    settings: Settings, database: str
) -> None:
    stream(database, without(3)[:8])
    theirs = TEN.with_columns(pl.lit(None, pl.Int64).alias("first_trade_id"))
    done = correct(settings, BTC, theirs, source="exchange", coverage="partial", replace=False)
    assert done.changed == 2
    held = held_candles(database)
    assert held["source"].to_list() == ["stream"] * 8 + ["exchange"] * 2
    assert held["revision"].to_list() == [0] * 10
    made = correct(settings, BTC, TEN)
    assert made.changed == 3
    assert held_candles(database)["revision"].to_list() == [0, 0, 0, 1, 0, 0, 0, 0, 1, 1]


def test_a_candle_that_should_not_be_there_is_removed(settings: Settings, database: str) -> None:
    stream(database, TEN)
    done = correct(settings, BTC, TEN.clear(), remove=[TEN["open_time"][2]])
    assert (done.removed, done.unpublished) == (1, 1)
    assert held_candles(database)["open_time"].to_list() == [
        t for n, t in enumerate(TEN["open_time"]) if n != 2
    ]


def test_without_a_store_nothing_is_done(tmp_path: Path) -> None:
    bare = Settings.load(home=tmp_path, database_url=None, kafka_bootstrap_servers=None)
    assert correct(bare, BTC, TEN).candles.is_empty()


def test_what_the_stream_said_is_known_after_a_correction_and_after_a_load(
    settings: Settings, database: str
) -> None:
    less = without(3)
    stream(database, less)
    start, end = TEN["open_time"][0], END
    assert_frame_equal(streamed.read(settings, BTC, start, end), said(less))
    correct(settings, BTC, TEN)
    assert_frame_equal(streamed.read(settings, BTC, start, end), said(less))
    replace_day(database, BTC, DAY, TRUTH.trades, TRUTH.candles, TRUTH.manifest)
    assert set(held_candles(database)["source"]) == {"batch"}
    assert_frame_equal(streamed.read(settings, BTC, start, end), said(less))
    assert len(held_trades(database)) == len(TRUTH.trades)
    stream(database, less, revision=7)
    assert streamed.read(settings, BTC, start, end)["revision"].to_list() == [7] * 10


def test_a_market_of_which_nothing_was_streamed_has_said_nothing(settings: Settings) -> None:
    assert streamed.read(settings, BTC, TEN["open_time"][0], END).is_empty()


def test_a_live_reader_is_given_the_corrected_candle_once(
    settings: Settings, database: str, broker: str
) -> None:
    told = settings.model_copy(
        update={"kafka_bootstrap_servers": broker, "kafka_topic_prefix": f"right{time.monotonic_ns()}"}
    )
    topics = Topics.of(told)
    create_topics(told, topics, partitions=1)
    stream(database, without(3))
    now = TEN["open_time"][-1] + timedelta(minutes=3)
    with Provider(told, clock=lambda: now) as provider, provider.live(BTC, "1m", 10) as live:
        before = take(live, 10)
        assert_frame_equal(before.select(NAMES), without(3), rel_tol=1e-9)
        wrong = TEN[3:4]
        assert correct(told, BTC, wrong).published == 1
        assert correct(told, BTC, wrong).published == 1  # as a run that was killed does it again
        after = take(live, 1)
        assert_frame_equal(after.select(NAMES), wrong, rel_tol=1e-9)
        assert after.select("revision", "final", "partial", "correction").row(0) == (1, True, False, True)
        assert correct(told, BTC, TEN[5:6]).published == 1  # which was right: no reader is told again
        assert correct(told, BTC, TRUTH.candles[10:11]).published == 1
        assert take(live, 1)["open_time"].to_list() == [END]


def test_a_broker_that_is_away_is_told_at_the_next_run(
    settings: Settings, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketdata.correcting._TIMEOUT_S", 1.0)
    stream(database, without(3))
    away = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(TransientError):
        correct(away, BTC, TEN[3:4])
    assert held_candles(database)["revision"][3] == 1
    assert correct(settings, BTC, TEN[3:4]).candles["revision"].to_list() == [1]


def test_an_exchange_candle_has_no_ids_and_is_not_published(
    settings: Settings, database: str, broker: str
) -> None:
    told = settings.model_copy(
        update={"kafka_bootstrap_servers": broker, "kafka_topic_prefix": f"ids{time.monotonic_ns()}"}
    )
    create_topics(told, Topics.of(told), partitions=1)
    theirs = TEN.with_columns(pl.lit(None, pl.Int64).alias("first_trade_id"))
    done = correct(told, BTC, theirs, source="exchange")
    assert (done.changed, done.published, done.unpublished) == (10, 0, 10)
