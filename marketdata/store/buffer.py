"""Live rows into the store: gathered, written together, never dropped.

A batch goes when enough rows wait, when the oldest has waited long enough, or at the end. After a lost
connection, on a full disk or while a server starts it is tried again until it works. Meanwhile rows wait, and
when there is no room for more the one who brings them waits too. Every write can be repeated: what the store
holds already is ignored, so a batch of which nobody knows whether it was committed is sent again.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self

import polars as pl
from psycopg import Connection

from marketdata.errors import MarketDataError, StorageError, TransientError
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.store import engine
from marketdata.store.candles import STORED_SCHEMA
from marketdata.store.flush import Batch, Entry, Flushed, Flusher
from marketdata.trade import TRADE_SCHEMA

_LOG = logging.getLogger(__name__)
# The thread looks at the clock this often while rows wait, so that a clock of a test is seen too.
_LOOK_S = 0.05
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
# A caller that waits longer for room is worth a line in the log, but not a line each time.
_WORTH_A_WORD_S = 0.2
_SAY_EVERY_S = 10.0

State = Literal["idle", "writing", "retrying", "failed", "closed"]


@dataclass(frozen=True, slots=True)
class WriterStats:
    """What a writer is doing, and has done since it was made.

    Attributes:
        waiting: rows taken and not yet committed; ``capacity``: the most of them.
        oldest_s: seconds the oldest of them has waited.
        written, ignored: rows that are new in the store, and that it held already (candles: or held newer).
        refused: rows that it did not take and that lie in ``dead_letter`` now.
        flushes, flush_s, last_flush_s: batches committed, seconds spent on them, on the last one.
        retries, reconnects: batches sent again, connections opened after the first.
        blocked, blocked_s: calls of ``write`` that found no room, and seconds they waited.
        error: the last one, in words; empty once a batch has been committed again.
    """

    state: State
    waiting: int
    capacity: int
    oldest_s: float
    written: int = 0
    ignored: int = 0
    refused: int = 0
    flushes: int = 0
    flush_s: float = 0.0
    last_flush_s: float = 0.0
    retries: int = 0
    reconnects: int = 0
    blocked: int = 0
    blocked_s: float = 0.0
    error: str = ""


class BufferedWriter:
    """Writes live trades and candles in batches, from a thread of its own. Safe to use from several threads.

    Example::

        with BufferedWriter(settings) as writer:
            writer.write(market, trades)
    """

    def __init__(
        self,
        target: str | Settings | Callable[[], Connection[Any]],
        *,
        rows: int = 20_000,
        age_s: float = 0.5,
        capacity: int = 400_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread; it connects when the first batch goes.

        Args:
            target: URL, settings, or what opens a connection.
            rows: a batch goes when so many wait.
            age_s: or when the oldest has waited so long, by ``clock``.
            capacity: rows that may wait, those of the batch on its way included; a trade takes 50 bytes.
        """
        self._open = target if callable(target) else lambda: engine.connect(target)
        self._rows, self._age_s, self._capacity = rows, age_s, max(capacity, rows)
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: deque[tuple[float, Entry]] = deque()
        self._queued = 0  # rows in the queue
        self._in_flight = 0  # rows of the batch on its way
        self._in_flight_since = 0.0
        self._taken = self._done = 0  # rows, ever
        self._flush_to = 0  # rows up to which somebody waits
        self._closing = self._abandoned = False
        self._failed: MarketDataError | None = None
        self._stats = WriterStats("idle", 0, self._capacity, 0.0)
        self._said = float("-inf")
        self._flusher = Flusher(self._open)
        self._thread = threading.Thread(target=self._run, name="store writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what waits, also after an error."""
        self.close()

    # -- for those who bring rows ---------------------------------------------------------------------

    def write(self, market: Market, trades: pl.DataFrame, *, timeout_s: float | None = None) -> None:
        """Take trades of a market (TRADE_SCHEMA); waits while there is no room.

        Args:
            timeout_s: how long to wait for room; for ever by default.

        Raises:
            TransientError: there was no room in time. Go on behind the rows that were taken, see
                :attr:`progress`, or bring all again: those that were taken are not doubled.
            MarketDataError: the writer has failed or is closed.
        """
        self._take("trade", market, trades.select(TRADE_SCHEMA.names()).cast(TRADE_SCHEMA), timeout_s)

    def write_candles(self, market: Market, candles: pl.DataFrame, *, timeout_s: float | None = None) -> None:
        """Take one-minute candles of a market (STORED_SCHEMA); the newer revision wins. See :meth:`write`."""
        self._take("candle", market, candles.select(STORED_SCHEMA.names()).cast(STORED_SCHEMA), timeout_s)

    def flush(self, *, timeout_s: float | None = None) -> None:
        """Wait until all that was taken so far is committed.

        Raises:
            TransientError: it was not in time; it still waits and is not lost.
            MarketDataError: the writer has failed.
        """
        with self._changed:
            wanted = self._flush_to = self._taken
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: self._failed or self._done >= wanted, timeout_s)
            if self._failed is not None:
                raise self._failed
            if not done:
                raise self._late(timeout_s)

    def close(self, *, timeout_s: float | None = 60.0) -> None:
        """Write what waits and end; closing twice is fine.

        Raises:
            TransientError: rows could not be written in time, says how many.
            MarketDataError: the writer has failed.
        """
        with self._changed:
            if self._stats.state == "closed":
                return
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        late = self._thread.is_alive()
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
            error = self._failed
            if error is None and self._done < self._taken:
                error = self._late(timeout_s)
            self._stats = replace(self._stats, state="closed")
        if late:
            self._flusher.cancel()
            self._thread.join(10.0)
        if error is not None:
            raise error

    @property
    def progress(self) -> tuple[int, int]:
        """Rows taken and rows committed, ever. What was taken when the first stood at ``n`` is committed once
        the second has reached it."""
        with self._changed:
            return self._taken, self._done

    @property
    def stats(self) -> WriterStats:
        """What it is doing now."""
        with self._changed:
            return self._seen()

    # -- inside ---------------------------------------------------------------------------------------

    def _seen(self) -> WriterStats:
        waiting = self._queued + self._in_flight
        since = self._in_flight_since if self._in_flight else (self._queue[0][0] if self._queue else None)
        oldest = 0.0 if since is None else max(self._clock() - since, 0.0)
        return replace(self._stats, waiting=waiting, oldest_s=oldest)

    def _late(self, timeout_s: float | None) -> TransientError:
        waiting = self._queued + self._in_flight
        within = " before the end" if timeout_s is None else f" within {timeout_s:g} s"
        why = f": {self._stats.error}" if self._stats.error else "."
        msg = f"{waiting:,} rows wait and could not be written{within}{why}"
        return TransientError(msg, hint="The server is slow or away; bring them again later.")

    def _take(self, table: str, market: Market, rows: pl.DataFrame, timeout_s: float | None) -> None:
        for piece in rows.iter_slices(self._rows):
            with self._changed:
                self._wait_for_room(len(piece), timeout_s)
                if self._failed is not None:
                    raise self._failed
                if self._closing:
                    msg = "The writer is closed."
                    raise StorageError(msg, hint="Make a new one.")
                self._queue.append((self._clock(), Entry(table, market, piece)))
                self._queued += len(piece)
                self._taken += len(piece)
                if self._queued >= self._rows or len(self._queue) == 1:
                    self._changed.notify_all()

    def _wait_for_room(self, rows: int, timeout_s: float | None) -> None:
        def free() -> bool:
            waiting = self._queued + self._in_flight
            return waiting + rows <= self._capacity or self._failed is not None or self._closing

        if free():
            return
        began = time.monotonic()
        self._stats = replace(self._stats, blocked=self._stats.blocked + 1)
        short = _WORTH_A_WORD_S if timeout_s is None else min(timeout_s, _WORTH_A_WORD_S)
        found = self._changed.wait_for(free, short)
        if not found:
            self._say_slow()
            found = self._changed.wait_for(free, None if timeout_s is None else timeout_s - short)
        waited = self._stats.blocked_s + time.monotonic() - began
        self._stats = replace(self._stats, blocked_s=waited)
        if not found:
            raise self._late(timeout_s)

    def _say_slow(self) -> None:
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY_S:
            self._said = now
            _LOG.warning(
                "The store is slow: %s of %s rows wait, the last batch took %.1f s. %s",
                f"{self._queued + self._in_flight:,}",
                f"{self._capacity:,}",
                self._stats.last_flush_s,
                self._stats.error,
            )

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                self._deliver(batch)
        except MarketDataError as error:
            self._fail(error)
        except Exception as error:  # a thread has nobody else to tell
            msg = f"The writer has a bug: {type(error).__name__}: {error}."
            self._fail(StorageError(msg))
        finally:
            self._flusher.close()

    def _fail(self, error: MarketDataError) -> None:
        with self._changed:
            self._failed = error
            self._stats = replace(self._stats, state="failed", error=str(error))
            self._changed.notify_all()

    def _next(self) -> Batch | None:
        """The next batch, once a trigger has fired; ``None`` at the end."""
        with self._changed:
            while not self._due():
                if self._closing and not self._queue:
                    return None
                self._changed.wait(_LOOK_S if self._queue else None)
            if self._abandoned:
                return None
            self._in_flight_since = self._queue[0][0]
            entries: list[Entry] = []
            while self._queue and self._in_flight < self._rows:
                _, entry = self._queue.popleft()
                entries.append(entry)
                self._in_flight += len(entry.rows)
            self._queued -= self._in_flight
            self._stats = replace(self._stats, state="writing")
            return Batch(entries)

    def _due(self) -> bool:
        if not self._queue:
            return False
        if self._closing or self._queued >= self._rows or self._done < self._flush_to:
            return True
        return self._clock() - self._queue[0][0] >= self._age_s

    def _deliver(self, batch: Batch) -> None:
        """Write a batch, again and again while a retry may help."""
        pause = _FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            opened = self._flusher.opened
            try:
                flushed = self._flusher.write(batch)
            except TransientError as error:
                self._retrying(error, self._flusher.opened - opened)
            else:
                self._delivered(batch, flushed, time.monotonic() - began, self._flusher.opened - opened)
                return
            with self._changed:
                # Not all at the same moment when a server comes back.
                now = pause * random.uniform(0.5, 1.0)  # noqa: S311
                if self._changed.wait_for(lambda: self._abandoned, now):
                    raise self._late(None)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _retrying(self, error: TransientError, opened: int) -> None:
        with self._changed:
            if self._stats.state != "retrying":
                _LOG.warning("The store cannot be written now, trying again: %s", error)
            now = self._stats
            self._stats = replace(
                now,
                state="retrying",
                retries=now.retries + 1,
                reconnects=now.reconnects + opened,
                error=str(error),
            )

    def _delivered(self, batch: Batch, flushed: Flushed, seconds: float, opened: int) -> None:
        with self._changed:
            now = self._stats
            if now.state == "retrying":
                _LOG.warning("The store is written again; %s rows waited.", f"{self._queued + batch.rows:,}")
            self._stats = replace(
                now,
                state="idle",
                written=now.written + flushed.written,
                ignored=now.ignored + flushed.ignored,
                refused=now.refused + flushed.refused,
                flushes=now.flushes + 1,
                flush_s=now.flush_s + seconds,
                last_flush_s=seconds,
                reconnects=now.reconnects + opened,
                error="",
            )
            self._done += batch.rows
            self._in_flight = 0
            self._changed.notify_all()
