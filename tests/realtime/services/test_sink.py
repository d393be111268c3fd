"""Sinks: what is committed is written, what is written twice counts once, a slow store pauses partitions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl
import pytest

from marketdata.bus.envelope import DeadLetter, Stored
from marketdata.errors import TransientError
from marketdata.market import Market
from marketdata.store.buffer import WriterStats
from realtime.services.reading import Piece, Place
from realtime.services.sink import SinkService
from tests.realtime.test_candles import BTC, ETH, at, trades

ONE, TWO = ("trades", 0), ("trades", 1)


def piece(place: Place, end: int, *numbers: int, rejects: Sequence[DeadLetter] = ()) -> Piece:
    rows = trades(*((number, 0, 5) for number in numbers))
    return Piece(place, end, batches=[(BTC, end - 1, rows)] if numbers else [], rejects=list(rejects))


def numbered(first: int, end: int) -> pl.DataFrame:
    return trades(*((number, 0, 5) for number in range(first, end)))


@dataclass
class Inbox:
    pieces: list[Piece] = field(default_factory=list)
    paused: bool = False
    away: bool = False
    committed: dict[Place, int] = field(default_factory=dict)
    kept: list[DeadLetter] = field(default_factory=list)

    def poll(self, timeout_s: float, now: datetime) -> Iterable[Piece]:
        if self.paused:
            return []
        pieces, self.pieces = self.pieces[:1], self.pieces[1:]
        return pieces

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def commit(self, offsets: Mapping[Place, int]) -> None:
        if self.away:
            msg = "no broker"
            raise TransientError(msg)
        self.committed |= offsets

    def keep(self, rejects: Sequence[DeadLetter]) -> None:
        self.kept += rejects

    def lag(self) -> dict[Place, int]:
        return {}


@dataclass
class Writer:
    """Has room for so many rows; :meth:`work` writes them."""

    room: int = 100
    taken: list[int] = field(default_factory=list)
    done: int = 0
    slow: bool = False

    def write(self, market: Market, trades: pl.DataFrame, *, timeout_s: float | None = None) -> None:
        for trade_id in trades["trade_id"]:
            if len(self.taken) - self.done == self.room:
                msg = "no room"
                raise TransientError(msg)
            self.taken.append(trade_id)

    write_candles = write

    def flush(self, *, timeout_s: float | None = None) -> None:
        if self.slow:
            msg = "late"
            raise TransientError(msg)
        self.done = len(self.taken)

    @property
    def progress(self) -> tuple[int, int]:
        return len(self.taken), self.done

    @property
    def stats(self) -> WriterStats:
        return WriterStats("idle", len(self.taken) - self.done, self.room, 0.0)


def sink(inbox: Inbox, writer: Writer, *places: Place) -> SinkService:
    service = SinkService(inbox, writer, lambda: at(0))
    service.assigned(places or [ONE])
    return service


def turn(service: SinkService) -> None:
    service._committed_at = 0.0
    service.turn(0)


def test_an_offset_is_committed_once_every_row_before_it_is_written() -> None:
    inbox, writer = Inbox([piece(ONE, 5, 1, 2)]), Writer()
    service = sink(inbox, writer)
    turn(service)
    assert inbox.committed == {}
    writer.done = 1
    turn(service)
    assert inbox.committed == {}
    writer.done = 2
    turn(service)
    assert inbox.committed == {ONE: 5}


def test_a_slow_store_pauses_the_partitions_and_nothing_is_dropped() -> None:
    pieces = [piece(ONE, n + 1, n) for n in range(4)]
    inbox, writer = Inbox(pieces), Writer(room=2)
    service = sink(inbox, writer)
    for _ in range(6):
        turn(service)
    assert inbox.paused
    assert not service.health.state()["ready"]
    assert b"marketdata_partitions_paused 1.0" in service.metrics.text()
    assert writer.taken == [0, 1]
    writer.done = 2
    for _ in range(6):
        turn(service)
    assert not inbox.paused
    assert service.health.state()["ready"]
    assert writer.taken == [0, 1, 2, 3]
    assert inbox.committed == {ONE: 2}


def test_a_piece_larger_than_the_room_goes_on_where_it_stopped_and_is_committed_whole() -> None:
    large = Piece(ONE, 9, batches=[(BTC, 0, numbered(0, 5)), (ETH, 5, numbered(5, 8))])
    inbox, writer = Inbox([large]), Writer(room=2)
    service = sink(inbox, writer)
    committed = []
    for _ in range(5):
        turn(service)
        writer.done = len(writer.taken)
        committed.append(dict(inbox.committed))
    assert writer.taken == list(range(8))
    assert committed == [{}, {}, {}, {}, {ONE: 9}]


def test_a_piece_that_was_half_taken_when_its_partition_went_begins_anew_when_it_comes_back() -> None:
    inbox, writer = Inbox([Piece(ONE, 4, batches=[(BTC, 0, numbered(0, 4))])]), Writer(room=3)
    service = sink(inbox, writer)
    turn(service)
    service.revoked([ONE])
    assert inbox.committed == {}
    service.assigned([ONE])
    inbox.pieces = [Piece(ONE, 4, batches=[(BTC, 0, numbered(0, 4))])]
    inbox.resume()
    for _ in range(3):
        turn(service)
        writer.done = len(writer.taken)
    turn(service)
    assert writer.taken == [0, 1, 2, 0, 1, 2, 3]
    assert inbox.committed == {ONE: 4}


def test_a_partition_whose_commit_fails_is_given_up_all_the_same() -> None:
    inbox, writer = Inbox([piece(ONE, 5, 1)], away=True), Writer()
    service = sink(inbox, writer)
    turn(service)
    with pytest.raises(TransientError):
        service.revoked([ONE])
    inbox.pieces = [piece(ONE, 6, 2)]
    turn(service)
    assert writer.taken == [1]


def test_a_partition_is_given_up_with_all_it_took_written() -> None:
    inbox, writer = Inbox([piece(ONE, 5, 1)]), Writer()
    service = sink(inbox, writer)
    turn(service)
    service.revoked([ONE])
    assert inbox.committed == {ONE: 5}


def test_what_could_not_be_written_before_a_partition_is_given_up_is_not_committed() -> None:
    inbox, writer = Inbox([piece(ONE, 5, 1)]), Writer(slow=True)
    service = sink(inbox, writer)
    turn(service)
    service.revoked([ONE])
    assert inbox.committed == {}
    writer.done = 1
    turn(service)
    assert inbox.committed == {}


def test_messages_of_a_partition_that_was_given_up_are_left_to_its_new_owner() -> None:
    inbox, writer = Inbox([piece(TWO, 9, 1)]), Writer()
    service = sink(inbox, writer, ONE)
    turn(service)
    assert writer.taken == []


def test_a_message_that_cannot_be_read_goes_to_the_dead_letters_before_its_offset_is_committed() -> None:
    reject = DeadLetter(Stored(b"k", b"{"), "cut JSON", "candles", 0, 4)
    inbox, writer = Inbox([piece(ONE, 5, rejects=[reject])]), Writer()
    service = sink(inbox, writer)
    turn(service)
    turn(service)
    assert inbox.kept == [reject]
    assert inbox.committed == {ONE: 5}
