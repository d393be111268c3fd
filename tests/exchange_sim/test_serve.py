"""The local exchange as a process."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError

import pytest
from starlette.requests import Request
from websockets.exceptions import ConnectionClosed

from marketdata.errors import UsageError
from marketdata.exchange_sim import RunningExchange, SimConfig, serve
from marketdata.exchange_sim.app import _only_from_here
from tests.exchange_sim.conftest import NOW, get, send
from tests.exchange_sim.streaming import kraken


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "marketdata.exchange_sim", "--port-file", str(port_file), "--seed", "3"]
    command += ["--now", "2025-06-11T12:00:00"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 240
        while not port_file.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process, f"http://127.0.0.1:{port_file.read_text().strip()}"
        if process.poll() is None:
            process.kill()


def test_the_port_file_tells_where_requests_are_answered(
    process: tuple["subprocess.Popen[str]", str],
) -> None:
    _, url = process
    assert get(f"{url}/kraken/0/public/Time")["result"]["unixtime"] == NOW.timestamp()


def test_sigterm_ends_it_even_while_a_request_stalls(
    process: tuple["subprocess.Popen[str]", str],
) -> None:
    running, url = process
    send(f"{url}/control/faults", [{"kind": "timeout", "match": "Time", "seconds": 600}])
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stalled:
        stalled.sendall(b"GET /kraken/0/public/Time HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=120)
    assert running.returncode == 0
    assert err == ""
    assert "synthetic" in out
    assert f"export MARKETDATA_BINANCE_ARCHIVE_URL={url}/archive" in out


def test_sigterm_ends_it_even_while_sockets_are_open(
    process: tuple["subprocess.Popen[str]", str],
) -> None:
    running, url = process
    with kraken(f"ws{url.removeprefix('http')}/kraken/v2", "trade") as stream:
        running.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            stream.until(lambda _: False)
        _, err = running.communicate(timeout=120)
    assert running.returncode == 0
    assert err == ""


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}"):
            serve(SimConfig(), port=port)


@pytest.mark.parametrize("arguments", [["--now", "noon"], ["--faults", "{"], ["--faults", '[{"kind": "?"}]']])
def test_bad_arguments_end_with_one_line(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "marketdata.exchange_sim", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")


def test_the_clock_can_be_moved_by_request(server: RunningExchange) -> None:
    url = f"{server.url}/control/clock"
    assert get(url) == {"now": "2025-06-11T12:00:00+00:00"}
    assert send(url, {"advance_s": 90.5}) == {"now": "2025-06-11T12:01:30.500000+00:00"}
    assert send(url, {"now": "2025-06-12T00:00:00Z", "offset_s": -1}) == {"now": "2025-06-11T23:59:59+00:00"}
    send(url, {"now": None})
    assert abs(datetime.fromisoformat(get(url)["now"]) - datetime.now(UTC)).total_seconds() < 60
    with pytest.raises(HTTPError) as caught:
        send(url, {"now": "noon"})
    with caught.value as response:
        assert response.status == 400


def test_control_is_refused_to_other_machines() -> None:
    def request(host: str) -> Request:
        return Request({"type": "http", "client": (host, 1), "headers": []})

    refused = _only_from_here(request("192.0.2.7"))
    assert refused is not None
    assert refused.status_code == 403
    assert _only_from_here(request("127.0.0.1")) is None
    assert _only_from_here(request("::1")) is None


def test_a_market_that_is_not_listed_cannot_be_hidden(server: RunningExchange) -> None:
    with pytest.raises(UsageError, match="'kraken:NO/PE' is not listed"):
        server.hide("kraken:NO/PE", [(1, 2)])


def test_memory_stays_bounded_while_many_days_are_asked_for(
    process: tuple["subprocess.Popen[str]", str],
) -> None:
    running, url = process
    status = Path(f"/proc/{running.pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    first = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
    for day in range(0, 120, 2):
        for pair in ("XBTUSD", "ETHUSD"):
            at = (first + day * 86_400) * 10**9
            get(f"{url}/kraken/0/public/Trades", {"pair": pair, "since": at, "count": 1})
    peak = int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    assert peak < 450_000
