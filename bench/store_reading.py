"""Reading through the provider, frame included: what a strategy waits for.

``python -m bench store_reading``. On the PostgreSQL of the wheel, started for the occasion, and on the server
of ``MARKETDATA_TEST_DATABASE_URL``, expected to have TimescaleDB. Ten markets have three years of one-minute
candles each and ninety days of trades, made on the server; wider candles are those of the market that is
read. The client works on the same cores.
"""

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles

import polars as pl
import psycopg

from bench.store_writing import SETTINGS, _database
from bench.table import Row
from marketdata import AsyncProvider, Provider
from marketdata.candle import CANDLE_SCHEMA
from marketdata.store import wider
from marketdata.store.embedded import EmbeddedServer
from marketdata.store.engine import connect, describe
from marketdata.store.migrate import upgrade

_VARIABLE = "MARKETDATA_TEST_DATABASE_URL"
_START, _DAYS, _MARKETS = datetime(2023, 1, 2, tzinfo=UTC), 1096, 10
_END = _START + timedelta(days=_DAYS)
_MARKET = "kraken:M1/USD"
_READS = 400
_FIVE = ("1m", "5m", "15m", "1h", "4h")
_CANDLES = f"""
INSERT INTO candle ({", ".join(CANDLE_SCHEMA)}, market_id, source, coverage)
SELECT time, price, price + 2, price - 2, price + sin(n), 5 + sin(n), 5 * price, 12, 2.5, 2.5 * price,
    n * 12, n * 12 + 11, time + INTERVAL '1 second', time + INTERVAL '59 seconds',
    %(market)s, 'batch', 'complete'
FROM (
    SELECT n, %(start)s::timestamptz + n * INTERVAL '1 minute' AS time,
        60000 + 9000 * sin(n / 9000.0) AS price
    FROM generate_series(0, %(days)s * 1440 - 1) AS n
) AS minutes
"""
_TRADES = """
INSERT INTO trade
SELECT market_id, %(end)s::timestamptz - n * INTERVAL '1 minute', n, 60000, 1, 'buy', 1
FROM market, generate_series(1, 90 * 1440, 10) AS n
"""
_COVERAGE = """
INSERT INTO coverage
SELECT market_id, day, 'complete', 'made for the benchmark', 1440, 1440,
    day, day + INTERVAL '23:59:59', 1, 2, 0, 0, 0, 'bench', 'sequential', '', '{}'
FROM market, generate_series(%(start)s::timestamptz, %(last)s::timestamptz, INTERVAL '1 day') AS day
"""


