"""What a consumer has been given it hands on, whatever comes beside it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from marketdata.bus.cluster import kafka
from marketdata.bus.consumer import BatchConsumer, Place
from marketdata.errors import PermanentError, TransientError

Part = list[Any] | Callable[[], list[Any]]


class Client:
    """Kafka's client, as far as a poll sees it."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.given_up: list[Any] = []

    def consume(self, most: int, timeout_s: float) -> list[Any]:
        part: Part = self.parts.pop(0) if self.parts else []
        return part() if callable(part) else part

    def incremental_unassign(self, partitions: list[Any]) -> None:
        self.given_up += partitions

    def close(self) -> None:
        self.consume(0, 0.0)


def message(offset: int) -> Any:
    return kafka().Message("trades", 0, offset, key=b"kraken:BTC/USD", value=b"1")


def failure(code: int) -> Any:
    return kafka().Message("trades", 1, 0, error=kafka().KafkaError(code, "the fetch failed"))


def refuse(places: list[Place]) -> None:
    msg = f"no commit of {places}"
    raise TransientError(msg)


@pytest.fixture
def consumer() -> Iterator[BatchConsumer]:
    made = BatchConsumer("127.0.0.1:1", [], "g", on_revoke=refuse)
    with closing(made._consumer):
        yield made


def use(consumer: BatchConsumer, *parts: Part) -> Client:
    client: Any = Client(list(parts))
    consumer._consumer = client
    return client  # type: ignore[no-any-return]


def offsets(consumer: BatchConsumer) -> list[int | None]:
    return [one.offset() for one in consumer.poll()]


def revoked(consumer: BatchConsumer, *delivered: Any) -> Callable[[], list[Any]]:
    """A consume in which a partition is given up before messages are delivered, as the client does it."""

    def consume() -> list[Any]:
        consumer._revoked(consumer._consumer, [kafka().TopicPartition("trades", 3)])
        return list(delivered)

    return consume


def test_an_error_between_messages_is_raised_once_they_are_handed_on(consumer: BatchConsumer) -> None:
    use(
        consumer,
        [message(10)],
        [message(11), failure(kafka().KafkaError.UNKNOWN), message(12)],
        [message(13)],
    )
    assert offsets(consumer) == [10, 11, 12]
    with pytest.raises(TransientError, match="the fetch failed"):
        consumer.poll()
    assert offsets(consumer) == [13]


def test_an_error_beside_no_message_is_raised_at_once(consumer: BatchConsumer) -> None:
    use(consumer, [failure(kafka().KafkaError.UNKNOWN)], [])
    with pytest.raises(TransientError):
        consumer.poll()
    assert offsets(consumer) == []


def test_of_several_errors_the_one_that_does_not_pass_is_raised(consumer: BatchConsumer) -> None:
    codes = (
        kafka().KafkaError.UNKNOWN,
        kafka().KafkaError.TOPIC_AUTHORIZATION_FAILED,
        kafka().KafkaError.UNKNOWN,
    )
    use(consumer, [message(1)], [failure(code) for code in codes])
    assert offsets(consumer) == [1]
    with pytest.raises(PermanentError):
        consumer.poll()


def test_what_the_client_itself_raises_costs_no_message(consumer: BatchConsumer) -> None:
    def broken() -> list[Any]:
        raise kafka().KafkaException(kafka().KafkaError(kafka().KafkaError._TRANSPORT))

    use(consumer, [message(1)], broken)
    assert offsets(consumer) == [1]
    with pytest.raises(TransientError):
        consumer.poll()


def test_a_refusal_of_the_brokers_costs_no_message(consumer: BatchConsumer) -> None:
    def refused() -> list[Any]:
        consumer._watch.callback(kafka().KafkaError(kafka().KafkaError._AUTHENTICATION))
        return [message(2)]

    use(consumer, [message(1)], refused)
    assert offsets(consumer) == [1, 2]
    with pytest.raises(PermanentError):
        consumer.poll()


def test_a_callback_that_raises_costs_no_message_and_its_partition_is_given_up(
    consumer: BatchConsumer,
) -> None:
    client = use(consumer, [message(1)], revoked(consumer, message(2)))
    assert offsets(consumer) == [1, 2]
    assert [one.partition for one in client.given_up] == [3]
    with pytest.raises(TransientError, match="no commit"):
        consumer.poll()


def test_a_callback_that_raises_at_the_end_is_heard(consumer: BatchConsumer) -> None:
    use(consumer, revoked(consumer))
    with pytest.raises(TransientError, match="no commit"):
        consumer.close()
