"""Topics, producers and consumers against a broker."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from marketdata.bus.cluster import Cluster, kafka
from marketdata.bus.consumer import METADATA_BYTES, BatchConsumer, Place, Position
from marketdata.bus.messages import JSON_TRADES, Stored, decode_trades, encode_trades, key_of
from marketdata.bus.mock import MockCluster
from marketdata.bus.producer import Producer, TransactionalProducer
from marketdata.bus.topics import Topics, create_topics, wait_for_broker
from marketdata.errors import MarketDataError, PermanentError, TransientError, UsageError
from marketdata.settings import Settings
from tests.kafka.broker import Broker
from tests.kafka.test_messages import BTC, ETH, NOW, trades_of

KEY = key_of(BTC)
PATIENCE_S = 120.0


@pytest.fixture
def topics(broker: str, request: pytest.FixtureRequest) -> Topics:
    topics = Topics.named(f"t{abs(hash(request.node.nodeid)) % 10**9}-{time.time_ns()}")
    create_topics(broker, topics, partitions=2)
    return topics


def member(where: str, topics: list[str], group: str, **more: Any) -> BatchConsumer:
    """A consumer that its group does not miss when the machine stands still for a while."""
    return BatchConsumer(where, topics, group, session_timeout_ms=60_000, **more)


def values(consumer: BatchConsumer, count: int) -> list[bytes]:
    """The values of the next ``count`` messages."""
    found: list[bytes] = []
    until = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < until:
        found += [message.value() or b"" for message in consumer.poll(1_000, 0.1)]
    return found


def eventually(condition: Callable[[], bool], meanwhile: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        meanwhile()


# -- topics --------------------------------------------------------------------------------------------


def test_topics_are_created_once_and_then_compared(real: str) -> None:
    topics = Topics.named(f"created-{time.time_ns()}")
    first = create_topics(real, topics, partitions=3)
    assert [(report.name, report.state) for report in first] == [
        (name, "created") for _, name in topics.roles()
    ]
    assert {report.state for report in create_topics(real, topics, partitions=3)} == {"was there"}
    again = {report.name: report for report in create_topics(real, topics, partitions=4)}
    assert again[topics.trades].state == "differs"
    assert again[topics.trades].detail == "3 partitions, not 4"
    assert again[topics.dead_letter].state == "was there"


def test_the_topics_of_a_prefix_are_named_by_it() -> None:
    settings = Settings.load(kafka_topic_prefix="mine")
    assert [name for _, name in Topics.of(settings).roles()] == [
        "mine.trades",
        "mine.trades.backfill",
        "mine.candles",
        "mine.late",
        "mine.dead-letter",
    ]
    assert Topics.named("marketdata") == Topics()


def test_a_topic_that_is_not_there_is_named_with_what_to_do(real: str) -> None:
    with closing(Producer(real, timeout_s=2)) as producer:
        producer.send(f"absent-{time.time_ns()}", KEY, [b"1"], JSON_TRADES)
        with pytest.raises(TransientError, match="did not arrive in absent"):
            producer.flush(120)


# -- in and out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_committed", [True, False])
def test_trades_go_through_a_broker_in_order(broker: str, topics: Topics, read_committed: bool) -> None:
    btc, eth = trades_of(5_000), trades_of(3_000)
    with closing(Producer(broker)) as producer:
        for market, trades in ((BTC, btc), (ETH, eth)):
            producer.send(topics.trades, key_of(market), encode_trades(trades), JSON_TRADES)
        producer.flush()
        assert len(producer) == 0
    found = {BTC: 0, ETH: 0}
    with member(broker, [topics.trades], "g", read_committed=read_committed) as consumer:

        def read() -> None:
            messages = consumer.poll(1_000, 0.1)
            decoded = decode_trades(messages, now=NOW)
            assert decoded.rejects == []
            for batch in decoded.batches:
                sent = btc if batch.market == BTC else eth
                assert batch.trades.equals(
                    sent[found[batch.market] : found[batch.market] + len(batch.trades)]
                )
                found[batch.market] += len(batch.trades)

        eventually(lambda: found == {BTC: 5_000, ETH: 3_000}, read)
        eventually(lambda: set(consumer.lag().values()) == {0}, lambda: consumer.poll(1, 0.1))


def test_a_poll_returns_what_is_there_without_waiting_for_more(broker: str, topics: Topics) -> None:
    with closing(Producer(broker)) as producer, member(broker, [topics.trades], "g") as consumer:
        producer.send(topics.trades, KEY, [b"1"], JSON_TRADES)
        producer.flush()
        assert values(consumer, 1) == [b"1"]
        producer.send(topics.trades, KEY, [b"2"], JSON_TRADES)
        producer.flush()
        began = time.monotonic()
        assert [message.value() for message in consumer.poll(1_000, PATIENCE_S)] in ([b"2"], [])
        assert time.monotonic() - began < PATIENCE_S


def test_keys_go_to_the_partitions_where_the_java_clients_put_them(broker: str, topics: Topics) -> None:
    with closing(Producer(broker)) as producer, member(broker, [topics.trades], "g") as consumer:
        for key in (b"kraken:BTC/USD", b"kraken:ETH/USD", b"binance:BTC/USDT"):
            producer.send(topics.trades, key, [b"1"], JSON_TRADES)
        producer.flush()
        found: list[tuple[bytes | None, int | None]] = []
        eventually(
            lambda: len(found) == 3,
            lambda: found.extend((one.key(), one.partition()) for one in consumer.poll(10, 0.1)),
        )
        number = len(consumer.assignment())
    assert set(found) == {(key, kafka().murmur2(key, number)) for key, _ in found if key is not None}


def test_an_offset_is_committed_with_its_text(broker: str, topics: Topics) -> None:
    with closing(Producer(broker)) as producer:
        producer.send(topics.trades, KEY, [b"%d" % n for n in range(10)], JSON_TRADES)
        producer.flush()
    with member(broker, [topics.trades], "g") as consumer:
        assert len(values(consumer, 10)) == 10
        (place,) = [place for place in consumer.assignment() if consumer.lag().get(place) is not None][
            :1
        ] or [None]
        places = consumer.assignment()
        assert place is not None
        assert consumer.committed(places) == {}
        consumer.commit({})
        consumer.commit({place: Position(4, "state"), **{one: 0 for one in places if one != place}})
        assert consumer.committed([place]) == {place: Position(4, "state")}
        too_long = {place: Position(5, "x" * (METADATA_BYTES + 1))}
        with pytest.raises(PermanentError, match="only 4,095 fit"):
            consumer.commit(too_long)
        consumer.commit({place: Position(5, "x" * METADATA_BYTES)})


def test_who_takes_a_partition_may_say_where_to_begin(broker: str, topics: Topics) -> None:
    with closing(Producer(broker)) as producer:
        producer.send(topics.trades, KEY, [b"%d" % n for n in range(10)], JSON_TRADES)
        producer.flush()
    begin: Callable[[list[Place]], dict[Place, int]] = lambda places: dict.fromkeys(places, 7)  # noqa: E731
    with member(broker, [topics.trades], "g", on_assign=begin) as consumer:
        found: list[bytes] = []
        eventually(lambda: b"9" in found, lambda: found.extend(values(consumer, 1)))
        assert [value for value in found if value >= b"7"] == [b"7", b"8", b"9"]


def test_a_paused_partition_delivers_nothing_until_it_is_resumed(broker: str, topics: Topics) -> None:
    with closing(Producer(broker)) as producer, member(broker, [topics.trades], "g") as consumer:
        producer.send(topics.trades, KEY, [b"1"], JSON_TRADES)
        producer.flush()
        assert values(consumer, 1) == [b"1"]
        consumer.pause(consumer.assignment())
        producer.send(topics.trades, KEY, [b"2"], JSON_TRADES)
        producer.flush()
        assert [message.value() for _ in range(5) for message in consumer.poll(10, 0.1)] == []
        consumer.resume(consumer.assignment())
        assert values(consumer, 1) == [b"2"]


def test_going_back_delivers_again(broker: str, topics: Topics) -> None:
    with closing(Producer(broker)) as producer, member(broker, [topics.trades], "g") as consumer:
        producer.send(topics.trades, KEY, [b"1", b"2"], JSON_TRADES)
        producer.flush()
        assert values(consumer, 2) == [b"1", b"2"]
        for place in consumer.assignment():
            consumer.seek(place, 0)
        assert values(consumer, 2) == [b"1", b"2"]


# -- transactions --------------------------------------------------------------------------------------


@pytest.fixture
def at_two(broker: str, topics: Topics) -> Iterator[tuple[BatchConsumer, Place]]:
    """A consumer that has read two trades, and their partition."""
    with closing(Producer(broker)) as producer, member(broker, [topics.trades], "g") as consumer:
        producer.send(topics.trades, KEY, [b"1", b"2"], JSON_TRADES)
        producer.flush()
        found: list[Place] = []
        eventually(
            lambda: len(found) == 2,
            lambda: found.extend((m.topic() or "", m.partition() or 0) for m in consumer.poll(10, 0.1)),
        )
        yield consumer, found[0]


def test_candles_and_offset_are_committed_together(
    broker: str, topics: Topics, at_two: tuple[BatchConsumer, Place]
) -> None:
    consumer, place = at_two
    with closing(TransactionalProducer(broker, f"{topics.trades}-0")) as producer:
        with producer.transaction():
            producer.send(topics.candles, KEY, [b"a", b"b"], JSON_TRADES)
            producer.send_offsets(consumer, {place: Position(2, "state")})
        assert consumer.committed([place]) == {place: Position(2, "state")}
        with producer.transaction():
            producer.send(topics.candles, KEY, [b"c"], JSON_TRADES)
    with member(broker, [topics.candles], "h") as reader:
        assert values(reader, 3) == [b"a", b"b", b"c"]
        eventually(lambda: set(reader.lag().values()) == {0}, lambda: reader.poll(1, 0.1))


def test_nothing_of_an_aborted_transaction_counts(
    real: str, topics: Topics, at_two: tuple[BatchConsumer, Place]
) -> None:
    consumer, place = at_two
    with closing(TransactionalProducer(real, f"{topics.trades}-0")) as producer:
        producer.begin()
        producer.send(topics.candles, KEY, [b"never"], JSON_TRADES)
        producer.send_offsets(consumer, {place: Position(2)})
        producer.flush()
        producer.abort()
        with pytest.raises(PermanentError, match="only 4,095 fit"), producer.transaction():
            producer.send_offsets(consumer, {place: Position(2, "x" * 5_000)})
        assert consumer.committed([place]) == {}
        assert not producer.dead
        with producer.transaction():
            producer.send(topics.candles, KEY, [b"a"], JSON_TRADES)
    with member(real, [topics.candles], "h") as reader:
        assert values(reader, 1) == [b"a"]


def test_who_takes_over_fences_off_the_one_before(
    real: str, topics: Topics, at_two: tuple[BatchConsumer, Place]
) -> None:
    consumer, place = at_two
    name = f"{topics.trades}-0"
    with closing(TransactionalProducer(real, name)) as zombie:
        zombie.begin()
        zombie.send(topics.candles, KEY, [b"zombie"], JSON_TRADES)
        zombie.send_offsets(consumer, {place: Position(1)})
        with closing(TransactionalProducer(real, name)) as heir:
            with pytest.raises(TransientError, match="fenced"):
                zombie.commit()
            assert zombie.dead
            with heir.transaction():
                heir.send(topics.candles, KEY, [b"heir"], JSON_TRADES)
                heir.send_offsets(consumer, {place: Position(2)})
    assert consumer.committed([place]) == {place: Position(2)}
    with member(real, [topics.candles], "h") as reader:
        assert values(reader, 1) == [b"heir"]


# -- groups --------------------------------------------------------------------------------------------


def test_a_member_that_joins_takes_a_part_and_the_rest_goes_on(broker: str, topics: Topics) -> None:
    taken: dict[str, list[Place]] = {"a": [], "b": []}
    given: list[Place] = []
    with member(broker, [topics.trades], "g", on_assign=taken["a"].extend, on_revoke=given.extend) as a:
        eventually(lambda: len(taken["a"]) >= 2, lambda: a.poll(1, 0.1))
        everything = set(taken["a"])
        with member(broker, [topics.trades], "g", on_assign=taken["b"].extend) as b:
            eventually(lambda: bool(taken["b"]), lambda: (a.poll(1, 0.1), b.poll(1, 0.1)))
            assert set(given) == set(taken["b"])
            assert 0 < len(given) < len(everything)
            assert set(a.assignment()) | set(b.assignment()) == everything
        eventually(lambda: set(a.assignment()) == everything, lambda: a.poll(1, 0.1))


# -- faults --------------------------------------------------------------------------------------------


def test_nothing_is_lost_or_repeated_when_the_broker_is_killed_and_started_again(own_broker: Broker) -> None:
    topics = Topics()
    create_topics(own_broker.bootstrap, topics, partitions=1)
    numbers = [b"%d" % n for n in range(3_000)]
    stop = threading.Event()

    def fail() -> None:
        own_broker.kill()
        stop.wait(0.5)
        own_broker.start()

    fault = threading.Thread(target=fail)
    with closing(Producer(own_broker.bootstrap)) as producer:
        producer.send(topics.trades, KEY, numbers[:1_000], JSON_TRADES)
        fault.start()
        for number in numbers[1_000:]:
            producer.send(topics.trades, KEY, [number], JSON_TRADES)
            stop.wait(0.001)
        fault.join()
        producer.flush()
    with member(own_broker.bootstrap, [topics.trades], "g") as consumer:
        assert values(consumer, 3_000) == numbers


def test_a_broker_that_does_not_answer_is_named(unused_port: int) -> None:
    where = f"127.0.0.1:{unused_port}"
    with pytest.raises(TransientError, match=where):
        wait_for_broker(where, timeout_s=1)
    with closing(Producer(where, timeout_s=1)) as producer:
        producer.send("t", KEY, [b"1"], JSON_TRADES)
        with pytest.raises(TransientError, match="not arrive"):
            producer.flush(3)


def test_a_full_queue_waits_and_then_tells(unused_port: int) -> None:
    where = f"127.0.0.1:{unused_port}"
    with (
        closing(Producer(where, timeout_s=1.0, queue_buffering_max_messages=10)) as producer,
        pytest.raises(TransientError, match=r"queue|did not arrive"),
    ):
        producer.send("t", KEY, [b"1"] * 100, JSON_TRADES)


@pytest.fixture
def unused_port() -> int:
    with MockCluster() as mock:
        return int(mock.bootstrap.rpartition(":")[2])


# -- configuration -------------------------------------------------------------------------------------

PASSWORD = "s3cr3t-p4ss"


def sasl(**more: object) -> Settings:
    values = {
        "kafka_bootstrap_servers": "broker-1:9093,broker-2:9093",
        "kafka_security_protocol": "SASL_SSL",
        "kafka_username": "me",
        "kafka_password": PASSWORD,
        "kafka_ca_file": "/etc/ca.pem",
    }
    return Settings.load(**(values | more))


def test_user_password_and_certificates_reach_the_client_and_no_text() -> None:
    cluster = Cluster.of(sasl())
    config = cluster.config(linger_ms=1)
    assert config["bootstrap.servers"] == "broker-1:9093,broker-2:9093"
    assert (config["security.protocol"], config["sasl.mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    assert (config["sasl.username"], config["sasl.password"]) == ("me", PASSWORD)
    assert (config["ssl.ca.location"], config["linger.ms"]) == (str(Path("/etc/ca.pem")), 1)
    assert PASSWORD not in f"{cluster} {cluster!r}"


def test_a_password_never_shows_in_an_error() -> None:
    settings = sasl(kafka_bootstrap_servers="127.0.0.1:1", kafka_ca_file=None)
    with pytest.raises(MarketDataError) as caught:
        wait_for_broker(settings, timeout_s=0.5)
    assert PASSWORD not in f"{caught.value!s} {caught.value!r} {caught.value.__cause__!r}"


def test_without_kafka_the_variable_to_set_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.delenv("MARKETDATA_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    with pytest.raises(UsageError, match="MARKETDATA_KAFKA_BOOTSTRAP_SERVERS"):
        Cluster.of(Settings.load())
    with pytest.raises(UsageError, match="MARKETDATA_KAFKA_USERNAME"):
        Cluster.of(sasl(kafka_username=None))


def test_the_variable_of_kafkas_own_tools_is_taken_where_ours_is_not_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARKETDATA_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "theirs:9092")
    assert Settings.load().kafka_bootstrap_servers == "theirs:9092"
    monkeypatch.setenv("MARKETDATA_KAFKA_BOOTSTRAP_SERVERS", "ours:9092, other:9093")
    assert Settings.load().kafka_bootstrap_servers == "ours:9092,other:9093"
    monkeypatch.setenv("MARKETDATA_KAFKA_BOOTSTRAP_SERVERS", "no port")
    with pytest.raises(UsageError, match=r"^MARKETDATA_KAFKA_BOOTSTRAP_SERVERS = 'no port' .* HOST:PORT"):
        Settings.load()


def test_the_variable_of_kafkas_own_tools_is_refused_by_name_where_kafka_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may be meant for another program: whoever reads the lake is not bothered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARKETDATA_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "foo")
    settings = Settings.load()
    with pytest.raises(UsageError, match=r"^KAFKA_BOOTSTRAP_SERVERS = 'foo' is no list HOST:PORT"):
        Cluster.of(settings)


def test_a_mock_cluster_serves_other_clients_and_says_what_it_is() -> None:
    with MockCluster() as mock:
        topics = Topics()
        reports = create_topics(mock.bootstrap, topics)
        assert all("mock" in report.detail for report in reports)
        with (
            closing(Producer(mock.bootstrap)) as producer,
            member(mock.bootstrap, [topics.trades], "g") as c,
        ):
            producer.send(topics.trades, KEY, encode_trades(trades_of(100)), JSON_TRADES)
            producer.flush()
            found = [Stored(KEY, value, JSON_TRADES) for value in values(c, 100)]
            assert decode_trades(found, now=NOW).batches[0].trades.equals(trades_of(100))
    assert "mock" in MockCluster.what
