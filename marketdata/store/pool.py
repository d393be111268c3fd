"""Connections for readers: a few, kept open, and one more try when one was lost.

Why not psycopg's own pool: that one connects in the background, again and again at growing intervals. While
a server is down a reader waits and learns nothing, and when the server is back it still waits. Here the
reader that needs a connection opens it, and is told at once what is wrong.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from marketdata.cancellation import stoppable
from marketdata.errors import TransientError
from marketdata.store import engine, queries

MIN_SIZE, MAX_SIZE = 2, 10
# How long a read waits for one of the connections; how long one is kept that nobody needs.
_PATIENCE_S = 30.0
_IDLE_S = 600.0
_APPLICATION = "marketdata reader"
_LOST = (psycopg.OperationalError, psycopg.InterfaceError)

T = TypeVar("T")


class Pool:
    """Two to ten connections to one database. Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        """Prepare; nothing is opened yet. No message of this class repeats the URL, which has a password."""
        self._url = engine.libpq_url(url)
        self.where = engine.where(self._url)
        self._room = threading.BoundedSemaphore(MAX_SIZE)
        self._lock = threading.Lock()
        # The one used last is used next; each with the time it was given back.
        self._idle: list[tuple[Connection[Any], float]] = []
        self._open = False

    def open(self) -> None:
        """Open the smaller number of connections.

        Raises:
            TransientError: the server does not answer.
            UsageError: it refuses the user, the password or the database, or is too old.
        """
        self._open = True
        try:
            for _ in range(MIN_SIZE):
                self._give_back(self._connect())
            self.read(engine.describe)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close those that are idle now, and each of the others when its read ends."""
        self._open = False
        self._drop_idle()

    def read(self, work: Callable[[Connection[Any]], T]) -> T:
        """Run ``work``, which only reads, on a connection; once more when the connection was lost.

        Raises:
            TransientError: the server is gone, or all connections are busy.
            MarketDataError: what else the server refuses, in words.
        """
        try:
            try:
                return self._once(work)
            except _LOST as error:
                if not is_lost(error):
                    raise
            # When a server was restarted, those that lie idle are lost too.
            self._drop_idle()
            return self._once(work)
        except psycopg.Error as error:
            raise engine.translate(error) from None

    def _once(self, work: Callable[[Connection[Any]], T]) -> T:
        if not self._room.acquire(timeout=_PATIENCE_S):
            msg = f"All {MAX_SIZE} connections to {self.where} have been busy for {_PATIENCE_S:.0f} s."
            raise TransientError(msg, hint="Try again when fewer reads are going on.")
        try:
            connection = self._take()
            try:
                with stoppable(partial(_cancel, connection)):
                    return work(connection)
            finally:
                self._give_back(connection)
        finally:
            self._room.release()

    def _take(self) -> Connection[Any]:
        with self._lock:
            if self._idle:
                return self._idle.pop()[0]
        return self._connect()

    def _connect(self) -> Connection[Any]:
        connection = engine.connect(self._url, autocommit=True, application_name=_APPLICATION)
        try:
            queries.configure(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: Connection[Any]) -> None:
        now = time.monotonic()
        unused = []
        with self._lock:
            if self._open and connection.info.transaction_status == TransactionStatus.IDLE:
                self._idle.append((connection, now))
            else:
                unused.append(connection)
            while len(self._idle) > MIN_SIZE and now - self._idle[0][1] > _IDLE_S:
                unused.append(self._idle.pop(0)[0])
        for each in unused:
            each.close()

    def _drop_idle(self) -> None:
        with self._lock:
            dropped, self._idle = self._idle, []
        for connection, _since in dropped:
            connection.close()


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone, so that another one may do."""
    state = error.sqlstate
    return state is None or state[:2] == "08" or state in ("57P01", "57P02", "57P03")


def _cancel(connection: Connection[Any]) -> None:
    """Ask the server to end the query; one that cannot be asked ends by itself."""
    with suppress(psycopg.Error):
        connection.cancel_safe(timeout=5)
