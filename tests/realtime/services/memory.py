"""A cluster in memory: partitions of trades, transactions with fencing, and crashes where they are wanted."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from marketdata.bus.envelope import DeadLetter, Stored
from marketdata.errors import TransientError
from marketdata.market import Market
from realtime.services.checkpoint import Checkpoint
from realtime.services.committer import Work
from realtime.services.reading import Piece


class Crash(BaseException):
    """The process is killed."""


@dataclass
class Cluster:
    """What survives a crash."""

    partitions: dict[int, list[tuple[Market, pl.DataFrame]]]
    crash: Callable[[str], bool] = lambda place: False
    offsets: dict[int, tuple[int, str]] = field(default_factory=dict)
    finals: list[tuple[Market, pl.DataFrame]] = field(default_factory=list)
    late: list[tuple[Market, pl.DataFrame]] = field(default_factory=list)
    rejects: list[DeadLetter] = field(default_factory=list)
    running: list[tuple[Market, pl.DataFrame]] = field(default_factory=list)
    epochs: dict[int, int] = field(default_factory=dict)
    refuse: set[int] = field(default_factory=set)


class MemoryTransactions:
    def __init__(self, cluster: Cluster, partition: int) -> None:
        self._cluster, self._partition = cluster, partition
        self._epoch = cluster.epochs[partition] = cluster.epochs.get(partition, 0) + 1

    def commit(self, work: Work, checkpoint: Checkpoint) -> None:
        cluster = self._cluster
        if cluster.crash("before the commit"):
            raise Crash
        if cluster.epochs[self._partition] != self._epoch:
            msg = "fenced"
            raise TransientError(msg)
        if self._partition in cluster.refuse:
            cluster.refuse.discard(self._partition)
            msg = "aborted"
            raise TransientError(msg)
        cluster.finals += work.outcome.finals
        cluster.late += work.outcome.late
        cluster.rejects += work.rejects
        cluster.offsets[self._partition] = (checkpoint.offset, checkpoint.text())
        if cluster.crash("after the commit"):
            raise Crash

    def close(self) -> None:
        pass

    drop = close


class MemoryInbox:
    """Hands out a message or two of each partition a turn."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.positions: dict[int, int] = {}

    def poll(self, timeout_s: float, now: datetime, until: Callable[[int], int | None]) -> Iterable[Piece]:
        for partition, start in list(self.positions.items()):
            log, border = self._cluster.partitions[partition], until(partition)
            if border is None or start >= len(log):
                continue
            end = min(start + 2, len(log))
            if start < border:
                end = min(end, border)
            batches = [(log[n][0], n, log[n][1]) for n in range(start, end) if len(log[n][1])]
            rejects = [
                DeadLetter(Stored(None, None), "empty", "trades", partition, n)
                for n in range(start, end)
                if log[n][1].is_empty()
            ]
            self.positions[partition] = end
            yield Piece(("trades", partition), end, end - start, 0.0, batches, rejects)

    def committed(self, partition: int) -> Checkpoint:
        return Checkpoint.parse(*self._cluster.offsets.get(partition, (0, "")))

    def seek(self, partition: int, offset: int) -> None:
        self.positions[partition] = offset

    def lag(self) -> dict[int, int]:
        return {
            partition: len(self._cluster.partitions[partition]) - at
            for partition, at in self.positions.items()
        }


class MemoryOutbox:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def transactions(self, partition: int) -> MemoryTransactions:
        return MemoryTransactions(self._cluster, partition)

    def running(self, market: Market, candles: pl.DataFrame) -> None:
        self._cluster.running.append((market, candles))

    def serve(self) -> None:
        pass
