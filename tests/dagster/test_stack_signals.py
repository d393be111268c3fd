"""Whoever is asked to end while it is ending still leaves no process behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import subprocess, sys
from marketdata_dagster import stack as module

module._STOP_S = 2.0
DEAF = '''
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(120)
'''


class Stack(module.LocalStack):
    def _start(self):
        child = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, start_new_session=True)
        child.stdout.readline()
        self._processes["deaf"] = child


with Stack() as stack:
    try:
        print(stack.pids["deaf"], flush=True)
        stack.hold()
    finally:
        print("leaving", flush=True)
"""


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGINT, signal.SIGINT),
    ],
)
def test_a_second_signal_does_not_end_the_ending(
    tmp_path: Path, first: signal.Signals, again: signal.Signals
) -> None:
    environment = {**os.environ, "MARKETDATA_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # of the interrupt
        text=True,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(first)
    assert process.stdout.readline() == "leaving\n"
    process.send_signal(again)
    try:
        process.wait(120)
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    finally:
        process.stdout.close()
        subprocess.run(["kill", "-KILL", str(child)], check=False, stderr=subprocess.DEVNULL)
