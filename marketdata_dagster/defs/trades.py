"""Trades: every public trade of a day, fetched page by page into the lake."""

from collections.abc import Callable

import dagster as dg
from pydantic import Field

from marketdata.backfill import DayReport, backfill
from marketdata.errors import MarketDataError
from marketdata_dagster import metadata
from marketdata_dagster.defs.partitions import Job, jobs
from marketdata_dagster.defs.resources import Platform
from marketdata_dagster.progress import ProgressLog
from marketdata_dagster.settle import Outcome, settle


class FetchConfig(dg.Config):
    """What can be chosen when a fetch is launched by hand."""

    refresh: bool = Field(default=False, description="Fetch days again that are complete in the lake.")


def build(
    exchange: str, partitions_def: dg.PartitionsDefinition[str], policy: dg.BackfillPolicy
) -> dg.AssetsDefinition:
    """The trades asset of one exchange."""

    @dg.asset(
        key=[exchange, "trades"],
        group_name=exchange,
        description=f"Every public trade of {exchange}: a Parquet file a day and symbol, with its manifest.",
        partitions_def=partitions_def,
        backfill_policy=policy,
        pool=exchange,
        kinds={"parquet", "polars"},
    )
    def trades(
        context: dg.AssetExecutionContext, config: FetchConfig, platform: Platform
    ) -> dg.MaterializeResult[None]:
        wanted = jobs(exchange, context.partition_keys, context.run.tags)
        outcome = fetch(platform, wanted, context.log.info, refresh=config.refresh)
        return settle(context, outcome)

    return trades


def fetch(platform: Platform, wanted: list[Job], write: Callable[[str], None], *, refresh: bool) -> Outcome:
    """Bring these days into the lake, several side by side, with their progress written every few seconds."""
    log = ProgressLog(write, len(wanted))
    days = {(job.market, job.day): job for job in wanted}
    outcome = Outcome()
    try:
        results = backfill(
            platform.lake,
            list(days),
            platform.settings,
            now=platform.now(),
            refresh=refresh,
            fold=False,
            on_progress=log.page,
            on_day=log.day,
            write=write,
        )
    except MarketDataError as refusal:  # pages should be published, and there is no Kafka to take them
        outcome.failed = dict.fromkeys(wanted, refusal)
        return outcome
    for result in results:
        if isinstance(result, DayReport):
            job = days[result.market, result.day]
            outcome.made[job] = metadata.of_trades(platform.lake, job, result.manifest, result)
        else:
            failed, error = result
            outcome.failed[days[failed]] = error
    return outcome
