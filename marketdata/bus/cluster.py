"""Which Kafka, and how its client is told: the one place that knows settings, security and errors of it."""

import importlib
import logging
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from marketdata.errors import MarketDataError, PermanentError, TransientError, UsageError
from marketdata.settings import KAFKA_VARIABLE, Settings, brokers

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

_LOG = logging.getLogger("marketdata.bus")
_ANSWER_S = 5.0


def kafka() -> ModuleType:
    """Kafka's client.

    Raises:
        UsageError: it is not installed; says what to install.
    """
    try:
        return importlib.import_module("confluent_kafka")
    except ImportError:
        msg = "Kafka's client is not installed."
        raise UsageError(msg, hint="Install it: pip install 'marketdata[stream]'.") from None


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Kafka cluster and who speaks to it. Its text shows no password."""

    bootstrap: str
    protocol: str = "PLAINTEXT"
    mechanism: str = "SCRAM-SHA-512"
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Cluster":
        """The cluster of the settings.

        Raises:
            UsageError: none is set, it is no list of brokers, or SASL without user and password.
        """
        if settings.kafka_bootstrap_servers is None:
            msg = "No Kafka is configured."
            raise UsageError(msg, hint="Set MARKETDATA_KAFKA_BOOTSTRAP_SERVERS=HOST:PORT.")
        if brokers(settings.kafka_bootstrap_servers) is None:
            # Ours was checked when it was read.
            msg = f"{KAFKA_VARIABLE} = {settings.kafka_bootstrap_servers!r} is no list HOST:PORT,HOST:PORT."
            raise UsageError(msg, hint=f"Correct it, or set MARKETDATA_{KAFKA_VARIABLE} beside it.")
        found = cls(
            settings.kafka_bootstrap_servers,
            settings.kafka_security_protocol,
            settings.kafka_sasl_mechanism,
            settings.kafka_username,
            settings.kafka_password,
            settings.kafka_ca_file,
        )
        if found.protocol.startswith("SASL") and not (found.username and found.password):
            msg = f"{found.protocol} needs a user and a password."
            raise UsageError(msg, hint="Set MARKETDATA_KAFKA_USERNAME and MARKETDATA_KAFKA_PASSWORD.")
        return found

    def config(self, **more: Any) -> dict[str, Any]:
        """The client's settings; ``more`` are others, with ``_`` for the dots.

        It holds the password: never log it.
        """
        config: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": self.protocol,
            "client.id": "marketdata",
            "logger": _LOG,
            # A broker that restarts is found again within a second, not within ten.
            "reconnect.backoff.max.ms": 1000,
            "topic.metadata.refresh.interval.ms": 60_000,
            "socket.keepalive.enable": True,
        }
        if self.protocol.startswith("SASL"):
            config["sasl.mechanism"] = self.mechanism
            config["sasl.username"] = self.username
            config["sasl.password"] = None if self.password is None else self.password.get_secret_value()
        if self.protocol.endswith("SSL") and self.ca_file is not None:
            config["ssl.ca.location"] = str(self.ca_file)
        return config | {name.replace("_", "."): value for name, value in more.items()}


def cluster_at(where: "Cluster | Settings | str") -> Cluster:
    """The cluster of settings, or at a bootstrap address without security."""
    if isinstance(where, Settings):
        return Cluster.of(where)
    return Cluster(where) if isinstance(where, str) else where


def is_mock(cluster_id: str | None) -> bool:
    """Whether a cluster is librdkafka's mock, which can do less."""
    return (cluster_id or "").startswith("mockCluster")


def on_mock(where: "Cluster | Settings | str") -> bool:
    """Whether that is the mock cluster inside the client library; ``False`` when nobody answers."""
    client = kafka()
    admin = importlib.import_module("confluent_kafka.admin").AdminClient(cluster_at(where).config())
    try:
        return is_mock(admin.list_topics(timeout=_ANSWER_S).cluster_id)
    except client.KafkaException:
        return False


def raised(error: "KafkaError", doing: str) -> MarketDataError:
    """An error of Kafka in our tree: whether a retry helps, and what was being done."""
    client = kafka().KafkaError
    refused = {
        client._AUTHENTICATION,
        client._SSL,
        client.SASL_AUTHENTICATION_FAILED,
        client.TOPIC_AUTHORIZATION_FAILED,
        client.GROUP_AUTHORIZATION_FAILED,
        client.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        client.CLUSTER_AUTHORIZATION_FAILED,
        client.UNSUPPORTED_SASL_MECHANISM,
        client.INVALID_CONFIG,
        client.POLICY_VIOLATION,
        client.MSG_SIZE_TOO_LARGE,
        client.OFFSET_METADATA_TOO_LARGE,
        client._INVALID_ARG,
        client.UNSUPPORTED_VERSION,
    }
    text = f"Kafka: {doing}: {error.str()} ({error.name()})."
    if error.code() in refused:
        return PermanentError(text)
    if error.code() in (client.UNKNOWN_TOPIC_OR_PART, client._UNKNOWN_TOPIC, client._UNKNOWN_PARTITION):
        return UsageError(text, hint="Create the topics: marketdata stream topics.")
    return TransientError(text)


class Watch:
    """What the client says of its connections; a refusal is raised by whoever asks next."""

    def __init__(self) -> None:
        self._refusal: MarketDataError | None = None
        self.down = False

    def callback(self, error: "KafkaError") -> None:
        """For the client's ``error_cb``."""
        self.down = error.code() == kafka().KafkaError._ALL_BROKERS_DOWN
        found = raised(error, "the brokers")
        if error.fatal() or isinstance(found, PermanentError):
            self._refusal = found
        else:
            _LOG.info("%s", found)

    def check(self) -> None:
        """Raise what cannot be mended by waiting.

        Raises:
            MarketDataError: the brokers refuse, or the client has given up.
        """
        if self._refusal is not None:
            raise self._refusal
