"""Who may change what: advisory locks that a transaction takes and its end gives back.

They are taken in this order, so that nobody waits in a circle: days, each in order of market and day, then
candles in order of market. A lock is two numbers of 32 bits, a purpose with the market and a day.
"""

from collections.abc import Iterable
from datetime import date
from typing import Any

from psycopg import Connection

_DAY = 0x6D64 << 16
_CANDLES = 0x6D65 << 16
_EACH = "FROM (SELECT * FROM unnest(%s::int[], %s::int[]) AS keys(a, b) ORDER BY a, b OFFSET 0) AS keys"


def durably(connection: Connection[Any]) -> None:
    """Have this transaction on disk before its commit is reported, whatever the server is set to."""
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', true)"
        " WHERE current_setting('synchronous_commit') = 'off'"
    )


def lock_day(connection: Connection[Any], market_id: int, day: date) -> None:
    """Be the only one who writes trades of this day; waits for those who do."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_DAY + market_id, day.toordinal()))


def share_days(connection: Connection[Any], days: Iterable[tuple[int, date]]) -> None:
    """Write trades of these days beside others who add rows, not beside one who replaces a day."""
    keys = sorted(set(days))
    first, second = [_DAY + market_id for market_id, _ in keys], [day.toordinal() for _, day in keys]
    connection.execute(f"SELECT pg_advisory_xact_lock_shared(a, b) {_EACH}", (first, second))


def lock_candles(connection: Connection[Any], market_ids: Iterable[int]) -> None:
    """Be the only one who writes candles of these markets: two who touch the same rows would deadlock."""
    keys = sorted({_CANDLES + market_id for market_id in market_ids})
    connection.execute(f"SELECT pg_advisory_xact_lock(a, b) {_EACH}", (keys, [0] * len(keys)))
