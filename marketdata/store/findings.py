"""What is odd about a day, in the store: the findings of a day in place of those before."""

from datetime import date, datetime
from typing import Any

import polars as pl
import psycopg
from psycopg import Connection

from marketdata.finding import FINDING_SCHEMA
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.store import engine, locks
from marketdata.store.markets import market_id

_NAMES = ", ".join(FINDING_SCHEMA)
_READ = f"""
SELECT {_NAMES} FROM v_finding
WHERE exchange = %s AND symbol = %s AND day >= %s AND day <= %s ORDER BY day, time, rule, trade_id
"""  # noqa: S608 - names of columns


def replace_day(target: Settings | str, market: Market, day: date, findings: pl.DataFrame) -> int:
    """Put the findings of a day (FINDING_SCHEMA) in place of those held, in one transaction.

    Returns:
        How many there are now.

    Raises:
        TransientError: the server does not answer, or the connection was lost; nothing was changed.
        StorageError, UsageError: the server refuses.
    """
    try:
        with engine.connect(target) as connection:
            number = market_id(connection, market, create=True)
            locks.lock_day(connection, number, day)
            connection.execute("DELETE FROM finding WHERE market_id = %s AND day = %s", (number, day))
            _copy(connection, number, day, findings)
    except psycopg.Error as error:
        raise engine.translate(error) from None
    return len(findings)


def _copy(connection: Connection[Any], number: int, day: date, findings: pl.DataFrame) -> None:
    command = f"COPY finding (market_id, day, number, {_NAMES}) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(command) as copy:
        for place, row in enumerate(findings.select(FINDING_SCHEMA.names()).rows()):
            copy.write_row((number, day, place, *row))


def read(target: Settings | str, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
    """Findings of the days touched by ``[start, end)``, FINDING_SCHEMA, by day and time.

    Raises:
        TransientError: the server does not answer.
    """
    first, last = start.date(), end.date()
    if day_window(last)[0] == end:
        last = date.fromordinal(last.toordinal() - 1)
    try:
        with engine.connect(target) as connection:
            rows = connection.execute(_READ, (market.exchange, market.symbol, first, last)).fetchall()
    except psycopg.Error as error:
        raise engine.translate(error) from None
    return pl.DataFrame(rows, schema=FINDING_SCHEMA, orient="row")
