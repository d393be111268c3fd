"""A day that is damaged behind the back of all that writes it: its check says so, and nothing else stops."""

import dagster as dg

from marketdata.backfill import backfill
from marketdata_dagster import demo_repair
from marketdata_dagster.checks import COMPLETE
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.verdicts import every_trade_is_there
from tests.dagster.conftest import DAYS, DOT, NOW, World


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
