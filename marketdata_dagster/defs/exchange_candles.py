"""Exchange candles: the exchange's own, kept to hold ours against. Old days are often no longer served."""

from concurrent.futures import ThreadPoolExecutor

import dagster as dg

from marketdata import sources
from marketdata.backfill import fetch_exchange_candles
from marketdata.errors import MarketDataError
from marketdata_dagster import metadata
from marketdata_dagster.defs.partitions import Job, jobs
from marketdata_dagster.defs.resources import Platform
from marketdata_dagster.newest import AskedOnce
from marketdata_dagster.settle import Outcome, settle


def build(
    exchange: str, partitions_def: dg.PartitionsDefinition[str], policy: dg.BackfillPolicy
) -> dg.AssetsDefinition:
    """The exchange-candles asset of one exchange."""

    @dg.asset(
        key=[exchange, "exchange_candles"],
        group_name=exchange,
        description=f"Candles as {exchange} itself serves them, where it still does.",
        partitions_def=partitions_def,
        backfill_policy=policy,
        pool=exchange,
        kinds={"parquet", "polars"},
    )
    def exchange_candles(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        now = platform.now()
        source = AskedOnce(sources.candle_source(exchange, platform.settings), now)
        wanted = jobs(exchange, context.partition_keys, context.run.tags)

        def fetch(job: Job) -> MarketDataError | None:
            try:
                fetch_exchange_candles(platform.lake, source, job.market, job.day, now=now)
            except MarketDataError as error:
                return error
            return None

        outcome = Outcome()
        with ThreadPoolExecutor(platform.settings.workers) as pool:
            for job, error in zip(wanted, pool.map(fetch, wanted), strict=True):
                if error is None:
                    outcome.made[job] = metadata.of_exchange_candles(platform.lake, job) or {}
                else:
                    outcome.failed[job] = error
        return settle(context, outcome)

    return exchange_candles
