"""The schema, step by step: Alembic over the files of ``sql/``.

A step is ``NNNN_name.sql`` with its undo ``NNNN_name.down.sql``; what it needs of TimescaleDB lies under the
same name in ``timescaledb/`` and what stands in for that on plain PostgreSQL in ``postgresql/``. A step, its
part for the server and the note that it is done are one transaction: after a crash it is done or it is not.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError

from marketdata.errors import UnknownName, UsageError
from marketdata.settings import Settings
from marketdata.store import policies, wider
from marketdata.store.engine import connect, describe, libpq_url, translate

BASE, HEAD = "base", "head"
_STEP = re.compile(r"(\d{4}_\w+)\.sql")
# Held while the schema is changed: two that upgrade at once follow each other.
_LOCK = 0x6D61726B6574
_VERSIONS = "alembic_version"


def sql_folder() -> Path:
    """The folder of the steps."""
    return Path(__file__).parents[1] / "sql"


def steps() -> tuple[str, ...]:
    """All steps, first to last."""
    return tuple(sorted(found[1] for path in sql_folder().iterdir() if (found := _STEP.fullmatch(path.name))))


def current(url: str) -> str | None:
    """The last step that was done; None in a database that has no schema of ours.

    Raises:
        MarketDataError: the server does not answer or refuses.
    """
    with connect(url) as connection:
        return step_of(connection)


def step_of(connection: psycopg.Connection[Any]) -> str | None:
    """:func:`current` on a connection that is there."""
    row = connection.execute("SELECT to_regclass(%s)::text", (_VERSIONS,)).fetchone()
    if row is None or row[0] is None:
        return None
    row = connection.execute(f"SELECT version_num FROM {_VERSIONS}").fetchone()  # noqa: S608 - a constant
    return None if row is None else str(row[0])


def require_head(connection: psycopg.Connection[Any]) -> None:
    """Refuse to work on a schema of another version than this program.

    Raises:
        UsageError: says which step the database has and what to do.
    """
    at, head = step_of(connection), steps()[-1]
    if at == head:
        return
    if at is not None and at not in steps():
        msg = f"The schema of the database is at step {at!r}, which this program does not know."
        raise UsageError(msg, hint="Upgrade marketdata.")
    found = "has no schema of ours" if at is None else f"has its schema at step {at!r}"
    msg = f"The database {found}; this program needs {head!r}."
    raise UsageError(msg, hint="Bring it up to date: marketdata db upgrade")


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What an upgrade has done: its steps, the policies it changed, how many marked ranges it refreshed."""

    steps: list[str]
    policies: list[str]
    refreshed: int


def upgrade(url: str, revision: str = HEAD, *, settings: Settings | None = None) -> Upgraded:
    """Do the steps up to ``revision``; at the head also set the policies and heal what a crash left.

    Args:
        url: of the database.
        revision: a step, its number or ``head``.
        settings: of the policies; without them policies stay as they are.

    Raises:
        UnknownName: there is no such step.
        UsageError: the database is further already, or the user may not change it.
        MarketDataError: the server does not answer or refuses.
    """
    target = _named(revision)
    plain = settings is not None and settings.store_timescaledb == "off"
    with _alembic(url, plain=plain) as (script, run):
        at, names = run.at, steps()
        if at is not None and names.index(at) > names.index(target):
            msg = f"The schema is at {at}, which comes after {target}."
            raise UsageError(msg, hint=f"To go back: marketdata db downgrade --to {target}")
        done = run(lambda heads: script._upgrade_revs(target, heads))
    if target != steps()[-1]:
        return Upgraded(done, [], 0)
    changes: list[str] = []
    with connect(url) as connection:
        try:
            if settings is not None:
                changes = policies.apply(connection, settings)
            connection.commit()
            connection.autocommit = True
            refreshed = wider.refresh(connection)
        except psycopg.Error as error:
            raise translate(error) from None
    return Upgraded(done, changes, refreshed)


def downgrade(url: str, revision: str) -> list[str]:
    """Undo the steps after ``revision``, newest first; ``base`` undoes all. What they hold is lost.

    Returns:
        The steps undone.

    Raises:
        UnknownName: there is no such step.
        UsageError: the database is not that far.
        MarketDataError: the server does not answer or refuses.
    """
    target = BASE if revision == BASE else _named(revision)
    with _alembic(url, plain=False) as (script, run):
        at, names = run.at, steps()
        if target != BASE and (at is None or names.index(at) < names.index(target)):
            msg = f"The schema is at {at or 'no step'}, which comes before {target}."
            raise UsageError(msg, hint="To go forward: marketdata db upgrade")
        if at is None:
            return []
        return run(lambda heads: script._downgrade_revs(target, heads))


