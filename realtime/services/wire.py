"""Kafka as the services see it: messages become pieces, work becomes transactions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import polars as pl
import structlog

from marketdata.bus.cluster import Cluster, on_mock
from marketdata.bus.consumer import METADATA_BYTES, BatchConsumer, Position
from marketdata.bus.messages import (
    JSON_CANDLES,
    JSON_TRADES,
    DeadLetter,
    Stored,
    encode_candles,
    encode_trades,
    key_of,
)
from marketdata.bus.producer import Producer, TransactionalProducer
from marketdata.bus.topics import Topics
from marketdata.errors import PermanentError, TransientError
from marketdata.market import Market
from realtime.candles import FUTURE
from realtime.services.checkpoint import Checkpoint
from realtime.services.committer import Work
from realtime.services.reading import Piece, Place, by_place, cut, read_candles, read_trades

_LOG = structlog.stdlib.get_logger(__name__)

# Messages handed over at once: enough for batches that fold fast, few enough for a turn of some 100 ms.
_MOST = 50_000
# The broker's default limit of what may be committed beside an offset.
_MOST_METADATA = METADATA_BYTES
_TRANSACTION_S = 15.0
# A clock by which no time that can be stored is in the future.
_END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)


class Owner(Protocol):
    """Who is told of partitions that come and go."""

    def revoked(self, partitions: Iterable[int]) -> None:
        """Give them up."""
        ...

    def lost(self, partitions: Iterable[int]) -> None:
        """They are gone."""
        ...

    def assigned(self, partitions: Iterable[int]) -> dict[int, int]:
        """Take them; returns where to begin."""
        ...


class TradeInbox:
    """Trades for the candle service."""

    def __init__(
        self, where: Cluster | str, topics: Topics, group: str, *, most: int = _MOST, **more: Any
    ) -> None:
        """Join the group at the first poll; ``more`` are settings of the client."""
        self._topic, self._most = topics.trades, most
        self._owner: Owner | None = None
        self.consumer = BatchConsumer(
            where,
            [topics.trades],
            group,
            on_assign=self._assigned,
            on_revoke=lambda places: self._told().revoked(partition for _, partition in places),
            on_lost=lambda places: self._told().lost(partition for _, partition in places),
            **more,
        )

    def tell(self, owner: Owner) -> None:
        """Who is told of partitions; before the first poll."""
        self._owner = owner

    def poll(self, timeout_s: float, now: datetime, until: Callable[[int], int | None]) -> Iterator[Piece]:
        """See :class:`realtime.services.candle_service.Inbox`."""
        for place, messages in by_place(self.consumer.poll(self._most, timeout_s)).items():
            border = until(place[1])
            if border is not None:
                for part in cut(messages, border):
                    yield read_trades(place, part, now)

    def committed(self, partition: int) -> Checkpoint:
        """What was committed last; the beginning if nothing was."""
        place = (self._topic, partition)
        found = self.consumer.committed([place]).get(place)
        return Checkpoint(0, 0) if found is None else Checkpoint.parse(found.offset, found.metadata)

    def seek(self, partition: int, offset: int) -> None:
        """Go on from another offset."""
        self.consumer.seek((self._topic, partition), offset)

    def lag(self) -> dict[int, int]:
        """Messages that wait, by partition."""
        return {partition: lag for (_, partition), lag in self.consumer.lag().items()}

    def _assigned(self, places: list[Place]) -> dict[Place, int]:
        begins = self._told().assigned(partition for _, partition in places)
        return {(self._topic, partition): offset for partition, offset in begins.items()}

    def _told(self) -> Owner:
        if self._owner is None:  # a mistake of ours, not of the caller's
            raise RuntimeError
        return self._owner


class CandleOutbox:
    """Where the candle service sends."""

    def __init__(self, where: Cluster | str, topics: Topics, consumer: BatchConsumer) -> None:
        """``consumer``: of the group whose offsets the transactions commit."""
        self._where, self._topics = where, topics
        # Offsets go in the name of the group, not of a member: asking a member who it is waits for the
        # rebalance in which a partition is given up. The transactions' own id fences a former owner off.
        # A mock cluster knows members only.
        self._own = None if on_mock(where) else BatchConsumer(where, [], consumer.group)
        self._group = self._own or consumer
        self._producer: Producer | None = None

    def transactions(self, partition: int) -> "PartitionTransactions":
        """Take over the transactions of a partition: whoever had them is fenced off."""
        return PartitionTransactions(self._where, self._topics, self._group, partition)

    def running(self, market: Market, candles: pl.DataFrame) -> None:
        """Send running candles at once; they may be lost."""
        try:
            if self._producer is None:
                self._producer = Producer(self._where, linger_ms=0, timeout_s=10.0)
            self._producer.send(self._topics.candles, key_of(market), encode_candles(candles), JSON_CANDLES)
        except TransientError as error:
            self._lost(error)

    def serve(self) -> None:
        """Take note of what has not arrived."""
        if self._producer is not None:
            try:
                self._producer.serve()
            except TransientError as error:
                self._lost(error)

    def close(self) -> None:
        """Send what waits, and disconnect."""
        if self._own is not None:
            self._own.close()
        if self._producer is not None:
            try:
                self._producer.flush(2.0)
            except TransientError as error:
                self._lost(error)
            self._producer.close()

    def _lost(self, error: TransientError) -> None:
        _LOG.warning("running candles were lost; the next ones make up for them", error=str(error))


class PartitionTransactions:
    """Transactions of one partition."""

    def __init__(self, where: Cluster | str, topics: Topics, group: BatchConsumer, partition: int) -> None:
        """Fence off whoever had them.

        Raises:
            TransientError: no broker answers.
        """
        self._topics, self._group = topics, group
        self._place = (topics.trades, partition)
        name = f"{group.group}.{topics.trades}.{partition}"
        self._producer = TransactionalProducer(where, name, timeout_s=_TRANSACTION_S)

    def commit(self, work: Work, checkpoint: Checkpoint) -> None:
        """See :class:`realtime.services.committer.Transactions`."""
        position = Position(checkpoint.offset, checkpoint.text())
        if len(position.metadata) > _MOST_METADATA:
            msg = f"{self._place[0]}[{self._place[1]}] has {len(checkpoint.states)} markets, too many."
            raise PermanentError(msg, hint="Create the topic of trades with more partitions.")
        # All is encoded before the transaction begins: while one is open, readers of the partition wait.
        finals = [(key_of(market), encode_candles(candles)) for market, candles in work.outcome.finals]
        late = [(key_of(market), encode_trades(trades)) for market, trades in work.outcome.late]
        letters = [*work.rejects, *self._refused(work, checkpoint)]
        with self._producer.transaction() as transaction:
            for key, values in finals:
                transaction.send(self._topics.candles, key, values, JSON_CANDLES)
            for key, values in late:
                transaction.send(self._topics.late, key, values, JSON_TRADES)
            for letter in letters:
                send_letter(transaction, self._topics.dead_letter, letter)
            transaction.send_offsets(self._group, {self._place: position})

    def close(self) -> None:
        """Abort what is open."""
        self._producer.close()

    def drop(self) -> None:
        """Abort nothing: it would wait for a broker that is away, and a successor aborts it anyway."""
        self._producer.dead = True
        self._producer.close()

    def _refused(self, work: Work, checkpoint: Checkpoint) -> Iterator[DeadLetter]:
        """Trades the core has refused: the message was good by the clock of a moment ago."""
        topic, partition = self._place
        for market, trades in work.outcome.refused:
            for value in encode_trades(trades):
                stored = Stored(key_of(market), value, JSON_TRADES)
                yield DeadLetter(stored, FUTURE, topic, partition, checkpoint.position - 1)


def send_letter(producer: Producer, topic: str, letter: DeadLetter) -> None:
    """Send a dead letter."""
    message = letter.message
    producer.send(topic, message.key_bytes, [message.value_bytes], letter.headers())


class Places(Protocol):
    """Who is told of partitions of several topics."""

    def assigned(self, places: Iterable[Place]) -> None:
        """Take them."""
        ...

    def revoked(self, places: Iterable[Place]) -> None:
        """Give them up."""
        ...

    def lost(self, places: Iterable[Place]) -> None:
        """They are gone."""
        ...


class StoreInbox:
    """Rows for a sink: trades, backfilled trades, candles."""

    def __init__(
        self,
        where: Cluster | str,
        topics: Topics,
        names: Sequence[str],
        group: str,
        *,
        most: int = 20_000,
        **more: Any,
    ) -> None:
        """Read these topics; ``more`` are settings of the client."""
        self._where, self._topics, self._most = where, topics, most
        self._owner: Places | None = None
        self._letters: Producer | None = None
        self.consumer = BatchConsumer(
            where,
            names,
            group,
            on_assign=lambda places: self._told().assigned(places),
            on_revoke=lambda places: self._told().revoked(places),
            on_lost=lambda places: self._told().lost(places),
            **more,
        )

    def tell(self, owner: Places) -> None:
        """Who is told of partitions; before the first poll."""
        self._owner = owner

    def poll(self, timeout_s: float, now: datetime) -> Iterator[Piece]:
        """Messages that have come, decoded."""
        for place, messages in by_place(self.consumer.poll(self._most, timeout_s)).items():
            if place[0] == self._topics.candles:
                yield read_candles(place, messages)
            elif place[0] == self._topics.trades:
                # The feed has accepted what is there, and the candle service judges it: a sink with a slow
                # clock would refuse what candles are made of. What cannot be read is told once, by that
                # service, which reads the same.
                piece = read_trades(place, messages, _END_OF_TIME)
                piece.rejects.clear()
                yield piece
            else:
                yield read_trades(place, messages, now)

    def pause(self) -> None:
        """Deliver nothing until :meth:`resume`; the group is not left."""
        self.consumer.pause(self.consumer.assignment())

    def resume(self) -> None:
        """Deliver again."""
        self.consumer.resume(self.consumer.assignment())

    def commit(self, offsets: Mapping[Place, int]) -> None:
        """Commit offsets."""
        self.consumer.commit(offsets)

    def keep(self, rejects: Sequence[DeadLetter]) -> None:
        """Put rejects on the dead-letter topic; they are there when this returns."""
        if self._letters is None:
            self._letters = Producer(self._where)
        for reject in rejects:
            send_letter(self._letters, self._topics.dead_letter, reject)
        self._letters.flush()

    def lag(self) -> dict[Place, int]:
        """Messages that wait, by topic and partition."""
        return self.consumer.lag()

    def close(self) -> None:
        """Leave the group."""
        self.consumer.close()
        if self._letters is not None:
            self._letters.close()

    def _told(self) -> Places:
        if self._owner is None:  # a mistake of ours, not of the caller's
            raise RuntimeError
        return self._owner
