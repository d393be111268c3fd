"""Every command in the documents works, in the order it stands there, against the local exchange."""

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from typer.main import get_command

from marketdata.cli.main import app, main
from marketdata.exchange_sim import RunningExchange, SimConfig
from marketdata.lake import Lake, ledger
from marketdata.ledger import Entry, Event, State
from marketdata.market import Market
from marketdata.store.embedded import EmbeddedServer
from marketdata.store.engine import connect
from tests.conftest import ROOT
from tests.docs.blocks import DOCUMENTS, blocks, commands
from tests.logs import kept

MARKETS = "".join(
    f'[[market]]\nexchange = "{exchange}"\nsymbol = "{symbol}"\nsince = 2024-01-01\n'
    for exchange, symbol in (("kraken", "BTC/USD"), ("binance", "BTC/USDT"))
)
DOWNLOAD = "1685577600,27210.1,0.01\n1685577661,27211.5,1.25\n1685750461,27300.0,0.5\n"
GROUPS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
COMMANDS = {
    f"{name} {inner}" if inner else name: command
    for name, group in GROUPS.items()
    for inner, command in getattr(group, "commands", {"": group}).items()
}
STORE, STREAM = "marketdata db ", "marketdata stream "
# Services, which go on until Ctrl-C (status does so on a terminal only).
LASTING = re.compile(rf"{STREAM}(up|feed|candles|sink)\b(?!.*--(once|until-end))")
WITH_COMMANDS = [document for document in DOCUMENTS if commands(document)]
Environment = dict[str, str]


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """A local exchange with few trades, and ``marketdata`` on the path."""
    tools = tmp_path_factory.mktemp("bin")
    program = tools / "marketdata"
    start = "from marketdata.cli.main import run; run()"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{start}" "$@"\n')
    program.chmod(0o755)
    (tools / "markets.toml").write_text(MARKETS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MARKETDATA_")}
    quiet = tuple(replace(listing, rate=max(listing.rate // 20, 500)) for listing in SimConfig().listings)
    with RunningExchange(SimConfig(listings=quiet)) as exchange:
        yield {
            **kept,
            **exchange.environment,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MARKETDATA_REQUEST_INTERVAL_MS": "0",
            "MARKETDATA_MARKETS": str(tools / "markets.toml"),
            "COLUMNS": "100",
        }


@pytest.fixture(scope="module")
def kept_lake(tmp_path_factory: pytest.TempPathFactory, environment: Environment) -> Path:
    """A lake with the last days, so that a document can read before it has fetched."""
    folder = tmp_path_factory.mktemp("kept")
    call("marketdata backfill kraken:BTC/USD --last 7d", folder, environment)
    return folder / ".marketdata"


@pytest.fixture(scope="module")
def databases() -> Iterator[Callable[[], str]]:
    """Makes empty databases, on a server that is started for the first of them."""
    root = Path(tempfile.mkdtemp(prefix="md-docs-"))
    server = EmbeddedServer(root, options={"fsync": "off"})
    numbers = count(1)

    def make() -> str:
        if server.pid is None:
            server.start()
        name = f"reader_{next(numbers)}"
        with connect(server.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return server.url_of(name)

    yield make
    server.stop()
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def folder(tmp_path: Path, kept_lake: Path) -> Path:
    """The reader's folder: data fetched before, and downloaded files."""
    shutil.copytree(kept_lake, tmp_path / ".marketdata")
    for path in (tmp_path / "XBTUSD.csv", tmp_path / "downloads" / "XBTUSD.csv"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(DOWNLOAD)
    return tmp_path


def call(command: str, folder: Path, environment: Environment) -> None:
    if command.startswith("marketdata exchange"):
        start_and_stop(command, folder, environment)
    elif LASTING.match(command):
        run_and_interrupt(command, folder, environment)
    elif re.search(r"[|<>;&$`*~]", command):
        in_a_shell(command, folder, environment)
    else:
        in_this_process(command, folder, environment)


def in_a_shell(command: str, folder: Path, environment: Environment) -> None:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert "error:" not in done.stderr


def in_this_process(command: str, folder: Path, environment: Environment) -> None:
    """The same without the seconds that a new process takes to import everything."""
    with kept(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for variable, value in environment.items():
            patch.setenv(variable, value)
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = main(shlex.split(command)[1:])
    err.seek(0)
    # With 1 it says that something is open, which in a reader's lake may be so.
    assert code in ((0, 1) if command.startswith("marketdata gaps") else (0,)), f"{command}\n{err.read()}"


def start_and_stop(command: str, folder: Path, environment: Environment) -> None:
    """The local exchange runs until Ctrl-C; on a free port here."""
    on_free_port = re.sub(r"--port \d+", "--port 0", command)
    running = subprocess.Popen(
        ["bash", "-c", f"exec {on_free_port}"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        assert any("Ctrl-C" in line for line in running.stdout)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=300) == 0
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


def listens_to_signals(pid: int) -> bool:
    """Whether a service has come so far that it ends in order: Python leaves SIGTERM alone by itself."""
    if not Path("/proc/self").exists():  # not Linux: it has come so far by then
        time.sleep(8)
        return True
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[1], 16) >> (signal.SIGTERM - 1) & 1)  # type: ignore[index]


def run_and_interrupt(command: str, folder: Path, environment: Environment) -> None:
    """A service runs until Ctrl-C, and ends in order."""
    running = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=folder, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 240
        while running.poll() is None and not listens_to_signals(running.pid):
            assert time.monotonic() < until
            time.sleep(0.1)
        time.sleep(2)
        lasted = running.poll() is None
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=300)
        assert (lasted, running.returncode) == (True, 0), said
    finally:
        if running.poll() is None:
            running.kill()
            running.communicate()


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=name)
def test_the_commands_of_a_document_work_in_their_order(
    document: Path,
    folder: Path,
    environment: Environment,
    databases: Callable[[], str],
    request: pytest.FixtureRequest,
) -> None:
    for command in commands(document):
        if command.startswith(STREAM) and "MARKETDATA_KAFKA_BOOTSTRAP_SERVERS" not in environment:
            environment = environment | {
                "MARKETDATA_KAFKA_BOOTSTRAP_SERVERS": request.getfixturevalue("broker"),
                "MARKETDATA_KAFKA_TOPIC_PREFIX": f"docs.{document.stem}",
            }
        if command.startswith(STORE) and "MARKETDATA_DATABASE_URL" not in environment:
            environment = environment | {"MARKETDATA_DATABASE_URL": databases()}
        call(command, folder, environment)


def programs(document: Path) -> list[str]:
    """Python blocks that begin with an import are whole programs."""
    return [
        block.text
        for block in blocks(document)
        if block.language == "python" and re.match(r"(from|import) ", block.text)
    ]


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if programs(d)], ids=name)
def test_the_programs_of_a_document_run(
    document: Path, folder: Path, environment: Environment, request: pytest.FixtureRequest
) -> None:
    following = [program for program in programs(document) if ".live(" in program]
    if following:
        environment = environment | {
            "MARKETDATA_KAFKA_BOOTSTRAP_SERVERS": request.getfixturevalue("broker"),
            "MARKETDATA_KAFKA_TOPIC_PREFIX": f"programs.{document.stem}",
        }
        for command in ["marketdata stream topics", *commands(document)]:
            call(command, folder, environment)
    for program in programs(document):
        if program in following:
            follow_and_interrupt(program, folder, environment)
            continue
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], cwd=folder, env=environment,
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}\n{done.stderr[-2000:]}"


