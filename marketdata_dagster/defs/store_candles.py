"""Candles in the store: the one-minute candles of each day; wider ones follow inside the database."""

import dagster as dg

from marketdata_dagster.defs.partitions import jobs
from marketdata_dagster.defs.resources import Platform
from marketdata_dagster.settle import settle
from marketdata_dagster.storing import FOLLOW_OR_AGAIN, POOL, load


def build(
    exchange: str,
    partitions_def: dg.PartitionsDefinition[str],
    policy: dg.BackfillPolicy,
    candles: dg.AssetsDefinition,
) -> dg.AssetsDefinition:
    """The candles of one exchange in the store."""

    @dg.asset(
        key=[exchange, "store_candles"],
        group_name=exchange,
        description="One-minute candles in the database, which makes 5m to 1w of them.",
        deps=[candles],
        partitions_def=partitions_def,
        backfill_policy=policy,
        automation_condition=FOLLOW_OR_AGAIN,
        pool=POOL,
        kinds={"postgres"},
    )
    def store_candles(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        wanted = jobs(exchange, context.partition_keys, context.run.tags)
        return settle(context, load("candles", platform, wanted, context.log.info, refresh=False))

    return store_candles
