"""Producers: idempotent ones, and transactions that take the offsets along."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from marketdata.bus.cluster import Cluster, Watch, cluster_at, is_mock, kafka, raised
from marketdata.bus.consumer import BatchConsumer, Place, Position
from marketdata.bus.envelope import Headers
from marketdata.errors import MarketDataError, PermanentError, TransientError
from marketdata.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

# Keys go where Kafka's Java clients put them too. Each acknowledged by all replicas in sync, and once.
_CONFIG = {
    "enable_idempotence": True,
    "acks": "all",
    "compression_type": "lz4",
    "partitioner": "murmur2_random",
    "delivery_report_only_error": True,
    "queue_buffering_max_kbytes": 262_144,
    "queue_buffering_max_messages": 1_000_000,
}
_RETRY_S = 0.1
# Of live trades: with one request a trade, a thousand a second, the broker is busy with requests, and its
# slowest answers take several times as long.
LIVE_LINGER_MS = 2.0


class Producer:
    """Sends messages, each once and in order, and reports those that did not arrive.

    The queue is bounded (a million messages, 256 MB): when it is full, :meth:`send` waits. Not for several
    threads at once.
    """

    def __init__(
        self,
        where: Cluster | Settings | str,
        *,
        linger_ms: float = 5.0,
        timeout_s: float = 120.0,
        **more: Any,
    ) -> None:
        """Connect when there is something to send.

        Args:
            linger_ms: how long a message waits for others to travel with it.
            timeout_s: after so long without an acknowledgement a message has failed.
            more: settings of the client, with ``_`` for the dots.
        """
        self._kafka = kafka()
        self._timeout_s = timeout_s
        self._watch = Watch()
        self._failed: str | None = None
        cluster = cluster_at(where)
        self.where = cluster.bootstrap
        timing = {"linger_ms": linger_ms, "delivery_timeout_ms": int(timeout_s * 1000)}
        config = cluster.config(**(_CONFIG | timing | more))
        config |= {"error_cb": self._watch.callback, "on_delivery": self._delivered}
        self._producer = self._kafka.Producer(config)

    def __len__(self) -> int:
        """Messages on their way."""
        return len(self._producer)

    def send(
        self,
        topic: str,
        key: bytes | None,
        values: Iterable[bytes | None],
        headers: Headers,
        partition: int = -1,
    ) -> int:
        """Queue a message for each value; returns how many.

        Raises:
            TransientError: an earlier message did not arrive, or the queue stays full.
            PermanentError: the cluster refuses.
        """
        self.serve()
        produce, given = self._producer.produce, headers or None
        count = 0
        for value in values:
            try:
                produce(topic, value, key, partition, headers=given)
            except BufferError:
                self._wait_and_produce(topic, value, key, partition, headers)
            except self._kafka.KafkaException as error:
                raise raised(error.args[0], f"sending to {topic}") from None
            count += 1
        return count

    def _wait_and_produce(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int, headers: Headers
    ) -> None:
        until = time.monotonic() + self._timeout_s
        while time.monotonic() < until:
            self._producer.poll(0.05)
            self._check()
            try:
                self._producer.produce(topic, value, key, partition, headers=headers or None)
            except BufferError:
                continue
            return
        msg = f"The queue to {self.where} has been full for {self._timeout_s:.0f} s; no broker takes {topic}."
        raise TransientError(msg)

    def serve(self) -> None:
        """Take note of what has arrived and what has not; call it often.

        Raises:
            TransientError, PermanentError: as :meth:`send`.
        """
        self._producer.poll(0)
        self._check()

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until all has arrived.

        Raises:
            TransientError: something has not.
        """
        waited = self._timeout_s if timeout_s is None else timeout_s
        try:
            left = self._producer.flush(waited)
        except self._kafka.KafkaException as error:
            raise raised(error.args[0], "waiting for messages to arrive") from None
        self._check()
        if left:
            msg = f"{left:,} messages have not arrived at {self.where} within {waited:.0f} s."
            raise TransientError(msg)

    def check_topic(self, topic: str, timeout_s: float = 10.0) -> None:
        """Ask for a topic before anything is sent to it.

        Raises:
            UsageError: it is not there.
            TransientError: no broker answers.
        """
        try:
            error = self._producer.list_topics(topic, timeout=timeout_s).topics[topic].error
        except self._kafka.KafkaException as failed:
            msg = f"No broker answers at {self.where}: {failed.args[0].str()}."
            raise TransientError(msg, hint="Is Kafka running? See docs/kafka.md.") from None
        if error is not None:
            raise raised(error, f"topic {topic}")

    def close(self) -> None:
        """Drop what has not been flushed, and disconnect."""
        self._producer.purge()
        with suppress(self._kafka.KafkaException):  # one that has given up says so again
            self._producer.flush(1.0)

    def _delivered(self, error: "KafkaError | None", message: "Message") -> None:
        purged = (self._kafka.KafkaError._PURGE_QUEUE, self._kafka.KafkaError._PURGE_INFLIGHT)
        if error is not None and error.code() not in purged and self._failed is None:
            self._failed = f"A message did not arrive in {message.topic()}: {error.str()} ({error.name()})."

    def _check(self) -> None:
        self._watch.check()
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise TransientError(failed)


