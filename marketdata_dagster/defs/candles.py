"""Candles: a day of trades folded into one-minute candles; wider ones are merged from these when read."""

import dagster as dg

from marketdata.backfill import fold_day
from marketdata.errors import MarketDataError
from marketdata_dagster import metadata
from marketdata_dagster.defs.partitions import jobs
from marketdata_dagster.defs.resources import Platform
from marketdata_dagster.settle import Outcome, settle


def build(
    exchange: str,
    partitions_def: dg.PartitionsDefinition[str],
    policy: dg.BackfillPolicy,
    trades: dg.AssetsDefinition,
) -> dg.AssetsDefinition:
    """The candles asset of one exchange."""

    @dg.asset(
        key=[exchange, "candles"],
        group_name=exchange,
        description="One-minute candles folded from the trades, one Parquet file a UTC day and symbol.",
        deps=[trades],
        partitions_def=partitions_def,
        backfill_policy=policy,
        kinds={"parquet", "polars"},
    )
    def candles(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        outcome = Outcome()
        for job in jobs(exchange, context.partition_keys, context.run.tags):
            try:
                folded = fold_day(platform.lake, job.market, job.day)
            except MarketDataError as error:
                outcome.failed[job] = error
                continue
            outcome.made[job] = metadata.of_candles(platform.lake, job, folded)
        return settle(context, outcome)

    return candles
