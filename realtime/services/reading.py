"""Messages of one partition as what services work with (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import compress
from typing import Any, Protocol

import numpy as np
import polars as pl

from marketdata.bus.envelope import DeadLetter, Message, Stored
from marketdata.bus.messages import decode_candles, decode_trades
from marketdata.candle import CANDLE_SCHEMA
from marketdata.market import Market

_STORED = "1m"
_DETAILS = ("revision", "source", "coverage")

# Topic and partition.
Place = tuple[str, int]


class Delivered(Message, Protocol):
    """A message and where it stood: what Kafka's client delivers."""

    def topic(self) -> Any:
        """Its topic."""
        ...

    def partition(self) -> Any:
        """Its partition."""
        ...

    def offset(self) -> Any:
        """Its offset."""
        ...

    def timestamp(self) -> Any:
        """Kind of the timestamp, and milliseconds since the epoch."""
        ...


@dataclass(slots=True)
class Piece:
    """Messages of one partition, decoded.

    Attributes:
        place: topic and partition.
        end: the offset behind the last message.
        messages: how many they are; ``newest_s``: when the last one was sent, since the epoch.
        batches: market, offset of its first message, rows (TRADE_SCHEMA or UPDATE_SCHEMA).
        rejects: what could not be read.
    """

    place: Place
    end: int
    messages: int = 1
    newest_s: float = 0.0
    batches: list[tuple[Market, int, pl.DataFrame]] = field(default_factory=list)
    rejects: list[DeadLetter] = field(default_factory=list)


def by_place(messages: Sequence[Delivered]) -> dict[Place, Sequence[Delivered]]:
    """Messages by topic and partition, in their order.

    They come in long runs of one partition, and one Python call for each would cost as much as reading it.
    """
    if not messages:
        return {}
    kind: Any = type(messages[0])
    topics = list(map(kind.topic, messages))
    partitions = np.fromiter(map(kind.partition, messages), np.int64, len(messages))
    found: dict[Place, Sequence[Delivered]] = {}
    for topic in dict.fromkeys(topics):
        whole = topics.count(topic) == len(topics)
        mine = partitions if whole else partitions[[name == topic for name in topics]]
        those = messages if whole else [m for m, name in zip(messages, topics, strict=True) if name == topic]
        for partition in np.unique(mine).tolist():
            here = mine == partition
            found[topic, partition] = those if here.all() else list(compress(those, here.tolist()))
    return found


def cut(messages: Sequence[Delivered], border: int) -> list[Sequence[Delivered]]:
    """Messages before an offset, and those from it on; one part where they do not reach across."""
    if messages[0].offset() >= border or messages[-1].offset() < border:
        return [messages]
    at = next(place for place, message in enumerate(messages) if message.offset() >= border)
    return [messages[:at], messages[at:]]


def read_trades(place: Place, messages: Sequence[Delivered], now: datetime) -> Piece:
    """Decode messages of a trade topic, all of one partition.

    Args:
        now: the machine's time; a trade more than five minutes later is refused.
    """
    decoded = decode_trades(messages, now=now)
    piece = _piece(place, messages)
    for batch in decoded.batches:
        first = messages[int(batch.message[0])].offset()
        piece.batches.append((batch.market, first, batch.trades))
    piece.rejects = [letter(messages[reject.index], reject.reason) for reject in decoded.rejects]
    return piece


def read_candles(place: Place, messages: Sequence[Delivered]) -> Piece:
    """Decode messages of the candle topic, all of one partition; only final one-minute candles are kept.

    Those are what the store holds: wider candles follow from them, and running ones are soon over.
    """
    decoded = decode_candles(messages)
    piece = _piece(place, messages)
    for batch in decoded.batches:
        finals = batch.candles.filter(pl.col("final") & (pl.col("interval") == _STORED))
        if not finals.is_empty():
            first = messages[int(batch.message[0])].offset()
            piece.batches.append((batch.market, first, _stored(finals)))
    piece.rejects = [letter(messages[reject.index], reject.reason) for reject in decoded.rejects]
    return piece


def _stored(finals: pl.DataFrame) -> pl.DataFrame:
    """Candles as the store keeps them: where they come from, and that no manifest has proved them yet."""
    coverage = pl.when("partial").then(pl.lit("partial")).otherwise(pl.lit("unknown"))
    return finals.with_columns(source=pl.lit("stream"), coverage=coverage).select(*CANDLE_SCHEMA, *_DETAILS)


def letter(message: Delivered, reason: str) -> DeadLetter:
    """A message as a dead letter."""
    stored = Stored(message.key(), message.value(), list(message.headers() or ()))
    _, sent_ms = message.timestamp()
    return DeadLetter(stored, reason, message.topic(), message.partition(), message.offset(), sent_ms)


def _piece(place: Place, messages: Sequence[Delivered]) -> Piece:
    last = messages[-1]
    return Piece(place, last.offset() + 1, len(messages), last.timestamp()[1] / 1_000)
