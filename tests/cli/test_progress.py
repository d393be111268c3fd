"""What a person sees while a backfill runs."""

import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from datetime import timedelta
from fcntl import ioctl
from pathlib import Path

import pytest

from marketdata.backfill import DayReport, Outcome, Progress
from marketdata.cli.progress import backfill_progress, describe, human_bytes, human_rate, human_time
from marketdata.errors import TransientError
from marketdata.exchange_sim import RunningExchange
from marketdata.manifest import Status
from tests.cli.lakes import BTC, DAY, manifest, some_trades


def progress(fraction: float, rows: int = 1_000, note: str = "") -> Progress:
    return Progress(BTC, DAY, 1, rows, 0, fraction, 500.0, 2.0, note)


def ended(*, skipped: bool = False, resumed: int = 0) -> DayReport:
    held = manifest(BTC, DAY, some_trades(DAY), Status.COMPLETE, "Every trade is here.")
    return DayReport(BTC, DAY, held, skipped, 2, 1_440, resumed, 12_345, 1.5)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (human_bytes(999), "999 B"),
        (human_bytes(1_234_567), "1.2 MB"),
        (human_bytes(2e15), "2000.0 TB"),
        (human_time(7.4), "0:07"),
        (human_time(750), "12:30"),
        (human_time(3_723), "1:02:03"),
        (human_rate(850), "850/s"),
        (human_rate(14_200), "14.2k/s"),
        (human_rate(2.5e9), "2500.0M/s"),
    ],
)
def test_figures_are_short(shown: str, expected: str) -> None:
    assert shown == expected


def test_a_day_that_has_ended_is_one_line() -> None:
    failed: Outcome = ((BTC, DAY), TransientError("Out of reach."))
    assert describe(ended()) == "kraken:BTC/USD 2025-06-01 complete, 1,440 rows, 2 pages, 12.3 kB, 1.5 s"
    assert "2 pages, 7 from before" in describe(ended(resumed=7))
    assert describe(ended(skipped=True)) == "kraken:BTC/USD 2025-06-01 complete, was there"
    assert describe(failed) == "kraken:BTC/USD 2025-06-01 failed"


def test_without_a_terminal_there_is_a_line_a_day_and_nothing_in_between(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with backfill_progress(2, threading.Event()) as shown:
        for fraction in (0.1, 0.5, 1.0):
            shown.on_progress(progress(fraction))
        shown.on_day(ended())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [describe(ended())]


def test_a_day_that_was_stopped_did_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    stopping = threading.Event()
    with backfill_progress(1, stopping) as shown:
        stopping.set()
        shown.on_day(((BTC, DAY), TransientError("Stopped on its way.")))
    assert capsys.readouterr().err == "kraken:BTC/USD 2025-06-01 stopped\n"


def in_a_terminal(arguments: list[str], columns: int) -> tuple[int, str]:
    """Run the command in a pseudo terminal; its exit code and everything it wrote."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    program = [sys.executable, "-c", "from marketdata.cli.main import run; run()", *arguments]
    running = subprocess.Popen(program, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65_536):
            written += chunk
    except OSError:  # Linux says EIO when the last writer has gone
        pass
    finally:
        os.close(ours)
    return running.wait(timeout=300), written.decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_bars_that_fit_and_disappear_and_a_table_that_stays(
    home: Path,
    exchange_server: Callable[..., RunningExchange],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    for name, url in exchange_server(latency_ms=300).environment.items():
        monkeypatch.setenv(name, url)
    days = ["--start", str(DAY), "--end", str(DAY + timedelta(days=2))]
    code, written = in_a_terminal(["backfill", "kraken:SOL/USD", *days], columns)
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    lines = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert max(map(len, lines)) <= columns
    bars = [line for line in lines if "%" in line and "kraken:SOL/USD 2025-06-0" in line]
    assert any(re.search(r"\d+ rows +[\d.]+k?/s +\d+:\d\d left", line) for line in bars)
    assert any(re.match(r"[01] of 2 days", line) for line in lines)
    assert re.match(r" ?kraken:SOL/USD +2 +2 +[\d,]+ +[\d.]+ kB +complete", lines[-1])
