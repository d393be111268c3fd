"""DuckDB over the lake: views ``trades``, ``candles``, ``exchange_candles``, ``findings`` and ``coverage``.

They read the Parquet files where they lie. A filter on ``exchange``, ``symbol`` or ``date`` decides which
files are opened, one on ``interval`` which branch of ``candles`` runs at all; a filter on ``time`` or
``open_time`` alone still reads every footer. ``docs/duckdb.md`` shows queries.
"""

from typing import Any

import duckdb
import polars as pl

from marketdata.candle import CANDLE_SCHEMA, EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import UsageError
from marketdata.finding import FINDING_SCHEMA
from marketdata.interval import INTERVALS, Interval
from marketdata.lake.filesystem import Storage
from marketdata.lake.lake import Lake
from marketdata.lake.paths import FILE
from marketdata.trade import TRADE_SCHEMA

_MINUTE, _DAY = Interval.parse("1m"), Interval.parse("1d")
_HIVE = (
    "filename = true, hive_partitioning = true,"
    " hive_types = {'exchange': VARCHAR, 'symbol': VARCHAR, 'date': DATE}"
)
# Of the path, where the hyphen parts base and quote: the column that DuckDB makes of it is decoded already,
# and there a hyphen may be one of the symbol itself.
_SYMBOL = "url_decode(replace(regexp_extract(filename, '.*/symbol=([^/]+)/', 1), '-', '/'))"
_TYPES = {
    "Float64": "DOUBLE",
    "Int64": "BIGINT",
    "Int32": "INTEGER",
    "Enum": "VARCHAR",
    "Datetime": "TIMESTAMPTZ",
    "String": "VARCHAR",
    "Boolean": "BOOLEAN",
}
_SCHEME = "lake"

_SUMS = """
    sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trade_count)::BIGINT AS trade_count,
    CASE WHEN count(taker_buy_volume) = count(*) THEN sum(taker_buy_volume) END AS taker_buy_volume,
    CASE WHEN count(taker_buy_quote_volume) = count(*) THEN sum(taker_buy_quote_volume) END
        AS taker_buy_quote_volume
"""
_FROM_MINUTES = f"""
    arg_min(open, open_time) AS open, max(high) AS high, min(low) AS low, arg_max(close, open_time) AS close,
    {_SUMS},
    arg_min(first_trade_id, open_time) AS first_trade_id, arg_max(last_trade_id, open_time) AS last_trade_id,
    min(first_trade_time) AS first_trade_time, max(last_trade_time) AS last_trade_time
"""
_FROM_TRADES = f"""
    arg_min(price, place) AS open, max(price) AS high, min(price) AS low, arg_max(price, place) AS close,
    {_SUMS},
    arg_min(trade_id, place) AS first_trade_id, arg_max(trade_id, place) AS last_trade_id,
    min(time) AS first_trade_time, max(time) AS last_trade_time
"""
# Each trade with the columns of the candle it is alone, and its place in the order of trades.
_TRADE_ROWS = """
    SELECT *, row(time, trade_id) AS place, amount AS volume, price * amount AS quote_volume,
        fills AS trade_count,
        CASE side WHEN 'buy' THEN amount WHEN 'sell' THEN 0 END AS taker_buy_volume,
        CASE side WHEN 'buy' THEN price * amount WHEN 'sell' THEN 0 END AS taker_buy_quote_volume
    FROM trades
"""
# Days and the Monday of their week. A filter on the Monday reaches the files through the join; through
# date_trunc it would not, because DuckDB keeps expressions that may fail away from a scan.
_WEEKDAYS = """
    SELECT monday + day::INTEGER AS date, monday
    FROM
        (SELECT DATE '2009-01-05' + 7 * unnest(range(5000))::INTEGER AS monday),
        (SELECT unnest(range(7)) AS day)
"""


