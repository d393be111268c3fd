"""What surrounds a value: key, headers, and the reason why a message was refused (pure).

The key is the market, ``kraken:BTC/USD``, so a market stays in order within its partition. The headers
``format`` and ``schema`` tell how to read the value; without either it is JSON of version 1. Other headers
are left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

from marketdata.errors import CorruptFile, UsageError
from marketdata.market import Market

Format = Literal["json", "arrow"]
Headers = list[tuple[str, bytes]]

_REASON, _TOPIC = "dead-letter-reason", "dead-letter-topic"
_PARTITION, _OFFSET, _TIME = "dead-letter-partition", "dead-letter-offset", "dead-letter-timestamp"
_OURS = (_REASON, _TOPIC, _PARTITION, _OFFSET, _TIME)


class Message(Protocol):
    """What a Kafka client delivers, as far as decoding needs it; a method may say ``None``."""

    def key(self) -> Any:
        """The key, bytes."""
        ...

    def value(self) -> Any:
        """The value, bytes."""
        ...

    def headers(self) -> Any:
        """Pairs of name and bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A message that is not Kafka's: for tests, and for replaying a dead letter."""

    key_bytes: bytes | None
    value_bytes: bytes | None
    header_list: Headers = field(default_factory=list)

    def key(self) -> bytes | None:
        """The key."""
        return self.key_bytes

    def value(self) -> bytes | None:
        """The value."""
        return self.value_bytes

    def headers(self) -> Headers | None:
        """The headers; ``None`` where there are none, as Kafka's client says it."""
        return self.header_list or None


@dataclass(frozen=True, slots=True)
class Reject:
    """A message that is refused, or of which some rows are: its index among those given, and why."""

    index: int
    reason: str


def key_of(market: Market) -> bytes:
    """The key of a market's messages."""
    return str(market).encode()


def headers_of(schema: str, fmt: Format) -> Headers:
    """The headers of values of this schema (``trade/1``) and format."""
    return [("format", fmt.encode()), ("schema", schema.encode())]


@lru_cache(maxsize=65_536)
def market_of(key: bytes | None) -> Market | None:
    """The market a key names; ``None`` when it names none."""
    try:
        return None if key is None else Market.parse(key.decode())
    except (UsageError, UnicodeDecodeError):
        return None


def markets_of(keys: Sequence[bytes | None]) -> dict[bytes | None, Market | None]:
    """The markets of the distinct keys. A slug is no key: one market must not have two."""
    found = {}
    for key in dict.fromkeys(keys):
        market = market_of(key)
        found[key] = market if market is not None and key_of(market) == key else None
    return found


def format_of(headers: Any, schema: str) -> Format | str:
    """How to read a value that should be of ``schema``: its format, else the reason why it cannot be read."""
    said: dict[str, Any] = dict(headers or ())
    if "schema" not in said and "format" not in said:
        return "json"
    if "schema" not in said:
        return "schema header absent"
    if said["schema"] != schema.encode():
        return f"schema {_shown(said['schema'])} is not {schema}"
    if "format" not in said:
        return "format header absent"
    if said["format"] == b"json":
        return "json"
    return "arrow" if said["format"] == b"arrow" else f"format {_shown(said['format'])} is not known"


def _shown(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return repr(text[:40])


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused message: as it was, where it stood and why it was refused."""

    message: Stored
    reason: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None = None

    def headers(self) -> Headers:
        """The headers it travels with; key and value stay the message's own, byte for byte."""
        place = [
            (_REASON, self.reason.encode()),
            (_TOPIC, self.topic.encode()),
            (_PARTITION, b"%d" % self.partition),
            (_OFFSET, b"%d" % self.offset),
        ]
        if self.timestamp_ms is not None:
            place.append((_TIME, b"%d" % self.timestamp_ms))
        return [*self.message.header_list, *place]

    @classmethod
    def read(cls, message: Message) -> "DeadLetter":
        """Read a message of the dead letter topic.

        Raises:
            CorruptFile: it is no dead letter.
        """
        headers: Headers = list(message.headers() or ())
        said = dict(headers)
        try:
            return cls(
                Stored(message.key(), message.value(), [pair for pair in headers if pair[0] not in _OURS]),
                said[_REASON].decode(),
                said[_TOPIC].decode(),
                int(said[_PARTITION]),
                int(said[_OFFSET]),
                int(said[_TIME]) if _TIME in said else None,
            )
        except (KeyError, ValueError, AttributeError) as error:
            msg = "A message of the dead letter topic does not say where it came from."
            raise CorruptFile(
                msg, hint="Only the streamer writes to that topic; see docs/kafka.md."
            ) from error
