"""Dagster's SQLite storage with connections that stay open.

Dagster opens and closes the database for every statement of its event log, and each close writes the log of
SQLite back and waits for the disk: 20 to 100 ms an event. A year of seven symbols is some 15,000 events. Here
a process keeps its connections, and SQLite waits for the disk when it writes its log back and not at every
commit: after a power cut the last events may be missing (never torn), and the lake tells them again. Tables,
files and everything that reads them stay Dagster's.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from dagster import EventLogEntry
from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import (
    INDEX_SHARD_NAME,
    SqliteEventLogStorage,
)
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy import event as listening
from sqlalchemy.pool import StaticPool

_MOST_OPEN = 16


class Config(TypedDict):
    """What dagster.yaml says."""

    base_dir: str


class LocalStorage(DagsterSqliteStorage):
    """Runs, events and schedules in SQLite under ``base_dir``, laid out as Dagster does."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        """Open or make the databases."""
        super().__init__(base_dir, inst_data)
        self._event_log_storage = LocalEventLog(str(Path(base_dir) / "history" / "runs"))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Config) -> "LocalStorage":  # type: ignore[override]
        """Make what dagster.yaml describes."""
        return cls.from_local(inst_data=inst_data, **config_value)


class LocalEventLog(SqliteEventLogStorage):
    """Dagster's event log with open connections."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        """Open or make the databases."""
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._tables: set[str] = set()
        self._columns: set[str] = set()
        super().__init__(base_dir, inst_data)

    def has_table(self, table_name: str) -> bool:
        """Whether the index has that table; asked for at every event, so a yes is remembered."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        if column_name not in self._columns and super()._has_asset_key_col_on_connection(conn, column_name):
            self._columns.add(column_name)
        return column_name in self._columns

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of the partitions of a run, in two transactions however many they are."""
        runs: dict[str, list[EventLogEntry]] = {}
        for event in events:
            if event.run_id and _is_of_an_asset(event):
                runs.setdefault(event.run_id, []).append(event)
            else:
                self.store_event(event)
        for run_id, batch in runs.items():
            self._store_batch(run_id, batch)

    def _store_batch(self, run_id: str, events: Sequence[EventLogEntry]) -> None:
        rows = [self._event_to_row(event) for event in events]
        with self.run_connection(run_id) as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
        with self.index_transaction() as connection:
            insert = SqlEventLogStorageTable.insert().returning(
                SqlEventLogStorageTable.c.id, sort_by_parameter_order=True
            )
            ids = list(connection.execute(insert, rows).scalars())
            self._store_asset_event_tags(connection, events, ids)
            last = {str(event.get_dagster_event().asset_key): at for at, event in enumerate(events)}
            for at in last.values():
                self._store_asset_event(connection, events[at], ids[at])
        os.utime(self.path_for_shard(run_id))

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event, and let those who watch the run's file know: its bytes change later."""
        super().store_event(event)
        if event.run_id:
            os.utime(self.path_for_shard(event.run_id))

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock, self._engine(shard).connect() as connection, connection.begin():
            yield connection

    def _engine(self, shard: str) -> Engine:
        engine = self._engines.get(shard)
        if engine is not None and not Path(self.path_for_shard(shard)).exists():
            self._engines.pop(shard).dispose()
            self._initialized_dbs.discard(shard)
            engine = None
        if engine is None:
            engine = create_engine(
                self.conn_string_for_shard(shard),
                poolclass=StaticPool,
                connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
            )
            listening.listen(engine, "connect", _do_not_wait_for_the_disk)
            self._engines[shard] = engine
        self._engines.move_to_end(shard)
        if shard not in self._initialized_dbs:
            self._initdb(engine)
            self._initialized_dbs.add(shard)
        for old in [name for name in self._engines if name != INDEX_SHARD_NAME][:-_MOST_OPEN]:
            self._engines.pop(old).dispose()
        return engine

    def dispose(self) -> None:
        """Close everything."""
        with self._db_lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines.clear()
        super().dispose()


def _is_of_an_asset(event: EventLogEntry) -> bool:
    return event.is_dagster_event and event.dagster_event_type in ASSET_EVENTS


def _do_not_wait_for_the_disk(connection: Any, record: Any) -> None:  # noqa: ARG001
    connection.execute("PRAGMA synchronous=NORMAL")
