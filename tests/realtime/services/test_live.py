"""From trades through the candle service to whoever follows: history and live are one."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata import Provider
from marketdata.bus.messages import JSON_TRADES, encode_trades, key_of
from marketdata.bus.producer import Producer
from marketdata.bus.topics import Topics, create_topics
from marketdata.candle import CANDLE_SCHEMA
from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.manifest import Status
from marketdata.settings import Settings
from realtime.services import apps
from realtime.services.history import NoHistory
from tests.conftest import ROOT
from tests.lake.world import BTC, manifest_of
from tests.realtime.faults.world import day_of_trades

PROGRAM = "from marketdata.cli.main import run; run()"
NUMBERS = count(1)
NAMES = CANDLE_SCHEMA.names()


@pytest.fixture
def settings(broker: str, tmp_path: Path) -> Settings:
    made = Settings.load(
        kafka_bootstrap_servers=broker,
        kafka_topic_prefix=f"e{time.monotonic_ns()}-{next(NUMBERS)}",
        kafka_partitions=2,
        home=tmp_path,
        database_url=None,
    )
    create_topics(broker, Topics.of(made), partitions=2)
    return made


@contextmanager
def candle_service(settings: Settings) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(
        target=lambda: apps.run_candles(settings, ["1s", "1m"], history=NoHistory(), stop=stop)
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(240)


def hold(settings: Settings, trades: pl.DataFrame) -> Lake:
    lake = Lake.open(settings.lake_url, settings=settings)
    day = trades["time"][0].date()
    lake.write_trades(BTC, day, trades, manifest_of(BTC, day, trades, Status.GAPS))
    return lake


def send(settings: Settings, trades: pl.DataFrame) -> None:
    producer = Producer(settings)
    producer.send(Topics.of(settings).trades, key_of(BTC), encode_trades(trades), JSON_TRADES)
    producer.flush()
    producer.close()


@pytest.mark.parametrize("interval", ["1s", "1m", "5m"])
def test_what_was_followed_is_what_history_says_later(settings: Settings, interval: str) -> None:
    trades = day_of_trades(11, 6_000, 5.0)
    split, early, late = 2_500, 1_500, 4_000
    lake = hold(settings, trades[:split])
    middle = trades["time"][late]
    with candle_service(settings):
        send(settings, trades[early:late])
        found: list[pl.DataFrame] = []
        begin, end = trades["time"][0], trades["time"][-1]
        with (
            Provider(settings, lake=lake, clock=lambda: middle) as provider,
            provider.live(BTC, interval, start=begin) as live,
        ):
            guard = threading.Timer(240, live.stop)
            guard.start()
            try:
                found.append(next(live))
                send(settings, trades[late:])
                last = fold(trades[:-1], interval)["open_time"][-1]
                while found[-1]["open_time"][-1] < last:
                    found.append(next(live))
            finally:
                guard.cancel()
    hold(settings, trades)
    with Provider(settings, lake=lake, clock=lambda: end) as provider:
        history = provider.candles(BTC, interval, begin, last + timedelta(microseconds=1))
    # A candle that is corrected is told again; the last word counts.
    told = pl.concat(found).filter(pl.col("open_time") <= last)
    latest = told.unique("open_time", keep="last").sort("open_time")
    assert_frame_equal(latest.select(NAMES), history, rel_tol=1e-9)
    firsts = told.filter(~pl.col("correction"))["open_time"]
    assert firsts.is_sorted()
    assert firsts.n_unique() == len(firsts)


@pytest.mark.parametrize("program", ["command", "example"])
def test_the_command_and_the_example_follow_until_they_are_interrupted(
    settings: Settings, program: str
) -> None:
    trades = day_of_trades(12, 6_000, 2.0)
    hold(settings, trades[:4_000])
    what = {
        "command": ["-c", PROGRAM, "candles", str(BTC), "-i", "1s", "--follow", "--format", "csv"],
        "example": ["examples/crossings.py", str(BTC), "1s", "--live"],
    }[program]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MARKETDATA_HOME": str(settings.home),
        "MARKETDATA_KAFKA_BOOTSTRAP_SERVERS": str(settings.kafka_bootstrap_servers),
        "MARKETDATA_KAFKA_TOPIC_PREFIX": settings.kafka_topic_prefix,
    }
    environment.pop("MARKETDATA_DATABASE_URL", None)
    with candle_service(settings):
        send(settings, trades[2_000:])
        process = subprocess.Popen(
            [sys.executable, *what],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        guard = threading.Timer(240, process.kill)
        guard.start()
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=240)
        guard.cancel()
    assert all(lines)
    assert "Traceback" not in said
    assert process.returncode == 130
