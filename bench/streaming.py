"""The streamer through a real broker: throughput, latency, and trades to candles in the store.

``python -m bench streaming``. Apache Kafka in KRaft mode on this machine, one node, acks=all; services are
processes of their own, as they run; everything shares the machine's cores.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl

from bench.streaming_core import trades_at
from bench.table import Row
from marketdata.bus.consumer import BatchConsumer
from marketdata.bus.look import committed
from marketdata.bus.messages import (
    ARROW_TRADES,
    JSON_TRADES,
    Format,
    decode_candles,
    encode_trades,
    key_of,
)
from marketdata.bus.producer import LIVE_LINGER_MS, Producer
from marketdata.bus.topics import Topics, create_topics
from marketdata.interval import to_us
from marketdata.market import Market
from marketdata.trade import TRADE_SCHEMA
from realtime.services.checkpoint import Checkpoint
from tests.kafka.broker import Broker, missing

_PARTITIONS = 2
_MARKETS = tuple(Market.parse(f"kraken:{base}/USD") for base in ("BTC", "ETH", "SOL", "XRP"))
_PROGRAM = "from marketdata.cli.main import run; run()"
_JSON, _ARROW = 3_000_000, 20_000_000
_LATENCY_S, _LATENCY_RATE = 30, 1_000
_END_TO_END = 500_000


def run(json_rows: int = _JSON, arrow_rows: int = _ARROW, latency_s: float = _LATENCY_S) -> list[Row]:
    """Measure; about three minutes."""
    if (absent := missing()) is not None:
        print(f"Not measured: a Kafka broker needs more: {absent}.")
        return []
    broker = Broker(soon=False).start()
    try:
        _rate(broker.bootstrap, "json", 200_000)  # the broker's own code is compiled by then
        _rate(broker.bootstrap, "arrow", 1_000_000)
        json = median(_rate(broker.bootstrap, "json", json_rows) for _ in range(3))
        arrow = median(_rate(broker.bootstrap, "arrow", arrow_rows) for _ in range(3))
        ages = _ages(broker.bootstrap, latency_s)
        took = median(_to_store(broker.bootstrap) for _ in range(3))
    finally:
        broker.close()
    middle, high = (float(np.percentile(ages, share)) * 1e3 for share in (50, 99))
    what = "candle service through a broker, three intervals"
    how = "four markets on two partitions; the median of three runs"
    age = f"{len(ages):,} updates at {_LATENCY_RATE:,} trades/s; the newest trade in each is this old"
    return [
        Row(f"{what}, JSON", json, "trades/s", ">= 300000", note=f"one trade a message; {how}"),
        Row(f"{what}, Arrow", arrow, "trades/s", ">= 2000000", note=f"5,000 trades a message; {how}"),
        Row("trade sent to candle update readable, p50", middle, "ms", "<= 5", note=age),
        Row("the same, p99", high, "ms", "<= 50", note=age),
        Row(
            f"{_END_TO_END:,} trades from produce to final candles in the store",
            took,
            "s",
            "<= 3",
            note="Arrow messages; candle service and sink running; PostgreSQL on this machine",
        ),
    ]


@contextmanager
def _service(bootstrap: str, prefix: str, *arguments: str, **environment: str) -> Iterator[None]:
    """A service as a process."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "stream", *arguments],
            env={
                **os.environ,
                "MARKETDATA_KAFKA_BOOTSTRAP_SERVERS": bootstrap,
                "MARKETDATA_KAFKA_TOPIC_PREFIX": prefix,
                "MARKETDATA_HOME": home,
                **environment,
            },
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def _topics(bootstrap: str) -> tuple[str, Topics]:
    prefix = f"bench-{time.monotonic_ns()}"
    topics = Topics.named(prefix)
    create_topics(bootstrap, topics, partitions=_PARTITIONS)
    return prefix, topics


def _produce(bootstrap: str, topics: Topics, trades: pl.DataFrame, fmt: Format) -> None:
    producer = Producer(bootstrap)
    headers = JSON_TRADES if fmt == "json" else ARROW_TRADES
    for part in trades.iter_slices(5_000):
        values = encode_trades(part, fmt)
        for market in _MARKETS:
            producer.send(topics.trades, key_of(market), values, headers)
    producer.flush()
    producer.close()


