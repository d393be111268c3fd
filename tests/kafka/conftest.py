"""What tests of the bus share."""

import pytest

from marketdata.bus.cluster import is_mock, kafka


@pytest.fixture
def real(broker: str) -> str:
    """The broker, where it is none that can do less."""
    if is_mock(kafka().Producer({"bootstrap.servers": broker}).cluster_id(10)):
        pytest.skip("a mock cluster neither fences nor sets up topics")
    return broker