def connect(lake: Lake, database: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """Open DuckDB with the views of a lake; times are shown in UTC.

    Args:
        lake: on a local path, or on ``s3://`` (needs the package ``fsspec``).
        database: a DuckDB file to keep views and own tables in. Its views of a local lake work without
            this library; those of an ``s3://`` lake need a connection made here.

    A kind that has no file yet is an empty view until the next ``connect``.

    Raises:
        UsageError: the lake is on ``s3://`` and ``fsspec`` is not installed.
    """
    connection = duckdb.connect(database)
    connection.execute("SET TimeZone = 'UTC'")
    if not lake.storage.is_local:
        connection.register_filesystem(_file_system(lake.storage))
    for name, body, columns in _views(lake.storage):
        try:
            connection.execute(f"CREATE OR REPLACE VIEW {name} AS {body}")
        except duckdb.IOException as error:
            if "No files found" not in str(error):
                raise
            nothing = ", ".join(f"NULL::{kind} AS {column}" for column, kind in columns.items())
            connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT {nothing} WHERE false")
    return connection


def _views(storage: Storage) -> list[tuple[str, str, dict[str, str]]]:
    """Name, query and columns of each view, in the order they build on each other."""
    place = {"exchange": "VARCHAR", "symbol": "VARCHAR", "date": "DATE"}
    timed = {"exchange": "VARCHAR", "symbol": "VARCHAR", "interval": "VARCHAR", "date": "DATE"}
    trades, candles = _columns(TRADE_SCHEMA), _columns(CANDLE_SCHEMA)
    theirs = _columns(EXCHANGE_CANDLE_SCHEMA)
    minutes = _stored(storage, "candles/interval=1m", place | candles)
    return [
        ("trades", _stored(storage, "trades", place | trades), place | trades),
        ("candles_1m", minutes, place | candles),
        ("candles", _all_candles(list(candles)), timed | candles | {"vwap": "DOUBLE"}),
        ("exchange_candles", _stored(storage, "exchange_candles/*", timed | theirs), timed | theirs),
        (
            "findings",
            _stored(storage, "findings", place | _columns(FINDING_SCHEMA)),
            place | _columns(FINDING_SCHEMA),
        ),
        ("coverage", _coverage(storage), _COVERAGE),
    ]


def _columns(schema: pl.Schema) -> dict[str, str]:
    return {name: _TYPES[type(kind).__name__] for name, kind in schema.items()}


def _glob(storage: Storage, folder: str) -> str:
    """The files of a kind, as a string of SQL."""
    root = storage.root if storage.is_local else f"{_SCHEME}://{storage.root}"
    path = f"{root}/{folder}/exchange=*/symbol=*/date=*/{FILE}"
    return "'" + path.replace("'", "''") + "'"


def _stored(storage: Storage, folder: str, columns: dict[str, str]) -> str:
    """Files as they lie, symbols unified."""
    chosen = ", ".join(f"{_SYMBOL} AS symbol" if name == "symbol" else name for name in columns)
    return f"SELECT {chosen} FROM read_parquet({_glob(storage, folder)}, {_HIVE})"  # noqa: S608


def _all_candles(columns: list[str]) -> str:
    """One branch an interval; the constant ``interval`` lets DuckDB drop the others."""
    branches = [_branch(interval, columns) for interval in INTERVALS]
    union = " UNION ALL ".join(branches)
    return f"SELECT *, quote_volume / volume AS vwap FROM ({union})"  # noqa: S608


def _branch(interval: Interval, columns: list[str]) -> str:
    head = f"exchange, symbol, '{interval}' AS interval"
    if interval == _MINUTE:
        return f"SELECT {head}, date, {', '.join(columns)} FROM candles_1m"  # noqa: S608
    rows, sums = ("candles_1m", _FROM_MINUTES) if interval > _MINUTE else (f"({_TRADE_ROWS})", _FROM_TRADES)
    time = "open_time" if interval > _MINUTE else "time"
    if interval > _DAY:
        return f"""
            SELECT {head}, monday AS date, make_timestamptz(epoch_us(monday::TIMESTAMP)) AS open_time, {sums}
            FROM candles_1m JOIN ({_WEEKDAYS}) USING (date) GROUP BY exchange, symbol, monday
        """  # noqa: S608
    opens = f"make_timestamptz(epoch_us({time}) // {interval.us} * {interval.us})"
    return f"""
        SELECT {head}, date, bucket AS open_time, {sums}
        FROM (SELECT *, {opens} AS bucket FROM {rows}) GROUP BY exchange, symbol, date, bucket
    """  # noqa: S608


_COVERAGE = {
    "exchange": "VARCHAR",
    "symbol": "VARCHAR",
    "date": "DATE",
    "status": "VARCHAR",
    "reason": "VARCHAR",
    "source": "VARCHAR",
    "ids": "VARCHAR",
    "rows": "BIGINT",
    "fills": "BIGINT",
    "first_time": "TIMESTAMPTZ",
    "last_time": "TIMESTAMPTZ",
    "first_id": "BIGINT",
    "last_id": "BIGINT",
    "previous_id": "BIGINT",
    "following_id": "BIGINT",
    "missing_ids": "JSON",
    "not_served": "JSON",
    "repeated": "BIGINT",
    "rejected": "JSON",
    "pages": "BIGINT",
    "content_hash": "VARCHAR",
}


def _coverage(storage: Storage) -> str:
    """The manifests, from the footers of the files."""
    named = {
        "exchange": "split_part(manifest ->> 'market', ':', 1)",
        "symbol": "substr(manifest ->> 'market', position(':' IN manifest ->> 'market') + 1)",
        "date": "(manifest ->> 'day')::DATE",
    }
    chosen = ", ".join(
        f"{named.get(name) or _field(name, kind)} AS {name}" for name, kind in _COVERAGE.items()
    )
    return f"""
        SELECT {chosen}
        FROM (
            SELECT decode(value)::JSON AS manifest
            FROM parquet_kv_metadata({_glob(storage, "trades")})
            WHERE decode(key) = 'marketdata.manifest'
        )
    """  # noqa: S608


def _field(name: str, kind: str) -> str:
    return f"manifest -> '{name}'" if kind == "JSON" else f"(manifest ->> '{name}')::{kind}"


def _file_system(storage: Storage) -> Any:
    """The lake's S3 file system as DuckDB takes it."""
    try:
        from fsspec.implementations.arrow import (  # type: ignore[import-untyped]  # noqa: PLC0415
            ArrowFSWrapper,
        )
    except ImportError as error:
        msg = f"DuckDB reads {storage.url} through the package fsspec, which is not installed."
        raise UsageError(msg, hint="Install fsspec.") from error

    class LakeFiles(ArrowFSWrapper):  # type: ignore[misc]
        """Paths that start with ``lake://`` go to the lake's own file system."""

        protocol = (_SCHEME,)

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix(f"{_SCHEME}://").strip("/")

    return LakeFiles(storage.fs)
