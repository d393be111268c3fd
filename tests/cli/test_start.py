"""How the command starts, and how it answers what is typed wrongly."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from marketdata import __version__
from marketdata.manifest import Status
from tests.cli.conftest import Command
from tests.cli.lakes import BTC, DAY, open_lake, put_day, some_trades

# typer brings pydantic along for the options of a command; the rest is a matter of where we import.
HEAVY = {
    "polars",
    "numpy",
    "pyarrow",
    "ccxt",
    "duckdb",
    "pydantic_settings",
    "starlette",
    "uvicorn",
    "orjson",
}
PROBE = """
import sys
from marketdata.cli.main import main
code = main({arguments!r})
print(code, *sorted({{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], "0"),
        (["--version"], "0"),
        (["backfill", "--help"], "0"),
        (["backfil"], "2"),
        (["candles"], "2"),
    ],
)
def test_help_and_typing_errors_import_nothing_heavy(arguments: list[str], code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(arguments=arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    exit_code, *modules = done.stderr.splitlines()[-1].split()
    assert exit_code == code
    assert set(modules) & HEAVY == set()


def test_the_version_is_the_packages(marketdata: Command) -> None:
    assert marketdata("--version").text == f"marketdata {__version__}\n"


def test_without_a_command_it_shows_its_commands_and_exits_2(marketdata: Command) -> None:
    result = marketdata()
    assert result.code == 2
    assert "backfill" in result.text
    assert result.stderr == ""


@pytest.mark.parametrize(
    "command", ["backfill", "candles", "trades", "coverage", "compare", "import", "exchange", "settings"]
)
def test_every_command_has_help_and_all_but_settings_an_example(marketdata: Command, command: str) -> None:
    result = marketdata(command, "--help")
    assert result.code == 0
    assert "Usage: marketdata " + command in result.text
    assert command == "settings" or f"marketdata {command} " in result.text.partition("Example")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cadles"], ["'cadles'", "'candles'"]),
        (["candles"], ["'MARKET'", "marketdata candles --help"]),
        (["candles", "kraken:BTC/USD", "--intervall", "1m"], ["--intervall", "--interval"]),
        (["backfill", "--workers", "0"], ["--workers", "0"]),
        (["backfill", "--workers", "many"], ["--workers", "many"]),
        (["candles", "kraken:BTC/USD", "--rows", "1"], ["--rows", "1"]),
    ],
)
def test_typing_errors_are_one_line_and_exit_2(
    marketdata: Command, arguments: list[str], words: list[str]
) -> None:
    result = marketdata(*arguments)
    assert result.code == 2
    assert result.stdout == b""
    assert result.stderr.count("\n") == 1
    assert [word for word in words if word not in result.error] == []


def test_the_installed_command_answers_in_one_line() -> None:
    program = [sys.executable, "-c", "from marketdata.cli.main import run; run()", "candles"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: Missing argument 'MARKET'. See marketdata candles --help.\n"


@pytest.mark.parametrize(
    ("closing", "arguments", "code", "said"),
    [
        (">&-", ["settings"], 0, ""),
        (">&-", ["--version"], 0, ""),
        (">&-", ["candles", "kraken:BTC/USD", "--last", "1d", "-f", "csv"], 0, "warning"),
        (">&-", ["candles", "kraken:BTC/USD", "--last", "1d", "-f", "table"], 0, "warning"),
        ("2>&-", ["candles"], 2, ""),
        ("<&- >&- 2>&-", ["settings"], 0, ""),
    ],
)
def test_a_stream_that_is_closed_hinders_nothing(
    home: Path, closing: str, arguments: list[str], code: int, said: str
) -> None:
    today = datetime.now(UTC).date()
    put_day(open_lake(home), BTC, today, some_trades(today, 1), status=Status.UNKNOWN)
    program = [sys.executable, "-c", "from marketdata.cli.main import run; run()", *arguments]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closing}', "sh", *program],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(["settings"], "/h\xe9/home"), (["report", "--day", "2025-06-01"], r"/h\xe9/home")],
)
def test_what_the_encoding_of_stdout_lacks_is_no_failure(
    home: Path, tmp_path: Path, arguments: list[str], shown: str
) -> None:
    put_day(open_lake(tmp_path / "h\xe9" / "home"), BTC, DAY)
    done = subprocess.run(
        [sys.executable, "-c", "from marketdata.cli.main import run; run()", *arguments],
        capture_output=True,
        check=False,
        timeout=300,
        env={
            **os.environ,
            "PYTHONIOENCODING": "ascii",
            "COLUMNS": "250",
            "MARKETDATA_HOME": str(tmp_path / "h\xe9" / "home"),
        },
    )
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout.decode()


def test_a_bug_is_one_line_and_debug_shows_where(
    marketdata: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down() -> int:
        raise KeyError(*["lost"])

    monkeypatch.setattr("marketdata.cli.configuration.run_settings", break_down)
    quiet = marketdata("settings")
    assert quiet.code == 1
    assert quiet.error.startswith("This is a bug in marketdata: KeyError: 'lost'.")
    assert "--debug" in quiet.error
    for arguments in (["--debug", "settings"], ["settings", "--debug"]):
        loud = marketdata(*arguments)
        assert loud.code == 1
        assert "Traceback (most recent call last)" in loud.stderr
        assert "break_down" in loud.stderr


def test_ctrl_c_exits_130(marketdata: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("marketdata.cli.configuration.run_settings", interrupt)
    result = marketdata("settings")
    assert result.code == 130
    assert result.stderr == "Interrupted.\n"
