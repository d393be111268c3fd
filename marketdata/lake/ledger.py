"""The ledger of a lake: append-only, a small file an append, by the day on which it was written.

The files of a day that is over become one, and so do many of a running day: the merged file is put in place
first, then those that are in it are removed. A reader that meets both counts an entry once, and no lock is
needed, on S3 neither: whoever merges at the same time writes what it has seen and removes only that.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import date, datetime
from functools import partial

import polars as pl

from marketdata.errors import CorruptFile, StorageError
from marketdata.lake import Lake, files, parquet, paths
from marketdata.ledger import LEDGER_SCHEMA, Entry, in_order, to_frame

# Of a running day; reading one takes about a millisecond.
MOST_FILES = 32


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
        written += _put(lake, day, to_frame(found))
    if by_day:
        # The entries are safe, and a damaged file is the reader's to report.
        with suppress(StorageError, CorruptFile):
            _merge(lake, max(by_day))
    return written


def read(lake: Lake, start: datetime | None = None, end: datetime | None = None) -> pl.DataFrame:
    """Entries written in ``[start, end)``, each once, by time: LEDGER_SCHEMA.

    Raises:
        CorruptFile: a file is cut or foreign.
    """
    frames: dict[str, pl.DataFrame] = {}
    before: set[str] | None = None
    while True:
        # A listing may pass over a file that is put in place meanwhile and not show those that are in it any
        # more: all is read when nothing went away between two listings.
        listed = {key for day, keys in _days(lake).items() if _touches(day, start, end) for key in keys}
        news = sorted(listed - frames.keys())
        found = {key: frame for key in news if (frame := _read(lake, key)) is not None}
        frames |= found
        if before is not None and before <= listed and len(found) == len(news):
            break
        before = listed
    entries = in_order(pl.concat([LEDGER_SCHEMA.to_frame(), *frames.values()]))
    if start is not None:
        entries = entries.filter(pl.col("at") >= start)
    return entries if end is None else entries.filter(pl.col("at") < end)


def _touches(day: date, start: datetime | None, end: datetime | None) -> bool:
    return (start is None or day >= start.date()) and (end is None or day <= end.date())


def _days(lake: Lake) -> dict[date, list[str]]:
    """The files of each day."""
    days: dict[date, list[str]] = {}
    for key in lake.storage.files(paths.LEDGER):
        day = paths.ledger_day(key)
        if day is not None:
            days.setdefault(day, []).append(key)
    return days


def _put(lake: Lake, day: date, entries: pl.DataFrame) -> int:
    frame = in_order(entries)
    files.put(
        lake.storage, paths.ledger_key(day, frame["entry_id"].to_list()), partial(parquet.write, frame, {})
    )
    return len(frame)


def _read(lake: Lake, key: str) -> pl.DataFrame | None:
    """The entries at ``key``; ``None`` when another process has merged them into another file."""
    try:
        return parquet.read(lake.storage, key, LEDGER_SCHEMA, time="at")
    except StorageError:
        if lake.storage.size(key) is None:
            return None
        raise


def _merge(lake: Lake, today: date) -> None:
    for day, keys in _days(lake).items():
        if len(keys) < 2 or (day >= today and len(keys) <= MOST_FILES):
            continue
        frames = [frame for key in keys if (frame := _read(lake, key)) is not None]
        if len(frames) < len(keys):  # somebody else is at it
            continue
        merged = in_order(pl.concat(frames))
        target = paths.ledger_key(day, merged["entry_id"].to_list())
        _put(lake, day, merged)
        for key in keys:
            if key != target:
                lake.storage.delete(key)
