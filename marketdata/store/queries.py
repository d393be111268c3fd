"""SQL of the reading side, and frames of its results.

A read gives one row, which has one array a column: its binary form is the column itself with four bytes
before each value, so NumPy reads it in one go. Rows of Python objects take eight times as long, COPY hands
every row through Python too, and neither lets a server keep the plan and bind the values
(``docs/provider.md`` has the figures).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
from psycopg import Connection, IsolationLevel
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

_STALE_COLUMNS = 3
_EPOCH_2000 = 946_684_800_000_000  # microseconds; PostgreSQL counts from there
# Every value takes the same room only where none is null, so nulls travel as values that cannot occur.
_NO_INTEGER = -(1 << 63)
_NULLABLE = CANDLE_SCHEMA.names()[CANDLE_SCHEMA.names().index("quote_volume") :]
_DETAILED = pl.Schema({**CANDLE_SCHEMA, **DETAILS})
_ARROW = {pl.Float64(): pa.float64(), pl.Int64(): pa.int64(), TIME: pa.timestamp("us", "UTC")}
_KINDS = [(_ARROW[dtype], name in _NULLABLE) for name, dtype in CANDLE_SCHEMA.items()]
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
# Ranges of which the wider candles do not know yet, and where the candles to fold them anew begin.
_MARKED = "FROM candle_stale WHERE market_id = %(market)s AND start_time < %(end)s AND end_time > %(start)s"
_DROPPED = ", (SELECT candles_dropped_before FROM store_state)"
_STALE = f""",
    (SELECT array_agg(start_time ORDER BY stale_id) {_MARKED}),
    (SELECT array_agg(end_time ORDER BY stale_id) {_MARKED}){_DROPPED}
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
            table, more = ("candle", _DROPPED) if interval == STORED else (f"candle_{interval}", _STALE)
            for details in (False, True):
                values = _CANDLE | ({name: name for name in DETAILS} if details else {})
                statements[interval, details] = _arrays(values, f"FROM {table} WHERE {_OPENS} {order}", more)
    return statements


# Candles of [start, end), and the last of them, newest first; by interval and whether with details.
CANDLES = _candles("ORDER BY open_time")
LAST_CANDLES = _candles("ORDER BY open_time DESC LIMIT %(count)s")
# The last issue of each candle that was streamed, also where something else has taken its place.
_SAID = ", ".join([*CANDLE_SCHEMA, "revision", "coverage"])
STREAMED = _arrays(
    _CANDLE | {name: name for name in DETAILS},
    f"""FROM (
        SELECT DISTINCT ON (open_time) *, 'stream'::text AS source FROM (
            SELECT {_SAID} FROM candle WHERE {_OPENS} AND source = 'stream'
            UNION ALL SELECT {_SAID} FROM candle_streamed WHERE {_OPENS}
        ) AS said ORDER BY open_time, revision DESC
    ) AS latest ORDER BY open_time""",  # noqa: S608 - names of columns
)
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
FIRST_OF_CANDLES = (
    f"SELECT (SELECT first_trade_time FROM candle WHERE {_OPENS} ORDER BY open_time LIMIT 1){_DROPPED}"  # noqa: S608
)
# A wider candle of a range, the first: tells candles that were dropped from candles that never were.
FIRST_OF_WIDER = f"SELECT open_time FROM candle_5m WHERE {_OPENS} ORDER BY open_time LIMIT 1"  # noqa: S608
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
COVERED_DAYS = f"SELECT min(day), max(day){_DROPPED} FROM coverage WHERE market_id = %(market)s"  # noqa: S608
# The first day that says from when on it is known, as marketdata.reading.known_from reads it.
FIRST_KNOWN = """
SELECT day, status, first_time FROM coverage
WHERE market_id = %(market)s AND (status = 'complete' OR first_time IS NOT NULL) ORDER BY day LIMIT 1
"""
WIDER_BEFORE = """
SELECT min(open_time), max(open_time) FROM candle_5m WHERE market_id = %(market)s AND open_time < %(end)s
"""
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
    Compiling takes longer than any of these statements runs. Several in a transaction see one moment.
    """
    connection.execute("SET plan_cache_mode = force_custom_plan; SET jit = off")
    connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
    loaders = {"float8": _Float8, "int8": _Int8, "int4": _Int4, "int2": _Int2, "timestamptz": _Time}
    for name, loader in loaders.items():
        kind = connection.adapters.types[name]
        connection.adapters.register_loader(kind.array_oid, loader)


def candle_schema(*, details: bool) -> pl.Schema:
    """The columns of a frame of candles."""
    return _DETAILED if details else CANDLE_SCHEMA


def candle_frame(row: Sequence[Any], *, details: bool = False, newest_first: bool = False) -> pl.DataFrame:
    """The frame of a row of CANDLES or LAST_CANDLES, oldest first."""
    schema = candle_schema(details=details)
    if row[0] is None:
        return schema.to_frame()
    step = -1 if newest_first else 1
    columns = [
        _column(values[::step], kind, nullable=nullable)
        for values, (kind, nullable) in zip(row, _KINDS, strict=False)
    ]
    frame = pl.DataFrame(pa.RecordBatch.from_arrays(columns, names=CANDLE_SCHEMA.names()))
    if not details:
        return frame
    more = zip(DETAILS.items(), row[len(CANDLE_SCHEMA) :], strict=False)
    return frame.with_columns(
        [pl.Series(name, list(values[::step]), dtype) for (name, dtype), values in more]
    )


def _column(values: np.ndarray[Any, Any], kind: pa.DataType, *, nullable: bool) -> pa.Array:
    """A column as Arrow, which takes the memory as it lies."""
    if nullable:
        absent = np.isnan(values) if values.dtype.kind == "f" else values == _NO_INTEGER
        if absent.any():
            return pa.array(values, mask=absent).cast(kind)
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def stale_ranges(row: Sequence[Any], wanted: Wanted) -> list[Wanted]:
    """What of ``wanted`` a row of wider candles does not know yet; whole intervals, apart, in order.

    What would be folded from one-minute candles that retention has removed is left as it is.
    """
    if wanted.interval == STORED or row[-_STALE_COLUMNS] is None:
        return []
    starts, ends, dropped = row[-_STALE_COLUMNS:]
    floor, ceil = wanted.interval.floor_us, wanted.interval.ceil_us
    earliest = wanted.start if dropped is None else max(wanted.start, wanted.interval.ceil(dropped))
    ranges: list[Wanted] = []
    for opens, closes in sorted(zip(starts.tolist(), ends.tolist(), strict=True)):
        first, last = max(earliest, from_us(floor(opens))), min(wanted.end, from_us(ceil(closes)))
        if ranges and first <= ranges[-1].end:
            before = ranges.pop()
            first, last = before.start, max(last, before.end)
        if first < last:
            ranges.append(Wanted(wanted.interval, first, last))
    return ranges


def trade_frame(row: Sequence[Any]) -> pl.DataFrame:
    """The frame of a row of TRADES."""
    if row[0] is None:
        return TRADE_SCHEMA.to_frame()
    frame = pl.DataFrame(dict(zip(TRADE_SCHEMA, row, strict=True)))
    side = pl.when(pl.col("side") < len(SIDE.categories)).then("side").cast(pl.UInt8).cat.to(SIDE)
    return frame.with_columns(side.alias("side")).cast({"time": TIME})
