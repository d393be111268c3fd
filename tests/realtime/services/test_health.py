"""What a service says of itself."""

import json
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import structlog

from marketdata.errors import UsageError
from realtime import logs
from realtime.health import HOST, Health, served
from realtime.metrics import Changes, Metrics
from tests.conftest import ROOT
from tests.logs import kept


@pytest.fixture
def plain_logs() -> Iterator[None]:
    with kept():
        yield


def get(port: int | None, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_service_is_healthy_before_it_is_ready() -> None:
    metrics, health = Metrics("candles"), Health()
    with served(metrics, health, 0) as port:
        assert get(port, "/healthz")[0] == 200
        code, body = get(port, "/readyz")
        assert (code, json.loads(body)["why"]) == (503, "it is starting")
        health.ready()
        assert get(port, "/readyz")[0] == 200
        metrics.trades.labels("kraken:BTC/USD").inc(3)
        assert 'marketdata_trades_in_total{market="kraken:BTC/USD"} 3.0' in get(port, "/metrics")[1]
        assert get(port, "/other")[0] == 404


def test_a_service_whose_loop_stands_still_is_not_healthy() -> None:
    now = 100.0
    health = Health(silent_s=10, clock=lambda: now)
    health.ready()
    assert health.state()["healthy"]
    now = 111.0
    assert not health.state()["healthy"]
    assert health.state()["why"] == "its loop has been silent for 11 s"
    health.beat()
    assert health.state()["ready"]


def test_a_taken_port_is_named() -> None:
    with (
        served(Metrics("a"), Health(), 0) as port,
        pytest.raises(UsageError, match=f"Port {port} of"),
        served(Metrics("b"), Health(), port),
    ):
        pass


def test_a_total_kept_elsewhere_becomes_a_counter() -> None:
    metrics = Metrics("sink")
    changes = Changes({"written": metrics.rows.labels("written")})
    for total in (5, 5, 8):
        changes.see({"written": total})
    assert b'rows_stored_total{outcome="written"} 8.0' in metrics.text()


@pytest.mark.usefixtures("plain_logs")
def test_a_line_of_the_log_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("candles", as_json=True)
    structlog.stdlib.get_logger("realtime").warning("partition taken", partition=3)
    logging.getLogger("marketdata.store.buffer").warning("The store is slow: %s rows", 5)
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["partition"], ours["service"], ours["level"]) == (
        "partition taken",
        3,
        "candles",
        "warning",
    )
    assert (theirs["event"], theirs["service"]) == ("The store is slow: 5 rows", "candles")


def test_the_document_lists_every_metric() -> None:
    text = (ROOT / "docs" / "streaming.md").read_text("utf-8")
    names = {family.name for family in Metrics("x").registry.collect()}
    listed = {name.removesuffix("_total") for name in re.findall(r"marketdata_\w+", text)}
    assert names == listed
