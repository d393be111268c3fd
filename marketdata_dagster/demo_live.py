"""The demo's live side: the streamer on a Kafka of its own, held against the exchange's REST trades."""

import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from marketdata import reconcile, sources
from marketdata.bus import local
from marketdata.bus.consumer import BatchConsumer
from marketdata.bus.messages import UPDATE_SCHEMA, decode_candles
from marketdata.bus.mock import MockCluster
from marketdata.bus.topics import Topics, create_topics
from marketdata.candle import CANDLE_SCHEMA
from marketdata.errors import MarketDataError, TransientError
from marketdata.fold import fold
from marketdata.interval import Interval
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.trade import empty_trades

POM = Path(__file__).resolve().parents[1] / "tests" / "kafka" / "pom.xml"
_INTERVALS = ("1s", "10s", "1m")
_PARTITIONS = 2
_STOP_S = 20.0
_SHOWN = 5
# Trades are every few seconds in the quietest market: there is a candle by then, or something is wrong.
_FIRST_S = 240.0
# What is lost shortly before the end is found and fetched within seconds; a busy machine may take longer.
_HEAL_S, _HEALED_BY_S, _LOOK_S = 5.0, 120.0, 3.0
_ASK_S = 0.5
# The exchange is made to misbehave on its sockets: one trade in a hundred is never sent, some come twice.
# As a hundred take a while, one is lost for certain, and then a minute, on a socket of each exchange.
_TRADES = "(trade|aggTrade) update"
_ONCE: dict[str, Any] = {"match": _TRADES, "times": 1}
_KRAKEN, _BINANCE = (_ONCE | {"match": f"^/{name}.*{_TRADES}"} for name in ("kraken", "binance"))
_SILENT: dict[str, Any] = {"kind": "ws_stall", "seconds": 60, "lost": True}
FAULTS = (
    {"kind": "ws_drop", "match": _TRADES, "probability": 0.01},
    {"kind": "ws_drop", **_KRAKEN, "skip": 4},
    {"kind": "ws_drop", **_BINANCE, "skip": 12},
    {"kind": "ws_repeat", "match": _TRADES, "probability": 0.03},
    {"kind": "ws_repeat", **_ONCE, "skip": 2},
    {**_SILENT, **_KRAKEN, "skip": 10},
    {**_SILENT, **_BINANCE, "skip": 25},
)
_WORDS = {
    "ws_drop": "{} trades never sent",
    "ws_repeat": "{} sent twice",
    "ws_stall": "{} silent for a minute",
}
_VARIABLES = {
    "MARKETDATA_KRAKEN_URL": "kraken_url",
    "MARKETDATA_BINANCE_URL": "binance_url",
    "MARKETDATA_BINANCE_ARCHIVE_URL": "binance_archive_url",
}


