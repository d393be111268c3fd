"""What a service counts, for Prometheus. Each has its registry, so that two in one process stay apart."""

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters and gauges; every name begins with ``marketdata_``. ``docs/streaming.md`` lists them."""

    def __init__(self, service: str) -> None:
        """Begin at nothing; ``service`` is a label of every figure."""
        self.registry = CollectorRegistry()
        self._service = service
        self.trades = self._counter("trades_in", "Trades taken in", "market")
        self.messages = self._counter("messages_in", "Messages taken in", "topic", "partition")
        self.candles = self._counter("candles_out", "Candles sent", "market", "kind")
        self.late = self._counter("trades_late", "Trades behind the grace", "market")
        self.repeated = self._counter("trades_repeated", "Trades that had been counted before")
        self.rejected = self._counter("messages_rejected", "Messages or trades refused", "reason")
        self.rows = self._counter("rows_stored", "Rows the store has taken", "outcome")
        self.reconnects = self._counter("reconnects", "Connections opened after the first", "to")
        self.renumbered = self._counter("ids_begun_anew", "Times that a market's ids began anew")
        self.restarts = self._counter("partition_restarts", "Partitions begun again after a failed commit")
        self.rebalances = self._counter("rebalances", "Partitions given or taken", "change")
        self.history = self._counter("first_candles", "First candles completed from history", "outcome")
        self.lag = self._gauge("lag_messages", "Messages not handled yet", "topic", "partition")
        self.lag_seconds = self._gauge("lag_seconds", "Age of the last message handled", "topic", "partition")
        self.watermark_age = self._gauge("watermark_age_seconds", "How far a watermark is behind", "market")
        self.buffer = self._gauge("buffer_rows", "Rows that wait for the store")
        self.paused = self._gauge("partitions_paused", "Partitions paused because the store is slow")
        self.assigned = self._gauge("partitions_assigned", "Partitions this instance serves")
        self.commit_seconds = self._histogram("commit_seconds", "Time a transaction takes")
        self.flush_seconds = self._histogram("flush_seconds", "Time a batch takes into the store")
        started = self._gauge("started_seconds", "When the service started, since the epoch")
        started.set(time.time())

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"marketdata_{name}", f"{what} ({self._service}).", labels, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"marketdata_{name}", f"{what} ({self._service}).", labels, registry=self.registry)

    def _histogram(self, name: str, what: str) -> Histogram:
        text = f"{what} ({self._service})."
        return Histogram(f"marketdata_{name}", text, buckets=_SECONDS, registry=self.registry)


class Changes:
    """Adds to a counter what a total that is kept elsewhere has grown by."""

    def __init__(self, counters: Mapping[str, Counter]) -> None:
        """``counters`` by the name of their total."""
        self._counters = counters
        self._seen = dict.fromkeys(counters, 0.0)

    def see(self, totals: Mapping[str, float]) -> None:
        """Take the totals as they are now."""
        for name, counter in self._counters.items():
            grown = totals.get(name, 0.0) - self._seen[name]
            if grown > 0:
                counter.inc(grown)
                self._seen[name] = totals[name]
