"""The ledger, written in one way by everyone: into the lake first, then into the store where there is one.

A store that is away is no failure: what it lacks is brought over at the next record.
"""

import logging
from collections.abc import Iterable
from datetime import datetime

import polars as pl

from marketdata.errors import MarketDataError
from marketdata.lake import Lake
from marketdata.lake import ledger as in_lake
from marketdata.ledger import Entry, in_order, to_frame
from marketdata.settings import Settings

_LOG = logging.getLogger(__name__)
# Lakes and stores of which this process knows that the store has all of the lake's ledger.
_LEVEL: set[tuple[str, str]] = set()


def record(settings: Settings, lake: Lake, entries: Iterable[Entry]) -> int:
    """Write entries; they are durable in the lake when this returns. Those written before add nothing.

    With MARKETDATA_DATABASE_URL they also go into its table ``ledger``. That a store cannot take them is said
    in the log, and it is given them at the next record, of this process or another.

    Returns:
        How many were given to the lake.

    Raises:
        StorageError: the lake cannot be written.
    """
    fresh = list(entries)
    written = in_lake.append(lake, fresh)
    if settings.database_url is not None:
        _bring(settings, lake, to_frame(fresh))
    return written


def entries(
    settings: Settings, lake: Lake, start: datetime | None = None, end: datetime | None = None
) -> pl.DataFrame:
    """Entries written in ``[start, end)``, each once, by time: LEDGER_SCHEMA.

    Those of the lake, and those that only the store has: of a service on another machine, with another lake.
    Without the store the lake alone answers.

    Raises:
        CorruptFile: a file of the lake is cut or foreign.
    """
    held = in_lake.read(lake, start, end)
    if settings.database_url is None:
        return held
    try:
        from marketdata.store import ledger  # noqa: PLC0415 - an extra

        stored = ledger.read(settings, start, end)
    except (MarketDataError, ImportError) as error:
        _LOG.warning("the ledger is read from the lake alone: %s", error)
        return held
    return in_order(pl.concat([held, stored]))


def _bring(settings: Settings, lake: Lake, fresh: pl.DataFrame) -> None:
    """Give the store what is new; the first time and after a failure, whatever it lacks."""
    assert settings.database_url is not None  # noqa: S101 - the caller has looked
    pair = (lake.url, settings.database_url.get_secret_value())
    try:
        from marketdata.store import ledger  # noqa: PLC0415 - an extra

        ledger.append(settings, fresh if pair in _LEVEL else in_lake.read(lake))
        _LEVEL.add(pair)
    except (MarketDataError, ImportError) as error:
        _LEVEL.discard(pair)
        _LOG.warning("the store is given the ledger later: %s", error)
