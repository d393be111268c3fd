"""The daily report as an asset, and the ledger beside the checks."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from marketdata.ledger import Entry, Event, State
from marketdata.manifest import day_window
from marketdata.recording import record
from marketdata_dagster import story
from marketdata_dagster.checks import COMPLETE
from marketdata_dagster.defs.partitions import Job
from tests.dagster.conftest import DAYS, DOT, LTC, NOW, World


def case(job: Job) -> list[Entry]:
    """A day that was incomplete and is right again."""
    about = (job.market, "trades", "incomplete", *day_window(job.day))
    at = NOW.replace(hour=3)
    return [
        Entry(at, Event.FINDING, State.OPEN, *about, "3 trades are missing: ids 5 to 7.", before={"rows": 7}),
        Entry(
            at + timedelta(minutes=5),
            Event.OUTCOME,
            State.REPAIRED,
            *about,
            "Every id is there.",
            attempt=1,
            before={"rows": 7},
            after={"rows": 10},
        ),
    ]


def make(world: World, day: str) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*(world.definitions.assets or ())],  # type: ignore[list-item]
        instance=world.instance,
        resources={"platform": world.platform},
        selection=[dg.AssetKey(["report"])],
        partition_key=day,
        raise_on_error=False,
    )


def test_the_report_of_yesterday_is_asked_for_after_the_daily_runs(world: World) -> None:
    schedule = world.definitions.resolve_schedule_def("report_daily")
    assert schedule.cron_schedule == "45 0 * * *"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    context = dg.build_schedule_context(
        instance=world.instance,
        scheduled_execution_time=datetime(2026, 6, 20, 0, 45, tzinfo=UTC),
        repository_def=world.definitions.get_repository_def(),
    )
    (request,) = schedule.evaluate_tick(context).run_requests or []
    assert (request.run_key, request.partition_key) == ("2026-06-19", "2026-06-19")


def test_the_report_stands_in_the_ui_and_in_the_lake(world: World) -> None:
    assert world.run(Job(DOT, DAYS[1]), assets=("trades", "candles", "exchange_candles")).success
    record(world.platform.settings, world.lake, case(Job(DOT, DAYS[1])))
    assert make(world, str(DAYS[1])).success
    (found,) = world.instance.fetch_materializations(dg.AssetKey(["report"]), limit=1).records
    assert found.asset_materialization is not None
    metadata = found.asset_materialization.metadata
    assert "| kraken:DOT/USD | complete |" in str(metadata["report"].value)
    page = Path(str(metadata["page"].value))
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert metadata["markets complete"].value == 1
    assert found.partition_key == str(DAYS[1])


def test_a_check_of_the_day_tells_what_the_ledger_has_of_it(world: World) -> None:
    job, other = Job(DOT, DAYS[0]), Job(LTC, DAYS[0])
    record(world.platform.settings, world.lake, case(job))
    assert world.run(job).success
    assert world.run(other).success
    of_dot = world.evaluations(DOT, COMPLETE, "trades")
    told = str(of_dot[job.key].metadata[story.LEDGER].value)
    assert f"{DAYS[0]}, trades incomplete: repaired, tried once" in told
    assert "finding: 3 trades are missing: ids 5 to 7. (rows 7)" in told
    assert "rows 7 → 10" in told
    assert story.LEDGER not in of_dot[other.key].metadata
    alone = story.of_day(world.platform.settings, world.lake, LTC, DAYS[0])
    assert alone.value == "The ledger has nothing of this day."