@contextmanager
def kafka(console: Console) -> Iterator[tuple[str, str]]:
    """A Kafka for as long as the block: its address, and what it is.

    Apache Kafka where Java and Maven are there, otherwise the mock cluster inside the client library.
    """
    absent = local.missing() if POM.exists() else f"no {POM}"
    if absent is not None:
        console.print(f"[yellow]There is {absent}:[/yellow] the live side runs on {MockCluster.what}.")
        with MockCluster() as mock:
            yield mock.bootstrap, "the mock cluster inside librdkafka"
        return
    if not local.is_resolved(POM):
        console.print("Maven fetches Apache Kafka, once ...")
    broker = local.Broker(POM)
    try:
        yield broker.start().bootstrap, f"Apache Kafka {local.version(POM)}"
    finally:
        broker.close()


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a market's live candles came to beside the fold of the exchange's REST trades."""

    market: Market
    counts: tuple[int, ...]
    equal: int
    different: int
    findings: tuple[str, ...] = ()


class Live:
    """``marketdata stream up`` as a child process, and a reader of its candles; a context manager."""

    def __init__(
        self, bootstrap: str, markets: Sequence[Market], variables: Mapping[str, str], logs: Path
    ) -> None:
        """``variables`` are those of the other processes of the platform."""
        self._markets, self._bootstrap = tuple(markets), bootstrap
        self._variables = {**variables, "MARKETDATA_KAFKA_BOOTSTRAP_SERVERS": bootstrap}
        self._variables["MARKETDATA_KAFKA_PARTITIONS"] = str(_PARTITIONS)
        self._log = logs / "stream.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._newest: dict[Market, tuple[datetime, float]] = {}
        self._finals: dict[Market, list[pl.DataFrame]] = {market: [] for market in markets}
        self._count = 0
        self._end, self._failed = threading.Event(), ""
        self._thread = threading.Thread(target=self._read, daemon=True)

    @property
    def pids(self) -> list[int]:
        """The process group of the streamer."""
        return [] if self._process is None else [self._process.pid]

    def __enter__(self) -> Self:
        """Create the topics, start the services and the reader."""
        create_topics(self._bootstrap, Topics.named("marketdata"), partitions=_PARTITIONS)
        program = [sys.executable, "-c", "from marketdata.cli.main import run; run()"]
        arguments = ["stream", "up", "--port", "0", *map(str, self._markets)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [*program, *arguments],
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the services, then the reader."""
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._end.set()
        self._thread.join(_STOP_S)

    def line(self) -> str:
        """How far it is, in a few words."""
        if not self._newest:
            return "live: waiting for the first candle"
        market, (_, price) = max(self._newest.items(), key=lambda item: item[1][0])
        return f"live: {self._count:,} candles, {market} {price:,.6g}"

    def misbehaved(self, exchange: str) -> datetime:
        """Wait until the exchange has done each thing of ``FAULTS`` that it is to do for certain.

        Returns:
            A time by which it had.

        Raises:
            TransientError: it has not; says what is left to do.
        """
        until = time.monotonic() + _FIRST_S
        while left := _left(exchange):
            if self._over(until):
                msg = f"The exchange's sockets have not yet misbehaved as they should: {left}. {self._failed}"
                raise TransientError(msg.strip(), hint=f"The stream's log is {self._log}.")
            time.sleep(_ASK_S)
        return datetime.now(UTC)

    def settle(self, since: datetime) -> datetime:
        """Wait until each market has a final candle that ends after a time, and what was lost is fetched.

        Returns:
            Up to when every final candle counts.

        Raises:
            TransientError: one has none; says where the log is.
        """
        until = time.monotonic() + _FIRST_S
        while absent := [
            one for one in self._markets if self._last(one).filter(_closes() > since).is_empty()
        ]:
            if self._over(until):
                names = ", ".join(map(str, absent))
                msg = f"The stream has no final candle of {names} after {since:%H:%M:%S}. {self._failed}"
                raise TransientError(msg.strip(), hint=f"Its log is {self._log}.")
            time.sleep(_ASK_S)
        end = datetime.now(UTC)
        time.sleep(_HEAL_S)
        return end

    def _over(self, until: float) -> bool:
        """Whether there is nothing more to wait for."""
        ended = self._process is not None and self._process.poll() is not None
        return ended or bool(self._failed) or time.monotonic() > until

    def compared(self, settings: Settings, until: datetime) -> list[Agreement]:
        """Hold the final candles up to a time against the trades the exchange serves by REST, folded.

        What differs is looked at again for two minutes: a trade that the socket lost a moment ago is on its
        way, and its candle follows with a higher revision.
        """
        urls = {name: self._variables[key] for key, name in _VARIABLES.items() if key in self._variables}
        asked = settings.model_copy(update=urls)
        give_up = time.monotonic() + _HEALED_BY_S
        found: dict[Market, Agreement] = {}
        while True:
            for market in self._markets:
                if market not in found or found[market].different:
                    finals = self._last(market).filter(_closes() <= until)
                    found[market] = agreement(market, finals, asked)
            if not any(one.different for one in found.values()) or time.monotonic() > give_up:
                return [found[market] for market in self._markets]
            time.sleep(_LOOK_S)

    def _last(self, market: Market) -> pl.DataFrame:
        """The final candles with the highest revision; those begun before the stream did are left out."""
        finals = pl.concat([UPDATE_SCHEMA.to_frame(), *self._finals[market]]).sort("revision")
        last = finals.unique(["interval", "open_time"], keep="last").sort("open_time")
        return last.filter(~pl.col("partial"))

    def _read(self) -> None:
        try:
            with BatchConsumer(self._bootstrap, [Topics.named("marketdata").candles], "demo") as consumer:
                while not self._end.is_set():
                    self._take(consumer.poll(timeout_s=0.2))
        except MarketDataError as error:  # said by settle, in the main thread
            self._failed = f"Reading it failed: {error}"

    def _take(self, messages: Sequence[Any]) -> None:
        decoded = decode_candles(messages)
        if decoded.rejects:
            self._failed = f"A candle cannot be read: {decoded.rejects[0].reason}."
        for batch in decoded.batches:
            self._count += len(batch.candles)
            row = batch.candles.sort("last_trade_time").row(-1, named=True)
            self._newest[batch.market] = (row["last_trade_time"], row["close"])
            finals = batch.candles.filter("final")
            if len(finals) and batch.market in self._finals:
                self._finals[batch.market].append(finals.select(UPDATE_SCHEMA.names()))


