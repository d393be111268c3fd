"""What was refused, as it came: the reason, the bytes and the position."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reject:
    """One message, or one trade of a message.

    Attributes:
        reason: in a few words.
        topic, partition, offset: where it stood.
        key, value, headers: the message as it came.
    """

    reason: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
