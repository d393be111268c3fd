"""Dagster's SQLite storage with connections that stay open.

Dagster opens and closes the database for every statement of its event log, and each close writes the log of
SQLite back and waits for the disk: 20 to 100 ms an event. A year of seven symbols is some 15,000 events. Here
a process keeps its connections, and SQLite waits for the disk when it writes its log back and not at every
commit: after a power cut the last events may be missing (never torn), and the lake tells them again. Tables,
files and everything that reads them stay Dagster's.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from dagster import DagsterEventType, EventLogEntry
from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import (
    INDEX_SHARD_NAME,
    SqliteEventLogStorage,
)
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, bindparam, create_engine, select
from sqlalchemy import event as listening
from sqlalchemy.pool import StaticPool

_MOST_OPEN = 16
_Row = dict[str, Any]
_StoreInIndex = Callable[[Connection, Sequence[EventLogEntry], Sequence[_Row], Sequence[int]], None]


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
        batches: dict[tuple[str, _StoreInIndex], list[EventLogEntry]] = {}
        for event in events:
            store = self._store_in_index(event)
            if event.run_id and store is not None:
                batches.setdefault((event.run_id, store), []).append(event)
            else:
                self.store_event(event)
        for (run_id, store), batch in batches.items():
            rows = [self._event_to_row(event) for event in batch]
            with self.run_connection(run_id) as connection:
                connection.execute(SqlEventLogStorageTable.insert(), rows)
            with self.index_transaction() as connection:
                insert = SqlEventLogStorageTable.insert().returning(
                    SqlEventLogStorageTable.c.id, sort_by_parameter_order=True
                )
                ids = list(connection.execute(insert, rows).scalars())
                store(connection, batch, rows, ids)
            os.utime(self.path_for_shard(run_id))

    def _store_in_index(self, event: EventLogEntry) -> "_StoreInIndex | None":
        """What the index keeps of such an event, when it can be kept for many at once."""
        if not event.is_dagster_event:
            return None
        if event.dagster_event_type in ASSET_EVENTS:
            return self._store_asset_events
        if event.dagster_event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            partition = event.get_dagster_event().asset_check_evaluation_data.partition
            return None if partition is None else self._store_evaluations
        return None

    def _store_asset_events(
        self, connection: Connection, events: Sequence[EventLogEntry], _: Sequence[_Row], ids: Sequence[int]
    ) -> None:
        self._store_asset_event_tags(connection, events, ids)
        last = {str(event.get_dagster_event().asset_key): at for at, event in enumerate(events)}
        for at in last.values():
            self._store_asset_event(connection, events[at], ids[at])

    def _store_evaluations(
        self,
        connection: Connection,
        events: Sequence[EventLogEntry],
        rows: Sequence[_Row],
        ids: Sequence[int],
    ) -> None:
        """Each evaluation takes the place of the row that was planned for it, as Dagster does one by one."""
        found = [
            _evaluation_row(event, row, event_id)
            for event, row, event_id in zip(events, rows, ids, strict=True)
        ]
        table = AssetCheckExecutionsTable
        names = ("asset_key", "check_name", "run_id", "partition")
        keys = {tuple(row[name] for name in names) for row in found}
        planned = {
            tuple(row)
            for asset, check, run_id in {key[:3] for key in keys}
            for row in connection.execute(
                select(*(table.c[name] for name in names)).where(
                    table.c.asset_key == asset, table.c.check_name == check, table.c.run_id == run_id
                )
            )
        }
        where = [table.c[name] == bindparam(f"old_{name}") for name in names]
        update = table.update().where(*where)
        changed = [
            row | {f"old_{name}": row[name] for name in names}
            for row in found
            if tuple(row[name] for name in names) in planned
        ]
        if changed:
            values: dict[str, Any] = {name: bindparam(name) for name in found[0] if name not in names}
            connection.execute(update.values(values), changed)
        fresh = [row for row in found if tuple(row[name] for name in names) not in planned]
        if fresh:
            connection.execute(table.insert(), fresh)

    def _store_asset_check_evaluation_planned(self, event: EventLogEntry, event_id: int | None) -> None:
        """As Dagster does, which writes the event, a list of all keys, out anew for each of them."""
        planned = event.get_dagster_event().asset_check_planned_data
        keys = planned.partitions_subset.get_partition_keys() if planned.partitions_subset else [None]
        logged = self._event_to_row(event)
        row = {
            "asset_key": planned.asset_key.to_string(),
            "check_name": planned.check_name,
            "run_id": event.run_id,
            "execution_status": AssetCheckExecutionRecordStatus.PLANNED.value,
            "evaluation_event": logged["event"],
            "evaluation_event_timestamp": logged["timestamp"],
            "evaluation_event_storage_id": event_id,
        }
        with self.index_connection() as connection:
            connection.execute(AssetCheckExecutionsTable.insert(), [row | {"partition": key} for key in keys])

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


def _evaluation_row(event: EventLogEntry, row: _Row, event_id: int) -> _Row:
    """An evaluation as Dagster keeps it; ``row`` is what the event log holds of the event."""
    evaluation = event.get_dagster_event().asset_check_evaluation_data
    target = evaluation.target_materialization_data
    status = AssetCheckExecutionRecordStatus
    return {
        "asset_key": evaluation.asset_key.to_string(),
        "check_name": evaluation.check_name,
        "partition": evaluation.partition,
        "run_id": event.run_id,
        "execution_status": (status.SUCCEEDED if evaluation.passed else status.FAILED).value,
        "evaluation_event": row["event"],
        "evaluation_event_timestamp": row["timestamp"],
        "evaluation_event_storage_id": event_id,
        "materialization_event_storage_id": None if target is None else target.storage_id,
    }


def _do_not_wait_for_the_disk(connection: Any, record: Any) -> None:  # noqa: ARG001
    connection.execute("PRAGMA synchronous=NORMAL")
