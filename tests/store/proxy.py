"""A TCP proxy in front of a server that passes bytes as slowly as a test wants."""

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict


class SlowProxy:
    """Listens on a free port of loopback.

    ``bytes_per_s`` may be changed at any time; None is unthrottled. ``lost_commits``: of so many, the server
    does its work, and its answer is lost with the connection.
    """

    def __init__(self, url: str) -> None:
        """Stand in front of the server of ``url``."""
        self._to = conninfo_to_dict(url)
        self.bytes_per_s: int | None = None
        self.lost_commits = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """Of the same database, through here."""
        user, password = self._to.get("user", ""), self._to.get("password")
        login = quote(str(user)) + (f":{quote(str(password), safe='')}" if password else "")
        port = self._listener.getsockname()[1]
        return f"postgresql://{login}@127.0.0.1:{port}/{self._to['dbname']}?sslmode=disable"

    def __enter__(self) -> Self:
        """Listen."""
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cut every connection."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, work, *arguments) -> None:  # type: ignore[no-untyped-def]
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                # A small buffer: what the kernel keeps on its way is not in the writer's hands.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
                server = self._connect()
                self._sockets += [client, server]
                mute = threading.Event()
                self._start(self._forth, client, server, mute)
                self._start(self._back, server, client, mute)

    def _connect(self) -> socket.socket:
        host, port = str(self._to.get("host") or "127.0.0.1"), int(self._to.get("port") or 5432)
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection((host, port))

    def _forth(self, client: socket.socket, server: socket.socket, mute: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(8_192):
                if self.bytes_per_s is not None:
                    time.sleep(len(data) / self.bytes_per_s)
                if self.lost_commits and b"COMMIT\0" in data:
                    self.lost_commits -= 1
                    mute.set()
                server.sendall(data)
        _end(server)

    def _back(self, server: socket.socket, client: socket.socket, mute: threading.Event) -> None:
        with suppress(OSError):
            while (data := server.recv(8_192)) and not mute.is_set():
                client.sendall(data)
        _end(client)


def _end(sink: socket.socket) -> None:
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
