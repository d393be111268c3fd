"""What a sink reads of its topics: rows to be written, and letters to be kept."""

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest

from marketdata.bus.cluster import kafka
from marketdata.bus.messages import encode_trades, key_of
from marketdata.bus.topics import Topics
from realtime.services.reading import Piece
from realtime.services.wire import StoreInbox
from tests.realtime.test_candles import BTC, at, trades

TOPICS = Topics()
VALUES = [*encode_trades(trades((1, 0, 5))), b"{"]


class Consumer:
    """Delivers messages once."""

    def __init__(self, messages: list[Any]) -> None:
        self.messages = messages

    def poll(self, most: int, timeout_s: float) -> list[Any]:
        messages, self.messages = self.messages, []
        return messages


@pytest.fixture
def inbox() -> Iterator[StoreInbox]:
    made = StoreInbox("127.0.0.1:1", TOPICS, [], "g")
    with closing(made.consumer):
        yield made


def read(inbox: StoreInbox, topic: str, now: datetime) -> Piece:
    message = kafka().Message
    consumer: Any = Consumer(
        [
            message(topic, 0, 7 + n, key=key_of(BTC), value=value, timestamp=(1, 0))
            for n, value in enumerate(VALUES)
        ]
    )
    inbox.consumer = consumer
    (piece,) = inbox.poll(0.0, now)
    return piece


def test_a_sink_whose_clock_is_slow_writes_what_the_feed_has_accepted(inbox: StoreInbox) -> None:
    piece = read(inbox, TOPICS.trades, at(0) - timedelta(days=400))
    assert [rows["trade_id"].to_list() for _, _, rows in piece.batches] == [[1]]


def test_what_a_sink_cannot_read_is_a_letter(inbox: StoreInbox) -> None:
    piece = read(inbox, TOPICS.backfill, at(60))
    assert [(letter.offset, letter.reason) for letter in piece.rejects] == [(8, "not JSON, or cut")]


def test_of_the_topic_of_trades_only_the_candle_service_sends_letters(inbox: StoreInbox) -> None:
    piece = read(inbox, TOPICS.trades, at(60))
    assert (len(piece.batches), piece.rejects) == (1, [])


def test_a_backfilled_trade_of_the_future_is_a_letter(inbox: StoreInbox) -> None:
    piece = read(inbox, TOPICS.backfill, at(0) - timedelta(minutes=10))
    assert [letter.reason for letter in piece.rejects] == ["time in the future", "not JSON, or cut"]
    assert piece.batches == []
