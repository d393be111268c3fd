"""Trades in the store: each day of the lake put in place of what the store holds of it."""

import dagster as dg

from marketdata_dagster.defs.partitions import jobs
from marketdata_dagster.defs.resources import Platform
from marketdata_dagster.settle import settle
from marketdata_dagster.storing import FOLLOW, POOL, LoadConfig, load


def build(
    exchange: str,
    partitions_def: dg.PartitionsDefinition[str],
    policy: dg.BackfillPolicy,
    trades: dg.AssetsDefinition,
) -> dg.AssetsDefinition:
    """The trades of one exchange in the store."""

    @dg.asset(
        key=[exchange, "store_trades"],
        group_name=exchange,
        description="The trades in the database, with what is known of each day. One transaction a day.",
        deps=[trades],
        partitions_def=partitions_def,
        backfill_policy=policy,
        automation_condition=FOLLOW,
        pool=POOL,
        kinds={"postgres"},
    )
    def store_trades(
        context: dg.AssetExecutionContext, config: LoadConfig, platform: Platform
    ) -> dg.MaterializeResult[None]:
        wanted = jobs(exchange, context.partition_keys, context.run.tags)
        outcome = load("trades", platform, wanted, context.log.info, refresh=config.refresh)
        return settle(context, outcome)

    return store_trades
