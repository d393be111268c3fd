"""Rows that the store refused, kept with the reason: nothing is dropped in silence."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

_KEEP = """
INSERT INTO dead_letter (origin, position, market, reason, raw) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (origin, position) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One refused row.

    Attributes:
        origin: who refused it or where it came from; ``position``: where in there. Together they are the key:
            keeping the same row again adds nothing.
        market: as text, if it is known.
        raw: the row as it came.
    """

    origin: str
    position: str
    market: str | None
    reason: str
    raw: bytes


def keep(connection: Connection[Any], letters: Iterable[DeadLetter]) -> int:
    """Keep refused rows; returns how many were not there yet. The transaction is the caller's."""
    with connection.cursor() as cursor:
        cursor.executemany(_KEEP, [(x.origin, x.position, x.market, x.reason, x.raw) for x in letters])
        return max(cursor.rowcount, 0)
