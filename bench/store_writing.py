"""Writing to the store: days, live trades, candles, and what they take once compressed.

``python -m bench store_writing``. On the PostgreSQL of the wheel, started for the occasion with settings as
below, and on the server of ``MARKETDATA_TEST_DATABASE_URL``, expected to have TimescaleDB. The client
works on the same cores. Everything is durable: ``fsync`` and ``synchronous_commit`` are on.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from statistics import median

import polars as pl
import psycopg
from psycopg import sql

from bench.fold import day_of_trades
from bench.table import Row
from marketdata.completeness import build_manifest
from marketdata.fold import fold
from marketdata.manifest import Ids, Manifest, day_window
from marketdata.market import Market
from marketdata.store.buffer import BufferedWriter
from marketdata.store.candles import upsert_candles
from marketdata.store.contents import contents
from marketdata.store.embedded import EmbeddedServer
from marketdata.store.engine import connect, describe
from marketdata.store.load import replace_day
from marketdata.store.migrate import upgrade

# What docs/loading.md recommends: room for a day in memory, no checkpoint in the middle of a load.
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "15min"}
_SHOWN = (*SETTINGS, "fsync", "synchronous_commit")
_VARIABLE = "MARKETDATA_TEST_DATABASE_URL"
_DAY = date(2025, 6, 8)
_ROWS = 2_000_000
_LIVE_ROWS, _LIVE_FRAME = 1_000_000, 1_000
_CANDLE_DAYS, _CANDLE_BATCH = 70, 10_000
_ROUNDS = 3
_MARKETS = [Market("kraken", f"{base}/USD") for base in ("BTC", "ETH", "SOL", "XRP", "ADA")]


def run() -> list[Row]:
    """Measure; about four minutes a server."""
    trades = day_of_trades(_ROWS)
    candles = _candles()
    with (
        tempfile.TemporaryDirectory(prefix="bench-pg-") as folder,
        EmbeddedServer(Path(folder), options=SETTINGS) as url,
    ):
        table = _measured(url, trades, candles)
    given = os.environ.get(_VARIABLE)
    if given is None:
        missing = Row("the same on TimescaleDB", 0, "not run", note=f"{_VARIABLE} is not set")
        return [*table, missing]
    return table + _measured(given, trades, candles)


def _measured(server: str, trades: pl.DataFrame, candles: pl.DataFrame) -> list[Row]:
    with _database(server) as url:
        upgrade(url)
        with connect(url) as connection:
            about = describe(connection)
            found = ((name, connection.execute(f"SHOW {name}").fetchone()) for name in _SHOWN)
            settings = ", ".join(f"{name} {value[0]}" for name, value in found if value is not None)
        rows = [
            *_days(url, str(about), settings, trades),
            _live(url, str(about), trades),
            *_upserts(url, str(about), candles),
        ]
        return rows + (_compressed(url, str(about), trades, candles) if about.timescaledb else [])


def _days(url: str, server: str, settings: str, trades: pl.DataFrame) -> list[Row]:
    """New days one after the other, then the first of them again, beside the others."""
    days = [_DAY + timedelta(days=n) for n in range(_ROUNDS)]
    moved = {day: _moved(trades, day - _DAY) for day in days}
    made = {day: (fold(frame, "1m"), _manifest(day, frame)) for day, frame in moved.items()}
    took: dict[str, list[float]] = {"new": [], "again": []}
    for day in days:
        for kind in ("new", "again"):
            _rest(url)
            again = kind == "again"
            took[kind].append(
                _seconds(
                    lambda day=day, again=again: replace_day(  # type: ignore[misc]
                        url, _MARKETS[0], day, moved[day].iter_slices(131_072), *made[day], refresh=again
                    )
                )
            )
        assert contents(url, _MARKETS[0], day).content_hash == made[day][1].content_hash
    note = f"{server}; {_ROWS:,} rows, unique key kept, with their candles and manifest"
    again_note = f"{server}; the old rows deleted in the same transaction"
    return [
        Row(
            "a day of trades loaded",
            _rate(_ROWS, took["new"]),
            "rows/s",
            ">= 400,000",
            note=f"{note}; {settings}",
        ),
        Row("a day of trades replaced", _rate(_ROWS, took["again"]), "rows/s", note=again_note),
    ]


def _live(url: str, server: str, trades: pl.DataFrame) -> Row:
    """Five markets at once, a thousand trades a call, from the first call until all is committed."""
    live = trades.head(_LIVE_ROWS)
    took = []
    for n in range(_ROUNDS):
        frames = [
            (_MARKETS[k % len(_MARKETS)], frame)
            for k, frame in enumerate(_moved(live, timedelta(days=40 + n)).iter_slices(_LIVE_FRAME))
        ]
        _rest(url)

        def bring(frames: list[tuple[Market, pl.DataFrame]] = frames) -> None:
            with BufferedWriter(url) as writer:
                for market, frame in frames:
                    writer.write(market, frame)
                writer.flush()
            assert writer.stats.written == _LIVE_ROWS

        took.append(_seconds(bring))
    note = f"{server}; {_LIVE_ROWS:,} trades of {len(_MARKETS)} markets, {_LIVE_FRAME:,} a call"
    return Row("live trades through the buffer", _rate(_LIVE_ROWS, took), "rows/s", ">= 100,000", note=note)


def _upserts(url: str, server: str, candles: pl.DataFrame) -> list[Row]:
    """Candles that are new, and the same with a higher revision; their wider candles are kept meanwhile."""
    took: dict[str, list[float]] = {"new": [], "again": []}
    for n in range(_ROUNDS):
        for revision, kind in enumerate(took):
            _rest(url)
            batches = [
                {_MARKETS[n]: batch}
                for batch in candles.with_columns(pl.lit(revision, pl.Int32).alias("revision")).iter_slices(
                    _CANDLE_BATCH
                )
            ]

            def bring(batches: list[dict[Market, pl.DataFrame]] = batches) -> None:
                with connect(url) as connection:
                    for batch in batches:
                        assert upsert_candles(connection, batch).written == len(next(iter(batch.values())))
                        connection.commit()

            took[kind].append(_seconds(bring))
    rows = len(candles)
    note = f"{server}; {rows:,} candles, {_CANDLE_BATCH:,} a transaction, wider ones included"
    return [
        Row("candles added", _rate(rows, took["new"]), "rows/s", ">= 50,000", note=note),
        Row("candles of a higher revision", _rate(rows, took["again"]), "rows/s", ">= 50,000", note=server),
    ]


def _compressed(url: str, server: str, trades: pl.DataFrame, candles: pl.DataFrame) -> list[Row]:
    """Every chunk compressed: bytes with their indexes, of rows that were written once and never changed."""
    with connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE trade, candle, coverage")
    replace_day(url, _MARKETS[0], _DAY, trades, None, _manifest(_DAY, trades))
    with connect(url) as connection:
        upsert_candles(connection, {_MARKETS[0]: candles.with_columns(pl.lit(0, pl.Int32).alias("revision"))})
    held = {"trade": len(trades), "candle": len(candles)}
    sizes = {}
    with connect(url, autocommit=True) as connection:
        for table, rows in held.items():
            connection.execute(
                "SELECT compress_chunk(chunk) FROM show_chunks(%s::regclass) AS chunk", (table,)
            )
            found = connection.execute(
                "SELECT before_compression_total_bytes, after_compression_total_bytes"
                " FROM hypertable_compression_stats(%s::regclass)",
                (table,),
            ).fetchone()
            assert found is not None
            sizes[table] = (found[0] / rows, found[1] / rows)
    (trade, packed_trade), (candle, packed_candle) = sizes["trade"], sizes["candle"]
    note = f"{server}; {len(trades):,} rows, {trade:.0f} bytes each before"
    candle_note = f"{server}; {len(candles):,} candles, {packed_candle:.0f} of {candle:.0f} bytes each"
    return [
        Row("trades compressed", packed_trade, "bytes a row", "<= 20", note=note),
        Row("candles compressed", 100 * packed_candle / candle, "% of their size", "<= 20", note=candle_note),
    ]


def _candles() -> pl.DataFrame:
    """Seventy days of one-minute candles of one market, as a stream writes them."""
    day = day_of_trades(100_000)
    frames = [fold(_moved(day, timedelta(days=60 + n)), "1m") for n in range(_CANDLE_DAYS)]
    marks = {"source": pl.lit("stream"), "coverage": pl.lit("complete")}
    return pl.concat(frames).with_columns(**marks)


def _moved(trades: pl.DataFrame, by: timedelta) -> pl.DataFrame:
    """The same trades on another day, under other ids."""
    return trades.with_columns(pl.col("time") + by, pl.col("trade_id") + by.days * 10 * _ROWS)


def _manifest(day: date, trades: pl.DataFrame) -> Manifest:
    return build_manifest(
        _MARKETS[0],
        day,
        trades,
        source="bench",
        ids=Ids.SEQUENTIAL,
        covered=[day_window(day)],
        previous_id=None,
        following_id=None,
        not_served=(),
        repeated=0,
        rejected={},
        pages=1,
        cursor=None,
        evidence={},
    )


@contextmanager
def _database(server: str) -> Iterator[str]:
    """A database of our own on that server, removed at the end."""
    name = f"bench_{os.getpid()}"
    base, _, query = server.partition("?")
    with connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield f"{base.rpartition('/')[0]}/{name}{'?' if query else ''}{query}"
    finally:
        with connect(server, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )


def _rest(url: str) -> None:
    """Write down what the round before has left, so that it is not paid for by the next."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _rate(rows: int, seconds: list[float]) -> float:
    return rows / median(seconds)
