"""The whole platform as child processes of this one: code server, webserver, daemon, local exchange.

``make up``, ``make demo`` and the tests use it. Everything listens on free ports of the loopback interface
and everything that was started is stopped again, by process id, the processes of runs included.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from marketdata import exchange_sim
from marketdata.errors import PermanentError, TransientError
from marketdata.ports import free_port
from marketdata.settings import Settings
from marketdata_dagster.graphql import GraphQL
from marketdata_dagster.instance import prepare

_START_S = 240.0
_STOP_S = 5.0
_LOCATION = "marketdata"
_WORKSPACE = """\
load_from:
  - grpc_server:
      host: 127.0.0.1
      port: {port}
      location_name: {name}
"""
# Dagster's own switches that are variables: how soon a killed run is started again, and how many events of a
# run over many partitions go to the database at once.
_DAGSTER = {
    "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "2",
    "DAGSTER_EVENT_BATCH_SIZE": "200",
    "DAGSTER_DISABLE_TELEMETRY": "1",
}


@dataclass(frozen=True, slots=True)
class Urls:
    """Where things are."""

    webserver: str
    exchange: str | None


@dataclass(slots=True)
class LocalStack:
    """The platform on this machine; a context manager.

    Attributes:
        settings: whose home, lake and markets are used.
        exchange: whether a local exchange with a synthetic market is started and used.
        exchange_arguments: for ``python -m marketdata.exchange_sim``.
        environment: further variables for the processes.
        port: of the webserver; 0 takes a free one.
        urls, graphql, pids: there while it is up.
    """

    settings: Settings = field(default_factory=Settings.load)
    exchange: bool = True
    exchange_arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    _processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict, init=False)
    _urls: Urls | None = field(default=None, init=False)
    _variables: dict[str, str] = field(default_factory=dict, init=False)
    _logs: Path = field(default=Path(), init=False)
    _before: dict[int, Any] = field(default_factory=dict, init=False)

    @property
    def urls(self) -> Urls:
        """Where things are."""
        if self._urls is None:
            msg = "The stack is not up."
            raise PermanentError(msg)
        return self._urls

    @property
    def graphql(self) -> GraphQL:
        """The webserver's GraphQL."""
        return GraphQL(self.urls.webserver)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {name: process.pid for name, process in self._processes.items()}

    @property
    def logs(self) -> Path:
        """The folder of the processes' logs."""
        return self._logs

    @property
    def variables(self) -> dict[str, str]:
        """The environment of the processes, for a command line beside them."""
        return dict(self._variables)

    def __enter__(self) -> Self:
        """Start everything and wait until it answers.

        Raises:
            TransientError: something did not answer in time.
            PermanentError: something ended at once; the message shows the end of its log.
        """
        self._catch_signals()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()

    def hold(self) -> None:
        """Stay until interrupted.

        Raises:
            PermanentError: one of the processes has ended by itself.
        """
        while True:
            self._look()
            time.sleep(0.5)

    def stop(self) -> None:
        """Stop what was started, with everything it has started."""
        with _undisturbed():
            for process in reversed(self._processes.values()):
                _signal(process, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_S
            for process in self._processes.values():
                # The code server may take longer; it is killed below, with its runs.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
            for process in self._processes.values():
                _signal(process, signal.SIGKILL)
                process.wait()
            self._processes.clear()
            self._urls = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _start(self) -> None:
        home, variables = prepare(self.settings)
        self._logs = home.parent / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._variables = {**os.environ, **_DAGSTER, **variables, **self.environment}
        if self.exchange:
            port_file = self._logs / "exchange.port"
            port_file.unlink(missing_ok=True)
            arguments = ["--port-file", str(port_file), *self.exchange_arguments]
            self._run("exchange", "marketdata.exchange_sim", *arguments)
        code_port, web_port = free_port(), self.port or free_port()
        web = f"http://127.0.0.1:{web_port}"
        if self.settings.dagster_url is None:  # links in alerts
            self._variables["MARKETDATA_DAGSTER_URL"] = web
        workspace = home / "workspace.yaml"
        workspace.write_text(_WORKSPACE.format(port=code_port, name=_LOCATION), "utf-8")
        exchange = self._exchange_url(port_file) if self.exchange else None
        if exchange is not None:
            self._variables |= exchange_sim.Urls(exchange).environment
        self._run(
            "code-server", "marketdata_dagster.server", "--host", "127.0.0.1", "--port", str(code_port),
            "--module-name", "marketdata_dagster.definitions", "--location-name", _LOCATION,
            "--log-level", "warning", "--inject-env-vars-from-instance",
        )  # fmt: skip
        self._until(lambda: _listens(code_port), "code-server")
        self._run(
            "webserver", "dagster_webserver", "--host", "127.0.0.1", "--port", str(web_port),
            "--workspace", str(workspace), "--log-level", "warning",
        )  # fmt: skip
        self._run(
            "daemon", "marketdata_dagster.daemon", "run", "--workspace", str(workspace), "--log-level", "info"
        )
        graphql = GraphQL(web)
        self._until(lambda: graphql.load_errors() is not None, "webserver")
        errors = graphql.load_errors()
        if errors:
            raise PermanentError("The code location does not load: " + errors[0])
        self._urls = Urls(web, exchange)

    def _run(self, name: str, module: str, *arguments: str) -> None:
        log = (self._logs / f"{name}.log").open("wb")
        with log:
            self._processes[name] = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", module, *arguments],
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own, so that its runs can be stopped with it, and Ctrl-C reaches us alone.
                start_new_session=True,
            )

    def _exchange_url(self, port_file: Path) -> str:
        self._until(port_file.exists, "exchange")
        return f"http://127.0.0.1:{int(port_file.read_text())}"

    def _until(self, ready: Callable[[], bool], name: str) -> None:
        deadline = time.monotonic() + _START_S
        while not ready():
            self._look()
            if time.monotonic() > deadline:
                msg = f"The {name} does not answer after {_START_S:.0f} s."
                raise TransientError(msg, hint=f"Its log is {self._logs / name}.log.")
            time.sleep(0.05)

    def _look(self) -> None:
        """Notice a process that has ended by itself."""
        for name, process in self._processes.items():
            code = process.poll()
            if code is not None:
                log = self._logs / f"{name}.log"
                last = log.read_text("utf-8", errors="replace").strip().splitlines()[-8:]
                msg = f"The {name} has ended with code {code}."
                raise PermanentError(msg, hint="\n".join([f"Its log, {log}, ends with:", *last]))

    def _catch_signals(self) -> None:
        """Let SIGTERM unwind like Ctrl-C does, and whichever comes first be the only one.

        make passes on what we may have had already, people press Ctrl-C twice: neither may end the ending,
        from its first moment on.
        """
        if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
            return

        def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            for caught in self._before:
                signal.signal(caught, signal.SIG_IGN)
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            if number == signal.SIGTERM or before is not signal.SIG_IGN:  # in the background: it stays so
                self._before[number] = before
                signal.signal(number, leave)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Whoever asks to end while it is being ended, or presses Ctrl-C twice, would leave processes behind."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    held = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to a process and to all of its group, also when it has itself ended."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
