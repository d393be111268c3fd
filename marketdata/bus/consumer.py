"""A consumer of batches: no automatic commits, partitions that move one by one, errors of our tree."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from marketdata.bus.cluster import Cluster, Watch, cluster_at, kafka, raised
from marketdata.errors import PermanentError, TransientError
from marketdata.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Message, TopicPartition

# Topic and partition.
Place = tuple[str, int]

_CONFIG = {
    "enable_auto_commit": False,
    "enable_auto_offset_store": False,
    # An instance that joins or leaves moves only the partitions it takes or gives up; the others go on.
    "partition_assignment_strategy": "cooperative-sticky",
    # A killed instance is missed after ten seconds; the default is 45.
    "session_timeout_ms": 10_000,
    "heartbeat_interval_ms": 1_000,
    "max_poll_interval_ms": 300_000,
    # The end of a partition is told also behind transactions, whose marks have offsets of their own.
    "enable_partition_eof": True,
    # Fetched ahead, in memory: 16 MB a partition at most.
    "queued_max_messages_kbytes": 16_384,
    "fetch_queue_backoff_ms": 20,
    "fetch_wait_max_ms": 100,
}
_TIMEOUT_S = 30.0
_RETRY_S = 0.1


# offset.metadata.max.bytes of a broker is 4,096 unless it is set, and the client counts a closing zero.
METADATA_BYTES = 4_095


@dataclass(frozen=True, slots=True)
class Position:
    """An offset, and text of at most METADATA_BYTES that is committed beside it."""

    offset: int
    metadata: str = ""

    def at(self, place: Place) -> "TopicPartition":
        """As Kafka's client wants it.

        Raises:
            PermanentError: the text is too long.
        """
        topic, partition = place
        size = len(self.metadata.encode())
        if size > METADATA_BYTES:
            msg = f"{size:,} bytes beside an offset of {topic}[{partition}]: only {METADATA_BYTES:,} fit."
            raise PermanentError(msg, hint="More partitions have fewer markets each.")
        found: TopicPartition = kafka().TopicPartition(topic, partition, self.offset, self.metadata)
        return found


class BatchConsumer:
    """One member of a group, or of none. Its callbacks run inside :meth:`poll` and :meth:`close`."""

    def __init__(
        self,
        where: Cluster | Settings | str,
        topics: Sequence[str],
        group: str,
        *,
        on_assign: Callable[[list[Place]], Mapping[Place, int] | None] | None = None,
        on_revoke: Callable[[list[Place]], None] | None = None,
        on_lost: Callable[[list[Place]], None] | None = None,
        read_committed: bool = True,
        start: Literal["earliest", "latest"] = "earliest",
        **more: Any,
    ) -> None:
        """Join the group at the first poll.

        Args:
            on_assign: partitions this member takes; may say where to begin, else it is where the group has
                committed, else at ``start``.
            on_revoke: partitions it gives up, while they are still its own: commit now. ``on_lost``: those
                it has lost already.
            read_committed: messages of transactions are delivered when these are committed, or never.
            more: settings of the client, with ``_`` for the dots.
        """
        self._kafka = kafka()
        self._watch = Watch()
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost or on_revoke
        self._ends: dict[Place, int] = {}
        self._kept: Exception | None = None  # for the next poll
        cluster = cluster_at(where)
        self.where, self.topics, self.group = cluster.bootstrap, list(topics), group
        config = cluster.config(
            **(
                _CONFIG
                | {
                    "group_id": group,
                    "isolation_level": "read_committed" if read_committed else "read_uncommitted",
                    "auto_offset_reset": start,
                }
                | more
            )
        )
        config["error_cb"] = self._watch.callback
        self._consumer = self._kafka.Consumer(config)
        if self.topics:
            self._consumer.subscribe(
                self.topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )

    def poll(self, max_messages: int = 10_000, timeout_s: float = 0.1) -> "list[Message]":
        """Messages that have come; waits at most ``timeout_s`` for the first.

        It returns as soon as there is one, with what else is there already. An error that comes beside
        messages is raised by the next call: what the client has delivered it does not deliver again.

        Raises:
            TransientError, PermanentError, UsageError: what the brokers say to it.
            Exception: what a callback has raised.
        """
        self._complain()
        found: list[Message] = []
        try:
            found = self._consumer.consume(1, timeout_s)
            if found and max_messages > 1:
                found += self._consumer.consume(max_messages - 1, 0)
        except self._kafka.KafkaException as error:
            self._keep(raised(error.args[0], f"reading {', '.join(self.topics)}"))
        if any(map(self._kafka.Message.error, found)):
            found = [message for message in found if self._is_message(message)]
        if not found:
            self._complain()
        return found

    def _is_message(self, message: "Message") -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() == self._kafka.KafkaError._PARTITION_EOF:
            place, end = (message.topic(), message.partition()), message.offset()
            if place[0] is not None and place[1] is not None and end is not None:
                self._ends[place[0], place[1]] = end
        elif error.fatal() or not error.retriable():
            self._keep(raised(error, f"reading {message.topic() or ', '.join(self.topics)}"))
        return False

    def _keep(self, error: Exception) -> None:
        """Keep an error until it may be raised; of several one that does not pass by itself."""
        if self._kept is None or isinstance(self._kept, TransientError):
            self._kept = error

    def _complain(self) -> None:
        error, self._kept = self._kept, None
        if error is not None:
            raise error
        self._watch.check()

    # -- where it stands --------------------------------------------------------------------------------

    def assignment(self) -> list[Place]:
        """The partitions it has."""
        return sorted((found.topic, found.partition) for found in self._consumer.assignment())

    def committed(self, places: Iterable[Place], timeout_s: float = _TIMEOUT_S) -> dict[Place, Position]:
        """What the group has committed; places without are left out. Waits for transactions under way.

        Raises:
            TransientError: no answer in time.
        """
        asked = [self._kafka.TopicPartition(*place) for place in places]
        found = self._retry(
            lambda left: self._consumer.committed(asked, left), timeout_s, "asking for offsets"
        )
        return {
            (one.topic, one.partition): Position(one.offset, one.metadata or "")
            for one in found
            if one.offset >= 0
        }

    def commit(self, positions: Mapping[Place, Position | int]) -> None:
        """Commit offsets; they are when this returns.

        Raises:
            TransientError: they are not, also because the group has gone on without this member.
        """
        if not positions:
            return
        asked = [
            (Position(position) if isinstance(position, int) else position).at(place)
            for place, position in positions.items()
        ]
        done = self._retry(
            lambda _left: self._consumer.commit(offsets=asked, asynchronous=False), _TIMEOUT_S, "committing"
        )
        for one in done:
            if one.error is not None:
                raise raised(one.error, f"committing {one.topic}[{one.partition}]")

    def seek(self, place: Place, offset: int) -> None:
        """Go on from another offset.

        Raises:
            TransientError: the partition is not this member's.
        """
        topic, partition = place
        self._ends.pop(place, None)
        self._retry(
            lambda _left: self._consumer.seek(self._kafka.TopicPartition(topic, partition, offset)),
            5.0,
            f"going to offset {offset} of {topic}[{partition}]",
        )

    def pause(self, places: Iterable[Place]) -> None:
        """Deliver nothing of these partitions; the member stays in its group."""
        self._consumer.pause([self._kafka.TopicPartition(*place) for place in places])

    def resume(self, places: Iterable[Place]) -> None:
        """Deliver them again."""
        self._consumer.resume([self._kafka.TopicPartition(*place) for place in places])

    def lag(self) -> dict[Place, int]:
        """Messages that wait in each partition, as far as the last fetch has told; asks nobody.

        A partition is left out until something is known of it.
        """
        found = {}
        for one in self._consumer.position(self._consumer.assignment()):
            place = (one.topic, one.partition)
            try:
                low, high = self._consumer.get_watermark_offsets(one, cached=True)
            except self._kafka.KafkaException:
                continue
            if high < 0:
                continue
            # An end that was told counts as read: the marks of transactions are no messages.
            at = max(one.offset, low, self._ends.get(place, 0))
            found[place] = max(0, high - at)
        return found

    def group_metadata(self) -> Any:
        """Which member of which generation this is, for transactions."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Leave the group.

        Raises:
            Exception: what a callback has raised.
        """
        self._kept = None
        self._consumer.close()
        if self._kept is not None:
            raise self._kept

    def __enter__(self) -> "BatchConsumer":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the group."""
        self.close()

    # -- partitions come and go -------------------------------------------------------------------------

    def _assigned(self, consumer: Any, partitions: "list[TopicPartition]") -> None:
        begins: Mapping[Place, int] = self._tell(self._on_assign, partitions) or {}
        for one in partitions:
            self._ends.pop((one.topic, one.partition), None)
            if (one.topic, one.partition) in begins:
                one.offset = begins[one.topic, one.partition]
        consumer.incremental_assign(partitions)

    def _revoked(self, consumer: Any, partitions: "list[TopicPartition]") -> None:
        self._tell(self._on_revoke, partitions)
        consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Any, partitions: "list[TopicPartition]") -> None:
        self._tell(self._on_lost, partitions)
        consumer.incremental_unassign(partitions)

    def _tell(self, who: Callable[[list[Place]], Any] | None, partitions: "list[TopicPartition]") -> Any:
        """What a callback answers. Its error is kept: raised in here, inside the client, it would take along
        what the client is about to deliver."""
        if who is None:
            return None
        try:
            return who([(one.topic, one.partition) for one in partitions])
        except Exception as error:  # is raised outside
            self._keep(error)
            return None

    def _retry(self, call: Callable[[float], Any], timeout_s: float, doing: str) -> Any:
        until = time.monotonic() + timeout_s
        while True:
            try:
                return call(max(until - time.monotonic(), 0.1))
            except self._kafka.KafkaException as failed:
                error = failed.args[0]
                if error.fatal() or not may_pass(error) or time.monotonic() >= until:
                    raise raised(error, doing) from None
                time.sleep(_RETRY_S)


def may_pass(error: Any) -> bool:
    """Errors of a broker that restarts or of a group that is being shared out anew."""
    client = kafka().KafkaError
    return bool(error.retriable()) or error.code() in (
        client._TRANSPORT,
        client._TIMED_OUT,
        client._WAIT_COORD,
        client._STATE,
        client.NOT_LEADER_FOR_PARTITION,
        client.LEADER_NOT_AVAILABLE,
        client.COORDINATOR_LOAD_IN_PROGRESS,
        client.NOT_COORDINATOR,
        client.COORDINATOR_NOT_AVAILABLE,
        client.UNSTABLE_OFFSET_COMMIT,
    )
