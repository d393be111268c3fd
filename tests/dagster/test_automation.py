"""The schedule and the sensor, by real ticks."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from marketdata.backfill import backfill
from marketdata_dagster import arrivals
from marketdata_dagster.checks import AGREE, COMPLETE
from marketdata_dagster.defs.partitions import RANGE_END, RANGE_START, Job
from tests.dagster.conftest import DAYS, DOT, LTC, NOW, USDT, World


def tick(world: World, cursor: str | None = None) -> tuple[str, str]:
    """One tick of the sensor: what it says and its cursor."""
    sensor = world.definitions.resolve_sensor_def("lake_arrivals")
    context = dg.build_sensor_context(
        instance=world.instance, cursor=cursor, resources={"platform": world.platform}
    )
    data = sensor.evaluate_tick(context)
    return str(data.skip_message), str(data.cursor)


def by_command_line(world: World, *jobs: Job) -> None:
    """What ``marketdata backfill`` does."""
    outcomes = backfill(world.lake, [(job.market, job.day) for job in jobs], world.platform.settings, now=NOW)
    assert all(not isinstance(outcome, tuple) for outcome in outcomes)


def known(world: World, exchange: str, asset: str) -> set[str]:
    return world.instance.get_materialized_partitions(dg.AssetKey([exchange, asset]))


def test_a_quarter_past_midnight_yesterday_is_asked_for_with_every_symbol(world: World) -> None:
    schedule = world.definitions.resolve_schedule_def("kraken_daily")
    assert schedule.cron_schedule == "15 0 * * *"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    context = dg.build_schedule_context(
        instance=world.instance, scheduled_execution_time=datetime(2026, 6, 20, 0, 15, tzinfo=UTC)
    )
    (request,) = schedule.evaluate_tick(context).run_requests or []
    assert request.run_key == "2026-06-19"
    assert request.tags[RANGE_START] == Job(DOT, DAYS[2]).key
    assert request.tags[RANGE_END] == Job(LTC, DAYS[2]).key


def test_no_job_has_partitions_of_its_own_page(world: World) -> None:
    jobs = [job.name for job in world.definitions.resolve_all_job_defs()]
    assert all(name.startswith(("__ASSET_JOB", "__anonymous_asset_job")) for name in jobs)


def test_a_day_from_the_command_line_appears_with_its_metadata_and_checks(world: World) -> None:
    job = Job(DOT, DAYS[0])
    by_command_line(world, job)
    said, cursor = tick(world)
    assert said == "2 days recorded."
    assert known(world, "kraken", "trades") == known(world, "kraken", "candles") == {job.key}
    manifest = world.lake.manifest(DOT, DAYS[0])
    assert manifest is not None
    assert world.metadata(job, "trades")["content hash"] == manifest.content_hash
    evaluation = world.evaluations(DOT, COMPLETE, "trades")[job.key]
    assert evaluation.passed
    assert evaluation.target_materialization_data is not None
    assert world.evaluations(DOT, AGREE, "candles")[job.key].passed
    assert tick(world, cursor)[0] == "Every day of the lake is known."


def test_a_tick_that_lost_its_cursor_records_nothing_twice(world: World) -> None:
    by_command_line(world, Job(DOT, DAYS[0]), Job(USDT, DAYS[1]))
    assert tick(world)[0] == "4 days recorded."
    assert tick(world, None)[0] == "Every day of the lake is known."


def test_what_a_run_has_made_is_known(world: World) -> None:
    assert world.run(Job(DOT, DAYS[0]), Job(DOT, DAYS[2])).success
    assert tick(world)[0] == "Every day of the lake is known."


def test_a_day_that_has_changed_is_recorded_again(world: World) -> None:
    job = Job(DOT, DAYS[0])
    by_command_line(world, job)
    _, cursor = tick(world)
    manifest = world.lake.manifest(DOT, DAYS[0])
    assert manifest is not None
    assert manifest.first_id is not None
    world.exchange.hide(str(DOT), [(manifest.first_id + 5, manifest.first_id + 6)])
    world.lake.storage.delete_folder(f"trades/exchange=kraken/symbol=DOT-USD/date={DAYS[0]}")
    by_command_line(world, job)
    said, _ = tick(world, cursor)
    assert said == "2 days recorded."
    assert world.metadata(job, "trades")["ids not served"].startswith("2: ")


def test_days_of_markets_that_are_not_tracked_are_left_alone(world: World) -> None:
    other = Job(type(DOT)("kraken", "ADA/USD"), DAYS[0])
    by_command_line(world, other)
    assert tick(world)[0] == "Every day of the lake is known."


def test_days_written_by_a_run_that_goes_on_are_left_to_it_for_a_while() -> None:
    job, later = Job(DOT, DAYS[0]), Job(DOT, DAYS[1])
    times = {job: 100, later: 200}
    chosen, until = arrivals.pick(times, set(), until=0, limits={job: 150, later: 150}, now=999)
    assert (chosen, until) == ([job], 199)
    chosen, until = arrivals.pick(times, {job}, until=until, limits={job: 250, later: 250}, now=999)
    assert (chosen, until) == ([later], 200)
    assert arrivals.pick(times, {job, later}, until=until, limits={}, now=999) == ([], 200)


@pytest.mark.parametrize("most", [1, 2])
def test_a_tick_takes_a_few_days_and_the_next_one_goes_on(most: int) -> None:
    jobs = [Job(DOT, day) for day in DAYS]
    times = {job: at for at, job in enumerate(jobs, start=1)}
    seen: list[Job] = []
    until = 0
    for _ in range(3):
        chosen, until = arrivals.pick(times, set(jobs), until=until, limits={}, now=999, most=most)
        seen += chosen
    assert seen == jobs


def test_a_file_that_says_a_time_to_come_hides_nothing_that_is_written_until_then() -> None:
    ahead, job = Job(DOT, DAYS[0]), Job(DOT, DAYS[1])
    known = {ahead, job}
    _, until = arrivals.pick({ahead: 10_000, job: 900}, known, until=800, limits={}, now=1_000)
    chosen, until = arrivals.pick({ahead: 10_000, job: 1_050}, known, until=until, limits={}, now=1_100)
    assert job in chosen
    _, until = arrivals.pick({ahead: 10_000, job: 1_050}, known, until=until, limits={}, now=10_000)
    assert arrivals.pick({ahead: 10_000, job: 1_050}, known, until=until, limits={}, now=10_001) == (
        [],
        10_000,
    )
