"""The daily schedule: yesterday of every symbol, a quarter of an hour after midnight UTC."""

from datetime import timedelta

import dagster as dg

from marketdata.settings import Tracked
from marketdata_dagster.defs.partitions import RANGE_END, RANGE_START, Job

# The last trades of a day are served within seconds; a quarter of an hour leaves room for a slow exchange.
CRON = "15 0 * * *"


def build(exchange: str, tracked: list[Tracked], assets: list[dg.AssetsDefinition]) -> dg.ScheduleDefinition:
    """The schedule of one exchange; one run takes all its symbols, so its process starts once."""

    @dg.schedule(
        name=f"{exchange}_daily",
        cron_schedule=CRON,
        execution_timezone="UTC",
        target=assets,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Yesterday's trades, candles and checks of every symbol of {exchange}.",
    )
    def daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = (context.scheduled_execution_time - timedelta(days=1)).date()
        first, *_ = keys = [Job(entry.market, day).key for entry in tracked]
        return dg.RunRequest(run_key=day.isoformat(), tags={RANGE_START: first, RANGE_END: keys[-1]})

    return daily
