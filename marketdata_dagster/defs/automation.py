"""Who may ask for what. Nothing runs by itself that is not on this page.

====================================  ===========================  ==========================================
who                                   asks for                     when
====================================  ===========================  ==========================================
schedule ``<exchange>_daily``         all of yesterday             00:15 UTC
sensor ``gaps`` (evidence: files,     trades and what is made of   each 30 s: missing in the last days or in
rows of the store)                    them; or candles; or store   a short hole, incomplete, damaged, stale
sensor ``live_gaps`` (evidence: rows  holes in the live tables     each 60 s: the last two days, older than
of the store)                                                      two minutes
sensor ``lake_into_store``            the store's days             when the lake has a day that is new;
                                                                   candles that failed: each six hours
sensor ``sweep``                      what nobody else asks for:   each six hours: the last week, where the
                                      quality, reconciliation,     trades are there; or have changed since
                                      the exchange's own candles
schedule ``report_daily``             the report of yesterday      00:45 UTC
a person, from the asset's page       anything                     the far past is theirs
====================================  ===========================  ==========================================

No two of them ask for the same. Yesterday is the schedule's for the first hour of the day, and the sweep
never asks for trades, candles or the store. Whatever asks leaves alone what a run or a backfill is working
on. What failed for good is not tried again: see :mod:`marketdata.repair.plan`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg

from marketdata.settings import Tracked
from marketdata_dagster.defs import gaps, live_gaps, schedules, sensors

SWEEP_CRON = "30 */6 * * *"
SWEPT_BACK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Automation:
    """The assets with their conditions, and all that asks for them."""

    assets: dict[str, list[dg.AssetsDefinition]]
    schedules: list[dg.ScheduleDefinition]
    sensors: list[dg.SensorDefinition]


def build(
    exchanges: Mapping[str, list[Tracked]],
    assets: Mapping[str, Sequence[dg.AssetsDefinition]],
    days: Mapping[str, dg.PartitionsDefinition[str]],
    *,
    store: bool,
) -> Automation:
    """Everything that may ask, for the partitioned assets of each exchange."""
    swept = {
        exchange: [_with_condition(exchange, asset) for asset in made] for exchange, made in assets.items()
    }
    tracked = [entry for entries in exchanges.values() for entry in entries]
    made = dict(exchanges)
    return Automation(
        swept,
        [schedules.build(exchange, entries, swept[exchange]) for exchange, entries in made.items()],
        [
            sensors.build(made),
            gaps.build(tracked, swept, days),
            _sweep(swept),
            *([sensors.into_store(made), live_gaps.sensor(made)] if store else []),
        ],
    )


def _conditions(exchange: str) -> dict[str, dg.AutomationCondition[Any]]:
    """By asset, what the sweep asks for; a day without trades is nobody's but the gap sensor's."""
    held = dg.AutomationCondition
    trades = dg.AssetKey([exchange, "trades"])
    due = (
        held.in_latest_time_window(SWEPT_BACK)
        & held.cron_tick_passed(SWEEP_CRON)
        & held.asset_matches(trades, ~held.missing() & ~held.in_progress())
        & ~held.any_deps_missing()
        & ~held.any_deps_in_progress()
        & ~held.in_progress()
    )
    absent = held.missing() | held.execution_failed()
    # A day that came again by the command line or an import is another day: what was said of it is of trades
    # that it does not hold any more.
    other = held.any_deps_updated().since_last_handled()
    return {
        "quality": (due & (absent | other)).with_label("no profile of the day"),
        "reconciliation": (due & (absent | other | held.any_checks_match(held.check_failed()))).with_label(
            "not reconciled"
        ),
        # An exchange that has failed is asked again with the trades of the day, not by the sweep.
        "exchange_candles": (due & held.missing() & ~held.execution_failed()).with_label("never asked for"),
    }


def _with_condition(exchange: str, asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    condition = _conditions(exchange).get(asset.key.path[-1])
    return asset if condition is None else asset.with_attributes(automation_condition=condition)


def _sweep(assets: Mapping[str, Sequence[dg.AssetsDefinition]]) -> dg.AutomationConditionSensorDefinition:
    return dg.AutomationConditionSensorDefinition(
        name="sweep",
        target=[
            asset.key
            for exchange, made in assets.items()
            for asset in made
            if asset.key.path[-1] in _conditions(exchange)
        ],
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Four times a day: what the last week lacks beside its trades, candles and the store.",
    )
