"""Pages of a backfill to Kafka, as they are fetched."""

import threading

import polars as pl

from marketdata.bus.cluster import Cluster
from marketdata.bus.messages import ARROW_TRADES, JSON_TRADES, encode_trades, key_of
from marketdata.bus.producer import Producer
from marketdata.bus.topics import Topics
from marketdata.market import Market
from marketdata.settings import Settings


class PagePublisher:
    """Sends pages to the backfill topic; one that has been published has been acknowledged. For many threads.

    A page that is fetched again after a crash is published again: readers count a trade once, by its id.
    Memory holds no more than the pages on their way.
    """

    def __init__(self, settings: Settings) -> None:
        """Connect, so that a broker that does not answer or a topic that is not there is told at once.

        Raises:
            UsageError: no Kafka is configured, or its topics are not there.
            TransientError: no broker answers.
        """
        cluster = Cluster.of(settings)
        self.topic = Topics.of(settings).backfill
        self._format = settings.kafka_format
        self._headers = JSON_TRADES if self._format == "json" else ARROW_TRADES
        self._lock = threading.Lock()
        self._producer = Producer(cluster, linger_ms=0)
        self._producer.check_topic(self.topic)

    def publish(self, market: Market, trades: pl.DataFrame) -> None:
        """Send trades; see :class:`marketdata.fetching.Publisher`."""
        values = encode_trades(trades, self._format)
        with self._lock:
            self._producer.send(self.topic, key_of(market), values, self._headers)
            self._producer.flush()

    def __enter__(self) -> "PagePublisher":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self._producer.close()
