"""A day that is damaged behind the back of all that writes it: its check says so, and nothing else stops."""

from pathlib import Path

import dagster as dg

from marketdata.backfill import backfill
from marketdata_dagster import demo_repair
from marketdata_dagster.checks import AGREE, COMPLETE
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.verdicts import every_trade_is_there
from tests.dagster.conftest import DAYS, DOT, LTC, NOW, World


def tick(world: World, cursor: str | None = None) -> str | None:
    sensor = world.definitions.resolve_sensor_def("lake_arrivals")
    context = dg.build_sensor_context(
        instance=world.instance, cursor=cursor, resources={"platform": world.platform}
    )
    return sensor.evaluate_tick(context).cursor


def fetched(world: World) -> None:
    outcomes = backfill(world.lake, [(DOT, day) for day in DAYS], world.platform.settings, now=NOW)
    assert all(not isinstance(outcome, tuple) for outcome in outcomes)


def test_the_check_of_a_day_cut_in_half_fails_before_anybody_repairs_it(world: World) -> None:
    fetched(world)
    cursor = tick(world)
    assert all(one.passed for one in world.evaluations(DOT, COMPLETE, "trades").values())
    demo_repair.cut_in_half(world.lake, DOT, DAYS[1])
    tick(world, cursor)
    found = world.evaluations(DOT, COMPLETE, "trades")
    failed = [key for key, one in found.items() if not one.passed]
    assert failed == [Job(DOT, DAYS[1]).key]


def test_a_damaged_day_fails_its_check_and_not_that_of_its_neighbour(world: World) -> None:
    fetched(world)
    demo_repair.cut_in_half(world.lake, DOT, DAYS[1])
    damaged, neighbour = (every_trade_is_there(world.lake, Job(DOT, day), NOW) for day in (DAYS[1], DAYS[2]))
    assert not damaged.passed
    assert damaged.sentence.startswith("The file of the day is damaged.")
    assert neighbour.passed


def cut(world: World) -> str:
    """The exchange's own candles of a day that cannot be read any more; returns the partition."""
    path = Path(world.lake.path("exchange_candles", DOT, DAYS[0], "1m"))
    path.write_bytes(path.read_bytes()[:200])
    return Job(DOT, DAYS[0]).key


def test_damaged_candles_of_the_exchange_fail_the_check_that_needs_them_on_that_day_alone(
    world: World,
) -> None:
    range_of_days = Job(DOT, DAYS[0]), Job(LTC, DAYS[1])
    assert world.run(*range_of_days).success
    damaged = cut(world)
    assert world.run(*range_of_days, assets=("trades", "candles")).success
    complete, agree = (
        world.evaluations(DOT, check, asset) for check, asset in ((COMPLETE, "trades"), (AGREE, "candles"))
    )
    assert all(one.passed for one in complete.values())
    assert [key for key, one in agree.items() if not one.passed] == [damaged]
    assert str(agree[damaged].description).startswith("A file of the day is damaged.")
    assert "cannot be read" in str(complete[damaged].metadata["evidence"].value)


def test_days_that_arrive_beside_damaged_candles_of_the_exchange_are_all_recorded_and_checked(
    world: World,
) -> None:
    assert world.run(Job(DOT, DAYS[0]), assets=("exchange_candles",)).success
    damaged = cut(world)
    backfill(
        world.lake, [(market, day) for day in DAYS for market in (DOT, LTC)], world.platform.settings, now=NOW
    )
    tick(world)
    wanted = {Job(market, day).key for day in DAYS for market in (DOT, LTC)}
    for asset in ("trades", "candles"):
        assert world.instance.get_materialized_partitions(dg.AssetKey(["kraken", asset])) == wanted
    assert set(world.evaluations(DOT, COMPLETE, "trades")) == wanted
    agree = world.evaluations(DOT, AGREE, "candles")
    assert {key for key, one in agree.items() if not one.passed} == {damaged}