def run() -> list[Row]:
    """Measure; about five minutes a server, nearly all of it to make the candles."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-pg-") as folder,
        EmbeddedServer(Path(folder), options=SETTINGS) as url,
    ):
        table = _measured(url)
    given = os.environ.get(_VARIABLE)
    if given is None:
        missing = Row("the same on TimescaleDB", 0, "not run", note=f"{_VARIABLE} is not set")
        return [*table, missing]
    return table + _measured(given)


def _measured(server: str) -> list[Row]:
    with _database(server) as url:
        upgrade(url)
        _fill(url)
        with connect(url) as connection:
            about = str(describe(connection))
        return _reads(url, about)


def _fill(url: str) -> None:
    """The market that is read in the regular way; the others without what keeps wider candles up to date."""
    with connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(
            "INSERT INTO market (exchange, symbol) SELECT 'kraken', 'M' || n || '/USD' "
            "FROM generate_series(1, %s) AS n",
            (_MARKETS,),
        )
        numbers = [number for (number,) in connection.execute("SELECT market_id FROM market ORDER BY 1")]
        whole = {"start": _START, "end": _END, "last": _END - timedelta(days=1), "days": _DAYS}
        connection.execute(_CANDLES, whole | {"market": numbers[0]})
        wider.refresh(connection)
        if describe(connection).timescaledb is None:
            for name in ("candle_added", "candle_removed", "candle_moved"):
                connection.execute(f"ALTER TABLE candle DISABLE TRIGGER {name}")
        for number in numbers[1:]:
            connection.execute(_CANDLES, whole | {"market": number})
        connection.execute("DELETE FROM candle_stale")
        connection.execute(_TRADES, whole)
        connection.execute(_COVERAGE, whole)
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def _reads(url: str, server: str) -> list[Row]:
    """Reads in turn, at places drawn by lot, so that a busy moment of the machine disturbs all of them."""
    chance = random.Random(7)
    with Provider(database_url=url, clock=lambda: _END) as provider, psycopg.connect(url) as plain:

        def place(minutes: int) -> tuple[datetime, datetime]:
            start = _START + timedelta(minutes=chance.randrange(_DAYS * 1440 - minutes))
            return start, start + timedelta(minutes=minutes)

        def expect(rows: int, frame: pl.DataFrame) -> None:
            assert len(frame) == rows, len(frame)

        work: dict[str, Callable[[], object]] = {
            "range": lambda: expect(1_000, provider.candles(_MARKET, "1m", *place(1_000))),
            "rows": lambda: expect(1_000, _by_rows(plain, *place(1_000))),
            "hours": lambda: expect(1_000, provider.candles(_MARKET, "1h", *place(60_000))),
            "latest": lambda: expect(200, provider.latest_candles(_MARKET, "1m", 200)),
            "latest hours": lambda: expect(200, provider.latest_candles(_MARKET, "1h", 200)),
            # Not at the very beginning, where two hundred hours are not yet held.
            "warmup": lambda: expect(
                200, provider.warmup(_MARKET, "1h", 200, max(place(1)[0], _START + timedelta(days=30)))
            ),
            "data range": lambda: provider.data_range(_MARKET),
            "five": lambda: provider.candles_multi(_MARKET, _FIVE, *place(1_000)),
        }
        took: dict[str, list[float]] = {name: [] for name in work}
        for n in range(_READS + 20):
            for name, read in work.items():
                seconds = _seconds(read)
                if n >= 20:
                    took[name].append(seconds * 1000)
        found = provider.data_range(_MARKET)
        assert found is not None
        assert found.candles == (_START, _END - timedelta(minutes=1))
        assert found.trades is not None
    took["awaited"] = asyncio.run(_awaited(url))

    def row(what: str, name: str, budget: str = "", note: str = "") -> Row:
        ninety_nine = quantiles(took[name], n=100)[98]
        said = "; ".join(part for part in (server, f"p99 {ninety_nine:.1f} ms", note) if part)
        return Row(what, median(took[name]), "ms", budget, note=said)

    rows_ms = median(took["rows"])
    first = Row(
        "1,000 candles by range",
        median(took["range"]),
        "ms",
        "<= 5",
        peer="rows of psycopg, then a frame",
        peer_figure=rows_ms,
        ratio=rows_ms / median(took["range"]),
        note=f"{server}; p99 {quantiles(took['range'], n=100)[98]:.1f} ms; {_MARKETS} markets of "
        f"{_DAYS * 1440:,} 1m candles",
    )
    return [
        first,
        row("latest 200 candles", "latest", "<= 3"),
        row("data range", "data range", "<= 2", "first and last of trades and of candles"),
        row("five intervals over 1,000 minutes", "five", "<= 15", " ".join(_FIVE)),
        row("1,000 hours by range", "hours"),
        row("latest 200 hours", "latest hours"),
        row("warm-up of 200 hours, anywhere", "warmup"),
        row("1,000 candles by range, awaited", "awaited"),
    ]


def _by_rows(connection: psycopg.Connection, start: datetime, end: datetime) -> pl.DataFrame:
    """The usual way: rows of Python objects, and a frame of them."""
    cursor = connection.cursor(binary=True)
    rows = cursor.execute(
        f"SELECT {', '.join(CANDLE_SCHEMA)} FROM v_candle_1m WHERE exchange = 'kraken' AND symbol = 'M1/USD' "
        "AND open_time >= %s AND open_time < %s ORDER BY open_time",
        (start, end),
    ).fetchall()
    return pl.DataFrame(rows, schema=CANDLE_SCHEMA, orient="row")


async def _awaited(url: str) -> Sequence[float]:
    took = []
    async with AsyncProvider(database_url=url, clock=lambda: _END) as provider:
        for n in range(_READS // 4 + 10):
            began = time.perf_counter()
            await provider.candles(_MARKET, "1m", _START, _START + timedelta(minutes=1_000))
            if n >= 10:
                took.append((time.perf_counter() - began) * 1000)
    return took


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
