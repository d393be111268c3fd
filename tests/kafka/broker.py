"""The real Kafka broker of the tests; ``stop``, ``kill`` and ``start`` are for tests of faults."""

from pathlib import Path

from marketdata.bus import local
from marketdata.bus.local import LOGS, missing, tail

__all__ = ["LOGS", "POM", "Broker", "missing", "tail"]

POM = Path(__file__).with_name("pom.xml")


class Broker(local.Broker):
    """One broker and its data; its storage is formatted, and it does not run yet."""

    def __init__(self, *, soon: bool = True) -> None:
        """Of the jars of ``pom.xml``."""
        super().__init__(POM, soon=soon)
