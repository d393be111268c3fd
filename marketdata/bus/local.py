"""A real Kafka broker on this machine: Apache Kafka's own jars, one node in KRaft mode, on loopback.

For the tests, the demo and the benchmarks; not for data that matters.

The jars are resolved by Maven once and kept in the user's cache. The broker is started and stopped by its
process id; ``stop``, ``kill`` and ``start`` are for tests of faults: its data stays until ``close``.
"""

import base64
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from marketdata.errors import PermanentError
from marketdata.ports import free_ports

START_S, STOP_S, RESOLVE_S = 180.0, 60.0, 600.0
_TRIES = 3  # other ports, when somebody has taken one before it is up for the first time
# Logs of the brokers of this run, shown at its end when a test has failed.
LOGS: list[Path] = []

_INFO = "-Dorg.slf4j.simpleLogger.showDateTime=true"
_JAVA = [_INFO, "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-Xshare:auto"]
# Soon up, at the price of its speed later on.
_SOON = ["-XX:TieredStopAtLevel=1"]
# Of a log only the errors and its end are shown, and so much of a line.
_WIDTH = 240
_ERROR = re.compile(r"^\d+ \[.*?\] ERROR |^Caused by: |^Exception ")
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
"""


class BrokerError(PermanentError):
    """The broker cannot be had or does not start; says why."""


def missing() -> str | None:
    """What is missing to run a real broker here; ``None`` when nothing is."""
    absent = [name for name in ("java", "mvn") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)}" if absent else None


def is_resolved(pom: Path) -> bool:
    """Whether the jars are on this machine already."""
    return _folder(pom).is_dir()


def version(pom: Path) -> str:
    """The version of Kafka that a Maven file names; empty when it names none."""
    found = re.search(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([^<]+)<", pom.read_text("utf-8"))
    return found[1] if found else ""


def _folder(pom: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "marketdata"
    return cache / f"kafka-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"


def jars(pom: Path) -> Path:
    """The folder of the jars that a Maven file names, resolved on first use.

    Raises:
        BrokerError: Maven cannot resolve them.
    """
    folder = _folder(pom)
    cache = folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                target = Path(scratch) / "jars"
                goal = [
                    "dependency:copy-dependencies",
                    f"-DoutputDirectory={target}",
                    "-DincludeScope=runtime",
                ]
                command = ["mvn", "-q", "-B", "-f", str(pom), *goal]
                ended = subprocess.run(  # noqa: S603 - our own command
                    command, capture_output=True, text=True, timeout=RESOLVE_S, check=False
                )
                if ended.returncode:
                    msg = f"Maven cannot resolve {pom}:\n{ended.stdout[-2000:]}"
                    raise BrokerError(msg)
                target.rename(folder)
    return folder


class Broker:
    """One broker and its data."""

    def __init__(self, pom: Path, *, soon: bool = True) -> None:
        """Format its storage; it does not run yet.

        Args:
            pom: the Maven file that names Kafka's jars.
            soon: it is up soon; else it is fast once it is warm.

        Raises:
            BrokerError: Java, Maven or the jars are missing.
        """
        if (absent := missing()) is not None:
            raise BrokerError(absent)
        self._soon = soon
        self._folder = Path(tempfile.mkdtemp(prefix="marketdata-kafka-"))
        self._class_path = f"{jars(pom)}/*"
        self.log = self._folder / "broker.log"
        self._properties = self._folder / "server.properties"
        self._choose_ports()
        self._process: subprocess.Popen[bytes] | None = None
        LOGS.append(self.log)
        self._format()

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> "Broker":
        """Start it and wait until it answers. Its ports stay the same once it has been up.

        Raises:
            BrokerError: it ended, or does not answer in time.
        """
        for _ in range(_TRIES):
            if self._comes_up():
                return self
            if self._starts() or "Address already in use" not in tail(self.log):
                break
            self._choose_ports()
        msg = f"The broker did not start:\n{tail(self.log)}"
        raise BrokerError(msg)

    def _comes_up(self) -> bool:
        """Start its process and wait until it answers; false, and the process is gone, where it does not."""
        before = self._starts()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                self._java("kafka.Kafka", str(self._properties)),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,
            )
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            if self._starts() > before and _answers(self.port):
                return True
            time.sleep(0.1)
        self.kill()
        return False

    def stop(self) -> None:
        """Stop it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as a machine that loses its power would."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop it and remove its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _starts(self) -> int:
        return self.log.read_bytes().count(b"Kafka Server started") if self.log.exists() else 0

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _choose_ports(self) -> None:
        self.port, controller = free_ports(2)
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._properties.write_text(
            _PROPERTIES.format(port=self.port, controller=controller, data=self._folder / "data")
        )

    def _format(self) -> None:
        # Kafka's own form of a UUID; one that begins with a dash would be taken for an option.
        cluster = base64.urlsafe_b64encode(b"\0" + os.urandom(15)).decode().rstrip("=")
        arguments = ["format", "-t", cluster, "-c", str(self._properties)]
        with self.log.open("ab") as log:
            ended = subprocess.run(  # noqa: S603
                self._java("kafka.tools.StorageTool", *arguments),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                timeout=START_S,
                check=False,
            )
        if ended.returncode:
            msg = f"The storage could not be formatted:\n{tail(self.log)}"
            raise BrokerError(msg)

    def _java(self, *arguments: str) -> list[str]:
        return ["java", *_JAVA, *(_SOON if self._soon else []), "-cp", self._class_path, *arguments]


def tail(log: Path, lines: int = 12) -> str:
    """The end of a log, behind its last errors: the lines of a shutdown would hide them."""
    if not log.exists():
        return ""
    told = [line[:_WIDTH] for line in log.read_text("utf-8", "replace").splitlines()]
    end = max(0, len(told) - lines)
    errors = [line for line in told[:end] if _ERROR.search(line)][-lines:]
    return "\n".join([*errors, *(["..."] if errors else []), *told[end:]])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
