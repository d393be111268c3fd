"""What the store is and holds: server, schema, tables with their size, jobs. Behind ``db status``."""

from typing import Any

import polars as pl
from psycopg import Connection

from marketdata.store.engine import describe
from marketdata.store.migrate import step_of, steps
from marketdata.store.policies import jobs
from marketdata.store.wider import WIDER, is_timescale, table_of
from marketdata.trade import TIME

# kind: server, schema, table or job. bytes: with indexes, as it lies on the disk. compression_ratio: bytes of
# the compressed chunks before, by bytes after. setting: version, step or what a job does.
STATUS_SCHEMA = pl.Schema(
    {
        "kind": pl.String(),
        "name": pl.String(),
        "setting": pl.String(),
        "rows": pl.Int64(),
        "bytes": pl.Int64(),
        "chunks": pl.Int64(),
        "compressed_chunks": pl.Int64(),
        "compression_ratio": pl.Float64(),
        "next_run": TIME,
        "last_result": pl.String(),
    }
)
TABLES = ("market", "trade", "candle", *map(table_of, WIDER), "candle_stale", "coverage", "dead_letter")
_HYPERTABLES = ("trade", "candle")
# Smaller than this, rows are counted; of a larger one the server's own estimate is good enough.
_COUNTED_BYTES = 32 << 20
_PLAIN = """
SELECT pg_total_relation_size(oid), reltuples::bigint FROM pg_class WHERE oid = %s::regclass
"""
_CHUNKED = """
SELECT hypertable_size(%(hypertable)s::regclass), approximate_row_count(%(hypertable)s::regclass),
    count(*), count(*) FILTER (WHERE is_compressed),
    (SELECT before_compression_total_bytes::float8 / nullif(after_compression_total_bytes, 0)
     FROM hypertable_compression_stats(%(hypertable)s::regclass))
FROM timescaledb_information.chunks
WHERE format('%%I.%%I', hypertable_schema, hypertable_name)::regclass = %(hypertable)s::regclass
"""
_MATERIALISED = """
SELECT format('%%I.%%I', materialization_hypertable_schema, materialization_hypertable_name)
FROM timescaledb_information.continuous_aggregates
WHERE view_schema = current_schema() AND view_name = %s
"""


def status(connection: Connection[Any]) -> pl.DataFrame:
    """Return what there is, STATUS_SCHEMA: the server, the step of the schema, each table, each job.

    ``rows`` is counted where a table is small, and otherwise the server's estimate; of wider candles on
    TimescaleDB it is what is materialised.

    Raises:
        psycopg.Error: the server refuses.
    """
    server, step, head = describe(connection), step_of(connection), steps()[-1]
    extension = f"TimescaleDB {server.timescaledb}" if server.timescaledb else "without TimescaleDB"
    at = "up to date" if step == head else f"not at {head}: marketdata db upgrade"
    rows: list[dict[str, Any]] = [
        {"kind": "server", "name": f"PostgreSQL {server.version}", "setting": extension},
        {"kind": "schema", "name": step or "none", "setting": at},
    ]
    timescale = is_timescale(connection)
    for name in TABLES:
        if connection.execute("SELECT to_regclass(%s) IS NULL", (name,)).fetchone() == (True,):
            continue
        rows.append({"kind": "table", "name": name, **_size(connection, name, timescale=timescale)})
    rows += [
        {
            "kind": "job",
            "name": job.policy.name,
            "setting": job.policy.setting,
            "next_run": job.next_start,
            "last_result": job.last_status,
        }
        for job in jobs(connection)
    ]
    return pl.DataFrame(rows, schema=STATUS_SCHEMA)


def _size(connection: Connection[Any], name: str, *, timescale: bool) -> dict[str, Any]:
    chunked, what = timescale and name in _HYPERTABLES, name
    if timescale and not chunked:
        found = connection.execute(_MATERIALISED, (name,)).fetchone()
        chunked, what = found is not None, name if found is None else found[0]
    if not chunked:
        size, estimate = connection.execute(_PLAIN, (name,)).fetchone() or (0, 0)
        return {"bytes": size, "rows": _rows(connection, what, size, estimate)}
    found = connection.execute(_CHUNKED, {"hypertable": what}).fetchone()
    size, estimate, chunks, compressed, ratio = found or (0, 0, 0, 0, None)
    return {
        "bytes": size,
        "rows": estimate if compressed else _rows(connection, what, size, estimate),
        "chunks": chunks,
        "compressed_chunks": compressed,
        "compression_ratio": None if ratio is None else round(ratio, 2),
    }


def _rows(connection: Connection[Any], name: str, size: int, estimate: int) -> int:
    if size >= _COUNTED_BYTES:
        return max(estimate, 0)
    # ``name`` is one of TABLES or comes from the server's own catalogue, quoted.
    row = connection.execute(f"SELECT count(*) FROM {name}").fetchone()  # noqa: S608
    return 0 if row is None else int(row[0])
