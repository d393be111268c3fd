"""Connections: UTC, errors in words, and a password that nobody ever reads."""

import logging
import traceback
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from marketdata.errors import MarketDataError, PermanentError, StorageError, TransientError, UsageError
from marketdata.ports import free_port
from marketdata.settings import Settings
from marketdata.store import engine, migrate
from marketdata.store.embedded import EmbeddedServer
from marketdata.store.translate import translate
from tests.store.conftest import RunningServer

PASSWORD = "p/@ss:w%rd"
WRITTEN = "p%2F%40ss%3Aw%25rd"


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server that asks for a password."""
    port = free_port()
    server = EmbeddedServer(tmp_path_factory.mktemp("pg"), options={"fsync": "off"}, loopback_port=port)
    with server:
        yield server


def test_without_a_url_the_message_names_the_variable() -> None:
    with pytest.raises(UsageError, match="MARKETDATA_DATABASE_URL is not set"):
        engine.connect(Settings.load(database_url=None))


def test_times_are_utc_whatever_the_server_is_set_to(database: str) -> None:
    with engine.connect(database, autocommit=True) as connection:
        row = connection.execute("SELECT current_database()").fetchone()
        assert row is not None
        connection.execute(f"ALTER DATABASE {row[0]} SET timezone = 'Asia/Tokyo'")
    with engine.connect(database) as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)


def test_the_server_says_what_it_is(server: RunningServer, database: str) -> None:
    with engine.connect(database) as connection:
        found = engine.describe(connection)
    assert found.major >= 15
    assert str(found).startswith(f"PostgreSQL {found.version}")
    assert (found.timescaledb is not None) == server.timescaledb
    assert ("TimescaleDB" in str(found)) == server.timescaledb


def test_a_server_that_is_too_old_is_refused(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_OLDEST", 99)
    with engine.connect(database) as connection, pytest.raises(UsageError, match="99 or newer"):
        engine.describe(connection)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{PASSWORD}@127.0.0.1:1/db",
        "postgresql://me:s3@cr3t/pw@127.0.0.1:1/db",
        "postgresql://me:s3@cr3t@127.0.0.1:1/db",
        "postgresql://me:s3?cr3t@127.0.0.1:1/db",
        "postgresql://me:s3#cr3t@127.0.0.1:1/db",
        "mysql://me:cr3t@127.0.0.1/db",
        "cr3t",
    ],
)
def test_a_url_that_two_programs_read_in_two_ways_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        engine.connect(url)
    assert not [piece for piece in ("cr3t", "ss:w", "s3") if piece in str(caught.value)]
    with pytest.raises(UsageError) as caught:
        Settings.load(database_url=url)
    assert not [piece for piece in ("cr3t", "ss:w", "s3") if piece in str(caught.value)]


def test_a_password_that_is_not_written_as_in_a_url_is_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        engine.connect("postgresql://me:cr3t%zz@127.0.0.1:1/db")
    assert "cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cr3t@db.example:5432/market",
        f"postgres://me:{WRITTEN}@127.0.0.1/market?sslmode=require",
        "postgresql+psycopg://me@[::1]:5432/market",
        "postgresql:///market?host=/run/postgresql",
    ],
)
def test_a_url_of_a_server_or_of_a_socket_is_taken(url: str) -> None:
    settings = Settings.load(database_url=url)
    assert engine.database_url(settings).startswith("postgresql://")
    assert "s3cr3t" not in repr(settings)
    assert settings.database_url == SecretStr(url)


def test_a_password_with_every_special_character_opens_the_door(loopback: EmbeddedServer) -> None:
    with engine.connect(loopback.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE visitor LOGIN PASSWORD 'p/@ss:w%rd'")
    port = loopback.loopback_url.rpartition(":")[2].partition("/")[0]
    url = f"postgresql://visitor:{WRITTEN}@127.0.0.1:{port}/marketdata"
    with engine.connect(Settings.load(database_url=url)) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("visitor",)
        assert PASSWORD not in repr(connection)


def _said(work: Any) -> tuple[MarketDataError, str]:
    with pytest.raises(MarketDataError) as caught:
        work()
    error = caught.value
    return error, "".join([*traceback.format_exception(error), repr(error), str(error)])


@pytest.mark.parametrize("work", [engine.connect, migrate.upgrade, migrate.current])
@pytest.mark.parametrize("kind", ["wrong password", "no such database", "nobody there", "no such host"])
def test_a_connection_that_fails_never_shows_the_password(
    loopback: EmbeddedServer, kind: str, work: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    own = loopback.loopback_url
    password = own.partition("marketdata:")[2].partition("@")[0]
    port = own.rpartition(":")[2].partition("/")[0]
    url, expected = {
        "wrong password": (own.replace(password, WRITTEN), UsageError),
        "no such database": (own.replace("/marketdata", "/nothing"), UsageError),
        "nobody there": (own.replace(port, "1"), TransientError),
        "no such host": (f"postgresql://me:{WRITTEN}@nowhere.invalid/db", TransientError),
    }[kind]
    error, said = _said(lambda: work(url))
    assert type(error) is expected
    assert "MARKETDATA_DATABASE_URL" in str(error)
    for secret in (password, PASSWORD, WRITTEN):
        assert secret not in said
        assert secret not in caplog.text


def test_the_log_of_the_server_does_not_hold_the_password(loopback: EmbeddedServer) -> None:
    password = loopback.loopback_url.partition("marketdata:")[2].partition("@")[0]
    with pytest.raises(MarketDataError):
        engine.connect(loopback.loopback_url.replace(password, WRITTEN))
    written = (loopback.folder / "log").read_text()
    assert "password authentication failed" in written
    assert password not in written
    assert password not in repr(loopback)


def test_loopback_asks_for_the_password(loopback: EmbeddedServer) -> None:
    password = loopback.loopback_url.partition(":")[2].partition(":")[2].partition("@")[0]
    error, _ = _said(lambda: engine.connect(loopback.loopback_url.replace(f":{password}@", "@")))
    assert "password" in str(error)


@pytest.mark.parametrize(
    ("refused", "kind", "told"),
    [
        (psycopg.errors.DiskFull, StorageError, "disk of the database server is full"),
        (psycopg.errors.IoError, StorageError, "log"),
        (psycopg.errors.DeadlockDetected, TransientError, "Try again"),
        (psycopg.errors.SerializationFailure, TransientError, "Try again"),
        (psycopg.errors.AdminShutdown, TransientError, "Try again"),
        (psycopg.errors.TooManyConnections, TransientError, "max_connections"),
        (psycopg.errors.LockNotAvailable, TransientError, "Try again"),
        (psycopg.errors.QueryCanceled, TransientError, "statement_timeout"),
        (psycopg.errors.UndefinedTable, UsageError, "marketdata db upgrade"),
        (psycopg.errors.InsufficientPrivilege, UsageError, "Grant"),
        (psycopg.errors.ReadOnlySqlTransaction, UsageError, "read-only"),
        (psycopg.errors.UniqueViolation, PermanentError, "23505"),
        (psycopg.OperationalError, TransientError, "does not answer"),
        (psycopg.InterfaceError, TransientError, "does not answer"),
        (psycopg.ProgrammingError, PermanentError, "ProgrammingError"),
    ],
)
def test_what_the_server_refuses_says_whether_a_retry_helps_and_what_to_do(
    refused: type[psycopg.Error], kind: type[MarketDataError], told: str
) -> None:
    error = translate(refused("s3cr3t"))
    assert type(error) is kind
    assert told in str(error)
    assert "s3cr3t" not in str(error)


def test_what_the_server_said_is_repeated(database: str) -> None:
    with engine.connect(database) as connection:
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("SELECT * FROM nothing_of_that_name")
        assert "nothing_of_that_name" in str(translate(caught.value))
