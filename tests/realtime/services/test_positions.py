"""Where a feed goes on: behind the newest trade in the topic, whatever was replayed into it since."""

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count

import polars as pl
import pytest

from marketdata.bus.messages import JSON_TRADES, encode_trades, key_of
from marketdata.bus.mock import MockCluster
from marketdata.bus.producer import Producer
from marketdata.bus.topics import Topics, create_topics
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.trade import TRADE_SCHEMA
from realtime.services.feed_service import positions
from tests.kafka.patience import patiently
from tests.realtime.test_candles import BTC, ETH

_NUMBERS = count(1)
MINUTE = timedelta(minutes=1)
# More than are looked at at first.
REPLAYED = 3_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with MockCluster() as running:
        yield running.bootstrap


@pytest.fixture
def settings(cluster: str) -> Settings:
    made = Settings.load(
        kafka_bootstrap_servers=cluster, kafka_topic_prefix=f"p{time.monotonic_ns()}-{next(_NUMBERS)}"
    )
    list(create_topics(cluster, Topics.of(made), partitions=1))
    return made


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


def send(settings: Settings, first_id: int, count: int, begin: datetime, market: Market = BTC) -> None:
    rows = [(first_id + n, begin + n * timedelta(milliseconds=1), 100.0, 1.0, "buy", 1) for n in range(count)]
    trades = pl.DataFrame(rows, schema=TRADE_SCHEMA, orient="row")
    with closing(Producer(settings)) as producer:
        producer.send(Topics.of(settings).trades, key_of(market), encode_trades(trades), JSON_TRADES)
        producer.flush()


def ids(settings: Settings, now: datetime) -> dict[Market, int]:
    where, topics = settings.kafka_bootstrap_servers or "", Topics.of(settings)
    found = patiently(lambda: positions(where, topics, [BTC, ETH], now))
    return {market: at.trade_id for market, at in found.items()}


@pytest.mark.parametrize("age", [timedelta(days=500), timedelta(hours=2)], ids=str)
def test_a_replay_behind_live_trades_does_not_move_a_feed_into_the_past(
    settings: Settings, now: datetime, age: timedelta
) -> None:
    send(settings, 9_000, 100, now - MINUTE)
    send(settings, 1_000, REPLAYED, now - age)
    assert ids(settings, now) == {BTC: 9_099}


def test_a_quiet_market_is_found_before_a_busy_one_and_a_replay(settings: Settings, now: datetime) -> None:
    send(settings, 70, 5, now - 60 * MINUTE, ETH)
    send(settings, 1_000, REPLAYED, now - timedelta(days=500))
    send(settings, 9_000, 2_500, now - MINUTE)
    assert ids(settings, now) == {BTC: 11_499, ETH: 74}


def test_a_topic_with_nothing_newer_than_twelve_hours_leaves_it_to_the_batch_side(
    settings: Settings, now: datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    send(settings, 70, 5, now - timedelta(hours=13))
    assert ids(settings, now) == {}
    assert "left to the batch side" in capsys.readouterr().out


def test_a_trade_of_the_future_is_no_place_to_go_on(settings: Settings, now: datetime) -> None:
    send(settings, 70, 5, now - MINUTE)
    send(settings, 900, 1, now + timedelta(days=400))
    assert ids(settings, now) == {BTC: 74}
