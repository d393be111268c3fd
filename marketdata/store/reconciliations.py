"""How each day compares, in the store: one row a day and comparison, for plots."""

from datetime import date, datetime
from typing import Any

import psycopg

from marketdata.market import Market
from marketdata.reconcile import CLASSES, Side
from marketdata.settings import Settings
from marketdata.store import engine
from marketdata.store.markets import market_id

_COLUMN_OF = {name: name.replace(" ", "_") for name in CLASSES}
_DRIFT_OF = {
    "close_max": "close_drift_max",
    "close_mean": "close_drift_mean",
    "volume_max": "volume_drift_max",
    "volume_mean": "volume_drift_mean",
    "volume_day": "volume_drift_day",
}
_VALUES = ("compared", "equal", *_COLUMN_OF.values(), "wrong", *_DRIFT_OF.values(), "reconciled_at")
_PUT = f"""
INSERT INTO reconciliation (market_id, day, compared_with, {", ".join(_VALUES)})
VALUES (%(market_id)s, %(day)s, %(compared_with)s, {", ".join(f"%({name})s" for name in _VALUES)})
ON CONFLICT (market_id, day, compared_with) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in _VALUES)}
"""  # noqa: S608 - names of columns


def put(
    target: Settings | str,
    market: Market,
    day: date,
    sides: dict[str, tuple[Side, int]],
    at: datetime,
) -> None:
    """Write how a day compares, in place of what was said before.

    Args:
        sides: by what it was compared with, ``stream`` or ``exchange``: the comparison, and how many candles
            stay wrong.

    Raises:
        TransientError: the server does not answer.
        StorageError, UsageError: it refuses.
    """
    try:
        with engine.connect(target) as connection:
            number = market_id(connection, market, create=True)
            for name, (side, wrong) in sides.items():
                values: dict[str, Any] = {"market_id": number, "day": day, "compared_with": name}
                values |= {
                    "compared": side.compared,
                    "equal": side.equal,
                    "wrong": wrong,
                    "reconciled_at": at,
                }
                values |= {column: side.counts.get(kind, 0) for kind, column in _COLUMN_OF.items()}
                values |= {column: getattr(side.drift, kind) for kind, column in _DRIFT_OF.items()}
                connection.execute(_PUT, values)
    except psycopg.Error as error:
        raise engine.translate(error) from None
