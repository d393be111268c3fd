"""The command, run in this process: exit code, stdout and stderr as a shell would see them."""

import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from marketdata.cli.main import main


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def error(self) -> str:
        """The one line that says what went wrong; lines of progress and warnings may come before it."""
        assert "Traceback" not in self.stderr
        errors = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.stderr
        assert self.stderr.endswith(errors[0] + "\n")
        return errors[0].removeprefix("error: ")


class Bytes(io.BytesIO):
    """What is written to a stream that may say it is a terminal."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal


Command = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MARKETDATA_HOME of the test, in an empty current folder; no setting comes from outside."""
    for name in [name for name in os.environ if name.startswith("MARKETDATA_")]:
        monkeypatch.delenv(name)
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKETDATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MARKETDATA_REQUEST_INTERVAL_MS", "0")
    monkeypatch.setenv("MARKETDATA_REQUEST_ATTEMPTS", "2")
    return tmp_path / "home"


@pytest.fixture
def marketdata(home: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``marketdata ARGUMENTS``; ``terminal=True`` makes stdout one."""

    def run(*arguments: object, terminal: bool = False, columns: int = 100) -> Result:
        written, complaints = Bytes(), Bytes()
        written.terminal = terminal
        out, err = (io.TextIOWrapper(buffer, encoding="utf-8") for buffer in (written, complaints))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setenv("COLUMNS", str(columns))
            code = main([str(argument) for argument in arguments])
        out.flush()
        err.flush()
        return Result(code, written.getvalue(), complaints.getvalue().decode())

    return run
