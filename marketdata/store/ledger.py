"""The ledger in the store: rows are added, and the database itself refuses to change or remove one."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import orjson
import polars as pl
import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from marketdata.ledger import LEDGER_SCHEMA, in_order
from marketdata.settings import Settings
from marketdata.store import engine

# Words that SQL keeps for itself have another name in the table.
_COLUMNS = {"case": "case_id", "start": "start_time", "end": "end_time"}
_NAMES = [_COLUMNS.get(name, name) for name in LEDGER_SCHEMA]
_TEXTS = ("before", "after")
_PUT = f"""
INSERT INTO ledger ({", ".join(_NAMES)}) VALUES ({", ".join(["%s"] * len(_NAMES))})
ON CONFLICT (entry_id) DO NOTHING
"""  # noqa: S608 - names of columns
_READ = f"""
SELECT {", ".join(f"{name}::text" if name in _TEXTS else name for name in _NAMES)}
FROM ledger
WHERE at >= coalesce(%s, '-infinity'::timestamptz) AND at < coalesce(%s, 'infinity'::timestamptz)
"""  # noqa: S608 - names of columns


def append(target: str | Settings, entries: pl.DataFrame) -> int:
    """Add those entries that are not there yet, in one transaction, and say how many they were.

    Args:
        target: the store.
        entries: LEDGER_SCHEMA.

    Raises:
        TransientError, UsageError: the server cannot be reached, or it has no such table.
    """
    if entries.is_empty():
        return 0
    with _connected(target) as connection:
        ids = entries["entry_id"].to_list()
        held = connection.execute(
            "SELECT entry_id FROM ledger WHERE entry_id = ANY(%s)", (ids,), binary=True
        ).fetchall()
        news = entries.filter(~pl.col("entry_id").is_in([row[0] for row in held]))
        with connection.cursor() as cursor:
            cursor.executemany(_PUT, [_row(row) for row in news.iter_rows(named=True)])
            return max(cursor.rowcount, 0)


def read(target: str | Settings, start: datetime | None = None, end: datetime | None = None) -> pl.DataFrame:
    """Entries written in ``[start, end)``, by time: LEDGER_SCHEMA.

    Raises:
        TransientError, UsageError: the server cannot be reached, or it has no such table.
    """
    with _connected(target) as connection:
        rows = connection.execute(_READ, (start, end)).fetchall()
    found = pl.DataFrame(rows, schema=LEDGER_SCHEMA, orient="row")
    # jsonb has its own order and spacing; the texts of the ledger have one form only.
    return in_order(
        found.with_columns(pl.col(name).map_elements(_sorted, return_dtype=pl.String) for name in _TEXTS)
    )


@contextmanager
def _connected(target: str | Settings) -> Iterator[Connection[Any]]:
    with engine.connect(target) as connection:
        try:
            yield connection
        except psycopg.Error as error:
            raise engine.translate(error) from None


def _row(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        Jsonb(orjson.loads(entry[name])) if name in _TEXTS else entry[name] for name in LEDGER_SCHEMA
    )


def _sorted(text: str) -> str:
    return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS).decode()
