"""A cluster inside the client library, for a laptop with Python only: tests, the demo, a first look.

It is librdkafka's mock cluster: no disk, no access control, about 5 MB a partition (older messages are
dropped), and it ends with the process that made it. Other processes of this machine reach it by its
bootstrap address.
"""

import logging
from typing import Any

from marketdata.bus.cluster import kafka

KEPT_BYTES = 5_000_000
_LOG = logging.getLogger("marketdata.bus.mock")


class MockCluster:
    """A running cluster; ``bootstrap`` is its address on loopback."""

    what = "the mock cluster inside librdkafka: small data only, gone when its process ends"

    def __init__(self, brokers: int = 1) -> None:
        """Start it.

        Raises:
            UsageError: Kafka's client is not installed.
        """
        config: dict[str, Any] = {
            "bootstrap.servers": "mock",
            "test.mock.num.brokers": brokers,
            "logger": _LOG,
            "log_level": 3,
        }
        self._holder = kafka().Producer(config)
        found = self._holder.list_topics(timeout=10).brokers.values()
        self.bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in found)

    def close(self) -> None:
        """Stop it; its messages are gone."""
        self._holder.close()

    def __enter__(self) -> "MockCluster":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.close()
