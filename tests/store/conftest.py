"""Real servers: the wheel always, others where they are named.

``MARKETDATA_TEST_DATABASE_URL`` names a running server whose user may create databases;
``MARKETDATA_TEST_POSTGRES_BIN`` a folder of PostgreSQL binaries, started with TimescaleDB loaded where they
have it. Every test that takes ``server`` or ``database`` runs on each of them.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from psycopg import sql

from marketdata.errors import UsageError
from marketdata.store.embedded import EmbeddedServer
from marketdata.store.engine import Server, connect, describe
from marketdata.store.migrate import upgrade
from tests.conftest import NO_TIMESCALEDB

_QUICK = {"fsync": "off", "full_page_writes": "off", "max_connections": "60"}
_NUMBERS = count(1)


@dataclass
class RunningServer:
    """A server for tests. ``embedded`` is what can be stopped, killed and started again; None by URL."""

    name: str
    about: Server
    url_of: Callable[[str], str]
    embedded: EmbeddedServer | None
    templates: dict[str, str] = field(default_factory=dict)

    @property
    def timescaledb(self) -> bool:
        """Whether the extension can be created on it."""
        return self.about.available is not None

    def create(self, template: str | None = None) -> str:
        """A new database, empty or a copy of another; returns its name."""
        name = f"test_{os.getpid()}_{next(_NUMBERS)}"
        with connect(self.url_of("postgres"), autocommit=True) as connection:
            statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
            if template is not None:
                statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
            connection.execute(statement)
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is still connected to it."""
        with connect(self.url_of("postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def migrated(self) -> str:
        """A new database with the schema; returns its name."""
        if self.timescaledb:
            # The extension's own workers are connected to a database that has it: it cannot be copied.
            name = self.create()
            upgrade(self.url_of(name))
            return name
        if "schema" not in self.templates:
            self.templates["schema"] = name = self.create()
            upgrade(self.url_of(name))
        return self.create(self.templates["schema"])

    def kill(self) -> None:
        """End the server as a crash would; skips where it is not ours to kill."""
        self._ours().kill()

    def stop(self) -> None:
        """Stop the server."""
        self._ours().stop()

    def start(self) -> None:
        """Start it again: same data, same URL."""
        self._ours().start()

    def _ours(self) -> EmbeddedServer:
        if self.embedded is None:
            pytest.skip("a server given by its URL is not stopped or killed")
        return self.embedded


def _names() -> list[str]:
    names = ["wheel"]
    if os.environ.get("MARKETDATA_TEST_DATABASE_URL"):
        names.append("url")
    if os.environ.get("MARKETDATA_TEST_POSTGRES_BIN"):
        names.append("binaries")
    return names


@pytest.fixture(scope="session", params=_names())
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A running server."""
    name = str(request.param)
    if name == "url":
        given = os.environ["MARKETDATA_TEST_DATABASE_URL"]
        base, _, query = given.partition("?")
        root = base.rpartition("/")[0]
        running = RunningServer(
            name, _about(given), lambda database: f"{root}/{database}{'?' if query else ''}{query}", None
        )
        yield running
        for template in running.templates.values():
            running.drop(template)
        return
    # Short: the path of a socket may not have more than a hundred characters.
    folder = Path(tempfile.mkdtemp(prefix="md-pg-"))
    binaries, options = None, dict(_QUICK)
    if name == "binaries":
        binaries = Path(os.environ["MARKETDATA_TEST_POSTGRES_BIN"])
        if _has_timescaledb(binaries):
            options |= {"shared_preload_libraries": "timescaledb", "timescaledb.telemetry_level": "off"}
            options["timescaledb.max_background_workers"] = "4"
    embedded = EmbeddedServer(folder, binaries=binaries, options=options)
    try:
        embedded.start()
    except UsageError as error:
        if os.environ.get("MARKETDATA_REQUIRE_REAL_PARTS"):
            raise
        pytest.skip(str(error))
    try:
        yield RunningServer(name, _about(embedded.url), embedded.url_of, embedded)
    finally:
        embedded.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(server: RunningServer) -> Iterator[str]:
    """URL of a fresh database that has the schema."""
    name = server.migrated()
    yield server.url_of(name)
    server.drop(name)


@pytest.fixture
def empty_database(server: RunningServer) -> Iterator[str]:
    """URL of a fresh database that has nothing."""
    name = server.create()
    yield server.url_of(name)
    server.drop(name)


@pytest.fixture
def timescale(server: RunningServer) -> str:
    """Version of TimescaleDB; a server without it skips the test and says so."""
    if server.about.available is None:
        pytest.skip(f"{NO_TIMESCALEDB} on {server.about}")
    return server.about.available


@pytest.fixture
def plain(server: RunningServer) -> None:
    """For what only plain PostgreSQL has."""
    if server.timescaledb:
        pytest.skip(f"{NO_TIMESCALEDB} is what this is about, and {server.about} has it")


def _about(url: str) -> Server:
    with connect(url) as connection:
        return describe(connection)


def _has_timescaledb(binaries: Path) -> bool:
    roots = (binaries.parent, Path("/usr/share/postgresql") / binaries.parent.name)
    return any(next(root.rglob("timescaledb.control"), None) is not None for root in roots)
