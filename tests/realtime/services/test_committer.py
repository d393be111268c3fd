"""Transactions of a partition in a thread of their own: those that end, fail and never end."""

import threading

import pytest

from marketdata.errors import TransientError
from realtime.services.checkpoint import Checkpoint
from realtime.services.committer import Committer, Work


class Away:
    """Transactions that end when they are told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.may_end, self.fails = threading.Event(), fails
        self.begun = threading.Event()
        self.said: list[str] = []

    def commit(self, work: Work, checkpoint: Checkpoint) -> None:
        self.begun.set()
        self.may_end.wait(240)
        if self.fails:
            msg = "refused"
            raise TransientError(msg)

    def close(self) -> None:
        self.said.append("closed")

    def drop(self) -> None:
        self.said.append("dropped")


def test_a_transaction_is_under_way_until_it_has_ended() -> None:
    away = Away()
    committer = Committer(away, 3)
    committer.start(Work(), Checkpoint(5, 7))
    assert committer.busy
    assert committer.result() is None
    assert committer.position == 7
    away.may_end.set()
    assert committer.wait() is not None
    assert not committer.busy
    committer.close()
    assert away.said == ["closed"]


def test_a_transaction_that_failed_says_so_once() -> None:
    away = Away(fails=True)
    away.may_end.set()
    committer = Committer(away, 0)
    committer.start(Work(), Checkpoint(1, 1))
    with pytest.raises(TransientError, match="refused"):
        committer.wait()
    assert committer.result() is None


def test_a_transaction_whose_end_nobody_knows_yet_keeps_the_next_one_waiting() -> None:
    away = Away(fails=True)
    away.may_end.set()
    committer = Committer(away, 0)
    committer.start(Work(), Checkpoint(1, 1))
    assert committer._running is not None
    assert committer._running.exception(240) is not None
    assert committer.busy  # or what comes next would be committed without it
    with pytest.raises(TransientError, match="refused"):
        committer.result()
    assert not committer.busy


def test_a_transaction_that_never_ends_is_given_up_and_left_behind() -> None:
    away = Away()
    committer = Committer(away, 0, patience_s=0.05)
    committer.start(Work(), Checkpoint(1, 1))
    assert away.begun.wait(240)
    with pytest.raises(TransientError, match="has not ended"):
        committer.wait()
    with pytest.raises(TransientError, match="has not ended"):
        committer.result()
    committer.drop()
    committer.close()
    assert away.said == []  # its thread is still in the midst of them
    away.may_end.set()
