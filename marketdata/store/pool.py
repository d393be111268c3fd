"""Connections for readers: a few, kept open, and one more try when one was lost."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import psycopg
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

from marketdata.cancellation import stoppable
from marketdata.errors import TransientError
from marketdata.store import engine, queries

MIN_SIZE, MAX_SIZE = 2, 10
# How long a read waits for one of the connections.
_PATIENCE_S = 10.0
_APPLICATION = "marketdata reader"
_LOST = (psycopg.OperationalError, psycopg.InterfaceError)

T = TypeVar("T")


class Pool:
    """Two to ten connections to one database. Safe to use from several threads."""

    def __init__(self, url: str, *, min_size: int = MIN_SIZE, max_size: int = MAX_SIZE) -> None:
        """Prepare; nothing is opened yet. No message of this class repeats the URL, which has a password."""
        self._url = engine.libpq_url(url)
        self.where = engine.where(self._url)
        self._pool = ConnectionPool(
            self._url,
            kwargs={
                "autocommit": True,
                "application_name": _APPLICATION,
                "connect_timeout": 10,
                "keepalives_idle": 30,
            },
            min_size=min_size,
            max_size=max_size,
            open=False,
            configure=queries.configure,
            name=f"marketdata {self.where}",
            timeout=_PATIENCE_S,
        )

    def open(self) -> None:
        """Open the smaller number of connections.

        Raises:
            TransientError: the server does not answer in time.
            UsageError: it refuses the user, the password or the database, or is too old.
        """
        # The pool tries again in silence; one connection by itself says at once what is wrong.
        with engine.connect(self._url, autocommit=True, application_name=_APPLICATION) as connection:
            engine.describe(connection)
        self._pool.open()
        try:
            self._pool.wait(timeout=_PATIENCE_S)
        except PoolTimeout:
            self.close()
            raise self._busy() from None

    def close(self) -> None:
        """Close them all."""
        self._pool.close()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which only reads, on a connection; once more when the connection was lost.

        Raises:
            TransientError: the server is gone, or all connections are busy.
            MarketDataError: what else the server refuses, in words.
        """
        try:
            return self._once(work)
        except _LOST as error:
            if not lost(error):
                raise engine.translate(error, where=self.where) from None
        # Those that lie in the pool are lost with it when a server was restarted.
        self._pool.check()
        try:
            return self._once(work)
        except psycopg.Error as error:
            raise engine.translate(error, where=self.where) from None

    def _once(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._pool.connection() as connection, stoppable(partial(_cancel, connection)):
                return work(connection)
        except PoolTimeout:
            raise self._busy() from None
        except _LOST:
            raise
        except psycopg.Error as error:
            raise engine.translate(error, where=self.where) from None

    def _busy(self) -> TransientError:
        msg = f"No connection to {self.where} within {_PATIENCE_S:.0f} s."
        return TransientError(msg, hint="The server is down, or all connections are busy: try again later.")


def lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone, so that another one may do."""
    state = error.sqlstate
    return state is None or state[:2] == "08" or state in ("57P01", "57P02", "57P03")


def _cancel(connection: Connection) -> None:
    """Ask the server to end the query; one that cannot be asked ends by itself."""
    with suppress(psycopg.Error):
        connection.cancel_safe(timeout=5)
