"""What the store really holds of a day: counted and hashed from its rows, not told by its coverage."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
from psycopg import Connection

from marketdata.completeness import ContentHash
from marketdata.errors import UnknownName
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.store import engine, queries
from marketdata.store.markets import market_id

_BEFORE_ANY = -(1 << 63)


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in the store of one market and UTC day.

    Attributes:
        rows, content_hash: of the trades, as a manifest has them.
        candles, trade_count: the one-minute candles, and the sum of their trades.
    """

    rows: int
    content_hash: str
    candles: int
    trade_count: int


def contents(target: str | Settings, market: Market, day: date) -> Contents:
    """Count and hash what the store holds of a day, all of one moment.

    100,000 trades are in memory at a time, however many there are. A market that the store does not know has
    none.

    Raises:
        TransientError, UsageError: the server cannot be reached, or it has no schema.
    """
    with engine.connect(target, autocommit=True) as connection:
        try:
            queries.configure(connection)
            with connection.transaction():
                return _contents(connection, market, day)
        except psycopg.Error as error:
            raise engine.translate(error) from None


def _contents(connection: Connection[Any], market: Market, day: date) -> Contents:
    seen = ContentHash()
    try:
        number = market_id(connection, market)
    except UnknownName:
        return Contents(0, seen.text(), 0, 0)
    start, end = day_window(day)
    after, after_id, full = start, _BEFORE_ANY, True
    while full:
        page = {"market": number, "after": after, "after_id": after_id, "end": end, "count": queries.PAGE}
        row = connection.execute(queries.TRADES, page, binary=True).fetchone()
        frame = queries.trade_frame(row or (None,))
        seen.update(frame)
        full = len(frame) == queries.PAGE
        if full:
            after, after_id = frame["time"][-1], frame["trade_id"][-1]
    totals = connection.execute(
        "SELECT count(*), coalesce(sum(trade_count), 0)::bigint FROM candle"
        " WHERE market_id = %s AND open_time >= %s AND open_time < %s",
        (number, start, end),
    ).fetchone()
    assert totals is not None  # noqa: S101 - an aggregate has one row
    return Contents(seen.rows, seen.text(), *totals)
