"""Which partitions a run or a backfill is working on, or will: nobody else asks for them meanwhile."""

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

from marketdata_dagster.defs.partitions import KEY_TAG, RANGE_END, RANGE_START, Job

RUNNING = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_BACKFILLS = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
Days = Mapping[str, dg.PartitionsDefinition[str]]


def jobs_in_progress(
    instance: dg.DagsterInstance, days: Days, graph: BaseAssetGraph[Any] | None = None
) -> set[Job]:
    """Every partition that something is on its way for, whatever asset of it.

    Args:
        days: the partitions of each exchange.
        graph: needed for backfills whose runs have not been launched yet.
    """
    found: set[Job] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=RUNNING)):
        exchanges = {key.path[0] for key in run.asset_selection or ()} & set(days)
        for exchange in exchanges:
            found |= {Job.of(exchange, key) for key in _keys(run.tags, days[exchange])}
    if graph is not None:
        found |= _of_backfills(instance, days, graph)
    return found


def _keys(tags: Mapping[str, str], days: dg.PartitionsDefinition[str]) -> Iterable[str]:
    if RANGE_START in tags and RANGE_END in tags:
        return days.get_partition_keys_in_range(dg.PartitionKeyRange(tags[RANGE_START], tags[RANGE_END]))
    return [tags[KEY_TAG]] if KEY_TAG in tags else []


def _of_backfills(instance: dg.DagsterInstance, days: Days, graph: BaseAssetGraph[Any]) -> set[Job]:
    found: set[Job] = set()
    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=_BACKFILLS)):
        if not backfill.is_asset_backfill:
            continue
        target = backfill.get_asset_backfill_data(graph).target_subset
        for asset, subset in target.partitions_subsets_by_asset_key.items():
            if (exchange := asset.path[0]) in days:
                found |= {Job.of(exchange, key) for key in subset.get_partition_keys()}
    return found
