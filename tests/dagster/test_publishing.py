"""A run of the trades asset publishes its pages, where the settings ask for it."""

import time

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata.bus.consumer import BatchConsumer
from marketdata.bus.messages import decode_trades
from marketdata.bus.topics import Topics, create_topics
from marketdata.manifest import day_window
from marketdata.trade import distinct
from marketdata_dagster.defs.partitions import Job
from tests.dagster.conftest import DAYS, DOT, NOW, World


def test_a_run_publishes_each_page_and_says_coverage_in_its_log(
    world: World, broker: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    prefix = f"dagster-{time.time_ns()}"
    topics = Topics.named(prefix)
    create_topics(broker, topics, partitions=1)
    monkeypatch.setenv("MARKETDATA_KAFKA_BOOTSTRAP_SERVERS", broker)
    monkeypatch.setenv("MARKETDATA_KAFKA_TOPIC_PREFIX", prefix)
    monkeypatch.setenv("MARKETDATA_PUBLISH_BACKFILL", "true")
    assert world.run(Job(DOT, DAYS[0]), assets=("trades",)).success
    held = world.lake.read_trades(DOT, *day_window(DAYS[0]))
    assert f"{DOT}: {len(held):,} trades, 1 of 1 days, " in capfd.readouterr().err
    found: list[pl.DataFrame] = []
    until = time.monotonic() + 240
    with BatchConsumer(broker, [topics.backfill], "g") as consumer:
        while sum(map(len, found)) < len(held) and time.monotonic() < until:
            decoded = decode_trades(consumer.poll(5_000, 0.1), now=NOW)
            assert decoded.rejects == []
            found += [batch.trades for batch in decoded.batches]
    assert_frame_equal(distinct(pl.concat(found)), held)


def test_a_run_that_cannot_publish_fails_with_one_sentence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("MARKETDATA_PUBLISH_BACKFILL", "true")
    result = world.run(Job(DOT, DAYS[0]), assets=("trades",))
    assert not result.success
    (event,) = result.get_step_failure_events()
    told = event.step_failure_data.error_display_string
    assert "Set MARKETDATA_KAFKA_BOOTSTRAP_SERVERS=HOST:PORT." in told
    assert world.lake.manifest(DOT, DAYS[0]) is None
