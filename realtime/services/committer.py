"""Transactions of a partition: finals, late trades, dead letters and offset go out together or not at all."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from marketdata.bus.envelope import DeadLetter
from realtime.services.checkpoint import Checkpoint
from realtime.services.partition import Outcome


@dataclass(slots=True)
class Work:
    """What goes into one transaction."""

    outcome: Outcome = field(default_factory=Outcome)
    rejects: list[DeadLetter] = field(default_factory=list)

    @property
    def must_commit(self) -> bool:
        """Whether there is something that must go out once."""
        return bool(self.rejects) or self.outcome.must_commit

    @property
    def rows(self) -> int:
        """Candles and trades that wait."""
        groups = (self.outcome.finals, self.outcome.late, self.outcome.refused)
        return len(self.rejects) + sum(len(frame) for group in groups for _, frame in group)


class Transactions(Protocol):
    """Where the work of one partition goes; see :mod:`realtime.services.wire`."""

    def commit(self, work: Work, checkpoint: Checkpoint) -> None:
        """Send all of it and the checkpoint in one transaction.

        Raises:
            MarketDataError: nothing of it counts.
        """
        ...

    def close(self) -> None:
        """Give it up; what is open is aborted."""
        ...

    def drop(self) -> None:
        """Give it up at once; whoever takes it over aborts what is open."""
        ...


class Committer:
    """Commits one piece of work after the other, in a thread, so that trades do not wait for the broker."""

    def __init__(self, transactions: Transactions, pool: ThreadPoolExecutor, position: int) -> None:
        """``position``: where the partition stands; so far all is committed."""
        self._transactions, self._pool = transactions, pool
        self._running: Future[float] | None = None
        self._begun = position
        self.committed_at = monotonic()

    @property
    def busy(self) -> bool:
        """Whether a transaction is under way."""
        return self._running is not None and not self._running.done()

    @property
    def position(self) -> int:
        """The position that was committed last, or is being committed."""
        return self._begun

    def start(self, work: Work, checkpoint: Checkpoint) -> None:
        """Begin to commit; not while it is :attr:`busy`."""
        self._begun, self.committed_at = checkpoint.position, monotonic()
        self._running = self._pool.submit(self._commit, work, checkpoint)

    def result(self) -> float | None:
        """Seconds of a transaction that has ended since it was asked last.

        Raises:
            MarketDataError: it was not committed.
        """
        if self._running is None or not self._running.done():
            return None
        ended, self._running = self._running, None
        return ended.result()

    def wait(self) -> float | None:
        """The same, once it has ended."""
        if self._running is None:
            return None
        ended, self._running = self._running, None
        return ended.result()

    def close(self) -> None:
        """Give the partition up; waits for a transaction under way."""
        running, self._running = self._running, None
        if running is not None:
            running.exception()
        self._transactions.close()

    def drop(self) -> None:
        """The same at once: nothing is aborted, and a transaction under way may end either way."""
        running, self._running = self._running, None
        if running is not None:
            running.exception()
        self._transactions.drop()

    def _commit(self, work: Work, checkpoint: Checkpoint) -> float:
        began = monotonic()
        self._transactions.commit(work, checkpoint)
        return monotonic() - began
