"""The daily report: a page a UTC day over all markets, in the UI and as a file, made after the daily runs."""

from datetime import date, timedelta

import dagster as dg

from marketdata import report as page
from marketdata import reporting
from marketdata.errors import MarketDataError
from marketdata.settings import Tracked
from marketdata_dagster.defs.resources import Platform

GROUP = "reports"
NAME = "report"
# Half an hour after the daily runs have begun.
CRON = "45 0 * * *"


def build(tracked: tuple[Tracked, ...]) -> tuple[dg.AssetsDefinition, dg.ScheduleDefinition]:
    """The asset and its schedule."""
    start = min(entry.since for entry in tracked)

    @dg.asset(
        key=[NAME],
        group_name=GROUP,
        description="Coverage, drift, late trades, rejected rows, findings and cases of a day, on one page.",
        partitions_def=dg.DailyPartitionsDefinition(start_date=start.isoformat(), timezone="UTC"),
        kinds={"html"},
    )
    def report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        day = date.fromisoformat(context.partition_key)
        try:
            facts, place = reporting.write(platform.settings, platform.lake, day, now=platform.now())
        except MarketDataError as error:
            raise dg.Failure(error.message, allow_retries=False) from error
        context.log.info(reporting.sentence(facts.markets))
        return dg.MaterializeResult(
            metadata={
                "report": dg.MetadataValue.md(page.markdown(facts)),
                "page": dg.MetadataValue.url(place) if "://" in place else dg.MetadataValue.path(place),
                "open cases": facts.open_cases,
                "markets complete": sum(each.state in page.WHOLE for each in facts.markets),
            }
        )

    @dg.schedule(
        name="report_daily",
        cron_schedule=CRON,
        execution_timezone="UTC",
        target=[report],
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="The report of yesterday.",
    )
    def report_daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = (context.scheduled_execution_time - timedelta(days=1)).date().isoformat()
        return dg.RunRequest(run_key=day, partition_key=day)

    return report, report_daily
