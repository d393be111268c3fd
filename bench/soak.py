"""The candle service for ten minutes at 50,000 trades a second: what its memory does.

``python -m bench soak``. One trade a message as JSON, four markets, three intervals, a real broker; sender,
broker and service share the machine. The service's resident memory is read every second.
"""

import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import polars as pl

from bench.streaming import _MARKETS, _PARTITIONS, _PROGRAM, _topics
from bench.streaming_core import trades_at
from bench.table import Row
from marketdata.bus.look import committed
from marketdata.bus.messages import JSON_TRADES, encode_trades, key_of
from marketdata.bus.producer import Producer
from realtime.services.checkpoint import Checkpoint
from tests.kafka.broker import Broker, missing

_RATE, _MINUTES = 50_000, 10.0
# Imports, the first windows and the client's buffers are there by then.
_WARM_S = 60.0


def run(minutes: float = _MINUTES, rate: int = _RATE) -> list[Row]:
    """Measure; ``minutes`` and a few seconds."""
    if (absent := missing()) is not None:
        print(f"Not measured: a Kafka broker needs more: {absent}.")
        return []
    broker = Broker().start()
    try:
        return _soak(broker.bootstrap, minutes, rate)
    finally:
        broker.close()


def _soak(bootstrap: str, minutes: float, rate: int) -> list[Row]:
    prefix, topics = _topics(bootstrap)
    each = rate // len(_MARKETS)
    base = trades_at(each, each)
    began_at = datetime.now(UTC).replace(microsecond=0)
    shift = began_at - base["time"][0].replace(microsecond=0)
    sizes: list[tuple[float, int]] = []
    sent = late = 0
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        service = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "stream", "candles", "--no-history"],
            env={
                **os.environ,
                "MARKETDATA_KAFKA_BOOTSTRAP_SERVERS": bootstrap,
                "MARKETDATA_KAFKA_TOPIC_PREFIX": prefix,
                "MARKETDATA_HOME": home,
            },
            stderr=subprocess.DEVNULL,
        )
        producer = Producer(bootstrap)
        try:
            began = time.monotonic()
            for second in range(int(minutes * 60)):
                moved = base.with_columns(
                    pl.col("time") + (shift + timedelta(seconds=second)), pl.col("trade_id") + second * each
                )
                values = encode_trades(moved, "json")
                for market in _MARKETS:
                    producer.send(topics.trades, key_of(market), values, JSON_TRADES)
                    sent += len(values)
                sizes.append((time.monotonic() - began, _resident(service.pid)))
                behind = time.monotonic() - began - (second + 1)
                late += behind > 1
                time.sleep(max(0.0, -behind))
            producer.flush()
            took = time.monotonic() - began
            caught = _caught_up(bootstrap, prefix, topics.trades, sent)
        finally:
            producer.close()
            service.terminate()
            service.wait(30)
    warm = [size for at, size in sizes if at > min(_WARM_S, took / 4)]
    third = max(1, len(warm) // 3)
    first, last = median(warm[:third]) / 1e6, median(warm[-third:]) / 1e6
    what = f"candle service, {minutes:.0f} minutes at {rate:,} trades/s"
    note = f"{sent:,} trades in {took:.0f} s, each a JSON message; the sender was late in {late} seconds"
    return [
        Row(f"{what}: memory, last third less first", last - first, "MB", "<= 20", note=note),
        Row(f"{what}: memory, most", max(warm) / 1e6, "MB", note=f"median of the last third {last:.0f} MB"),
        Row(
            f"{what}: caught up after the last trade", caught, "s", note="its offsets are behind the last one"
        ),
    ]


def _resident(pid: int) -> int:
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) * 1024


def _caught_up(bootstrap: str, prefix: str, topic: str, sent: int) -> float:
    """Seconds until everything that was sent has been handled."""
    places = [(topic, partition) for partition in range(_PARTITIONS)]
    began = time.monotonic()
    while time.monotonic() - began < 120:
        done = committed(bootstrap, f"{prefix}.candles", places)
        if sum(Checkpoint.parse(one.offset, one.metadata).position for one in done.values()) >= sent:
            break
        time.sleep(0.1)
    return time.monotonic() - began
