"""Services as processes on a real broker, that are killed and started again; and what came out of them."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

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
from marketdata.candle import CANDLE_SCHEMA
from marketdata.fold import fold_many
from marketdata.interval import to_us
from marketdata.market import Market
from marketdata.trade import TRADE_SCHEMA
from tests.realtime.test_candles import NOON

INTERVALS = ("1s", "10s", "1m")
MARKETS = tuple(Market.parse(f"kraken:{base}/USD") for base in ("BTC", "ETH", "SOL", "XRP"))
_NUMBERS = count(1)
_PROGRAM = "from marketdata.cli.main import run; run()"


def day_of_trades(seed: int, rows: int, a_second: float) -> pl.DataFrame:
    """Trades of one market from noon on, and one ten minutes behind them, which closes what is open."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1e6 / a_second, rows)).astype(np.int64) + to_us(NOON)
    times = np.append(times, times[-1] + 600_000_000)
    return pl.DataFrame(
        {
            "trade_id": np.arange(rows + 1) + 1_000,
            "time": times,
            "price": np.round(100 + np.cumsum(rng.normal(0, 0.01, rows + 1)) % 50, 2),
            "amount": np.round(rng.exponential(0.5, rows + 1) + 1e-4, 5),
            "side": rng.choice(["buy", "sell"], rows + 1),
            "fills": rng.integers(1, 3, rows + 1),
        }
    ).cast(dict(TRADE_SCHEMA))  # type: ignore[arg-type]


@dataclass
class World:
    """Topics of one test on a broker, its trades and its services."""

    bootstrap: str
    folder: Path
    partitions: int = 4
    environment: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    trades: dict[Market, pl.DataFrame] = field(default_factory=dict)
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prefix = self.prefix or f"t{os.getpid()}-{next(_NUMBERS)}"
        self.topics = Topics.named(self.prefix)
        create_topics(self.bootstrap, self.topics, partitions=self.partitions)

    # -- services -----------------------------------------------------------------------------------

    def start(self, name: str, *arguments: str) -> None:
        """Start ``marketdata stream ...`` under a name of ours; again with what it was started with."""
        if arguments:
            self.commands[name] = [*arguments, "--instance", name]
        path = self.folder / f"{name}.log"
        self.taken[name] = path.read_text("utf-8").count('"partition taken"') if path.exists() else 0
        with path.open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, "stream", *self.commands[name]],
                env={
                    **os.environ,
                    "MARKETDATA_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
                    "MARKETDATA_KAFKA_TOPIC_PREFIX": self.prefix,
                    "MARKETDATA_HOME": str(self.folder / "home"),
                    **self.environment,
                },
                stdout=log,
                stderr=log,
            )

    def candles(self, name: str = "one") -> None:
        """Start an instance of the candle service."""
        self.start(name, "candles", "--no-history")

    def works(self, name: str, within_s: float = 240.0) -> None:
        """Wait until a service that was started has partitions."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            assert self.running[name].poll() is None, self.log(name)
            if (self.folder / f"{name}.log").read_text("utf-8").count('"partition taken"') > self.taken[name]:
                return
            time.sleep(0.02)
        raise AssertionError(self.log(name))

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.running.pop(name)
        assert process.poll() is None, self.log(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> None:
        """SIGTERM; it ends well."""
        process = self.running.pop(name)
        process.terminate()
        assert process.wait(120) == 0, self.log(name)

    def log(self, name: str) -> str:
        lines = (self.folder / f"{name}.log").read_text("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines if "refused" not in line)[-8_000:]

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()

    # -- trades -------------------------------------------------------------------------------------

    def publish(self, seed: int, rows: int, a_second: float = 100.0, pause_s: float = 0.0) -> None:
        """Send trades of all markets, 500 of each at once, and remember them."""
        self.trades = {market: day_of_trades(seed + n, rows, a_second) for n, market in enumerate(MARKETS)}
        producer = Producer(self.bootstrap)
        for at in range(0, rows + 1, 500):
            for market, trades in self.trades.items():
                self._send(producer, market, encode_trades(trades.slice(at, 500)), at)
            time.sleep(pause_s)
        producer.flush()
        producer.close()

    def _send(self, producer: Producer, market: Market, values: Sequence[bytes], at: int) -> None:
        producer.send(self.topics.trades, key_of(market), values, JSON_TRADES)

    @contextmanager
    def publishing(self, seed: int, rows: int, pause_s: float) -> Iterator[threading.Thread]:
        """Send them beside what the block does; all are sent behind it."""
        thread = threading.Thread(target=self.publish, args=(seed, rows, 100.0, pause_s))
        thread.start()
        yield thread
        thread.join()

    # -- what came out ------------------------------------------------------------------------------

    def read(self, topic: str) -> list[Any]:
        with Looker(self.bootstrap) as looker:
            return list(looker.messages(looker.bounds([topic])))

    def finals(self) -> dict[Market, pl.DataFrame]:
        decoded = decode_candles(self.read(self.topics.candles))
        assert not decoded.rejects
        return {
            batch.market: batch.candles.filter("final")
            for batch in decoded.batches
            if batch.candles["final"].any()
        }

    def late(self) -> int:
        decoded = decode_trades(self.read(self.topics.late), now=NOON.replace(year=2030))
        return sum(len(batch.trades) for batch in decoded.batches)

    def letters(self) -> list[DeadLetter]:
        return [DeadLetter.read(message) for message in self.read(self.topics.dead_letter)]

    def closed(self, within_s: float = 400.0) -> bool:
        """Wait until every minute but the closing trade's own is final in every market, of all its trades.

        Where the publishing pauses for long, a minute is closed before all of its trades are sent.
        """
        until = time.monotonic() + within_s
        minutes = {market: expected(trades)["1m"] for market, trades in self.trades.items()}
        while time.monotonic() < until:
            finals = self.finals()
            if all(
                market in finals
                and _counts(self._last(finals[market], "1m", trades)) == _counts(minutes[market])
                for market, trades in self.trades.items()
            ):
                return True
            for name, process in self.running.items():
                assert process.poll() is None, self.log(name)
            time.sleep(0.3)
        return False

    @staticmethod
    def _last(finals: pl.DataFrame, interval: str, trades: pl.DataFrame) -> pl.DataFrame:
        """The highest revision of each candle, without the closing trade's."""
        chosen = finals.filter(
            (pl.col("interval") == interval) & (pl.col("last_trade_id") != trades["trade_id"][-1])
        )
        return chosen.sort("open_time", "revision").group_by("open_time", maintain_order=True).last()

    def check(self) -> None:
        """Each final once, and the highest revision is the candle of the batch."""
        if not self.closed():
            pytest.fail("\n".join(self.log(name) for name in self.commands))
        assert self.late() == 0
        for market, finals in self.finals().items():
            once = finals.group_by("interval", "open_time", "revision").len()
            assert once["len"].max() == 1
            for interval, batch in expected(self.trades[market]).items():
                found = self._last(finals, interval, self.trades[market]).select(CANDLE_SCHEMA.names())
                assert_frame_equal(found.sort("open_time"), batch, rel_tol=1e-9)


def _counts(candles: pl.DataFrame) -> tuple[int, int]:
    """Of candles, and of the trades in them."""
    return len(candles), candles["trade_count"].sum()


def expected(trades: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Candles of the batch, without the closing trade's."""
    return fold_many(trades[:-1], INTERVALS)


def pauses(seed: int, count_: int, least_s: float, most_s: float) -> list[float]:
    """Random moments."""
    rng = random.Random(seed)
    return [rng.uniform(least_s, most_s) for _ in range(count_)]