def follow_and_interrupt(program: str, folder: Path, environment: Environment) -> None:
    """A program that follows the stream prints history, goes on, and ends with Ctrl-C."""
    running = subprocess.Popen(
        [sys.executable, "-W", "error", "-u", "-c", program], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert running.stdout is not None
        printed = running.stdout.readline()
        time.sleep(1)
        lasted = running.poll() is None
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=300)
        assert printed, f"{program}\n{said[-2000:]}"
        assert lasted, f"{program}\n{said[-2000:]}"
        assert said.rstrip().endswith("KeyboardInterrupt"), said
    finally:
        if running.poll() is None:
            running.kill()
            running.communicate()


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if commands(d, "make")], ids=name)
def test_the_make_targets_of_a_document_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {command.split()[1] for command in commands(document, "make")} <= targets


def a_case_of(folder: Path) -> str:
    """Something for the ledger to tell."""
    at, market = datetime(2025, 6, 1, tzinfo=UTC), Market.parse("kraken:BTC/USD")
    found = Entry(
        at, Event.FINDING, State.INFORMATION, market, "trades", "stale", at, at + timedelta(days=1), "-"
    )
    ledger.append(Lake.open(str(folder / ".marketdata" / "lake")), [found])
    return found.case


def test_the_examples_in_the_help_work(
    folder: Path, environment: Environment, databases: Callable[[], str]
) -> None:
    (folder / "trades.csv").write_text(DOWNLOAD)
    epilogs = "\n".join(command.epilog or "" for command in COMMANDS.values())
    examples = [line for line in epilogs.splitlines() if line.startswith("marketdata ")]
    assert len(examples) >= 12
    call("marketdata backfill kraken:BTC/USD --start 2025-06-01 --end 2025-06-03", folder, environment)
    call("marketdata backfill binance:BTC/USDT --start 2025-06-01 --end 2025-06-02", folder, environment)
    store = environment | {"MARKETDATA_DATABASE_URL": databases()}
    call("marketdata db upgrade", folder, store)
    case = a_case_of(folder)
    for command in examples:
        example = re.sub(r"--case \w+", f"--case {case}", command)
        if example.startswith(f"{STORE}upgrade"):
            call(example, folder, environment | {"MARKETDATA_DATABASE_URL": databases()})
            continue
        call(example, folder, store if example.startswith(STORE) else environment)
        if example.startswith(f"{STORE}downgrade"):
            call("marketdata db upgrade", folder, store)


def test_the_document_names_every_command_and_every_option() -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for name, command in COMMANDS.items():
        assert f"marketdata {name}" in text
        options = {parameter.opts[0] for parameter in command.params if parameter.opts[0].startswith("--")}
        assert {option for option in options if option not in text} == set(), name
