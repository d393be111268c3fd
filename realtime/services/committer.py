"""Transactions of a partition: finals, late trades, dead letters and offset go out together or not at all."""

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from marketdata.bus.envelope import DeadLetter
from marketdata.errors import TransientError
from realtime.services.checkpoint import Checkpoint
from realtime.services.partition import Outcome

# Longer than what its steps may take together while a broker starts again.
PATIENCE_S = 40.0


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
    """Commits one piece of work after the other, in a thread, so that trades do not wait for the broker.

    A transaction that does not end is given up: Kafka's client may wait for ever for offsets that it was
    sending when the broker went away, whatever timeout it was given. Its thread is left behind; whoever takes
    the transactions over fences it off, so nothing that it may still do counts.
    """

    def __init__(self, transactions: Transactions, position: int, *, patience_s: float = PATIENCE_S) -> None:
        """``position``: where the partition stands; so far all is committed."""
        self._transactions, self._patience_s = transactions, patience_s
        self._running: Future[float] | None = None
        self._begun = position
        self.committed_at = monotonic()

    @property
    def busy(self) -> bool:
        """Whether a transaction is under way, or has ended and nobody knows yet how."""
        return self._running is not None

    @property
    def position(self) -> int:
        """The position that was committed last, or is being committed."""
        return self._begun

    def start(self, work: Work, checkpoint: Checkpoint) -> None:
        """Begin to commit; not while it is :attr:`busy`."""
        self._begun, self.committed_at = checkpoint.position, monotonic()
        running: Future[float] = Future()
        self._running = running

        def run() -> None:
            try:
                running.set_result(self._commit(work, checkpoint))
            except BaseException as error:  # for whoever asks for the result
                running.set_exception(error)

        # Not of a pool: one that is stuck would be waited for when the process ends.
        threading.Thread(target=run, name="commit", daemon=True).start()

    def result(self) -> float | None:
        """Seconds of a transaction that has ended since it was asked last.

        Raises:
            MarketDataError: it was not committed, or does not end.
        """
        if self._running is None or not (self._running.done() or self._overdue()):
            return None
        return self.wait()

    def wait(self) -> float | None:
        """The same, once it has ended.

        Raises:
            MarketDataError: as :meth:`result`.
        """
        if self._running is None:
            return None
        try:
            took = self._running.result(self._left_s())
        except TimeoutError:
            msg = f"A transaction has not ended within {self._patience_s:.0f} s."
            raise TransientError(msg) from None
        except BaseException:
            self._running = None
            raise
        self._running = None
        return took

    def close(self) -> None:
        """Give the partition up; waits for a transaction under way."""
        if self._ended():
            self._transactions.close()

    def drop(self) -> None:
        """The same at once: nothing is aborted, and a transaction under way may end either way."""
        if self._ended():
            self._transactions.drop()

    def _ended(self) -> bool:
        """Wait for a transaction under way; false for one that is left behind."""
        if self._running is not None:
            try:
                self._running.exception(self._left_s())
            except TimeoutError:
                return False
            self._running = None
        return True

    def _left_s(self) -> float:
        return max(0.0, self.committed_at + self._patience_s - monotonic())

    def _overdue(self) -> bool:
        return not self._left_s()

    def _commit(self, work: Work, checkpoint: Checkpoint) -> float:
        began = monotonic()
        self._transactions.commit(work, checkpoint)
        return monotonic() - began