class TransactionalProducer(Producer):
    """Sends messages and offsets together, or not at all.

    Every error means that nothing of the transaction counts. After one that sets :attr:`dead` the producer
    is of no more use: close it and make another, which also fences off whoever uses its id elsewhere.
    """

    def __init__(
        self,
        where: Cluster | Settings | str,
        transactional_id: str,
        *,
        timeout_s: float = 60.0,
        linger_ms: float = 1.0,
    ) -> None:
        """Take over ``transactional_id``: an earlier producer of it is fenced off, its transaction ended.

        Raises:
            TransientError: no broker answers in time.
            PermanentError: the cluster refuses.
        """
        super().__init__(
            where,
            linger_ms=linger_ms,
            timeout_s=timeout_s,
            transactional_id=transactional_id,
            transaction_timeout_ms=int(timeout_s * 1000),
        )
        self.transactional_id = transactional_id
        self.dead = False
        self._open = False
        self._retry(self._producer.init_transactions, "taking over the transactions")
        # A mock cluster forgets offsets that come with a transaction: they are sent once more behind it.
        self._forgetful = is_mock(self._producer.cluster_id(timeout_s))
        self._again: list[tuple[BatchConsumer, Mapping[Place, Position]]] = []

    def begin(self) -> None:
        """Begin a transaction.

        Raises:
            TransientError: see the class.
        """
        self._retry(lambda _timeout: self._producer.begin_transaction(), "beginning a transaction")
        self._open = True

    def send_offsets(self, consumer: BatchConsumer, offsets: Mapping[Place, Position]) -> None:
        """Commit these offsets of the consumer's group with the transaction.

        Raises:
            TransientError: see the class; also when the group has gone on without this consumer.
        """
        places = [position.at(place) for place, position in offsets.items()]
        group = consumer.group_metadata()
        self._retry(
            lambda timeout: self._producer.send_offsets_to_transaction(places, group, timeout),
            "sending offsets",
        )
        if self._forgetful:
            self._again.append((consumer, offsets))

    def commit(self) -> None:
        """End the transaction: all of it counts.

        Raises:
            TransientError: see the class.
        """
        self._retry(self._producer.commit_transaction, "committing")
        self._open = False
        while self._again:
            consumer, offsets = self._again.pop()
            consumer.commit(offsets)

    def abort(self) -> None:
        """End the transaction: nothing of it counts.

        Raises:
            TransientError: see the class.
        """
        self._failed = None
        self._again.clear()
        if self._open and not self.dead:
            self._open = False
            self._retry(self._producer.abort_transaction, "aborting")

    @contextmanager
    def transaction(self) -> Iterator["TransactionalProducer"]:
        """Begin, and commit what the block has sent; abort when it raises."""
        self.begin()
        try:
            yield self
            self._check()
            self.commit()
        except BaseException:
            if self._open and not self.dead:
                try:
                    self.abort()
                except MarketDataError:
                    self.dead = True
            raise

    def close(self) -> None:
        """Abort what is open, and disconnect."""
        try:
            self.abort()
        except MarketDataError:
            self.dead = True
        super().close()

    def _retry(self, call: Callable[[float], Any], doing: str) -> None:
        """Call until it succeeds; errors of transactions are told apart here and nowhere else."""
        until = time.monotonic() + self._timeout_s
        while True:
            left = max(until - time.monotonic(), 0.1)
            try:
                call(left)
            except self._kafka.KafkaException as failed:
                error = failed.args[0]
                if error.retriable() and not error.fatal() and time.monotonic() < until:
                    time.sleep(_RETRY_S)
                    continue
                self._give_up(error, doing)
            else:
                return

    def _give_up(self, error: "KafkaError", doing: str) -> None:
        found = raised(error, f"{doing} as {self.transactional_id}")
        if not error.txn_requires_abort():
            self.dead = True
        elif self._open:
            self._open = False
            try:
                self._producer.abort_transaction(self._timeout_s)
            except self._kafka.KafkaException:
                self.dead = True
        if isinstance(found, PermanentError):
            raise found from None
        raise TransientError(found.message, hint=found.hint) from None
