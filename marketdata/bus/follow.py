"""Following a topic from a time on, without a group: what was there at the start, then what comes."""

import time
from datetime import datetime
from typing import Any, Protocol

from marketdata.bus.cluster import Cluster, Watch, cluster_at, is_mock, kafka, raised
from marketdata.bus.consumer import Place
from marketdata.bus.envelope import Message
from marketdata.errors import TransientError, UsageError
from marketdata.settings import Settings

_TIMEOUT_S = 15.0
_MOST = 10_000
_SILENT_S = 30.0


class Received(Message, Protocol):
    """A message of Kafka's client, as far as those need it who may not know that client."""

    def topic(self) -> str | None:
        """Its topic."""
        ...

    def partition(self) -> int | None:
        """Its partition."""
        ...

    def offset(self) -> int | None:
        """Its offset."""
        ...

    def timestamp(self) -> tuple[int, int]:
        """Kind of time, and when it was sent, milliseconds since the epoch."""
        ...


class Follower:
    """Committed messages of all partitions of a topic. Nothing is committed and nobody is asked to share.

    Attributes:
        caught_up: whether all that was there when it was made has been delivered.
        cut: partitions whose oldest messages were dropped already, and that are read from the oldest kept.
    """

    def __init__(self, where: Cluster | Settings | str, topic: str) -> None:
        """Connect, and take note of where the topic ends now.

        Raises:
            TransientError: no broker answers.
            UsageError: there is no such topic.
        """
        self._kafka = kafka()
        self._watch = Watch()
        self._topic = topic
        cluster = cluster_at(where)
        self._where = cluster.bootstrap
        config = cluster.config(
            group_id="marketdata.follow",
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            enable_partition_eof=True,
            isolation_level="read_committed",
            # What retention has dropped before it was read is told, not skipped.
            auto_offset_reset="error",
            # Fetched ahead, in memory: a slow reader holds no more than this.
            queued_max_messages_kbytes=16_384,
            fetch_queue_backoff_ms=20,
            fetch_wait_max_ms=100,
        )
        config["error_cb"] = self._watch.callback
        self._consumer = self._kafka.Consumer(config)
        self.caught_up = False
        self.cut: set[int] = set()
        self._heard = time.monotonic()
        self._left: dict[Place, int] = {}
        try:
            self._bounds, self._mock = self._look()
        except BaseException:
            self.close()
            raise

    def _look(self) -> tuple[dict[int, tuple[int, int]], bool]:
        try:
            found = self._consumer.list_topics(self._topic, timeout=_TIMEOUT_S)
            topic = found.topics[self._topic]
            if topic.error is not None:
                raise raised(topic.error, f"reading {self._topic}")
            bounds = {
                number: self._consumer.get_watermark_offsets(self._place(number), timeout=_TIMEOUT_S)
                for number in topic.partitions
            }
        except self._kafka.KafkaException as error:
            raise raised(error.args[0], f"reading {self._topic}") from None
        if not bounds:
            msg = f"There is no topic {self._topic} at {self._where}."
            raise UsageError(msg, hint="Create the topics: marketdata stream topics.")
        return bounds, is_mock(found.cluster_id)

    def begin(self, since: datetime) -> None:
        """Read from the first message that was sent at ``since`` or later.

        Raises:
            TransientError: no broker answers.
        """
        starts = {number: low for number, (low, _) in self._bounds.items()}
        if not self._mock:  # which does not know times
            millis = max(0, int(since.timestamp() * 1000))
            asked = [self._place(number, millis) for number in self._bounds]
            try:
                found = self._consumer.offsets_for_times(asked, timeout=_TIMEOUT_S)
            except self._kafka.KafkaException as error:
                raise raised(error.args[0], f"reading {self._topic}") from None
            starts = {
                one.partition: one.offset if one.offset >= 0 else self._bounds[one.partition][1]
                for one in found
            }
        self.cut = {number for number, (low, _) in self._bounds.items() if 0 < low == starts[number]}
        self._left = {
            (self._topic, number): end for number, (_, end) in self._bounds.items() if starts[number] < end
        }
        self.caught_up = not self._left
        self._heard = time.monotonic()
        self._consumer.assign([self._place(number, start) for number, start in starts.items()])

    def poll(self, timeout_s: float) -> list[Received]:
        """Messages that have come; waits at most ``timeout_s`` for the first.

        Raises:
            TransientError: messages were dropped before they were read, or the brokers fall silent before
                all that was there is delivered.
            PermanentError: the cluster refuses.
        """
        try:
            found: list[Any] = self._consumer.consume(1, timeout_s)
            if found:
                found += self._consumer.consume(_MOST - 1, 0)
        except self._kafka.KafkaException as error:
            raise raised(error.args[0], f"reading {self._topic}") from None
        self._watch.check()
        if found:
            self._heard = time.monotonic()
        elif not self.caught_up and time.monotonic() - self._heard > _SILENT_S:
            msg = f"{self._where} has been silent for {_SILENT_S:.0f} s."
            raise TransientError(msg, hint="Is Kafka running?")
        kept = [message for message in found if self._is_message(message)]
        if not self.caught_up:
            for message in kept:
                self._reached(message.partition(), int(message.offset() or 0) + 1)
        return kept

    def _is_message(self, message: Any) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() == self._kafka.KafkaError._PARTITION_EOF:
            # The end may be marks of transactions, which are no messages.
            self._left.pop((self._topic, int(message.partition() or 0)), None)
            self.caught_up = not self._left
        elif error.code() == self._kafka.KafkaError._AUTO_OFFSET_RESET:
            msg = f"Messages of {self._topic} were dropped before they were read: {error.str()}."
            raise TransientError(msg, hint="Begin again: what is missing is read from history.")
        elif error.fatal() or not error.retriable():
            raise raised(error, f"reading {self._topic}")
        return False

    def _reached(self, partition: int | None, offset: int) -> None:
        place = (self._topic, int(partition or 0))
        if offset >= self._left.get(place, offset + 1):
            del self._left[place]
            self.caught_up = not self._left

    def _place(self, partition: int, offset: int | None = None) -> Any:
        more = () if offset is None else (offset,)
        return self._kafka.TopicPartition(self._topic, partition, *more)

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()
