"""How each day compares, in the lake: the candles that differ, and beside them what was compared."""

from datetime import date

import orjson
import polars as pl

from marketdata.lake import Lake, files, parquet
from marketdata.lake.paths import Part
from marketdata.market import Market
from marketdata.reconcile import DIFFERENCE_SCHEMA

_RESULT = b"marketdata.reconciliation"
Result = dict[str, object]


def write(lake: Lake, market: Market, day: date, differences: pl.DataFrame, result: Result) -> None:
    """Put the result of a day in place of the one before.

    Args:
        differences: DIFFERENCE_SCHEMA.
        result: what can be JSON.

    Raises:
        StorageError: it cannot be written.
    """
    body = orjson.dumps(result, option=orjson.OPT_SORT_KEYS)
    frame = differences.select(DIFFERENCE_SCHEMA.names())
    key = Part("reconciliation", market, day).key
    files.put(lake.storage, key, lambda stream: parquet.write(frame, {_RESULT: body}, stream))


def result(lake: Lake, market: Market, day: date) -> Result | None:
    """What was compared and how it came out; ``None`` when the day was not reconciled.

    Raises:
        CorruptFile: the file is cut or foreign.
    """
    metadata = parquet.read_metadata(lake.storage, Part("reconciliation", market, day).key)
    if metadata is None:
        return None
    found: Result = orjson.loads(metadata.get(_RESULT, b"{}"))
    return found


def differences(lake: Lake, market: Market, day: date) -> pl.DataFrame:
    """The candles that differ, DIFFERENCE_SCHEMA; none when the day was not reconciled.

    Raises:
        CorruptFile: the file is cut or foreign.
    """
    key = Part("reconciliation", market, day).key
    if lake.storage.size(key) is None:
        return DIFFERENCE_SCHEMA.to_frame()
    return parquet.read(lake.storage, key, DIFFERENCE_SCHEMA, time="open_time")
