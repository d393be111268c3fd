"""A day in which an exchange fails: every schedule, sensor and automation ticks, and the runs are counted."""

from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor

from marketdata.backfill import backfill
from marketdata.market import Market
from marketdata.recording import entries
from marketdata_dagster import settle
from marketdata_dagster.defs import gaps
from marketdata_dagster.defs.automation import SWEEP_CRON
from marketdata_dagster.defs.partitions import Job
from tests.dagster.conftest import ALL, DAYS, DOT, LTC, NOW, USDT, World
from tests.dagster.ticks import CLOCK, SteppedPlatform, run, step, tick

HELD = date(2026, 6, 15)
TICK = timedelta(minutes=15)
SWEPT = ("exchange_candles", "quality")


@pytest.fixture
def day(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Two markets held until five days ago; the four days since are missing."""
    monkeypatch.setenv("MARKETDATA_REQUEST_ATTEMPTS", "1")
    monkeypatch.setattr(settle, "_PAUSE_S", 0.0)
    CLOCK[0] = NOW
    world.platform = SteppedPlatform()
    for outcome in backfill(world.lake, [(DOT, HELD), (USDT, HELD)], world.platform.settings, now=NOW):
        assert not isinstance(outcome, tuple)
    yield world
    gaps._surveys.clear()
    gaps._at_rest.clear()


class Daemon:
    """What Dagster's daemon does, once every quarter of an hour."""

    def __init__(self, world: World) -> None:
        self.world, self.cursor = world, None
        self.asked: Counter[str] = Counter()
        self.order: list[tuple[str, date]] = []

    def go(self, until: datetime) -> None:
        while CLOCK[0] < until:
            step(TICK)
            self.world.exchange.set_clock(CLOCK[0])
            self.schedules()
            for request in tick(self.world):
                self.asked["gaps"] += 1
                exchange = (request.asset_selection or ())[0].path[0]
                self.order.append((exchange, Job.of(exchange, str(request.partition_key)).day))
                run(self.world, request)
            if CLOCK[0].minute == 30 and CLOCK[0].hour % 6 == 0:
                self.sweep()

    def schedules(self) -> None:
        if (CLOCK[0].hour, CLOCK[0].minute) != (0, 15):
            return
        yesterday = (CLOCK[0] - timedelta(days=1)).date()
        for first, last in ((DOT, LTC), (USDT, USDT)):
            context = dg.build_schedule_context(
                instance=self.world.instance, scheduled_execution_time=CLOCK[0]
            )
            schedule = self.world.definitions.resolve_schedule_def(f"{first.exchange}_daily")
            assert len(schedule.evaluate_tick(context).run_requests or []) == 1
            self.asked["schedule"] += 1
            self.world.run(Job(first, yesterday), Job(last, yesterday))

    def sweep(self) -> None:
        result = dg.evaluate_automation_conditions(
            self.world.definitions,
            self.world.instance,
            asset_selection=dg.AssetSelection.assets(
                *[[exchange, asset] for exchange in ("kraken", "binance") for asset in SWEPT]
            ),
            evaluation_time=CLOCK[0],
            cursor=self.cursor,
        )
        self.cursor = result.cursor
        for each in result.results:
            keys = each.true_subset.expensively_compute_partition_keys()
            self.asked["sweep"] += len(keys)
            for key in keys:
                self.world.run(Job.of(each.key.path[0], key), assets=(each.key.path[-1],))


@pytest.mark.usefixtures("monkeypatch")
def test_an_exchange_that_fails_for_a_day_is_no_storm_and_then_everything_is_filled(day: World) -> None:
    day.exchange.faults([{"kind": "502", "match": "/0/public"}])  # Kraken; Binance answers
    daemon = Daemon(day)
    daemon.go(NOW + timedelta(days=1))
    failed = [each for each in daemon.order if each[0] == "kraken"]
    answered = [each for each in daemon.order if each[0] == "binance"]
    assert len(answered) == 4  # each missing day once; the schedule has brought the fifth
    assert len(failed) <= 30
    assert daemon.asked["schedule"] == 2
    assert daemon.asked["sweep"] <= 16
    told = entries(day.platform.settings, day.lake).filter(exchange="kraken")
    assert "exhausted" in told["state"].to_list()  # somebody is told that it fails

    day.exchange.faults([])
    daemon.order.clear()
    daemon.go(NOW + timedelta(days=1, hours=9))
    filled = [at for exchange, at in daemon.order if exchange == "kraken"]
    assert len(filled) == len(set(filled)) == 5
    # One day showed that the exchange answers, and the others followed from the newest on.
    assert filled[1:] == sorted(filled[1:], reverse=True)
    for market in (DOT, USDT):
        assert days_of(day, market) == [HELD + timedelta(days=n) for n in range(6)]
    now_open = entries(day.platform.settings, day.lake).group_by("case").last()
    assert "open" not in now_open["state"].to_list()


def days_of(world: World, market: Market) -> list[date]:
    return world.lake.days(market)[market]


def requested(world: World, at: datetime) -> dict[str, set[str]]:
    """What the sweep asks for at one moment, with the tick of its cron just passed."""
    selection = dg.AssetSelection.assets(*[["kraken", asset] for asset in SWEPT])
    before = dg.evaluate_automation_conditions(
        world.definitions, world.instance, selection, evaluation_time=at - timedelta(hours=1)
    )
    result = dg.evaluate_automation_conditions(
        world.definitions, world.instance, selection, evaluation_time=at, cursor=before.cursor
    )
    return {
        each.key.path[-1]: set(each.true_subset.expensively_compute_partition_keys())
        for each in result.results
    }


def test_the_sweep_asks_for_what_a_day_with_trades_lacks_and_for_no_trades(world: World) -> None:
    assert SWEEP_CRON == "30 */6 * * *"
    world.run(Job(DOT, DAYS[1]), assets=("trades",))
    world.run(Job(DOT, DAYS[2]), assets=(*ALL, "quality"))
    at = NOW.replace(minute=31)
    assert requested(world, at) == {name: {Job(DOT, DAYS[1]).key} for name in SWEPT}
    assert requested(world, at + timedelta(hours=2)) == {name: set() for name in SWEPT}


def test_a_day_that_came_again_by_another_way_is_looked_at_once_more_and_then_no_more(world: World) -> None:
    """What was said of it is of trades that the lake does not hold any more."""
    job, judged = Job(DOT, DAYS[2]), ("quality", "reconciliation")
    selection = dg.AssetSelection.assets(*[["kraken", asset] for asset in {*SWEPT, *judged}])

    def asked_for(
        at: datetime, cursor: AssetDaemonCursor | None
    ) -> tuple[set[str], dg.EvaluateAutomationConditionsResult]:
        result = dg.evaluate_automation_conditions(
            world.definitions, world.instance, selection, evaluation_time=at, cursor=cursor
        )
        return {each.key.path[-1] for each in result.results if each.true_subset.size}, result

    _, last = asked_for(NOW, None)
    assert world.run(job, assets=(*ALL, *judged)).success
    found, last = asked_for(NOW + timedelta(hours=7), last.cursor)
    assert found == set()
    for asset in ("trades", "candles"):  # as the sensor for days that arrive does
        world.instance.report_runless_asset_event(
            dg.AssetMaterialization(dg.AssetKey(["kraken", asset]), partition=job.key)
        )
    found, last = asked_for(NOW + timedelta(hours=8), last.cursor)
    assert found == set()
    found, last = asked_for(NOW + timedelta(hours=13), last.cursor)
    assert found == set(judged)
    for asset in judged:
        assert world.run(job, assets=(asset,)).success
    found, last = asked_for(NOW + timedelta(hours=19), last.cursor)
    assert found == set()


def test_the_sweep_asks_for_nothing_on_a_fresh_install(world: World) -> None:
    assert requested(world, NOW.replace(minute=31)) == {name: set() for name in SWEPT}


def test_no_two_that_ask_by_themselves_have_the_same_asset(world: World) -> None:
    swept = {
        spec.key.path[-1]
        for asset in world.definitions.assets or ()
        for spec in asset.specs  # type: ignore[union-attr]
        if spec.automation_condition is not None
    }
    assert not swept & {"trades", "candles"}
    every = {sensor.name: sensor.default_status for sensor in world.definitions.sensors or ()}
    assert set(every.values()) == {dg.DefaultSensorStatus.RUNNING}
