"""What the live tables lack, as far as they show it themselves: ids, minutes without a candle, silences."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
from psycopg import Connection

from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.store import engine

_MARKETS = """
SELECT exchange, symbol, market_id,
    (SELECT max(day) FROM coverage WHERE coverage.market_id = market.market_id),
    (SELECT time FROM trade WHERE trade.market_id = market.market_id AND time >= %(since)s
        ORDER BY time DESC LIMIT 1)
FROM market ORDER BY 1, 2
"""
_HOLES = """
SELECT before + 1, trade_id - 1, least(before_time, time), greatest(before_time, time) FROM (
    SELECT trade_id, time, lag(trade_id) OVER ids AS before, lag(time) OVER ids AS before_time
    FROM trade WHERE market_id = %(market)s AND time >= %(since)s AND time < %(beyond)s
    WINDOW ids AS (ORDER BY trade_id)
) AS rows
WHERE trade_id > before + 1 AND time < %(until)s ORDER BY 1 LIMIT %(most)s
"""
_LONELY = """
SELECT minute FROM (
    SELECT DISTINCT date_trunc('minute', time, 'UTC') AS minute FROM trade
    WHERE market_id = %(market)s AND time >= %(since)s AND time < %(until)s
) AS minutes
WHERE NOT EXISTS (
    SELECT FROM candle WHERE candle.market_id = %(market)s AND candle.open_time = minute
    AND candle.open_time >= %(since)s AND candle.open_time < %(until)s
) ORDER BY 1 LIMIT %(most)s
"""
_SILENCES = """
SELECT before, time FROM (
    SELECT time, lag(time) OVER (ORDER BY time) AS before
    FROM trade WHERE market_id = %(market)s AND time >= %(since)s AND time < %(until)s
) AS rows
WHERE time - before > %(longest)s ORDER BY 1 LIMIT %(most)s
"""
_PACE = """
SELECT count(*), min(time), max(time) FROM trade
WHERE market_id = %(market)s AND time >= %(since)s AND time < %(until)s
"""
_NEWEST_TRADES = """
SELECT exchange, symbol, trade_id, time FROM market, LATERAL (
    SELECT trade_id, time FROM trade WHERE trade.market_id = market.market_id AND time >= (
        SELECT time - interval '1 second' FROM trade
        WHERE trade.market_id = market.market_id AND time >= %(since)s ORDER BY time DESC LIMIT 1
    ) ORDER BY trade_id DESC LIMIT 1
) AS newest
"""
_NEWEST_CANDLES = """
SELECT exchange, symbol, open_time FROM market, LATERAL (
    SELECT open_time FROM candle WHERE candle.market_id = market.market_id AND open_time >= %(since)s
    ORDER BY open_time DESC LIMIT 1
) AS newest
"""
# Ids and times disagree by less than this: what lies behind the range shows that nothing is missing there.
_BEYOND = timedelta(minutes=1)
# So many of a kind at a look; the others are there at the next one.
MOST = 1_000


@dataclass(frozen=True, slots=True)
class Live:
    """A market with trades in the live tables.

    Attributes:
        loaded: the newest day that was loaded whole.
        newest: time of the newest trade.
    """

    market: Market
    number: int
    loaded: date | None
    newest: datetime


def markets(connection: Connection[Any], since: datetime) -> list[Live]:
    """Markets with trades since then."""
    rows = connection.execute(_MARKETS, {"since": since}).fetchall()
    return [
        Live(Market(exchange, symbol), number, loaded, newest)
        for exchange, symbol, number, loaded, newest in rows
        if newest is not None
    ]


def missing_ids(
    connection: Connection[Any], number: int, since: datetime, until: datetime
) -> list[tuple[int, int, datetime, datetime]]:
    """Holes in ids that count up: first and last id, inclusive, and the times of the trades around."""
    return connection.execute(
        _HOLES, {"market": number, "since": since, "until": until, "beyond": until + _BEYOND, "most": MOST}
    ).fetchall()


def minutes_without_candle(
    connection: Connection[Any], number: int, since: datetime, until: datetime
) -> list[datetime]:
    """Minutes that have trades and no candle; both bounds are whole minutes."""
    values = {"market": number, "since": since, "until": until, "most": MOST}
    return [row[0] for row in connection.execute(_LONELY, values).fetchall()]


def pace(
    connection: Connection[Any], number: int, since: datetime, until: datetime
) -> tuple[int, datetime | None, datetime | None]:
    """How many trades there are, and the times of the first and the last."""
    row = connection.execute(_PACE, {"market": number, "since": since, "until": until}).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has one row
    return row[0], row[1], row[2]


def silences(
    connection: Connection[Any], number: int, since: datetime, until: datetime, longest: object
) -> list[tuple[datetime, datetime]]:
    """Neighbouring trades that lie further apart than ``longest``."""
    values = {"market": number, "since": since, "until": until, "longest": longest, "most": MOST}
    return connection.execute(_SILENCES, values).fetchall()


def newest_trades(target: Settings | str, since: datetime) -> dict[Market, tuple[int, datetime]]:
    """Id and time of the newest trade of each market since then; of those of its last second the highest id.

    Raises:
        TransientError, UsageError: the server cannot be reached, or it has no schema.
    """
    return {
        Market(exchange, symbol): (number, time)
        for exchange, symbol, number, time in _rows(target, _NEWEST_TRADES, since)
    }


def newest_candles(target: Settings | str, since: datetime) -> dict[Market, datetime]:
    """Open time of the newest candle of each market since then.

    Raises:
        TransientError, UsageError: the server cannot be reached, or it has no schema.
    """
    return {
        Market(exchange, symbol): time for exchange, symbol, time in _rows(target, _NEWEST_CANDLES, since)
    }


def _rows(target: Settings | str, statement: str, since: datetime) -> list[tuple[Any, ...]]:
    with engine.connect(target, autocommit=True) as connection:
        try:
            return connection.execute(statement, {"since": since}).fetchall()
        except psycopg.Error as error:
            raise engine.translate(error) from None
