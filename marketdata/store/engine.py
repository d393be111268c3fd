"""Connections to the store, and what its server is. No message of this module repeats a URL or a password."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict

from marketdata.errors import MarketDataError, UsageError
from marketdata.settings import Settings
from marketdata.store.translate import translate

__all__ = ["Server", "connect", "database_url", "describe", "libpq_url", "translate", "where"]

_APPLICATION = "marketdata"
_CONNECT_TIMEOUT_S = 10
_UTC = "-c timezone=UTC"
_OLDEST = 15
_HINT = "Set it to postgresql://USER:PASSWORD@HOST:PORT/DATABASE; in a password write @ as %40 and / as %2F."


@dataclass(frozen=True, slots=True)
class Server:
    """What answers at the URL.

    ``timescaledb`` is the version of the extension in this database, None where it is plain PostgreSQL;
    ``available`` the version that could be created in it.
    """

    version: str
    major: int
    timescaledb: str | None
    available: str | None

    def __str__(self) -> str:
        """``PostgreSQL 18.1`` or ``PostgreSQL 15.13, TimescaleDB 2.22.1``."""
        extension = f", TimescaleDB {self.timescaledb}" if self.timescaledb else ""
        return f"PostgreSQL {self.version}{extension}"


def database_url(settings: Settings) -> str:
    """Return the URL of the store, as libpq takes it.

    Raises:
        UsageError: MARKETDATA_DATABASE_URL is not set.
    """
    if settings.database_url is None:
        msg = "There is no database: MARKETDATA_DATABASE_URL is not set."
        raise UsageError(msg, hint=_HINT)
    return libpq_url(settings.database_url.get_secret_value())


def libpq_url(url: str) -> str:
    """Return the URL without the driver that SQLAlchemy would want in it.

    Raises:
        UsageError: it is no URL of a database, or one that two programs read in two ways.
    """
    scheme, colon, rest = url.partition("://")
    plain = f"postgresql{colon}{rest}"
    try:
        read, split = conninfo_to_dict(plain), urlsplit(plain)
        # An @ or / that stands in a password as it is makes a piece of it the host or the database.
        usable = (
            scheme.partition("+")[0] in ("postgresql", "postgres")
            and plain.count("@") <= 1
            and ("host" in split.query or str(read.get("host") or "").casefold() == (split.hostname or ""))
        )
    except (psycopg.ProgrammingError, ValueError):
        usable = False
    if not usable:
        msg = "The URL in MARKETDATA_DATABASE_URL cannot be read."
        raise UsageError(msg, hint=_HINT)
    return plain


def where(url: str) -> str:
    """``host:port/database``, for messages."""
    parts = conninfo_to_dict(url)
    return f"{parts.get('host') or 'localhost'}:{parts.get('port') or 5432}/{parts.get('dbname') or ''}"


def connect(
    settings_or_url: Settings | str, *, autocommit: bool = False, application_name: str = _APPLICATION
) -> Connection[Any]:
    """Open a connection whose times are UTC.

    Raises:
        UsageError: there is no URL, or the server refuses the user, the password or the database.
        TransientError: the server does not answer.
    """
    url = libpq_url(settings_or_url) if isinstance(settings_or_url, str) else database_url(settings_or_url)
    options = f"{conninfo_to_dict(url).get('options') or ''} {_UTC}".lstrip()
    try:
        return psycopg.connect(
            url,
            autocommit=autocommit,
            application_name=application_name,
            connect_timeout=_CONNECT_TIMEOUT_S,
            keepalives_idle=30,
            options=options,
        )
    except psycopg.Error as error:
        raise _refused(error, url) from None


def _refused(error: psycopg.Error, url: str) -> MarketDataError:
    """What a failed connection comes to. The frames of psycopg, which hold the password, are left behind."""
    translated = translate(error, where=where(url))
    translated.__context__ = None
    return translated


def describe(connection: Connection[Any]) -> Server:
    """Ask the server what it is.

    Raises:
        UsageError: it is older than PostgreSQL 15.
    """
    row = connection.execute(
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000,"
        " (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),"
        " (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'"
        "  AND current_setting('timescaledb.max_background_workers', true) IS NOT NULL)"
    ).fetchone()
    assert row is not None  # noqa: S101 - a select without FROM has one row
    server = Server(str(row[0]).split()[0], *row[1:])
    if server.major < _OLDEST:
        msg = f"The server is PostgreSQL {server.version}; the store needs {_OLDEST} or newer."
        raise UsageError(msg, hint="Point MARKETDATA_DATABASE_URL to a newer one.")
    return server