def _closes() -> pl.Expr:
    width = pl.col("interval").replace_strict(
        {name: Interval.parse(name).width for name in _INTERVALS}, return_dtype=pl.Duration("us")
    )
    return pl.col("open_time") + width


def agreement(market: Market, finals: pl.DataFrame, settings: Settings) -> Agreement:
    """Hold final candles, UPDATE_SCHEMA, against the trades the exchange serves by REST, folded."""
    by_interval = {name: finals.filter(interval=name) for name in _INTERVALS}
    held = {name: frame for name, frame in by_interval.items() if len(frame)}
    ranges = {
        name: (frame["open_time"][0], frame["open_time"][-1] + Interval.parse(name).width)
        for name, frame in held.items()
    }
    start, end = min(first for first, _ in ranges.values()), max(last for _, last in ranges.values())
    # REST also where the first candles are of yesterday, for an archive ends at midnight.
    now = datetime.now(UTC)
    source = sources.trade_source(market, now.date(), settings, now)
    pages = [page.trades for page in source.pages(market, start, end)]
    trades = pl.concat([empty_trades(), *pages])
    equal = different = 0
    findings: list[str] = []
    for name, frame in held.items():
        found = reconcile.compare(frame.select(CANDLE_SCHEMA.names()), fold(trades, name), *ranges[name])
        equal, different = equal + found.equal, different + found.compared - found.equal
        findings += [f"{name} {' '.join(map(str, row))}" for row in found.different.head(_SHOWN).iter_rows()]
    counts = tuple(len(by_interval[name]) for name in _INTERVALS)
    return Agreement(market, counts, equal, different, tuple(findings))


def misbehaviour(exchange: str) -> str:
    """What the exchange has done to its frames so far, in words."""
    faults = _faults(exchange)
    applied = {kind: sum(one["applied"] for one in faults if one["kind"] == kind) for kind in _WORDS}
    return ", ".join(words.format(applied[kind]) for kind, words in _WORDS.items())


def _left(exchange: str) -> str:
    """What the exchange is still to do for certain, in words; empty when it has done all of it."""
    try:
        faults = _faults(exchange)
    except OSError as error:  # it may answer the next time
        return f"it does not say, {error}"
    left = [one for one in faults if one["applied"] < one.get("times", 0)]
    return ", ".join(f"{one['kind']} of {one['match']}" for one in left)


def _faults(exchange: str) -> list[dict[str, Any]]:
    """Each fault in force, with how often it was ``applied``."""
    with urllib.request.urlopen(f"{exchange}/control/faults", timeout=60) as answer:  # noqa: S310 - loopback
        return list(orjson.loads(answer.read()))


def show(console: Console, agreements: Sequence[Agreement]) -> bool:
    """Print the comparison; returns whether nothing differs."""
    console.rule("live candles beside the exchange's REST trades", align="left")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("market", no_wrap=True)
    for name in (*_INTERVALS, "equal", "differ"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in agreements:
        table.add_row(
            str(one.market),
            *(f"{count:,}" for count in one.counts),
            Text(f"{one.equal:,}", style="green"),
            Text(f"{one.different:,}", style="red" if one.different else "green"),
        )
    console.print(table)
    for one in agreements:
        for finding in one.findings:
            console.print(f"[red]{one.market} {finding}[/red]", soft_wrap=True)
    return not sum(one.different for one in agreements)


def last_line(agreements: Sequence[Agreement]) -> str:
    """The live candles and the batch candles of the same trades, in one line."""
    equal, different = (sum(getattr(one, name) for one in agreements) for name in ("equal", "different"))
    return (
        f"live against batch: {equal + different:,} final candles made while history filled, "
        f"{equal:,} equal the fold of the exchange's REST trades, {different:,} differ"
    )
