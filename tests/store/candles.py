"""One-minute candles for tests of the schema: made by rule, written by plain SQL."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from psycopg import Connection

from marketdata.interval import Interval
from marketdata.store.check import STORED, read, widened
from marketdata.store.wider import WIDER

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
COLUMNS = tuple(STORED)
_UPSERT = f"""
INSERT INTO candle (market_id, {", ".join(COLUMNS)}) VALUES (%s, {", ".join("%s" for _ in COLUMNS)})
ON CONFLICT (market_id, open_time) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name != "open_time")}
"""

Row = tuple[Any, ...]


def candle(minute: int, seed: int = 0, *, since: datetime = START) -> Row:
    """A candle ``minute`` minutes after ``since``; a quarter of them as an exchange serves them."""
    dice = random.Random(f"{minute} {seed}")
    time = since + timedelta(minutes=minute)
    low = dice.uniform(90, 100)
    high = low + dice.uniform(0.1, 5)
    volume = dice.uniform(0.001, 10)
    foreign, no_sides = dice.random() < 0.25, dice.random() < 0.2
    first = None if foreign else time + timedelta(seconds=dice.uniform(0, 20))
    last = None if foreign else time + timedelta(seconds=dice.uniform(30, 59))
    return (
        time,
        dice.uniform(low, high),
        high,
        low,
        dice.uniform(low, high),
        volume,
        None if foreign and dice.random() < 0.3 else volume * low,
        None if foreign and dice.random() < 0.3 else dice.randint(1, 500),
        None if no_sides else volume / 2,
        None if no_sides else volume * low / 2,
        None if foreign else dice.getrandbits(62),
        None if foreign else dice.getrandbits(62),
        first,
        last,
        dice.randint(0, 3),
        "exchange" if foreign else dice.choice(("batch", "batch", "stream", "import", "repair")),
        dice.choice(("complete", "complete", "complete", "unknown", "gaps", "partial")),
    )


def add_market(connection: Connection[Any], symbol: str = "BTC/USD") -> int:
    """A market of that symbol; returns its number."""
    row = connection.execute(
        "INSERT INTO market (exchange, symbol) VALUES ('kraken', %s) RETURNING market_id", (symbol,)
    ).fetchone()
    assert row is not None
    return int(row[0])


def upsert(connection: Connection[Any], number: int, rows: Iterable[Row]) -> None:
    """Write candles, a statement each; the transaction is the caller's."""
    with connection.cursor() as cursor:
        cursor.executemany(_UPSERT, [(number, *row) for row in rows])


def copy(connection: Connection[Any], number: int, rows: Iterable[Row]) -> None:
    """Write new candles, all in one statement."""
    names = ", ".join(COLUMNS)
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY candle (market_id, {names}) FROM STDIN") as into,
    ):
        for row in rows:
            into.write_row((number, *row))


def differences(connection: Connection[Any], number: int) -> dict[str, pl.DataFrame]:
    """By interval, where the store's candles of this market are not the fold of its one-minute candles."""
    everything = (datetime(2000, 1, 3, tzinfo=UTC), datetime(2100, 1, 4, tzinfo=UTC))
    minutes = read(connection, Interval.parse("1m"), number, *everything)
    wrong: dict[str, pl.DataFrame] = {}
    for interval in WIDER:
        expected, held = widened(minutes, interval), read(connection, interval, number, *everything)
        if expected.height != held.height or not alike(expected, held):
            wrong[interval.name] = pl.concat([expected, held])
    return wrong


def alike(expected: pl.DataFrame, held: pl.DataFrame) -> bool:
    """Whether two frames of the same length say the same: sums to 1e-9, all else exactly."""
    sums = [name for name in expected.columns if "volume" in name]
    if not expected.drop(sums).equals(held.drop(sums)):
        return False
    return all(
        expected[name].is_null().equals(held[name].is_null())
        and ((expected[name] - held[name]).abs() <= 1e-9 * expected[name].abs()).fill_null(value=True).all()
        for name in sums
    )
