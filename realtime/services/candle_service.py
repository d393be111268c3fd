"""The candle service: trades from Kafka in, candles to Kafka out, finals exactly once.

Each partition has a core of its own (:mod:`realtime.services.partition`) and transactions of its own: finals,
late trades and dead letters go out together with the offset from which a restart must read, so a crash at any
point repeats nothing. Running candles may be lost; they go out at once, outside transactions.

A partition moves with a rebalance: who gives it up commits what is due; who takes it fences off whoever had
it, reads what was committed and goes on from there. The same happens when a transaction fails.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from time import monotonic, sleep
from typing import Protocol

import polars as pl
import structlog

from marketdata.errors import MarketDataError
from marketdata.interval import to_us
from marketdata.market import Market
from realtime.candles import CandleCore
from realtime.health import Health
from realtime.metrics import Metrics
from realtime.services.checkpoint import Checkpoint
from realtime.services.committer import Committer, Transactions, Work
from realtime.services.history import Fetcher, History
from realtime.services.partition import PartitionCandles
from realtime.services.reading import Piece

_LOG = structlog.stdlib.get_logger(__name__)

# Offsets go on this often also where there is nothing to tell, so that a restart reads little again.
_PROGRESS_S = 5.0
_TICK_S = 0.05
_LOOK_S = 1.0  # lag and watermarks
# Going round costs a millisecond for one message as for ten: at 1,000 a second, each on its own, messages
# would wait for a processor longer than this.
_PACE_S = 0.004
_PAUSE_S = 1.0  # before a partition whose transaction failed begins again
# More finals than this wait for the transaction before theirs.
_MOST_WAITING = 200_000


class Inbox(Protocol):
    """Where trades come from; see :mod:`realtime.services.wire`."""

    def poll(self, timeout_s: float, now: datetime, until: Callable[[int], int | None]) -> Iterable[Piece]:
        """Messages that have come, decoded.

        Args:
            until: gives an offset at which the messages of a partition are cut in two, or ``None`` for a
                partition whose messages are not wanted now.
        """
        ...

    def committed(self, partition: int) -> Checkpoint: ...
    def seek(self, partition: int, offset: int) -> None: ...
    def lag(self) -> dict[int, int]: ...


class Outbox(Protocol):
    """Where candles go."""

    def transactions(self, partition: int) -> Transactions: ...
    def running(self, market: Market, candles: pl.DataFrame) -> None: ...
    def serve(self) -> None: ...


class _Served:
    """A partition this instance serves."""

    def __init__(self, candles: PartitionCandles, committer: Committer) -> None:
        self.candles, self.committer, self.work = candles, committer, Work()

    def due(self, *, now: bool = False) -> bool:
        """Whether to commit; ``now``: also progress alone."""
        if self.committer.busy or self.candles.replaying:
            return False
        behind = self.candles.position > self.committer.position
        waited = now or monotonic() - self.committer.committed_at > _PROGRESS_S
        return self.work.must_commit or (behind and waited)

    def take_work(self) -> Work:
        work, self.work = self.work, Work()
        return work


def _closed(taken: "Future[Transactions]") -> None:
    if taken.exception() is None:
        taken.result().drop()


class CandleService:
    """One instance of the service; as many as there are partitions share the work."""

    def __init__(
        self,
        inbox: Inbox,
        outbox: Outbox,
        make_core: Callable[[], CandleCore],
        history: History,
        clock: Callable[[], datetime],
        *,
        topic: str = "marketdata.trades",
        metrics: Metrics | None = None,
        health: Health | None = None,
    ) -> None:
        """Nothing is asked for yet. ``clock``: the machine's time; it must not jump."""
        self._inbox, self._outbox, self._make_core, self._clock = inbox, outbox, make_core, clock
        self._topic = topic
        self.metrics, self.health = metrics or Metrics("candles"), health or Health()
        self._fetcher = Fetcher[_Served](history)
        self._served: dict[int, _Served] = {}
        self._failed: dict[int, float] = {}  # partitions that begin again, and when
        self._taking: dict[int, Future[Transactions]] = {}
        self._lag: dict[int, int] = {}
        self._ticked = self._looked = self._polled = 0.0
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="commit")

    # -- partitions come and go ---------------------------------------------------------------------

    def assigned(self, partitions: Iterable[int]) -> dict[int, int]:
        """Take partitions; returns the offsets from which they are read."""
        # All at once: taking over the transactions of one takes half a second.
        taken = {
            partition: self._pool.submit(self._outbox.transactions, partition) for partition in partitions
        }
        begins = {}
        for partition, transactions in taken.items():
            try:
                begins[partition] = self._begin(partition, transactions.result())
            except MarketDataError as error:
                self._fail(partition, error)
        self.metrics.rebalances.labels("given").inc(len(begins))
        self._say_assigned()
        return begins

    def revoked(self, partitions: Iterable[int]) -> None:
        """Give partitions up: what is due is committed first."""
        for partition in partitions:
            self._give_up_failed(partition)
            served = self._served.pop(partition, None)
            if served is None:
                continue
            try:
                served.committer.wait()
                if served.due(now=True):
                    served.committer.start(served.take_work(), served.candles.checkpoint())
                    served.committer.wait()
            except MarketDataError as error:
                # The next owner reads what was committed and makes the same candles.
                _LOG.warning("given up without a commit", partition=partition, error=str(error))
            finally:
                served.committer.close()
            self.metrics.rebalances.labels("taken").inc()
        self._say_assigned()

    def lost(self, partitions: Iterable[int]) -> None:
        """Somebody else has the partitions already: nothing of ours may be committed."""
        for partition in partitions:
            self._give_up_failed(partition)
            if (served := self._served.pop(partition, None)) is not None:
                self._pool.submit(served.committer.drop)
                self.metrics.rebalances.labels("lost").inc()
        self._say_assigned()

    def _begin(self, partition: int, transactions: Transactions) -> int:
        """Go on from what was committed; the predecessor is fenced off, so that stays as it is."""
        try:
            start = self._inbox.committed(partition)
            candles = PartitionCandles(self._make_core, start)
        except MarketDataError:
            transactions.close()
            raise
        self._served[partition] = _Served(candles, Committer(transactions, start.position))
        _LOG.info("partition taken", partition=partition, offset=start.offset, position=start.position)
        return start.offset

    def _fail(self, partition: int, error: MarketDataError) -> None:
        """Drop what was not committed, and begin again soon."""
        _LOG.warning("partition begins again", partition=partition, error=str(error))
        if (served := self._served.pop(partition, None)) is not None:
            self._pool.submit(served.committer.drop)
        self._failed[partition] = monotonic() + _PAUSE_S
        self.metrics.restarts.inc()
        self._say_assigned()

    def _begin_again(self) -> None:
        """Take over failed partitions again, beside the loop: a broker that starts takes long."""
        for partition, due in list(self._failed.items()):
            taking = self._taking.get(partition)
            if taking is None:
                if monotonic() >= due:
                    self._taking[partition] = self._pool.submit(self._outbox.transactions, partition)
                continue
            if not taking.done():
                continue
            del self._taking[partition]
            try:
                begin = self._begin(partition, taking.result())
                self._inbox.seek(partition, begin)
                del self._failed[partition]
            except MarketDataError as error:
                self._fail(partition, error)
        self._say_assigned()

    def _give_up_failed(self, partition: int) -> None:
        """Somebody else begins this partition again."""
        self._failed.pop(partition, None)
        if (taking := self._taking.pop(partition, None)) is not None:
            taking.add_done_callback(_closed)

    def _say_assigned(self) -> None:
        self.metrics.assigned.set(len(self._served))
        if self._failed:
            self.health.not_ready(f"partitions begin again: {sorted(self._failed)}")
        elif self._served:
            self.health.ready()
        else:
            self.health.not_ready("no partition is assigned")

    # -- the loop -----------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set.

        Raises:
            MarketDataError: the cluster refuses, or a committed state is none.
        """
        while not stop.is_set():
            self.turn()

    def close(self) -> None:
        """Give up what is served."""
        self.revoked(list(self._served))
        self._fetcher.close()
        self._pool.shutdown()

    def idle(self) -> bool:
        """Whether all that must go out has gone out."""
        each = self._served.values()
        waits = any(one.work.must_commit or one.committer.busy or one.candles.replaying for one in each)
        return not self._failed and not waits

    def turn(self, timeout_s: float = _TICK_S) -> int:
        """Go round once; returns how many messages came."""
        if self._failed:
            self._begin_again()
        messages = 0
        came = set()
        sleep(max(0.0, self._polled + _PACE_S - monotonic()))
        self._polled = monotonic()
        for piece in self._inbox.poll(timeout_s, self._clock(), self._until):
            messages += piece.messages
            came.add(piece.place[1])
            self._take(piece)
        if monotonic() - self._ticked >= _TICK_S:
            self._tick(came)
        self._send_running()
        self._commit()
        self._outbox.serve()
        self.health.beat()
        return messages

    def _until(self, partition: int) -> int | None:
        served = self._served.get(partition)
        return None if served is None else served.candles.replay_until

    def _take(self, piece: Piece) -> None:
        served = self._served[piece.place[1]]
        replay = served.candles.replaying
        now = self._clock()
        served.candles.add(piece.batches, piece.end, now, served.work.outcome)
        if replay:
            return
        # Refused messages of a replay have been told of before.
        served.work.rejects += piece.rejects
        for reject in piece.rejects:
            self.metrics.rejected.labels(reject.reason).inc()
        for market, _, trades in piece.batches:
            self.metrics.trades.labels(str(market)).inc(len(trades))
        labels = (piece.place[0], str(piece.place[1]))
        self.metrics.messages.labels(*labels).inc(piece.messages)
        self.metrics.lag_seconds.labels(*labels).set(max(0.0, now.timestamp() - piece.newest_s))

    def _tick(self, came: set[int]) -> None:
        self._ticked = monotonic()
        if self._ticked - self._looked >= _LOOK_S:
            self._look()
        now = self._clock()
        for partition, served in self._served.items():
            quiet = partition not in came and not self._lag.get(partition, 1)
            served.candles.tick(now, served.work.outcome, caught_up=quiet)
            for wanted in served.candles.wanted_history():
                self._fetcher.ask(served, wanted)
        owners = list(self._served.values())
        for owner, market, trades in self._fetcher.done():
            self.metrics.history.labels("absent" if trades is None else "completed").inc()
            # A partition that has begun again meanwhile asks for itself, once its replay has ended.
            if trades is not None and owner in owners:
                owner.candles.complete(market, trades, now, owner.work.outcome)

    def _look(self) -> None:
        self._looked = monotonic()
        self._lag = self._inbox.lag()
        now_us = to_us(self._clock())
        for partition, served in self._served.items():
            self.metrics.lag.labels(self._topic, str(partition)).set(self._lag.get(partition, 0))
            for market, mark in served.candles.watermarks().items():
                self.metrics.watermark_age.labels(str(market)).set((now_us - mark) / 1e6)

    def _send_running(self) -> None:
        for served in self._served.values():
            outcome = served.work.outcome
            for market, candles in outcome.running:
                self._outbox.running(market, candles)
                self.metrics.candles.labels(str(market), "running").inc(len(candles))
            outcome.running.clear()

    def _commit(self) -> None:
        for partition, served in list(self._served.items()):
            try:
                took = served.committer.result()
                if took is None and served.work.rows > _MOST_WAITING:
                    took = served.committer.wait()
                if took is not None:
                    self.metrics.commit_seconds.observe(took)
                if served.due():
                    work = served.take_work()
                    self._count(work)
                    served.committer.start(work, served.candles.checkpoint())
            except MarketDataError as error:
                self._fail(partition, error)

    def _count(self, work: Work) -> None:
        for market, candles in work.outcome.finals:
            self.metrics.candles.labels(str(market), "final").inc(len(candles))
        for market, trades in work.outcome.late:
            self.metrics.late.labels(str(market)).inc(len(trades))
        for _, trades in work.outcome.refused:
            self.metrics.rejected.labels("time in the future").inc(len(trades))
        self.metrics.repeated.inc(work.outcome.repeated)
