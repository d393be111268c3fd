"""Sensors: they look at evidence, here the files of the lake."""

import json

import dagster as dg

from marketdata.settings import Tracked
from marketdata_dagster import arrivals
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.defs.resources import Platform

_EVERY_S = 15
# A day that a run has just written is left to that run for so long; then it is shown although the run goes
# on, so that a long backfill turns green day by day.
_PATIENCE_NS = 60 * 1_000_000_000
_BUSY = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


def build(exchanges: dict[str, list[Tracked]]) -> dg.SensorDefinition:
    """The sensor that records days of the lake which no run has made."""
    tracked = {entry.market for entries in exchanges.values() for entry in entries}
    first = {exchange: min(entry.since for entry in entries) for exchange, entries in exchanges.items()}

    @dg.sensor(
        name="lake_arrivals",
        minimum_interval_seconds=_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records days that came into the lake by the command line or an import.",
    )
    def lake_arrivals(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SkipReason:
        cursor: dict[str, int] = json.loads(context.cursor or "{}")
        now = platform.now()
        now_ns = int(now.timestamp() * 1e9)
        busy = _busy(context.instance)
        recorded = 0
        for kind in arrivals.KINDS:
            times = {
                job: at
                for job, at in arrivals.written(platform.lake, kind).items()
                if job.market in tracked and first[job.market.exchange] <= job.day < now.date()
            }
            known = {
                Job.of(exchange, key)
                for exchange in exchanges
                for key in context.instance.get_materialized_partitions(dg.AssetKey([exchange, kind]))
            }
            chosen, cursor[kind] = arrivals.pick(
                times,
                known,
                until=cursor.get(kind, 0),
                limits={job: now_ns - _PATIENCE_NS for job in times if job.market.exchange in busy},
                now=now_ns,
            )
            for exchange in exchanges:
                mine = [job for job in chosen if job.market.exchange == exchange]
                recorded += len(arrivals.record(context.instance, platform, exchange, kind, mine))
        context.update_cursor(json.dumps(cursor))
        return dg.SkipReason(f"{recorded} days recorded." if recorded else "Every day of the lake is known.")

    return lake_arrivals


def into_store(exchanges: dict[str, list[Tracked]]) -> dg.AutomationConditionSensorDefinition:
    """The sensor that loads new days of the lake into the store, as the assets of the store ask for it."""
    return dg.AutomationConditionSensorDefinition(
        name="lake_into_store",
        target=[
            dg.AssetKey([exchange, asset])
            for exchange in exchanges
            for asset in ("store_trades", "store_candles")
        ],
        minimum_interval_seconds=_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Loads days that are new in the lake, or changed there, into the database.",
    )


def _busy(instance: dg.DagsterInstance) -> set[str]:
    """Exchanges that a run is working on."""
    runs = instance.get_runs(dg.RunsFilter(statuses=_BUSY))
    return {key.path[0] for run in runs for key in run.asset_selection or ()}
