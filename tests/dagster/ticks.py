"""Ticks of the gaps sensor as the daemon does them: what is requested runs at once, in this process."""

from datetime import datetime, timedelta

import dagster as dg

from marketdata.ledger import cases
from marketdata.recording import entries
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.defs.resources import Platform
from tests.dagster.conftest import NOW, World


class SteppedPlatform(Platform):
    """The platform at a time that the test sets."""

    def now(self) -> datetime:
        """See :data:`CLOCK`."""
        return CLOCK[0]


CLOCK = [NOW]


def step(by: timedelta) -> None:
    """Let time pass."""
    CLOCK[0] += by


def tick(world: World, sensor: str = "gaps") -> list[dg.RunRequest]:
    """One tick; what it asks for that was not asked for before, as the daemon sees it."""
    definition = world.definitions.resolve_sensor_def(sensor)
    context = dg.build_sensor_context(
        instance=world.instance,
        resources={"platform": world.platform},
        definitions=world.definitions,
        sensor_name=sensor,
    )
    data = definition.evaluate_tick(context)
    return [
        request
        for request in data.run_requests or []
        if not world.instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": str(request.run_key)}))
    ]


def run(world: World, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """Run what was requested."""
    (exchange,) = {key.path[0] for key in request.asset_selection or ()}
    return world.run(
        Job.of(exchange, str(request.partition_key)),
        assets=tuple(key.path[-1] for key in request.asset_selection or ()),
        tags={**request.tags, "dagster/run_key": str(request.run_key)},
        run_config=request.run_config,
    )


def jobs(requests: list[dg.RunRequest]) -> list[str]:
    """``kraken 2026-06-18|DOT-USD``."""
    return [f"{(r.asset_selection or ())[0].path[0]} {r.partition_key}" for r in requests]


def states(world: World) -> list[tuple[str, str]]:
    """Reason and state of every case of days, the first found first."""
    found = cases(entries(world.platform.settings, world.lake)).filter(subject="trades")
    return list(zip(found["reason"], found["state"], strict=True))
