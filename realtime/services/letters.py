"""Dead letters: what they say, and sending them again after a fix."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from marketdata.bus.cluster import Cluster
from marketdata.bus.consumer import BatchConsumer, Place, Position
from marketdata.bus.look import Looker, committed
from marketdata.bus.messages import DeadLetter, Stored, decode_candles, decode_trades
from marketdata.bus.producer import TransactionalProducer
from marketdata.bus.topics import Topics
from marketdata.errors import CorruptFile
from marketdata.trade import TIME

LETTER_SCHEMA = pl.Schema(
    {
        "at": TIME,
        "market": pl.String(),
        "reason": pl.String(),
        "topic": pl.String(),
        "partition": pl.Int32(),
        "offset": pl.Int64(),
        "value": pl.String(),
    }
)
_SHOWN = 200
# Letters of one transaction.
_AT_ONCE = 5_000


def latest(where: Cluster | str, topics: Topics, rows: int) -> pl.DataFrame:
    """The most recent dead letters, LETTER_SCHEMA, oldest first; of a long value its beginning."""
    found = []
    with Looker(where) as looker:
        bounds = looker.bounds([topics.dead_letter])
        stretches = {place: (max(low, high - rows), high) for place, (low, high) in bounds.items()}
        for message in looker.messages(stretches):
            letter = _read(message)
            value = (letter.message.value_bytes or b"")[:_SHOWN].decode("utf-8", "backslashreplace")
            sent = letter.timestamp_ms if letter.timestamp_ms is not None else message.timestamp()[1]
            key = (letter.message.key_bytes or b"").decode("utf-8", "backslashreplace")
            found.append(
                (sent * 1_000, key, letter.reason, letter.topic, letter.partition, letter.offset, value)
            )
    rows_of = pl.DataFrame(found, LETTER_SCHEMA.names(), orient="row", infer_schema_length=None)
    return rows_of.cast(LETTER_SCHEMA).sort("at").tail(rows)


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many letters were sent again, and how many still cannot be read."""

    sent: int
    kept: int


def replay(where: Cluster | str, topics: Topics, group: str, now: datetime) -> Replayed:
    """Send letters again, to the topic they came from, when they can be read now.

    What still cannot be read is put at the end of the dead letters once more. A letter and how far the group
    has come are one transaction, so each is sent once however often this is called or killed.

    Args:
        now: the machine's time, for trades that were in the future.

    Raises:
        TransientError: no broker answers. Call it again: it goes on where it was.
    """
    sent = kept = 0
    with Looker(where) as looker:
        bounds = looker.bounds([topics.dead_letter])
        done = committed(where, group, bounds)
        stretches = {
            place: (max(low, done[place].offset if place in done else low), high)
            for place, (low, high) in bounds.items()
        }
        producer = TransactionalProducer(where, f"{group}.replay")
        try:
            with BatchConsumer(where, [], group) as member:
                for place, end, letters in _batches(looker, stretches):
                    with producer.transaction():
                        for letter in letters:
                            message, good = letter.message, _readable(letter, topics, now)
                            target = letter.topic if good else topics.dead_letter
                            headers = message.header_list if good else letter.headers()
                            producer.send(target, message.key_bytes, [message.value_bytes], headers)
                            sent, kept = sent + good, kept + (not good)
                        producer.send_offsets(member, {place: Position(end)})
        finally:
            producer.close()
    return Replayed(sent, kept)


def _batches(
    looker: Looker, stretches: dict[Place, tuple[int, int]]
) -> Iterator[tuple[Place, int, list[DeadLetter]]]:
    """Letters of each partition, some thousand at once, and the offset behind them."""
    for place, stretch in stretches.items():
        waiting: list[DeadLetter] = []
        end = stretch[0]
        for message in looker.messages({place: stretch}):
            waiting.append(_read(message))
            end = int(message.offset() or 0) + 1
            if len(waiting) == _AT_ONCE:
                yield place, end, waiting
                waiting = []
        if waiting:
            yield place, end, waiting


def _readable(letter: DeadLetter, topics: Topics, now: datetime) -> bool:
    message: Iterable[Stored] = [letter.message]
    if letter.topic == topics.candles:
        return not decode_candles(list(message)).rejects
    return not decode_trades(list(message), now=now).rejects


def _read(message: object) -> DeadLetter:
    try:
        return DeadLetter.read(message)  # type: ignore[arg-type]
    except CorruptFile:
        # Nobody but the streamer should write there; what somebody did is shown and kept all the same.
        stored = Stored(message.key(), message.value(), list(message.headers() or ()))  # type: ignore[attr-defined]
        place = message.topic(), message.partition(), message.offset()  # type: ignore[attr-defined]
        return DeadLetter(stored, "not written by the streamer", *place)
