"""The ledger of a lake: append-only, a small file an append, by the day on which it was written."""

from collections.abc import Iterable
from datetime import date, datetime
from functools import partial

import polars as pl

from marketdata.lake import Lake, files, parquet, paths
from marketdata.ledger import LEDGER_SCHEMA, Entry, in_order, to_frame


def append(lake: Lake, entries: Iterable[Entry]) -> int:
    """Write entries; durable when this returns. Those that are there already add nothing.

    Returns:
        How many are written.

    Raises:
        StorageError: the lake cannot be written.
    """
    written = 0
    by_day: dict[date, list[Entry]] = {}
    for entry in entries:
        by_day.setdefault(entry.at.date(), []).append(entry)
    for day, found in sorted(by_day.items()):
        frame = in_order(to_frame(found))
        key = paths.ledger_key(day, frame["entry_id"].to_list())
        files.put(lake.storage, key, partial(parquet.write, frame, {}))
        written += len(frame)
    return written


def read(lake: Lake, start: datetime | None = None, end: datetime | None = None) -> pl.DataFrame:
    """Entries written in ``[start, end)``, each once, by time: LEDGER_SCHEMA.

    Raises:
        CorruptFile: a file is cut or foreign.
    """
    frames = [LEDGER_SCHEMA.to_frame()]
    for key in lake.storage.files(paths.LEDGER):
        day = paths.ledger_day(key)
        if day is None or (start and day < start.date()) or (end and day > end.date()):
            continue
        frames.append(parquet.read(lake.storage, key, LEDGER_SCHEMA, time="at"))
    found = in_order(pl.concat(frames))
    if start is not None:
        found = found.filter(pl.col("at") >= start)
    return found if end is None else found.filter(pl.col("at") < end)
