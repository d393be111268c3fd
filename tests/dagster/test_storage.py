"""The event log with open connections is Dagster's own event log."""

from pathlib import Path

import dagster as dg
import yaml

from marketdata.settings import Settings
from marketdata_dagster.instance import prepare


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
