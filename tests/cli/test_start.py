"""How the command starts, and how it answers what is typed wrongly."""

import subprocess
import sys

import pytest

from marketdata import __version__
from tests.cli.conftest import Command

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
