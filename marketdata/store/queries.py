"""SQL of the reading side, and frames of its results.

A read gives one row, which has one array a column: its binary form is the column itself with four bytes
before each value, so NumPy reads it in one go. Rows of Python objects take eight times as long, COPY hands
every row through Python too, and neither lets a server keep the plan and bind the values
(``docs/provider.md`` has the figures).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

import numpy as np
import polars as pl
from psycopg import Connection
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format

from marketdata.candle import CANDLE_SCHEMA
from marketdata.interval import INTERVALS, Interval, from_us
from marketdata.reading import COVERAGE_SCHEMA, DETAILS, Wanted
from marketdata.trade import SIDE, TIME, TRADE_SCHEMA

STORED = Interval.parse("1m")
# Rows of one statement. A longer range is read in several, so that neither side holds it twice.
PAGE = 100_000

_EPOCH_2000 = 946_684_800_000_000  # microseconds; PostgreSQL counts from there
# Every value takes the same room only where none is null, so nulls travel as values that cannot occur.
_NO_INTEGER = -(1 << 63)
_NULLABLE = CANDLE_SCHEMA.names()[CANDLE_SCHEMA.names().index("quote_volume") :]
_NULLS = {pl.Float64(): "'NaN'", pl.Int64(): str(_NO_INTEGER), TIME: "'-infinity'"}
_CANDLE = {
    name: f"coalesce({name}, {_NULLS[dtype]})" if name in _NULLABLE else name
    for name, dtype in CANDLE_SCHEMA.items()
}
_TRADE = {
    name: "CASE side WHEN 'buy' THEN 0 WHEN 'sell' THEN 1 ELSE 2 END::smallint" if name == "side" else name
    for name in TRADE_SCHEMA
}
_OPENS = "market_id = %(market)s AND open_time >= %(start)s AND open_time < %(end)s"
# Ranges of which the wider candles do not know yet; the reader folds those anew.
_STALE = """
    , (SELECT array_agg(start_time) FROM candle_stale WHERE market_id = %(market)s
        AND start_time < %(end)s AND end_time > %(start)s)
    , (SELECT array_agg(end_time) FROM candle_stale WHERE market_id = %(market)s
        AND start_time < %(end)s AND end_time > %(start)s)
"""


def _arrays(values: dict[str, str], rows: str, more: str = "") -> str:
    """One array a column of what ``rows`` selects."""
    inner = ", ".join(value if value == name else f"{value} AS {name}" for name, value in values.items())
    outer = ", ".join(f"array_agg({name})" for name in values)
    return f"SELECT {outer}{more} FROM (SELECT {inner} {rows}) AS rows"  # noqa: S608 - names of columns


def _candles(order: str) -> dict[tuple[Interval, bool], str]:
    statements = {}
    for interval in INTERVALS:
        if interval >= STORED:
            table, more = ("candle", "") if interval == STORED else (f"candle_{interval}", _STALE)
            for details in (False, True):
                values = _CANDLE | ({name: name for name in DETAILS} if details else {})
                statements[interval, details] = _arrays(values, f"FROM {table} WHERE {_OPENS} {order}", more)
    return statements


# Candles of [start, end), and the last of them, newest first; by interval and whether with details.
CANDLES = _candles("ORDER BY open_time")
LAST_CANDLES = _candles("ORDER BY open_time DESC LIMIT %(count)s")
# The next trades of a range behind (after, after_id). The time stands by itself too, to leave out chunks.
TRADES = _arrays(
    _TRADE,
    "FROM trade WHERE market_id = %(market)s AND time >= %(after)s AND time < %(end)s"
    " AND (time, trade_id) > (%(after)s, %(after_id)s) ORDER BY time, trade_id LIMIT %(count)s",
)
MARKETS = "SELECT market_id, exchange, symbol FROM market ORDER BY exchange, symbol"
STATUSES = (
    "SELECT day, status FROM coverage WHERE market_id = %(market)s AND day >= %(first)s AND day <= %(last)s"
)
# The first trade of the first candle of a range: tells trades that were dropped from trades that never were.
FIRST_OF_CANDLES = f"SELECT first_trade_time FROM candle WHERE {_OPENS} ORDER BY open_time LIMIT 1"  # noqa: S608
# The first and the last candle or trade. The bounds name the few chunks where they are likely to be: without
# them the server makes a plan over all of its chunks, which takes a hundred times as long.
EDGES = {
    table: f"""
    SELECT
        (SELECT {time} FROM {table} WHERE market_id = %(market)s
            AND {time} >= %(first_from)s AND {time} <= %(first_to)s ORDER BY {time} LIMIT 1),
        (SELECT {time} FROM {table} WHERE market_id = %(market)s
            AND {time} >= %(last_from)s ORDER BY {time} DESC LIMIT 1)
    """  # noqa: S608 - names of columns
    for table, time in (("candle", "open_time"), ("trade", "time"))
}
LOADED = "SELECT count(*), max(loaded_at) FROM coverage WHERE market_id = %(market)s"
COVERED_DAYS = "SELECT min(day), max(day) FROM coverage WHERE market_id = %(market)s"
COVERAGE = f"""
SELECT {", ".join(COVERAGE_SCHEMA)} FROM coverage JOIN market USING (market_id)
WHERE (%(market)s::smallint IS NULL OR market_id = %(market)s)
  AND (%(start)s::date IS NULL OR day >= %(start)s) AND (%(end)s::date IS NULL OR day < %(end)s)
