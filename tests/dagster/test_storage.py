"""The event log with open connections is Dagster's own event log."""

from pathlib import Path

import dagster as dg
import yaml
from dagster._core.events import DagsterEvent
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from sqlalchemy import select

from marketdata.settings import Settings
from marketdata_dagster.instance import prepare
from marketdata_dagster.storage import LocalEventLog


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def letters(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """One partition a letter."""
    return dg.MaterializeResult(metadata={"letter": context.partition_key})


def test_dagster_reads_what_was_written(tmp_path: Path) -> None:
    home, _ = prepare(Settings.load(home=tmp_path))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for key in "ab":
            assert dg.materialize([letters], instance=instance, partition_key=key).success
        runs = [run.run_id for run in instance.get_runs()]
    plain = yaml.safe_load((home / "dagster.yaml").read_text())
    plain["storage"] = {"sqlite": {"base_dir": str(home)}}
    plain.pop("run_launcher")
    (home / "dagster.yaml").write_text(yaml.safe_dump(plain))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_materialized_partitions(letters.key) == {"a", "b"}
        assert all(instance.all_logs(run, of_type=dg.DagsterEventType.RUN_SUCCESS) for run in runs)


def test_a_run_that_is_deleted_leaves_no_stale_connection(tmp_path: Path) -> None:
    home, _ = prepare(Settings.load(home=tmp_path))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = dg.materialize([letters], instance=instance, partition_key="a").run_id
        assert instance.all_logs(run)
        instance.wipe()
        assert instance.all_logs(run) == []
        assert dg.materialize([letters], instance=instance, partition_key="b").success
        assert instance.get_materialized_partitions(letters.key) == {"b"}


def test_the_file_of_a_run_tells_its_watchers_of_every_event(tmp_path: Path) -> None:
    home, _ = prepare(Settings.load(home=tmp_path))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = dg.materialize([letters], instance=instance, partition_key="a").run_id
        path = Path(instance.event_log_storage.path_for_shard(run))  # type: ignore[attr-defined]
        before = path.stat().st_mtime_ns
        found = instance.get_run_by_id(run)
        assert found is not None
        instance.report_engine_event("still here", found)
        assert path.stat().st_mtime_ns > before


def evaluations(run_id: str, keys: str) -> list[dg.EventLogEntry]:
    """What a check of some letters writes, the last of them failed."""
    return [
        dg.EventLogEntry(
            error_info=None,
            level=10,
            user_message="",
            run_id=run_id,
            timestamp=1_750_000_000.0 + number,
            dagster_event=DagsterEvent(
                event_type_value=dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
                job_name="job",
                event_specific_data=dg.AssetCheckEvaluation(
                    asset_key=letters.key,
                    check_name="is_a_letter",
                    passed=key != keys[-1],
                    metadata={},
                    partition=key,
                ),
            ),
        )
        for number, key in enumerate(keys)
    ]


def test_evaluations_stored_together_are_those_stored_one_by_one(tmp_path: Path) -> None:
    def stored(folder: str, *, together: bool) -> list[tuple[object, ...]]:
        home, _ = prepare(Settings.load(home=tmp_path / folder))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            log = instance.event_log_storage
            assert isinstance(log, LocalEventLog)
            # The first time nothing was planned; the second time each takes the place of the first.
            for keys in ("ab", "abc"):
                if together:
                    log.store_event_batch(evaluations("run", keys))
                else:
                    for event in evaluations("run", keys):
                        log.store_event(event)
            table = AssetCheckExecutionsTable.c
            names = [column for column in table if column.name not in {"id", "create_timestamp"}]
            with log.index_connection() as connection:
                rows = connection.execute(select(*names).order_by(table.partition)).all()
            assert len(instance.all_logs("run")) == 5
        return [tuple(row) for row in rows]

    one_by_one = stored("one by one", together=False)
    assert [(row[2], row[4]) for row in one_by_one] == [
        ("a", "SUCCEEDED"), ("b", "SUCCEEDED"), ("c", "FAILED"),
    ]  # fmt: skip
    assert stored("together", together=True) == one_by_one
