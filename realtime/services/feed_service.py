"""The feed service: trades of exchanges into Kafka, and behind a restart what was missed meanwhile."""

import asyncio
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import orjson
import polars as pl
import structlog

from marketdata.bus.cluster import Cluster
from marketdata.bus.consumer import Place
from marketdata.bus.look import Looker
from marketdata.bus.messages import (
    ARROW_TRADES,
    JSON_TRADES,
    DeadLetter,
    Format,
    Stored,
    decode_trades,
    encode_trades,
    key_of,
)
from marketdata.bus.producer import Producer
from marketdata.bus.topics import Topics
from marketdata.errors import TransientError
from marketdata.interval import from_us
from marketdata.market import Market
from realtime.feeds.base import Feed, Position
from realtime.health import Health
from realtime.metrics import Changes, Metrics
from realtime.services import resuming
from realtime.services.feed_watch import FeedWatch
from realtime.services.wire import send_letter

_LOG = structlog.stdlib.get_logger(__name__)
_LOOK_S = 0.5
# How far back the newest trade of a market is looked for in its partition, messages: half a million in all.
_STRETCHES, _AT_ONCE = (2_000, 16_000, 128_000, 354_000), 10_000
_NO_PLACE = -1


class FeedService:
    """Publishes what feeds bring."""

    def __init__(
        self,
        feeds: Sequence[Feed],
        producer: Producer,
        topics: Topics,
        *,
        fmt: Format = "json",
        metrics: Metrics | None = None,
        health: Health | None = None,
        watch: FeedWatch | None = None,
    ) -> None:
        """Nothing is asked for yet. ``fmt``: how trades are written. ``watch``: tells of dead feeds."""
        self._feeds, self._producer, self._topics, self._fmt = tuple(feeds), producer, topics, fmt
        self._headers = JSON_TRADES if fmt == "json" else ARROW_TRADES
        self.metrics, self.health = metrics or Metrics("feed"), health or Health()
        self._watch = watch
        self._changes = Changes(
            {
                "exchange": self.metrics.reconnects.labels("exchange"),
                "rest": self.metrics.reconnects.labels("rest for what was missed"),
                "renumbered": self.metrics.renumbered,
            }
        )
        self.sent = 0

    async def run(self, stop: threading.Event) -> None:
        """Publish until ``stop`` is set or the feeds have ended; what was taken is with the brokers then.

        Raises:
            MarketDataError: the feed or the cluster refuses.
        """
        running = [asyncio.create_task(feed.run(self._out, self._refused)) for feed in self._feeds]
        self.health.ready()
        try:
            while not stop.is_set() and not all(task.done() for task in running):
                ended, _ = await asyncio.wait(running, timeout=_LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
                for task in ended:
                    task.result()
                self._look()
                self._producer.serve()
                self.health.beat()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await asyncio.to_thread(self._producer.flush, 30.0)
            self._look()

    async def _out(self, market: Market, trades: pl.DataFrame, received: datetime) -> None:
        values = encode_trades(trades, self._fmt)
        self._producer.send(self._topics.trades, key_of(market), values, self._headers)
        self.sent += len(trades)
        self.metrics.trades.labels(str(market)).inc(len(trades))
        newest = trades["time"][-1]
        self.metrics.lag_seconds.labels(str(market), "").set((received - newest) / timedelta(seconds=1))

    async def _refused(self, market: Market | None, rejects: pl.DataFrame) -> None:
        """What the exchange sent and nobody can read is kept too; it has no position in a topic."""
        for reason, trade_id, time, raw in rejects.iter_rows():
            self.metrics.rejected.labels(reason).inc()
            value = orjson.dumps(
                {"trade_id": trade_id, "time": None if time is None else str(time), "raw": raw}
            )
            stored = Stored(None if market is None else key_of(market), value)
            letter = DeadLetter(stored, reason, "feed", _NO_PLACE, _NO_PLACE)
            send_letter(self._producer, self._topics.dead_letter, letter)

    def _look(self) -> None:
        if self._watch is not None:
            self._watch.look()
        events = [feed.events for feed in self._feeds]
        self._changes.see(
            {
                "exchange": sum(one.reconnects.total() for one in events),
                "rest": sum(one.requests for one in events),
                "renumbered": sum(one.renumbered for one in events),
            }
        )


def positions(
    where: Cluster | str, topics: Topics, markets: Iterable[Market], now: datetime | None = None
) -> dict[Market, Position]:
    """The newest trade of each market that the topic of trades holds, if it is of the last twelve hours.

    Newest by time: the last messages may be a replay of old trades. Partitions are read backwards until the
    rest of them was appended before the newest trade found, for then nothing in the rest is newer. A market
    without a trade, or with none so new, is left out.

    Args:
        now: the time; the machine's by default. Trades more than five minutes later do not count.

    Raises:
        TransientError: no broker answers.
    """
    keys = {key_of(market): market for market in markets}
    now = now or datetime.now(UTC)
    oldest = now - resuming.LONGEST
    found: dict[Market, Position] = {}
    if not keys:
        return found
    with Looker(where) as looker:
        left = looker.bounds([topics.trades])
        for back in _STRETCHES:
            stretches = {place: (max(low, high - back), high) for place, (low, high) in left.items()}
            begun = dict.fromkeys(stretches, now)
            for messages in _parts(looker.messages(stretches), begun):
                _keep_newest(found, [message for message in messages if message.key() in keys], now)
            need = min((max(found[one].time, oldest) if one in found else oldest) for one in keys.values())
            left = {
                place: (low, stretches[place][0])
                for place, (low, _) in left.items()
                if low < stretches[place][0] and begun[place] > need
            }
            if not left:
                break
    for market in [market for market, at in found.items() if at.time < oldest]:
        _LOG.warning(
            "too long ago to go on behind; what was traded since is left to the batch side",
            market=str(market),
            last=str(found.pop(market).time),
        )
    return found


def _parts(messages: Iterator[Any], begun: dict[Place, datetime]) -> Iterator[list[Any]]:
    """So many messages at once, all of them; ``begun``: when the first of each partition was appended."""
    seen = set[Place]()
    while part := list(islice(messages, _AT_ONCE)):
        for message in part:
            place = (str(message.topic()), int(message.partition() or 0))
            if place not in seen:
                seen.add(place)
                kind, appended_ms = message.timestamp()
                if kind:
                    begun[place] = from_us(appended_ms * 1_000)
        yield part


def _keep_newest(found: dict[Market, Position], messages: list[Any], now: datetime) -> None:
    for batch in decode_trades(messages, now=now).batches:
        last = batch.trades.sort("time", "trade_id").row(-1, named=True)
        known = found.get(batch.market)
        if known is None or (known.time, known.trade_id) < (last["time"], last["trade_id"]):
            found[batch.market] = Position(last["trade_id"], last["time"])


async def published(service: FeedService, stop: threading.Event, *, pause_s: float = 2.0) -> None:
    """Run a feed service for ever: what a retry may help is tried again.

    Raises:
        MarketDataError: a retry cannot help.
    """
    while not stop.is_set():
        try:
            await service.run(stop)
        except TransientError as error:
            _LOG.warning("the feed begins again", error=str(error))
            service.health.not_ready(str(error))
            await asyncio.to_thread(stop.wait, pause_s)
        else:
            return