def _named(revision: str) -> str:
    names = steps()
    if revision == HEAD:
        return names[-1]
    found = [name for name in names if revision in (name, name[:4], name[:4].lstrip("0"))]
    if not found:
        raise UnknownName(revision, kind="step", known=[*names, HEAD, BASE])
    return found[0]


class _Steps(ScriptDirectory):
    """Alembic's revisions, read from SQL files instead of Python modules."""

    def __init__(self, execute: Callable[[str, bool], None]) -> None:
        super().__init__(str(sql_folder()))
        self._execute = execute

    def _load_revisions(self) -> Iterator[Script]:
        before: str | None = None
        for name in steps():
            module: Any = ModuleType(name)
            module.revision, module.down_revision = name, before
            module.upgrade = lambda name=name: self._execute(name, True)
            module.downgrade = lambda name=name: self._execute(name, False)
            yield Script(module, name, str(sql_folder() / f"{name}.sql"))
            before = name


class _Run:
    """One upgrade or downgrade: knows where the database is, and does the steps it is told."""

    def __init__(self, connection: sa.Connection, at: str | None) -> None:
        self.connection, self.at = connection, at
        self.done: list[str] = []

    def __call__(self, wanted: Callable[[Any], list[RevisionStep]]) -> list[str]:
        def work(heads: Any, _: MigrationContext) -> list[RevisionStep]:
            return wanted(heads)

        options: dict[str, Any] = {"fn": work, "transaction_per_migration": True}
        MigrationContext.configure(self.connection, opts=options).run_migrations()
        return self.done


@contextmanager
def _alembic(url: str, *, plain: bool) -> Iterator[tuple[_Steps, _Run]]:
    """Alembic on one connection of ours, alone on this database."""
    url = libpq_url(url)
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(url),
        poolclass=sa.pool.NullPool,
        hide_parameters=True,
    )
    try:
        with engine.connect() as connection, connect(url, autocommit=True) as lock:
            lock.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            at = step_of(lock)
            if at is not None and at not in steps():
                msg = f"The schema of the database is at step {at!r}, which this program does not know."
                raise UsageError(msg, hint="Upgrade marketdata.")
            run = _Run(connection, at)
            server: Any = connection.connection.driver_connection
            variant = _variant(lock, plain=plain)

            def execute(name: str, up: bool) -> None:
                common, own = sql_folder(), sql_folder() / variant
                files = [common / f"{name}.sql", own / f"{name}.sql"]
                if not up:
                    files = [path.with_suffix(".down.sql") for path in reversed(files)]
                for path in files:
                    if path.exists():
                        server.execute(path.read_text("utf-8"))
                run.done.append(name)

            connection.rollback()
            yield _Steps(execute), run
    except psycopg.Error as error:
        raise translate(error) from None
    except sa.exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise translate(error.orig) from None
        raise
    except CommandError as error:
        msg = f"The steps of the schema do not fit together: {error}."
        raise UsageError(msg, hint="Install marketdata again.") from error
    finally:
        engine.dispose()


def _variant(connection: psycopg.Connection[Any], *, plain: bool) -> str:
    """Which folder goes beside the common files. A schema stays what it was made as."""
    row = connection.execute(
        "SELECT relkind = 'r' FROM pg_class WHERE oid = to_regclass('candle_5m')"
    ).fetchone()
    if row is not None:
        return "postgresql" if row[0] else "timescaledb"
    server = describe(connection)
    if plain or (server.timescaledb is None and server.available is None):
        return "postgresql"
    if server.timescaledb is None:
        try:
            _create_extension(connection)
        except psycopg.errors.InsufficientPrivilege:
            msg = "The server has TimescaleDB, and this user may not create the extension in the database."
            hint = "Have it created (CREATE EXTENSION timescaledb), or set MARKETDATA_STORE_TIMESCALEDB=off."
            raise UsageError(msg, hint=hint) from None
    return "timescaledb"


def _create_extension(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
