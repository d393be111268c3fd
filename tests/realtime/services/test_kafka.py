"""Services on Kafka: dead letters and their replay, replay of trades, rows in the store."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from marketdata.bus.look import Looker
from marketdata.bus.messages import (
    JSON_TRADES,
    DeadLetter,
    decode_candles,
    decode_trades,
    encode_trades,
    key_of,
)
from marketdata.bus.producer import Producer
from marketdata.bus.topics import Topics, create_topics
from marketdata.fold import fold
from marketdata.interval import to_us
from marketdata.settings import Settings
from realtime.services import apps, letters
from realtime.services.feed_service import positions
from realtime.services.history import NoHistory
from tests.kafka.patience import patiently
from tests.realtime.faults.world import day_of_trades
from tests.realtime.test_candles import BTC, ETH

_NUMBERS = count(1)
# What is put where a good trade would stand, and the reason it is refused with.
_POISON: list[tuple[dict[str, Any] | bytes, str]] = [
    ({"price": -5.0}, "price not positive"),
    ({"price": 0.0}, "price not positive"),
    ({"amount": 0.0}, "amount not positive"),
    ({"time": to_us(datetime(2090, 1, 1, tzinfo=UTC))}, "time in the future"),
    ({"time": None}, "time absent or unreadable"),
    ({"price": "a lot"}, "price absent or unreadable"),
    ({"fills": 0}, "fills not positive"),
    (b'{"trade_id":7,"time":', "not JSON, or cut"),
    (b"", "value empty"),
]


@pytest.fixture
def settings(broker: str, tmp_path: Path) -> Settings:
    prefix = f"s{time.monotonic_ns()}-{next(_NUMBERS)}"
    made = Settings.load(
        kafka_bootstrap_servers=broker, kafka_topic_prefix=prefix, kafka_partitions=2, home=tmp_path
    )
    create_topics(broker, Topics.of(made), partitions=2)
    return made


def send(settings: Settings, values: list[bytes], market: object = BTC) -> None:
    with closing(Producer(settings)) as producer:
        producer.send(Topics.of(settings).trades, key_of(market), values, JSON_TRADES)  # type: ignore[arg-type]
        producer.flush()


def read(settings: Settings, topic: str) -> list[Any]:
    def look() -> list[Any]:
        with Looker(settings) as looker:
            return list(looker.messages(looker.bounds([topic])))

    return patiently(look)


@contextmanager
def running(settings: Settings) -> Iterator[None]:
    """The candle service in a thread."""
    stop = threading.Event()

    def serve() -> None:
        apps.run_candles(settings, ["1s", "1m"], history=NoHistory(), stop=stop)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(240)


def until(condition: Any, within_s: float = 240.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_each_corrupted_message_is_a_dead_letter_and_all_others_count(settings: Settings) -> None:
    trades = day_of_trades(5, 380, 20.0)
    good = encode_trades(trades)
    values, wanted = list[bytes](), dict[int, tuple[bytes, str]]()
    for number, value in enumerate(good):
        if number % 20 == 7:
            broken, reason = _POISON[number // 20 % len(_POISON)]
            bad = broken if isinstance(broken, bytes) else orjson.dumps(orjson.loads(value) | broken)
            wanted[len(values)] = (bad, reason)
            values.append(bad)
        values.append(value)
    topics = Topics.of(settings)
    with running(settings):
        send(settings, values)
        until(lambda: len(read(settings, topics.dead_letter)) >= len(wanted))
        until(lambda: finals(settings) is not None)
    found = [DeadLetter.read(message) for message in read(settings, topics.dead_letter)]
    assert {one.offset: (one.message.value_bytes or b"", one.reason) for one in found} == wanted
    assert len(found) == len(wanted)
    candles = finals(settings)
    assert candles is not None
    assert candles["trade_count"].sum() == fold(trades[:-1], "1m")["trade_count"].sum()


def finals(settings: Settings) -> pl.DataFrame | None:
    """Final minutes, once the one of the last trade but the closing one is there."""
    decoded = decode_candles(read(settings, Topics.of(settings).candles))
    for batch in decoded.batches:
        minutes = batch.candles.filter(pl.col("final") & (pl.col("interval") == "1m"))
        if 1_000 + 379 in minutes["last_trade_id"]:
            return minutes.filter(pl.col("last_trade_id") <= 1_000 + 379)
    return None


def test_a_dead_letter_that_can_be_read_now_is_sent_again_once(settings: Settings) -> None:
    topics = Topics.of(settings)
    soon = datetime.now(UTC) + timedelta(minutes=30)
    future = (
        day_of_trades(6, 1, 1.0)
        .head(1)
        .with_columns(pl.lit(soon).alias("time").cast(pl.Datetime("us", "UTC")))
    )
    with running(settings):
        send(settings, [*encode_trades(future), b"{"])
        until(lambda: len(read(settings, topics.dead_letter)) == 2)
    shown = patiently(lambda: letters.latest(settings.kafka_bootstrap_servers or "", topics, 10))
    assert shown["reason"].sort().to_list() == ["not JSON, or cut", "time in the future"]
    assert shown["topic"].unique().to_list() == [topics.trades]
    where = settings.kafka_bootstrap_servers or ""
    later = soon + timedelta(minutes=1)
    assert letters.replay(where, topics, "again", later) == letters.Replayed(1, 1)
    assert letters.replay(where, topics, "again", later) == letters.Replayed(0, 1)
    assert len(read(settings, topics.trades)) == 3
    (again,) = decode_trades(read(settings, topics.trades)[2:], now=later).batches
    assert again.trades.equals(future)


def test_a_feed_goes_on_behind_the_last_trade_in_the_topic(settings: Settings) -> None:
    trades = day_of_trades(7, 50, 10.0)
    send(settings, encode_trades(trades[:-1]))
    send(settings, encode_trades(trades[:10]), ETH)
    now = trades["time"][-1]
    where, topics = settings.kafka_bootstrap_servers or "", Topics.of(settings)
    found = patiently(lambda: positions(where, topics, [BTC, ETH], now))
    assert {market: at.trade_id for market, at in found.items()} == {BTC: 1_049, ETH: 1_009}