def _rate(bootstrap: str, fmt: Format, rows: int) -> float:
    """Trades a second of a backlog: from the first commit of offsets to the one behind the last message."""
    prefix, topics = _topics(bootstrap)
    _produce(bootstrap, topics, trades_at(20_000, rows // len(_MARKETS)), fmt)
    per_message = 1 if fmt == "json" else 5_000
    places = [(topics.trades, partition) for partition in range(_PARTITIONS)]
    seen: list[tuple[float, int]] = []
    with _service(bootstrap, prefix, "candles", "--no-history"):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            done = committed(bootstrap, f"{prefix}.candles", places)
            now = time.monotonic()
            handled = per_message * sum(
                Checkpoint.parse(one.offset, one.metadata).position for one in done.values()
            )
            if handled and (not seen or handled > seen[-1][1]):
                seen.append((now, handled))
            if handled >= rows // len(_MARKETS) * len(_MARKETS):
                break
            time.sleep(0.05)
    (began, first), (ended, last) = seen[0], seen[-1]
    return (last - first) / (ended - began) if ended > began else last / 0.05


def _ages(bootstrap: str, seconds: float) -> list[float]:
    """Ages of the newest trade in each running candle of 1s when it can be read."""
    prefix, topics = _topics(bootstrap)
    sent: dict[int, float] = {}
    ages: list[float] = []
    stop = threading.Event()

    def read() -> None:
        with BatchConsumer(bootstrap, [topics.candles], "reader", start="latest") as reader:
            while not stop.is_set():
                messages = reader.poll(1_000, 0.1)
                now = time.perf_counter()
                for batch in decode_candles(messages).batches if messages else ():
                    running = batch.candles.filter(~pl.col("final") & (pl.col("interval") == "1m"))
                    ages.extend(now - sent[n] for n in running["last_trade_id"] if n in sent)

    thread = threading.Thread(target=read)
    with _service(bootstrap, prefix, "candles", "--no-history"):
        thread.start()
        producer = Producer(bootstrap, linger_ms=LIVE_LINGER_MS)  # as the feed does
        key, began, number = key_of(_MARKETS[0]), time.perf_counter() + 6, 0
        # The first seconds are the service's and the reader's start.
        while (now := time.perf_counter()) < began + seconds:
            time.sleep(max(0.0, began - 6 + number / _LATENCY_RATE - now))
            number += 1
            value = _trade(number)
            if now > began:
                sent[number] = time.perf_counter()
            producer.send(topics.trades, key, [value], JSON_TRADES)
        producer.flush()
        time.sleep(1)
        stop.set()
        thread.join()
    return ages


def _trade(number: int) -> bytes:
    now = to_us(datetime.now(UTC))
    return b'{"trade_id":%d,"time":%d,"price":100.5,"amount":0.25,"side":"buy","fills":1}' % (number, now)


def _to_store(bootstrap: str) -> float:
    """Seconds from the first trade sent to the last final candle that can be read from the store."""
    from marketdata.settings import Settings  # noqa: PLC0415
    from marketdata.store import migrate  # noqa: PLC0415
    from marketdata.store.embedded import EmbeddedServer  # noqa: PLC0415
    from marketdata.store.engine import connect  # noqa: PLC0415

    prefix, topics = _topics(bootstrap)
    each = _END_TO_END // len(_MARKETS)
    trades = trades_at(500, each)
    closing = trades.tail(1).with_columns(pl.col("time") + timedelta(minutes=10), pl.col("trade_id") + 1)
    minutes = trades["time"].dt.truncate("1m").n_unique()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, EmbeddedServer(Path(folder)) as url:
        migrate.upgrade(url, "head", settings=Settings.load(database_url=url))
        with (
            _service(bootstrap, prefix, "candles", "--no-history"),
            _service(bootstrap, prefix, "sink", "candles", MARKETDATA_DATABASE_URL=url),
            connect(url, autocommit=True) as connection,
        ):
            time.sleep(8)  # both have their partitions by then
            began = time.monotonic()
            _produce(bootstrap, topics, pl.concat([trades, closing]).select(TRADE_SCHEMA.names()), "arrow")
            while time.monotonic() < began + 60:
                row = connection.execute("SELECT count(*) FROM candle").fetchone()
                if row is not None and row[0] >= minutes * len(_MARKETS):
                    return time.monotonic() - began
                time.sleep(0.02)
    raise AssertionError
