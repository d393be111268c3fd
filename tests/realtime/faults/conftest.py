"""Services on a broker that these tests may stop."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.kafka.broker import Broker, missing
from tests.realtime.faults.world import World

# `make soak` runs many of each, the normal run a few.
SOAK = bool(os.environ.get("MARKETDATA_SOAK"))


@pytest.fixture(scope="session")
def own_broker() -> Iterator[Broker]:
    """One for all of these tests, which leave it running."""
    if (absent := missing()) is not None:
        pytest.skip(f"a broker to stop and start needs Java and Maven; there is {absent}")
    with closing(Broker().start()) as real:
        yield real


@pytest.fixture
def world(own_broker: Broker, tmp_path: Path) -> Iterator[World]:
    made = World(own_broker.bootstrap, tmp_path)
    yield made
    made.close()
