"""The candle service as processes, killed, joined and left, and its broker: nothing is lost or repeated."""

import time

from tests.kafka.broker import Broker
from tests.realtime.faults.conftest import SOAK
from tests.realtime.faults.world import World, pauses

KILLS = 50 if SOAK else 2


def test_killed_at_random_points_under_load_it_makes_the_candles_of_the_batch(world: World) -> None:
    world.candles()
    with world.publishing(1, 2_500 * KILLS, pause_s=0.5):
        for pause in pauses(1, KILLS, 0.0, 1.5):
            world.works("one")
            time.sleep(pause)
            world.kill("one")
            world.start("one")
    world.check()


def test_a_third_instance_joins_and_leaves_and_another_is_killed(world: World) -> None:
    for name in ("one", "two"):
        world.candles(name)
    with world.publishing(2, 6_000, pause_s=0.4):
        world.works("one")
        world.candles("three")
        world.works("three")
        time.sleep(1.0)
        world.stop("three")
        world.kill("two")
        time.sleep(1.0)
        world.start("two")
    world.check()


def test_a_broker_that_restarts_costs_nothing(world: World, own_broker: Broker) -> None:
    world.candles()
    with world.publishing(3, 4_000, pause_s=0.4):
        world.works("one")
        time.sleep(1.0)
        own_broker.stop()
        time.sleep(1.0)
        own_broker.start()
    world.check()
