"""Manifests in the store: what is known of each day, as columns to ask for and whole."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import orjson
import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from marketdata.manifest import Manifest
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.store import engine

_COLUMNS = (
    "status", "reason", "rows", "fills", "first_time", "last_time", "first_id", "last_id", "missing",
    "not_served", "rejected", "source", "ids", "content_hash", "manifest",
)  # fmt: skip
_PUT = f"""
INSERT INTO coverage (market_id, day, {", ".join(_COLUMNS)})
VALUES (%(market_id)s, %(day)s, {", ".join(f"%({name})s" for name in _COLUMNS)})
ON CONFLICT (market_id, day) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)}, loaded_at = now()
"""  # noqa: S608 - names of columns


_HASHES = "SELECT exchange, symbol, day, content_hash FROM coverage JOIN market USING (market_id)"


@dataclass(frozen=True, slots=True)
class Covered:
    """What the store knows of a day."""

    rows: int
    content_hash: str
    manifest: Manifest


def read(connection: Connection[Any], market_id: int, day: date) -> Covered | None:
    """What the store knows of a day; ``None`` when it was never loaded.

    Raises:
        CorruptFile: the manifest was written by a newer version of this program.
    """
    row = connection.execute(
        "SELECT rows, content_hash, manifest::text FROM coverage WHERE market_id = %s AND day = %s",
        (market_id, day),
    ).fetchone()
    return None if row is None else Covered(row[0], row[1], Manifest.from_json(row[2]))


def hashes(target: Settings | str) -> dict[tuple[Market, date], str]:
    """Content hash of every day that was loaded.

    Raises:
        TransientError, UsageError: the server cannot be reached, or it has no schema.
    """
    with engine.connect(target, autocommit=True) as connection:
        try:
            rows = connection.execute(_HASHES).fetchall()
        except psycopg.Error as error:
            raise engine.translate(error) from None
    markets = {(exchange, symbol): Market(exchange, symbol) for exchange, symbol, _, _ in rows}
    return {(markets[exchange, symbol], day): text for exchange, symbol, day, text in rows}


def put(connection: Connection[Any], market_id: int, manifest: Manifest) -> None:
    """Write down what is known of a day, in place of what was."""
    values = {name: getattr(manifest, name, None) for name in _COLUMNS} | {
        "market_id": market_id,
        "day": manifest.day,
        "status": manifest.status.value,
        "ids": manifest.ids.value,
        "missing": manifest.missing_count,
        "not_served": manifest.not_served_count,
        "rejected": sum(manifest.rejected.values()),
        "manifest": Jsonb(orjson.loads(manifest.to_json())),
    }
    connection.execute(_PUT, values)
