"""The sensor of days: what is missing, cut, short or stale is asked for and whole again, by real ticks."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow.parquet as pq
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from marketdata.backfill import backfill
from marketdata.recording import entries
from marketdata_dagster.defs import gaps
from marketdata_dagster.defs.partitions import RANGE_END, RANGE_START, Job
from tests.dagster.conftest import DAYS, DOT, LTC, NOW, USDT, World
from tests.dagster.ticks import CLOCK, SteppedPlatform, jobs, run, states, step, tick


@pytest.fixture
def stepped(world: World) -> Iterator[World]:
    """A world whose clock the test steps, with three days of two markets in the lake."""
    CLOCK[0] = NOW
    world.platform = SteppedPlatform()
    held = [(market, day) for market in (DOT, USDT) for day in DAYS]
    outcomes = backfill(world.lake, held, world.platform.settings, now=NOW)
    assert all(not isinstance(outcome, tuple) for outcome in outcomes)
    yield world
    gaps._surveys.clear()
    gaps._at_rest.clear()


def path(world: World, day: date, kind: str = "trades") -> Path:
    interval = "1m" if kind == "candles" else None
    return Path(world.lake.path(kind, DOT, day, interval))  # type: ignore[arg-type]


def halve(file: Path) -> None:
    """Keep the first half of the rows, and the manifest that speaks of all of them."""
    table = pq.read_table(file)
    pq.write_table(table.slice(0, table.num_rows // 2).replace_schema_metadata(table.schema.metadata), file)


def test_the_sensor_runs_from_the_start_and_asks_for_nothing_where_nothing_is_wrong(stepped: World) -> None:
    sensor = stepped.definitions.resolve_sensor_def("gaps")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30
    assert tick(stepped) == []
    assert states(stepped) == []


def test_a_fresh_install_fetches_nothing_by_itself(world: World) -> None:
    assert tick(world) == []


def test_a_day_cut_in_half_is_whole_after_two_ticks_and_the_ledger_tells_how(stepped: World) -> None:
    before = path(stepped, DAYS[1]).read_bytes()
    halve(path(stepped, DAYS[1]))
    (request,) = tick(stepped)
    assert jobs([request]) == [f"kraken {Job(DOT, DAYS[1]).key}"]
    assert run(stepped, request).success
    assert path(stepped, DAYS[1]).read_bytes() == before
    assert tick(stepped) == []
    told = entries(stepped.platform.settings, stepped.lake)
    assert told["event"].to_list() == ["finding", "repair", "outcome"]
    finding, repair, outcome = told.iter_rows(named=True)
    assert "and its manifest speaks of" in finding["detail"]
    assert "damage" in outcome["before"]
    (ran,) = stepped.instance.get_runs()
    assert repair["run_id"] == outcome["run_id"] == ran.run_id
    assert outcome["state"] == "repaired"


@pytest.mark.parametrize("damage", [b"", b"no parquet", None], ids=["empty", "foreign", "cut"])
def test_a_file_that_cannot_be_read_is_fetched_again(stepped: World, damage: bytes | None) -> None:
    file = path(stepped, DAYS[0])
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 3] if damage is None else damage)
    (request,) = tick(stepped)
    assert run(stepped, request).success
    assert file.read_bytes() == whole
    assert tick(stepped) == []
    assert states(stepped) == [("damaged", "repaired")]


def test_days_that_are_missing_between_and_behind_held_days_are_asked_for_newest_first(
    stepped: World,
) -> None:
    for day in DAYS[1:]:
        path(stepped, day).unlink()
        path(stepped, day, "candles").unlink()
    stepped.lake.storage.delete(f"trades/exchange=binance/symbol=LTC-USDT/date={DAYS[1]}/part-0.parquet")
    requests = tick(stepped)
    assert jobs(requests) == [
        f"kraken {Job(DOT, DAYS[2]).key}",
        f"binance {Job(USDT, DAYS[1]).key}",
        f"kraken {Job(DOT, DAYS[1]).key}",
    ]
    for request in requests:
        assert run(stepped, request).success
    assert tick(stepped) == []
    assert states(stepped) == [("missing", "repaired")] * 3


def test_stale_candles_are_folded_again_without_asking_the_exchange(stepped: World) -> None:
    path(stepped, DAYS[2], "candles").unlink()
    gaps._surveys.clear()
    (request,) = tick(stepped)
    assert {key.path[-1] for key in request.asset_selection or ()} == {"candles", "reconciliation"}
    stepped.exchange.faults([{"kind": "502"}])
    assert run(stepped, request).success
    assert tick(stepped) == []
    assert states(stepped) == [("stale", "repaired")]


def test_a_partition_that_a_run_or_a_backfill_is_working_on_is_not_asked_for(stepped: World) -> None:
    path(stepped, DAYS[1]).unlink()
    job = stepped.definitions.resolve_implicit_global_asset_job_def()
    tags = {RANGE_START: Job(DOT, DAYS[0]).key, RANGE_END: Job(LTC, DAYS[2]).key}
    going_on = stepped.instance.create_run_for_job(
        job,
        status=dg.DagsterRunStatus.STARTED,
        tags=tags,
        asset_selection=frozenset({dg.AssetKey(["kraken", "trades"])}),
    )
    assert tick(stepped) == []
    assert states(stepped) == []
    stepped.instance.report_run_canceled(going_on)
    assert len(tick(stepped)) == 1


@pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`:DeprecationWarning")
def test_a_backfill_whose_runs_are_not_launched_yet_counts(stepped: World) -> None:
    path(stepped, DAYS[1]).unlink()
    graph = stepped.definitions.resolve_asset_graph()
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="one",
        asset_graph=graph,
        partition_names=[Job(DOT, DAYS[1]).key],
        asset_selection=[dg.AssetKey(["kraken", "trades"])],
        backfill_timestamp=NOW.timestamp(),
        tags={},
        dynamic_partitions_store=stepped.instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    stepped.instance.add_backfill(backfill)
    assert tick(stepped) == []
    stepped.instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELED))
    assert len(tick(stepped)) == 1


def test_what_the_exchange_does_not_serve_is_told_once_and_not_asked_for_again(stepped: World) -> None:
    manifest = stepped.lake.manifest(DOT, DAYS[1])
    assert manifest is not None
    assert manifest.first_id is not None
    stepped.exchange.hide(str(DOT), [(manifest.first_id + 5, manifest.first_id + 7)])
    path(stepped, DAYS[1]).write_bytes(b"")
    (request,) = tick(stepped)
    assert run(stepped, request).success
    for _ in range(3):
        step(timedelta(hours=3))
        assert tick(stepped) == []
    ((reason, state),) = states(stepped)
    assert (reason, state) == ("damaged", "repaired")
    last = entries(stepped.platform.settings, stepped.lake).row(-1, named=True)
    assert "3 more are not served" in last["detail"]


def test_an_unchanged_lake_is_not_read_again(stepped: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tick(stepped)
    opened: list[object] = []
    real = type(stepped.lake).manifest
    monkeypatch.setattr(type(stepped.lake), "manifest", lambda *a: opened.append(a) or real(*a))
    tick(stepped)
    assert opened == []
    halve(path(stepped, DAYS[0]))
    assert len(tick(stepped)) == 1
    assert len(opened) == 1


def test_the_ledger_is_all_that_a_restart_needs(stepped: World) -> None:
    path(stepped, DAYS[1]).unlink()
    (request,) = tick(stepped)
    gaps._surveys.clear()
    gaps._at_rest.clear()
    (again,) = tick(stepped)  # its run was never started
    assert again.run_key == request.run_key
    assert run(stepped, again).success
    gaps._surveys.clear()
    assert tick(stepped) == []
    assert entries(stepped.platform.settings, stepped.lake).select(pl.col("event")).height == 3
