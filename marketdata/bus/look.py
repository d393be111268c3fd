"""Looking at topics without joining a group: where they end, what lies in a stretch of them."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from marketdata.bus.cluster import Cluster, cluster_at, kafka, raised
from marketdata.bus.consumer import BatchConsumer, Place, Position, may_pass
from marketdata.errors import TransientError
from marketdata.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

_TIMEOUT_S = 15.0
_QUIET_S = 10.0
_RETRY_S = 0.2


class Looker:
    """Reads committed messages anywhere, and commits nothing."""

    def __init__(self, where: Cluster | Settings | str) -> None:
        """Connect when there is something to look at."""
        self._kafka = kafka()
        self._where = cluster_at(where)
        config = self._where.config(
            group_id="marketdata.look",
            enable_auto_commit=False,
            enable_partition_eof=True,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        self._consumer: Consumer = self._kafka.Consumer(config)

    def bounds(self, topics: Iterable[str]) -> dict[Place, tuple[int, int]]:
        """First offset and the one behind the last, of every partition of the topics that are there.

        What passes by itself, as when a broker restarts, is waited for.

        Raises:
            TransientError: no broker answers.
        """
        until = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                return self._bounds(topics)
            except self._kafka.KafkaException as error:
                # A broker that has just started does not lead its partitions yet.
                if not may_pass(error.args[0]) or time.monotonic() >= until:
                    raise raised(error.args[0], "looking at topics") from None
            time.sleep(_RETRY_S)

    def _bounds(self, topics: Iterable[str]) -> dict[Place, tuple[int, int]]:
        found = self._consumer.list_topics(timeout=_TIMEOUT_S).topics
        return {
            (topic, partition): self._consumer.get_watermark_offsets(
                self._kafka.TopicPartition(topic, partition), timeout=_TIMEOUT_S
            )
            for topic in topics
            if topic in found and found[topic].error is None
            for partition in found[topic].partitions
        }

    def messages(self, stretches: Mapping[Place, tuple[int, int]]) -> "Iterator[Message]":
        """Messages of ``[first, end)`` of each partition; those of a partition in order.

        Raises:
            TransientError: the brokers fall silent before the end.
        """
        left = {place: end for place, (first, end) in stretches.items() if first < end}
        if not left:
            return
        self._consumer.assign([self._kafka.TopicPartition(*place, stretches[place][0]) for place in left])
        try:
            while left:
                # Asked for many at once it would wait for all of them.
                found = self._consumer.consume(1, _QUIET_S)
                if found:
                    found += self._consumer.consume(10_000, 0)
                if not found:
                    msg = f"{self._where.bootstrap} has been silent for {_QUIET_S:.0f} s."
                    raise TransientError(msg)
                for message in found:
                    place = (str(message.topic()), int(message.partition() or 0))
                    offset = int(message.offset() or 0)
                    error = message.error()
                    if error is not None and error.code() != self._kafka.KafkaError._PARTITION_EOF:
                        if may_pass(error):  # the client tries again by itself
                            continue
                        raise raised(error, f"reading {place[0]}")
                    if place in left and error is None and offset < left[place]:
                        yield message
                    # The end of a partition may be a mark of a transaction, which is no message.
                    if place in left and (error is not None or offset + 1 >= left[place]):
                        del left[place]
        finally:
            self._consumer.unassign()

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def __enter__(self) -> "Looker":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self.close()


def committed(where: Cluster | Settings | str, group: str, places: Iterable[Place]) -> dict[Place, Position]:
    """What a group has committed, without joining it.

    Raises:
        TransientError: no broker answers.
    """
    with BatchConsumer(where, [], group) as consumer:
        return consumer.committed(places)
