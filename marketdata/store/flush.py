"""One batch of live rows in one transaction, on a connection that is opened again when it was lost."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

import orjson
import polars as pl
import psycopg
from psycopg import Connection

from marketdata.errors import MarketDataError, TransientError
from marketdata.market import Market
from marketdata.store import candles, dead_letters, engine, locks, trades, wider
from marketdata.store.dead_letters import DeadLetter
from marketdata.store.markets import market_id

ORIGIN = "store writer"
# Data exceptions, broken constraints, a trigger's own refusal: the row is at fault, not the server.
_OF_A_ROW = ("22", "23", "44", "P0")
# A full disk is given room, a lock is given back: for rows that cannot be asked for again, waiting is right.
_PASSING = ("08", "40", "53", "55", "57", "58")
# After a batch with rows that were known, so many more are expected to have some.
_WARY_FOR = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """Rows of one market for one table, ``trade`` or ``candle``."""

    table: str
    market: Market
    rows: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes in one transaction."""

    entries: list[Entry]

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(len(entry.rows) for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Flushed:
    """Rows that are new in the store, that it held already, and that it refused."""

    written: int = 0
    ignored: int = 0
    refused: int = 0

    def __add__(self, other: "Flushed") -> "Flushed":
        """Both together."""
        return Flushed(
            self.written + other.written, self.ignored + other.ignored, self.refused + other.refused
        )


class Flusher:
    """Writes batches one after the other; not for several threads, but for :meth:`cancel`."""

    def __init__(self, open_: Callable[[], Connection[Any]]) -> None:
        """Nothing is opened yet."""
        self._open = open_
        self._connection: Connection[Any] | None = None
        self._numbers: dict[Market, int] = {}
        self._wary = 0
        self.opened = 0  # connections after the first
        self._first = True

    def write(self, batch: Batch) -> Flushed:
        """Write a batch in one transaction. Rows the server refuses for their own sake go to ``dead_letter``.

        Raises:
            TransientError: a retry may help.
            MarketDataError: it cannot.
        """
        try:
            connection = self._connected()
            numbered = self._numbered(connection, batch)
            with connection.transaction():
                flushed = self._write(connection, numbered)
            if "candle" in numbered:
                # Candles of the last minutes need none; another one at it makes ours too.
                wider.refresh(connection, wait=False)
        except psycopg.Error as error:
            self._drop_lost()
            raise _explained(error) from None
        except MarketDataError:
            self._drop_lost()
            raise
        return flushed

    def cancel(self) -> None:
        """End what the server is doing for us, from another thread."""
        connection = self._connection
        if connection is not None:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=5)

    def close(self) -> None:
        """Give the connection back; what the server said is asked for again on the next one."""
        self._numbers.clear()
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _connected(self) -> Connection[Any]:
        if self._connection is None:
            self._connection = self._open()
            self._connection.autocommit = True
            self.opened += not self._first
            self._first = False
        return self._connection

    def _drop_lost(self) -> None:
        """Whatever state the connection is in, the next try starts with a new one."""
        self.close()

    def _numbered(self, connection: Connection[Any], batch: Batch) -> dict[str, pl.DataFrame]:
        """The rows by table, with ``market_id`` for the market."""
        frames: dict[str, list[pl.DataFrame]] = {}
        for entry in batch.entries:
            number = self._numbers.get(entry.market)
            if number is None:
                with connection.transaction():
                    number = self._numbers[entry.market] = market_id(connection, entry.market, create=True)
            named = entry.rows.with_columns(pl.lit(number, pl.Int16).alias("market_id"))
            frames.setdefault(entry.table, []).append(named)
        return {table: pl.concat(found) for table, found in frames.items()}

    def _write(self, connection: Connection[Any], numbered: dict[str, pl.DataFrame]) -> Flushed:
        flushed = Flushed()
        locks.durably(connection)
        if (rows := numbered.get("trade")) is not None:
            days: list[tuple[int, date]] = (
                rows.select("market_id", pl.col("time").dt.date()).drop_nulls().unique().rows()
            )
            locks.share_days(connection, days)
            flushed += self._or_apart(connection, "trade", rows)
        if (rows := numbered.get("candle")) is not None:
            flushed += self._or_apart(connection, "candle", rows)
        return flushed

    def _or_apart(self, connection: Connection[Any], table: str, rows: pl.DataFrame) -> Flushed:
        """Write rows together; when one of them is refused, in halves, until it stands alone."""
        try:
            with connection.transaction():
                done = self._add(connection, table, rows)
            return Flushed(done.written, done.ignored)
        except psycopg.Error as error:
            if (error.sqlstate or "")[:2] not in _OF_A_ROW:
                raise
            if len(rows) == 1:
                dead_letters.keep(connection, [self._letter(table, rows, error)])
                return Flushed(refused=1)
        half = len(rows) // 2
        return self._or_apart(connection, table, rows[:half]) + self._or_apart(connection, table, rows[half:])

    def _add(self, connection: Connection[Any], table: str, rows: pl.DataFrame) -> trades.Written:
        if table == "candle":
            return candles.upsert(connection, rows)
        done = trades.add(connection, rows, expect_new=self._wary == 0)
        self._wary = _WARY_FOR if done.ignored else max(self._wary - 1, 0)
        return done

    def _letter(self, table: str, row: pl.DataFrame, error: psycopg.Error) -> DeadLetter:
        names = {number: market for market, number in self._numbers.items()}
        values = row.row(0, named=True)
        market = str(names[values.pop("market_id")])
        key = [values[name] for name in (trades.KEY if table == "trade" else candles.KEY)[1:]]
        position = " ".join([table, market, *(str(value) for value in key)])
        raw = orjson.dumps(values, option=orjson.OPT_UTC_Z, default=str)
        reason = error.diag.message_primary or type(error).__name__
        return DeadLetter(ORIGIN, position, market, reason, raw)


def _explained(error: psycopg.Error) -> MarketDataError:
    """The error in words; what passes by itself is told apart from what does not."""
    found = engine.translate(error)
    state = error.sqlstate
    if not isinstance(found, TransientError) and (state is None or state[:2] in _PASSING):
        return TransientError(found.message, hint=found.hint)
    return found
