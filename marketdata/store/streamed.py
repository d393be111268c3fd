"""What the stream had said: kept when a candle of its making is replaced, and read to be compared."""

from datetime import datetime
from typing import Any

import polars as pl
import psycopg
from psycopg import Connection

from marketdata.candle import CANDLE_SCHEMA
from marketdata.errors import UnknownName
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.store import engine, queries
from marketdata.store.markets import market_id

_SAID = ", ".join([*CANDLE_SCHEMA, "revision", "coverage"])
_KEEP = f"""
INSERT INTO candle_streamed (market_id, {_SAID})
SELECT market_id, {_SAID} FROM candle
WHERE market_id = %(market)s AND open_time >= %(start)s AND open_time < %(end)s AND source = 'stream'
ON CONFLICT (market_id, open_time) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in [*CANDLE_SCHEMA, "revision", "coverage"])},
    kept_at = now()
WHERE candle_streamed.revision < excluded.revision
"""  # noqa: S608 - names of columns
# A day is compared within days; five weeks leave time for one that was not.
_OLD = "DELETE FROM candle_streamed WHERE market_id = %s AND kept_at < now() - interval '35 days'"


def keep(connection: Connection[Any], number: int, start: datetime, end: datetime) -> int:
    """Keep what the stream has said of ``[start, end)``, before it is replaced; of a candle its last issue.

    The transaction is the caller's, and so is the lock of the market's candles. What was kept more than five
    weeks ago is removed.
    """
    values = {"market": number, "start": start, "end": end}
    kept = connection.execute(_KEEP, values).rowcount
    if kept:
        connection.execute(_OLD, (number,))
    return kept


def read(target: Settings | str, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
    """The last issue of each candle that the stream has said of ``[start, end)``, STORED_SCHEMA.

    It does not matter whether something else has taken its place since. A market that the store does not
    know has none.

    Raises:
        TransientError, UsageError: the server cannot be reached, or it has no such table.
    """
    with engine.connect(target, autocommit=True) as connection:
        try:
            queries.configure(connection)
            number = market_id(connection, market)
            values = {"market": number, "start": start, "end": end}
            row = connection.execute(queries.STREAMED, values, binary=True).fetchone()
        except UnknownName:
            row = None
        except psycopg.Error as error:
            raise engine.translate(error) from None
    return queries.candle_frame(row or (None,), details=True)