ORDER BY exchange, symbol, day
"""  # noqa: S608 - names of columns


class _Array(Loader):
    """An array of one dimension without nulls, as a NumPy array."""

    format = Format.BINARY
    kind: ClassVar[str]

    def load(self, data: Buffer) -> np.ndarray[Any, Any]:
        """Read what follows the header: dimensions, whether nulls, type, length, lower bound; 20 bytes."""
        values = np.frombuffer(data, np.dtype([("length", ">i4"), ("value", self.kind)]), offset=20)["value"]
        return values.astype(values.dtype.newbyteorder("="))


class _Float8(_Array):
    kind = ">f8"


class _Int8(_Array):
    kind = ">i8"


class _Int4(_Array):
    kind = ">i4"


class _Int2(_Array):
    kind = ">i2"


class _Time(_Array):
    kind = ">i8"

    def load(self, data: Buffer) -> np.ndarray[Any, Any]:
        """Microseconds since 1970; what was null stays what it is."""
        values = super().load(data)
        return np.where(values == _NO_INTEGER, values, values + _EPOCH_2000)


def configure(connection: Connection[Any]) -> None:
    """Prepare a connection for these statements.

    A plan for the values asked for looks at the few chunks they touch; one for any values looks at all.
    Compiling takes longer than any of these statements runs.
    """
    connection.execute("SET plan_cache_mode = force_custom_plan")
    connection.execute("SET jit = off")
    loaders = {"float8": _Float8, "int8": _Int8, "int4": _Int4, "int2": _Int2, "timestamptz": _Time}
    for name, loader in loaders.items():
        kind = connection.adapters.types[name]
        connection.adapters.register_loader(kind.array_oid, loader)


def no_candles(*, details: bool = False) -> pl.DataFrame:
    """A frame of no candles."""
    return (pl.Schema({**CANDLE_SCHEMA, **DETAILS}) if details else CANDLE_SCHEMA).to_frame()


def candle_frame(row: Sequence[Any], *, details: bool = False, newest_first: bool = False) -> pl.DataFrame:
    """The frame of a row of CANDLES or LAST_CANDLES, oldest first."""
    nothing = no_candles(details=details)
    if row[0] is None:
        return nothing
    schema = nothing.schema
    step = -1 if newest_first else 1
    columns = []
    for (name, dtype), values in zip(schema.items(), row[: len(schema)], strict=True):
        nullable = name in _NULLABLE
        column = pl.Series(name, values[::step], nan_to_null=nullable and dtype == pl.Float64)
        if nullable and dtype != pl.Float64 and values.min() == _NO_INTEGER:
            column = column.replace(_NO_INTEGER, None)
        columns.append(column if column.dtype == dtype else column.cast(dtype))
    return pl.DataFrame(columns)


def stale_ranges(row: Sequence[Any], interval: Interval, start: datetime, end: datetime) -> list[Wanted]:
    """What of ``[start, end)`` a row of wider candles does not know yet; whole intervals, apart, in order."""
    if interval == STORED or row[-1] is None:
        return []
    ranges: list[Wanted] = []
    for opens, closes in sorted(zip(row[-2].tolist(), row[-1].tolist(), strict=True)):
        first = max(start, from_us(interval.floor_us(opens)))
        last = min(end, from_us(interval.ceil_us(closes)))
        if ranges and first <= ranges[-1].end:
            first, last = ranges[-1].start, max(last, ranges.pop().end)
        ranges.append(Wanted(interval, first, last))
    return ranges


def trade_frame(row: Sequence[Any]) -> pl.DataFrame:
    """The frame of a row of TRADES."""
    if row[0] is None:
        return TRADE_SCHEMA.to_frame()
    frame = pl.DataFrame(dict(zip(TRADE_SCHEMA, row, strict=True)))
    side = pl.when(pl.col("side") < len(SIDE.categories)).then("side").cast(pl.UInt8).cat.to(SIDE)
    return frame.with_columns(side.alias("side")).cast({"time": TIME})
