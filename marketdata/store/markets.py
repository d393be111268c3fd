"""The small number a market has in the store."""

from typing import Any

from psycopg import Connection

from marketdata.errors import UnknownName
from marketdata.market import Market

_FIND = "SELECT market_id FROM market WHERE exchange = %s AND symbol = %s"
# Found first: an insert that meets a conflict uses up a number all the same, and there are 32,767 of them.
_ADD = "INSERT INTO market (exchange, symbol) VALUES (%s, %s) ON CONFLICT DO NOTHING"


def market_id(connection: Connection[Any], market: Market, create: bool = False) -> int:
    """Return the number of a market; with ``create`` give it one. The transaction is the caller's.

    Raises:
        UnknownName: the store does not know the market; says the nearest one.
    """
    key = (market.exchange, market.symbol)
    row = connection.execute(_FIND, key).fetchone()
    if row is None and create:
        connection.execute(_ADD, key)
        row = connection.execute(_FIND, key).fetchone()
    if row is None:
        known = [str(known) for known in markets(connection)]
        hint = f"To load it: marketdata db load {market}"
        raise UnknownName(str(market), kind="market in the store", known=known, hint=hint)
    return int(row[0])


def markets(connection: Connection[Any]) -> dict[Market, int]:
    """All markets of the store with their numbers, sorted."""
    rows = connection.execute("SELECT exchange, symbol, market_id FROM market ORDER BY 1, 2").fetchall()
    return {Market(exchange, symbol): number for exchange, symbol, number in rows}
