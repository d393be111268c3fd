"""The local exchange as a command."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Command

PROGRAM = [sys.executable, "-u", "-c", "from marketdata.cli.main import run; run()", "exchange"]


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The command and the lines it prints until it is ready."""
    process = subprocess.Popen(
        [*PROGRAM, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    lines: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line.rstrip())
            if "Ctrl-C" in line:
                break
        yield process, lines
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=300)


def test_it_prints_what_to_export_answers_and_ends_with_ctrl_c(home: Path) -> None:
    with running("--port", "0", "--seed", "11", "--latency-ms", "1") as (process, lines):
        text = "\n".join(lines)
        assert "synthetic" in text
        urls = dict(re.findall(r"^export (MARKETDATA_\w+_URL)=(\S+)$", text, re.MULTILINE))
        assert set(urls) == {
            "MARKETDATA_KRAKEN_URL",
            "MARKETDATA_BINANCE_URL",
            "MARKETDATA_BINANCE_ARCHIVE_URL",
            "MARKETDATA_KRAKEN_WS_URL",
            "MARKETDATA_BINANCE_WS_URL",
        }
        with urllib.request.urlopen(urls["MARKETDATA_KRAKEN_URL"] + "/0/public/Time", timeout=300) as answer:
            assert b'"error":[]' in answer.read().replace(b" ", b"")
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=300)
        assert process.returncode == 0
        assert complaint == ""


@pytest.mark.fixtures
def test_it_serves_captured_payloads_where_there_are_some(home: Path, captures: Path) -> None:
    with running("--port", "0", "--capture", str(captures / "kraken")) as (_, lines):
        url = next(line.partition("=")[2] for line in lines if "KRAKEN_URL" in line)
        address = f"{url}/0/public/Trades?pair=GRTETH&since=1616889600"
        with urllib.request.urlopen(address, timeout=300) as answer:
            assert b"1617392847336232776" in answer.read()


def test_a_port_that_is_taken_is_one_line(marketdata: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = marketdata("exchange", "--port", port)
    assert result.code == 2
    assert str(port) in result.error
    assert "--port" in result.error


def test_a_capture_folder_that_is_absent_is_one_line(marketdata: Command, tmp_path: Path) -> None:
    result = marketdata("exchange", "--capture", tmp_path / "absent")
    assert result.code == 2
    assert "absent" in result.error


def test_a_latency_below_zero_is_one_line(marketdata: Command) -> None:
    result = marketdata("exchange", "--latency-ms", "-5")
    assert result.code == 2
    assert "--latency-ms" in result.error
    assert "-5" in result.error
