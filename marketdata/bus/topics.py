"""The five topics: names, and how they are created.

Trades and what is made of them have the same number of partitions and the same partitioner, so a market is
in the same partition of each. Nothing is compacted: the key is the market, and compaction would keep one
message of each market.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from marketdata.bus.cluster import Cluster, cluster_at, is_mock, kafka, raised
from marketdata.errors import TransientError
from marketdata.settings import Settings

_DAY_MS = 86_400_000
_TIMEOUT_S = 30.0
_SAYING_S = 10.0  # for the client to say that time is over
# How long messages are kept, days. Trades are in the lake a day later; a dead letter waits for a person.
_KEPT_DAYS = {"trades": 7, "backfill": 7, "candles": 30, "late": 30, "dead_letter": 90}


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of the topics."""

    trades: str = "marketdata.trades"
    backfill: str = "marketdata.trades.backfill"
    candles: str = "marketdata.candles"
    late: str = "marketdata.late"
    dead_letter: str = "marketdata.dead-letter"

    @classmethod
    def of(cls, settings: Settings) -> "Topics":
        """The names by the settings' prefix."""
        return cls.named(settings.kafka_topic_prefix)

    @classmethod
    def named(cls, prefix: str) -> "Topics":
        """The names by a prefix."""
        return cls(
            f"{prefix}.trades",
            f"{prefix}.trades.backfill",
            f"{prefix}.candles",
            f"{prefix}.late",
            f"{prefix}.dead-letter",
        )

    def roles(self) -> Iterator[tuple[str, str]]:
        """Role and name of each."""
        return ((role, getattr(self, role)) for role in _KEPT_DAYS)


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What became of a topic. ``detail`` says how one that was there differs from what would be created."""

    name: str
    state: Literal["created", "was there", "differs"]
    detail: str = ""


def config_of(role: str, replicas: int) -> dict[str, str]:
    """The settings a topic is created with."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(_KEPT_DAYS[role] * _DAY_MS),
        # What was acknowledged survives the loss of one broker of three.
        "min.insync.replicas": str(max(1, replicas - 1)),
        # As the producer packed it: brokers need not pack again.
        "compression.type": "producer",
        "message.timestamp.type": "CreateTime",
    }


def create_topics(
    where: Cluster | Settings | str, topics: Topics, *, partitions: int = 6, timeout_s: float = _TIMEOUT_S
) -> list[TopicReport]:
    """Create the topics that are not there; those that are stay as they are.

    Args:
        partitions: of each topic but the dead letters', which has one.

    Raises:
        TransientError: no broker answers.
        PermanentError: the cluster refuses.
    """
    client = kafka()
    admin_client = import_module("confluent_kafka.admin")
    # The client gives up an answer after this, whatever time its request is given.
    admin = admin_client.AdminClient(cluster_at(where).config(socket_timeout_ms=round(timeout_s * 1000)))
    try:
        found = admin.list_topics(timeout=timeout_s)
    except client.KafkaException as error:
        raise raised(error.args[0], "asking for the topics") from None
    if is_mock(found.cluster_id):
        return _touched(where, topics, timeout_s)
    replicas = min(3, len(found.brokers))
    wanted = {name: (role, 1 if role == "dead_letter" else partitions) for role, name in topics.roles()}
    absent = [name for name in wanted if name not in found.topics or found.topics[name].error is not None]
    asked = [
        admin_client.NewTopic(
            name,
            num_partitions=wanted[name][1],
            replication_factor=replicas,
            config=config_of(wanted[name][0], replicas),
        )
        for name in absent
    ]
    created = set()
    for name, done in (admin.create_topics(asked, operation_timeout=timeout_s) if asked else {}).items():
        try:
            done.result(timeout_s + _SAYING_S)
            created.add(name)
        except client.KafkaException as error:
            if error.args[0].code() != client.KafkaError.TOPIC_ALREADY_EXISTS:
                raise raised(error.args[0], f"creating topic {name}") from None
    held = [name for name in wanted if name not in created]
    resources = [admin_client.ConfigResource(admin_client.ConfigResource.Type.TOPIC, name) for name in held]
    configs: dict[str, Any] = {}
    for resource, done in (admin.describe_configs(resources) if resources else {}).items():
        try:
            configs[resource.name] = done.result(timeout_s + _SAYING_S)
        except client.KafkaException as error:
            raise raised(error.args[0], f"reading the settings of topic {resource.name}") from None
    if held:
        found = admin.list_topics(timeout=timeout_s)
    reports = []
    for name, (role, number) in wanted.items():
        if name in created:
            reports.append(TopicReport(name, "created", f"{number} partitions, {replicas} replicas"))
            continue
        said = {key: entry.value for key, entry in configs.get(name, {}).items()}
        differs = [
            f"{key} is {said.get(key)}, not {value}"
            for key, value in config_of(role, replicas).items()
            if key in said and said[key] != value
        ]
        if len(found.topics[name].partitions) != number:
            differs.insert(0, f"{len(found.topics[name].partitions)} partitions, not {number}")
        reports.append(TopicReport(name, "differs" if differs else "was there", ", ".join(differs)))
    return reports


def _touched(where: Cluster | Settings | str, topics: Topics, timeout_s: float) -> list[TopicReport]:
    """Topics of a mock cluster, which makes them when they are asked for, with partitions as it likes."""
    config = cluster_at(where).config(allow_auto_create_topics=True)
    producer = kafka().Producer(config)
    reports = []
    for _, name in topics.roles():
        found = producer.list_topics(name, timeout=timeout_s).topics[name]
        reports.append(TopicReport(name, "created", f"{len(found.partitions)} partitions of a mock cluster"))
    producer.close()
    return reports


def wait_for_broker(where: Cluster | Settings | str, timeout_s: float = _TIMEOUT_S) -> int:
    """Wait until a broker answers; returns how many there are.

    Raises:
        TransientError: none does in time.
    """
    client = kafka()
    cluster = cluster_at(where)
    try:
        return len(
            import_module("confluent_kafka.admin")
            .AdminClient(cluster.config())
            .list_topics(timeout=timeout_s)
            .brokers
        )
    except client.KafkaException as error:
        msg = f"No broker answers at {cluster.bootstrap}: {error.args[0].str()}."
        raise TransientError(msg, hint="Is Kafka running? See docs/kafka.md.") from None
