"""Ports for servers that are told theirs before they listen."""

import random
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from marketdata import ports
from marketdata.bus import local
from tests.kafka.broker import Broker, missing

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_ports_differ_and_nobody_listens_on_them() -> None:
    given = ports.free_ports(50)
    assert len(set(given)) == 50
    for port in given:
        with socket.create_server(("127.0.0.1", port)):
            pass


@pytest.mark.skipif(not RANGE.exists(), reason=f"no {RANGE} on this system")
def test_a_connection_never_takes_one_while_its_server_starts() -> None:
    first = int(RANGE.read_text("ascii").split()[0])
    assert all(port < first for port in ports.free_ports(50)) or first <= 15_000


def test_a_port_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", ports.free_port())) as taken:
        port = taken.getsockname()[1]
        offers: Iterator[int] = iter([port, port])
        monkeypatch.setattr(random, "randint", lambda low, high: next(offers, (low + high) // 2))
        assert ports.free_port() != port


def test_where_every_port_is_ephemeral_the_system_chooses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    everything = tmp_path / "range"
    everything.write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "_EPHEMERAL", everything)
    with socket.create_server(("127.0.0.1", ports.free_port())) as server:
        assert server.getsockname()[1] >= 1024


@pytest.mark.skipif(missing() is not None, reason=f"{missing()}: no broker")
def test_a_broker_whose_port_was_taken_while_it_started_chooses_another() -> None:
    with closing(Broker()) as broker, socket.create_server(("127.0.0.1", broker.port)) as taken:
        assert broker.start().port != taken.getsockname()[1]
        assert broker.bootstrap == f"127.0.0.1:{broker.port}"
        told = local.tail(broker.log)
    assert "Socket server failed to bind" in told


def test_the_end_of_a_log_begins_with_its_errors(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    assert local.tail(log) == ""
    calm = [f"{n} [main] INFO kafka.Kafka - fine" for n in range(30)]
    log.write_text("\n".join([*calm[:5], "5 [main] ERROR kafka.Kafka - broken", *calm[5:]]))
    assert local.tail(log, 3).splitlines() == ["5 [main] ERROR kafka.Kafka - broken", "...", *calm[-3:]]
