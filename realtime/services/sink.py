"""Sinks: trades and candles from Kafka into the store, at least once and counted once.

The store's buffered writer takes the rows and waits for a server that is slow or away; when it has no room
for more, the partitions are paused. An offset is committed when all rows before it are: what was written and
not committed comes again after a crash, and the store ignores what it holds.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import Protocol

import polars as pl
import structlog

from marketdata.bus.envelope import DeadLetter
from marketdata.errors import TransientError
from marketdata.market import Market
from marketdata.store.buffer import WriterStats
from realtime.health import Health
from realtime.metrics import Changes, Metrics
from realtime.services.reading import Piece, Place

_LOG = structlog.stdlib.get_logger(__name__)

_COMMIT_S = 0.5
_LOOK_S = 1.0
_TURN_S = 0.1
# How long a partition that is given up waits for its rows; what is not written by then comes again.
_GIVE_UP_S = 5.0


class StoreInbox(Protocol):
    """Where rows come from; see :mod:`realtime.services.wire`."""

    def poll(self, timeout_s: float, now: datetime) -> Iterable[Piece]: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def commit(self, offsets: Mapping[Place, int]) -> None: ...
    def keep(self, rejects: Sequence[DeadLetter]) -> None:
        """Put rejects on the dead-letter topic; they are there when this returns."""

    def lag(self) -> dict[Place, int]: ...


class Writer(Protocol):
    """What is needed of :class:`marketdata.store.buffer.BufferedWriter`; nobody else brings rows to it."""

    def write(self, market: Market, trades: pl.DataFrame, *, timeout_s: float | None = None) -> None: ...
    def write_candles(
        self, market: Market, candles: pl.DataFrame, *, timeout_s: float | None = None
    ) -> None: ...
    def flush(self, *, timeout_s: float | None = None) -> None: ...
    @property
    def progress(self) -> tuple[int, int]: ...
    @property
    def stats(self) -> WriterStats: ...


class SinkService:
    """One instance of a sink."""

    def __init__(
        self,
        inbox: StoreInbox,
        writer: Writer,
        clock: Callable[[], datetime],
        *,
        metrics: Metrics | None = None,
        health: Health | None = None,
    ) -> None:
        """``clock``: the machine's time."""
        self._inbox, self._writer, self._clock = inbox, writer, clock
        self.metrics, self.health = metrics or Metrics("sink"), health or Health()
        self._owned: set[Place] = set()
        self._waiting: deque[Piece] = deque()  # found no room yet
        self._paused = False
        # Rows taken by the writer, and the offset that may be committed once they are written.
        self._marks: deque[tuple[int, Place, int]] = deque()
        self._committed_at = self._looked = 0.0
        counters = {name: self.metrics.rows.labels(name) for name in ("written", "ignored", "refused")}
        self._changes = Changes({**counters, "reconnects": self.metrics.reconnects.labels("store")})
        self._flushed = (0, 0.0)

    # -- partitions come and go ---------------------------------------------------------------------

    def assigned(self, places: Iterable[Place]) -> None:
        """Take partitions."""
        self._owned |= set(places)
        self._say()

    def revoked(self, places: Iterable[Place]) -> None:
        """Give partitions up: what the writer has taken is written and committed first."""
        given = set(places)
        try:
            if self._owned & given:
                try:
                    self._writer.flush(timeout_s=_GIVE_UP_S)
                except TransientError as error:
                    _LOG.warning("given up before all was written", error=str(error))
                self._commit()
        finally:
            self.lost(given)

    def lost(self, places: Iterable[Place]) -> None:
        """Somebody else has the partitions already."""
        gone = set(places)
        self._owned -= gone
        self._waiting = deque(piece for piece in self._waiting if piece.place not in gone)
        self._marks = deque(mark for mark in self._marks if mark[1] not in gone)
        self._say()

    # -- the loop -----------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set.

        Raises:
            MarketDataError: the store or the cluster refuses for good.
        """
        while not stop.is_set():
            self.turn()

    def close(self) -> None:
        """Write and commit what was taken."""
        self.revoked(list(self._owned))

    def idle(self) -> bool:
        """Whether all that came is written."""
        taken, written = self._writer.progress
        return not self._waiting and taken == written

    def turn(self, timeout_s: float = _TURN_S) -> int:
        """Go round once; returns how many messages came."""
        messages = 0
        if self._paused:
            self._inbox.pause()  # again: partitions that have come since are not paused yet
        for piece in self._inbox.poll(timeout_s, self._clock()):
            if piece.place in self._owned:
                self._waiting.append(piece)
                messages += piece.messages
                self._count(piece)
        self._hand_over(timeout_s)
        if monotonic() - self._committed_at >= _COMMIT_S:
            self._commit()
        if monotonic() - self._looked >= _LOOK_S:
            self._look()
        self.health.beat()
        return messages

    def _hand_over(self, timeout_s: float) -> None:
        while self._waiting:
            piece = self._waiting[0]
            try:
                self._take(piece, timeout_s)
            except TransientError as error:
                self._pause(error)
                return
            self._waiting.popleft()
            self._marks.append((self._writer.progress[0], piece.place, piece.end))
        if self._paused:
            self._paused = False
            self._inbox.resume()
            _LOG.info("the store takes rows again")
            self._say()

    def _take(self, piece: Piece, timeout_s: float) -> None:
        """Bring the rows of a piece to the writer; what was taken is off the piece, also when room runs out.

        A piece may be larger than the room that comes free in a turn. Begun again from its first row it would
        fill that room with the same rows for ever.
        """
        while piece.batches:
            market, offset, rows = piece.batches[0]
            take = self._writer.write_candles if "open_time" in rows.columns else self._writer.write
            before, _ = self._writer.progress
            try:
                take(market, rows, timeout_s=timeout_s)
            except TransientError:
                taken, _ = self._writer.progress
                piece.batches[0] = market, offset, rows.slice(taken - before)
                raise
            del piece.batches[0]
        if piece.rejects:
            self._inbox.keep(piece.rejects)

    def _pause(self, error: TransientError) -> None:
        if not self._paused:
            self._paused = True
            self._inbox.pause()
            _LOG.warning("partitions are paused until the store takes rows", error=str(error))
            self._say()

    def _commit(self) -> None:
        self._committed_at = monotonic()
        written = self._writer.progress[1]
        offsets: dict[Place, int] = {}
        while self._marks and self._marks[0][0] <= written:
            _, place, end = self._marks.popleft()
            offsets[place] = end
        if offsets:
            self._inbox.commit(offsets)

    # -- what is told -------------------------------------------------------------------------------

    def _count(self, piece: Piece) -> None:
        topic, partition = piece.place
        labels = (topic, str(partition))
        self.metrics.messages.labels(*labels).inc(piece.messages)
        self.metrics.lag_seconds.labels(*labels).set(max(0.0, self._clock().timestamp() - piece.newest_s))
        for reject in piece.rejects:
            self.metrics.rejected.labels(reject.reason).inc()
        for market, _, rows in piece.batches:
            if "open_time" in rows.columns:
                self.metrics.candles.labels(str(market), "final").inc(len(rows))
            else:
                self.metrics.trades.labels(str(market)).inc(len(rows))

    def _look(self) -> None:
        self._looked = monotonic()
        stats = self._writer.stats
        self.metrics.buffer.set(stats.waiting)
        self._changes.see(
            {
                "written": stats.written,
                "ignored": stats.ignored,
                "refused": stats.refused,
                "reconnects": stats.reconnects,
            }
        )
        flushes, seconds = self._flushed
        if stats.flushes > flushes:
            self._flushed = (stats.flushes, stats.flush_s)
            self.metrics.flush_seconds.observe((stats.flush_s - seconds) / (stats.flushes - flushes))
        for (topic, partition), lag in self._inbox.lag().items():
            self.metrics.lag.labels(topic, str(partition)).set(lag)

    def _say(self) -> None:
        self.metrics.assigned.set(len(self._owned))
        self.metrics.paused.set(len(self._owned) if self._paused else 0)
        if self._paused:
            self.health.not_ready("the store is slow or away; partitions are paused")
        elif self._owned:
            self.health.ready()
        else:
            self.health.not_ready("no partition is assigned")
