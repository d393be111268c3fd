"""Candles from files beside those the lake holds; what is held stays.

But for one case: freqtrade keeps six of a candle's columns, and those it has made of trades itself look like
those it was served. Candles of the exchange's own files take their place.
"""

import polars as pl

from marketdata.imported_day import Placed, keep_rejects
from marketdata.lake import Lake
from marketdata.manifest import day_window
from marketdata.sources.days import FileDay
from marketdata.sources.formats import Known

_WEAK = "file freqtrade-candles"


def place_candles(lake: Lake, file: Known, day: FileDay) -> Placed:
    """Add the candles of a day to those held; a candle that is held is not replaced by a weaker one.

    Raises:
        StorageError: the lake cannot be written.
        TransientError: another process holds the day.
    """
    assert file.interval is not None  # noqa: S101
    market, interval = file.market, file.interval
    with lake.lock(market, day.day):
        keep_rejects(lake, market, day.day, day.rejects)
        held = lake.read_candles(market, interval, *day_window(day.day), kind="exchange_candles")
        facts = lake.read_facts("exchange_candles", market, day.day, interval) or {}
        source = f"file {file.format.name}"
        if facts.get("source") == _WEAK and source != _WEAK:
            held = held.join(day.rows, on="open_time", how="anti")
        both = pl.concat([held, day.rows]).unique("open_time", keep="first", maintain_order=True)
        added = len(both) - len(held)
        if added:
            files = {*facts.get("files", "").split(" | "), file.label} - {""}
            sources = {*facts.get("source", "").split(" | ")} - {""} if len(held) else set()
            facts |= {"source": " | ".join(sorted({*sources, source})), "files": " | ".join(sorted(files))}
            lake.write_candles(
                market, day.day, interval, both.sort("open_time"), kind="exchange_candles", facts=facts
            )
    return Placed(added, len(day.rows) - added)
