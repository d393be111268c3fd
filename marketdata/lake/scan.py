"""Reading ranges: which rows of which files, as frames and lazily."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import polars as pl
from pyarrow import dataset as ds

from marketdata.lake import parquet
from marketdata.lake.filesystem import Storage
from marketdata.lake.paths import Part
from marketdata.manifest import day_window
from marketdata.market import Market

Range = tuple[datetime, datetime]


def read(storage: Storage, keys: Sequence[str], schema: pl.Schema, time: str, within: Range) -> pl.DataFrame:
    """Rows with ``time`` in the half-open range ``within`` of the files of one market, file after file.

    Raises:
        CorruptFile: a file is cut or foreign.
    """
    frames = [read_one(storage, key, schema, time, within)[0] for key in keys]
    if len(frames) == 1:
        return frames[0]
    return pl.concat(frames) if frames else schema.to_frame()


def read_one(
    storage: Storage, key: str, schema: pl.Schema, time: str, within: Range
) -> tuple[pl.DataFrame, dict[bytes, bytes]]:
    """Rows with ``time`` in the half-open range ``within`` of one file, and its metadata.

    Raises:
        CorruptFile: it is cut or foreign.
    """
    return parquet.read_with_metadata(storage, key, schema, time=time, within=_cut(key, within))


def _cut(key: str, within: Range) -> Range | None:
    """The range, when it cuts the day of this file."""
    part = Part.parse(key)
    if part is None:
        return within
    first, last = day_window(part.day)
    return None if within[0] <= first and last <= within[1] else within


def markets(
    storage: Storage,
    keys: Mapping[Market, Sequence[str]],
    schema: pl.Schema,
    time: str,
    within: Range,
) -> pl.LazyFrame:
    """A lazy frame over the files of several markets, with ``exchange`` and ``symbol`` in front."""
    frames = []
    for market, found in keys.items():
        if found:
            frame = _scan(storage, found).filter(pl.col(time) >= within[0], pl.col(time) < within[1])
            names = [pl.lit(market.exchange).alias("exchange"), pl.lit(market.symbol).alias("symbol")]
            frames.append(frame.select(*names, *(pl.col(name).cast(schema[name]) for name in schema)))
    if not frames:
        empty = pl.Schema({"exchange": pl.String(), "symbol": pl.String(), **schema})
        return empty.to_frame().lazy()
    return pl.concat(frames)


def _scan(storage: Storage, keys: Sequence[str]) -> pl.LazyFrame:
    paths = [storage.full(key) for key in keys]
    if storage.is_local:
        return pl.scan_parquet(paths, hive_partitioning=False, glob=False)
    return pl.scan_pyarrow_dataset(ds.dataset(paths, format="parquet", filesystem=storage.fs))
