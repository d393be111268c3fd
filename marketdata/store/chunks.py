"""Chunks of TimescaleDB that are there before the load that fills them.

The transaction that writes the first row of a chunk makes it and holds a lock on the table until it ends: a
load of a new day would keep everyone waiting who needs another new chunk, loads of other new days and live
rows after midnight among them. Made in a transaction of its own, a chunk costs a few milliseconds.
"""

from datetime import date
from typing import Any

from psycopg import Connection

from marketdata.manifest import day_window

_LOADED = "SELECT to_regclass('timescaledb_information.chunks') IS NOT NULL"
_COVERED = """
SELECT EXISTS (
    SELECT FROM timescaledb_information.chunks
    WHERE hypertable_schema = current_schema() AND hypertable_name = 'trade'
        AND range_start <= %(start)s AND range_end >= %(end)s
), EXISTS (
    SELECT FROM timescaledb_information.hypertables
    WHERE hypertable_schema = current_schema() AND hypertable_name = 'trade'
)
"""
# Of no market: numbers begin at 1. It is gone again before anyone can see it; the chunk stays.
_ROW = "INSERT INTO trade (market_id, time, trade_id, price, amount, fills) VALUES (0, %s, 0, 1, 1, 1)"
_GONE = "DELETE FROM trade WHERE market_id = 0 AND time = %s AND trade_id = 0"


def make_room(connection: Connection[Any], day: date) -> bool:
    """Make the chunk of a day of trades if there is none; nothing on plain PostgreSQL.

    Args:
        connection: in autocommit mode.
        day: UTC.

    Returns:
        Whether a chunk was made.

    Raises:
        psycopg.Error: the server refuses.
    """
    if connection.execute(_LOADED).fetchone() != (True,):
        return False
    start, end = day_window(day)
    if connection.execute(_COVERED, {"start": start, "end": end}).fetchone() != (False, True):
        return False
    with connection.transaction():
        connection.execute(_ROW, (start,))
        connection.execute(_GONE, (start,))
    return True
