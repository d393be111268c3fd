"""Lists of JSON values -> columns of trades, leniently: what cannot be read is null and refused later (pure).

An answer of an exchange may hold anything; one odd value must not cost the page. The plain case is one
conversion a column.
"""

from collections.abc import Sequence
from contextlib import suppress
from types import NoneType
from typing import Any

import numpy as np
import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.trade import SIDE, TIME

# 9999-12-31: what Python's datetime can still show.
_LAST_US = 253_402_300_799_999_999
# Ticks since the epoch: larger ones are microseconds, smaller ones milliseconds (until the year 5138).
_MICROSECONDS_FROM = 100_000_000_000_000
_LARGEST_INT = 2**63
# What polars may be given as it is; a list of many levels keeps it busy for a minute before it refuses.
_TEXT, _WHOLE = {str, NoneType}, {int, NoneType}


def floats(name: str, values: Sequence[Any]) -> pl.Series:
    """Numbers, given as decimal text or as JSON numbers; the nearest float64 of the text."""
    if set(map(type, values)) <= _TEXT:
        with suppress(UnicodeEncodeError):  # half a surrogate pair
            return pl.Series(name, values, dtype=pl.String).cast(pl.Float64, strict=False)
    return pl.Series(name, [_float(value) for value in values], dtype=pl.Float64)


def integers(name: str, values: Sequence[Any]) -> pl.Series:
    """Whole numbers, given as JSON numbers or as text."""
    if set(map(type, values)) <= _WHOLE:
        with suppress(TypeError, OverflowError):  # beyond 64 bits
            return pl.Series(name, values, dtype=pl.Int64)
    return pl.Series(name, [_integer(value) for value in values], dtype=pl.Int64)


def times_from_seconds(name: str, values: Sequence[Any]) -> pl.Series:
    """Times from seconds since the epoch with decimals, cut to the microsecond.

    A float64 of today's seconds has steps of 0.24 us, so what was written is the number's shortest decimal
    text: of six digits where they give this very float, else of seven. Cut, not rounded: a trade 0.3 us
    before a minute belongs to the minute before, as in the exchange's own candles.
    """
    if set(map(type, values)) <= {float, int}:
        seconds = pl.Series(name, values, dtype=pl.Float64, strict=False).to_numpy()
    else:
        seconds = np.array([_float(value) for value in values], dtype=np.float64)
    usable = (seconds >= 0) & (seconds <= _LAST_US // 1_000_000)
    seconds = np.where(usable, seconds, 0.0)
    whole = np.floor(seconds)
    rest = seconds - whole
    micros = np.rint(rest * 1e6)
    exact = whole + micros / 1e6 == seconds
    micros = np.where(exact, micros, np.rint(rest * 1e7) // 10)
    us = pl.Series(name, whole.astype(np.int64) * 1_000_000 + micros.astype(np.int64))
    return (us if usable.all() else us.set(pl.Series(~usable), None)).cast(TIME)


def times_from_ticks(name: str, values: Sequence[Any]) -> pl.Series:
    """Times from milliseconds or microseconds since the epoch; the size of each tells which."""
    ticks = integers(name, values)
    known = ticks.to_numpy() if not ticks.null_count() else ticks.fill_null(-1).to_numpy()
    in_ms = (known >= 0) & (known < _MICROSECONDS_FROM)
    us = np.where(in_ms, known * 1000, known)
    usable = (us >= 0) & (us <= _LAST_US)
    column = pl.Series(name, us)
    return (column if usable.all() else column.set(pl.Series(~usable), None)).cast(TIME)


def sides(name: str, values: Sequence[Any], words: dict[Any, str]) -> pl.Series:
    """Taker sides by the source's own words; null for any other word."""
    try:
        return pl.Series(name, [words.get(value) for value in values], dtype=SIDE)
    except TypeError:  # a list or an object stands where a word should
        known = [words.get(value) if isinstance(value, str | bool) else None for value in values]
        return pl.Series(name, known, dtype=SIDE)


def ones(name: str, count: int) -> pl.Series:
    """One raw execution a row, for sources that serve each on its own."""
    return pl.Series(name, np.ones(count, dtype=np.int32))


def exchange_candles(columns: pl.DataFrame) -> pl.DataFrame:
    """Bring candles into EXCHANGE_CANDLE_SCHEMA, sorted; what the exchange does not say is null."""
    absent = [
        pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in EXCHANGE_CANDLE_SCHEMA.items()
        if name not in columns.columns
    ]
    return columns.with_columns(absent).select(EXCHANGE_CANDLE_SCHEMA.names()).sort("open_time")


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _integer(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    whole = isinstance(value, str) or number == value
    return number if whole and -_LARGEST_INT <= number < _LARGEST_INT else None
