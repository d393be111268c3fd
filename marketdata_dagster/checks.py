"""Checks, one evaluation a partition, so that the UI says which day of which symbol.

A check that runs over a range of partitions has no partition of its own, and its one result would stand for
all of them. So each evaluation is yielded with its partition and with the materialisation it speaks of.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from typing import Any
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as Target,
)
from dagster._core.events import DagsterEvent, DagsterEventBatchMetadata
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from sqlalchemy import select

from marketdata.errors import CorruptFile
from marketdata_dagster import story
from marketdata_dagster.defs.partitions import Job, jobs
from marketdata_dagster.defs.resources import Platform
from marketdata_dagster.storage import LocalEventLog
from marketdata_dagster.storing import the_store_equals_the_lake
from marketdata_dagster.verdicts import Verdict, candles_agree_with_the_exchange, every_trade_is_there

COMPLETE = "every_trade_is_there"
AGREE = "candles_agree_with_the_exchange"
STORED = "the_store_equals_the_lake"
RECONCILED = "stream_batch_and_exchange_agree"
_BLOCKING = (COMPLETE, STORED, RECONCILED)


def build(
    exchange: str,
    partitions_def: dg.PartitionsDefinition[str],
    trades: dg.AssetsDefinition,
    candles: dg.AssetsDefinition,
    exchange_candles: dg.AssetsDefinition,
) -> list[dg.AssetChecksDefinition]:
    """The checks of one exchange."""

    def complete(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[Any]:
        wanted = jobs(exchange, context.partition_keys, context.run.tags)
        now = platform.now()
        told = story.teller(platform.settings, platform.lake)

        def judge(job: Job) -> Verdict:
            verdict = every_trade_is_there(platform.lake, job, now)
            return replace(verdict, metadata={**verdict.metadata, **told(job.market, job.day)})

        yield from evaluate(context, trades.key, COMPLETE, wanted, judge)

    def agree(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[Any]:
        wanted = jobs(exchange, context.partition_keys, context.run.tags)
        lake = platform.lake
        yield from evaluate(
            context, candles.key, AGREE, wanted, lambda job: candles_agree_with_the_exchange(lake, job)
        )

    # Dagster's types know checks with one result only.
    return [
        dg.asset_check(
            asset=trades,
            name=COMPLETE,
            blocking=True,
            partitions_def=partitions_def,
            description=(
                "Ids run on without a hole; the day is over, was asked for whole and joins its neighbours."
            ),
        )(complete),  # type: ignore[arg-type]
        dg.asset_check(
            asset=candles,
            name=AGREE,
            additional_deps=[exchange_candles],
            partitions_def=partitions_def,
            description="Our candles equal the exchange's own, as far as it serves them.",
        )(agree),  # type: ignore[arg-type]
    ]


def of_store(
    exchange: str, partitions_def: dg.PartitionsDefinition[str], store_trades: dg.AssetsDefinition
) -> dg.AssetChecksDefinition:
    """The check of one exchange's trades in the store."""

    def equal(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[Any]:
        wanted = jobs(exchange, context.partition_keys, context.run.tags)
        yield from evaluate(
            context, store_trades.key, STORED, wanted, lambda job: the_store_equals_the_lake(platform, job)
        )

    return dg.asset_check(
        asset=store_trades,
        name=STORED,
        blocking=True,
        partitions_def=partitions_def,
        description="The rows in the database, counted and hashed, are those of the lake.",
    )(equal)  # type: ignore[arg-type]


def evaluate(
    context: dg.AssetCheckExecutionContext,
    asset: dg.AssetKey,
    name: str,
    wanted: Sequence[Job],
    judge: Callable[[Job], Verdict],
) -> Iterator[Any]:
    """Yield one evaluation a partition, then the output the step owes.

    Those that pass go to the event log together where it can take them so; what does not pass is yielded,
    for Dagster decides by that what a blocking check stops.
    """
    targets = targeted(context.instance, asset, [job.key for job in wanted])
    together = isinstance(context.instance.event_log_storage, LocalEventLog)
    passed: list[dg.AssetCheckEvaluation] = []
    try:
        for job in wanted:
            found = evaluation(asset, name, job, judged(judge, job), targets.get(job.key))
            if together and found.passed:
                passed.append(found)
            else:
                yield found
    finally:
        _log(context, passed)
    yield dg.Output(None)


def judged(judge: Callable[[Job], Verdict], job: Job) -> Verdict:
    """What is said of a day, also where one of its files is damaged.

    Raised, it would take the verdicts of all days of the run with it, and what a blocking check stops.
    """
    try:
        return judge(job)
    except CorruptFile as damage:
        return Verdict(passed=False, sentence=f"A file of the day is damaged. {damage.message}")


def _log(context: dg.AssetCheckExecutionContext, evaluations: Sequence[dg.AssetCheckEvaluation]) -> None:
    step, batch = context.get_step_execution_context(), uuid4().hex
    for number, found in enumerate(evaluations, start=1):
        DagsterEvent.from_step(
            dg.DagsterEventType.ASSET_CHECK_EVALUATION,
            step,
            found,
            f"Asset check {found.check_name!r} on {found.partition} passed. {found.description}",
            DagsterEventBatchMetadata(batch, is_end=number == len(evaluations)),
        )


def evaluation(
    asset: dg.AssetKey,
    name: str,
    job: Job,
    verdict: Verdict,
    target: Target | None,
) -> dg.AssetCheckEvaluation:
    """One check of one partition. A passing day that deserves a second look is marked in its description."""
    return dg.AssetCheckEvaluation(
        asset_key=asset,
        check_name=name,
        partition=job.key,
        passed=verdict.passed,
        severity=dg.AssetCheckSeverity.WARN if verdict.notable else dg.AssetCheckSeverity.ERROR,
        blocking=name in _BLOCKING,
        description=verdict.sentence,
        metadata=dict(verdict.metadata),
        target_materialization_data=target,
    )


def targeted(instance: dg.DagsterInstance, asset: dg.AssetKey, keys: Iterable[str]) -> dict[str, Target]:
    """What an evaluation of each partition speaks of; without it the UI calls the evaluation missing."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return {
            key: Target(storage_id=found.storage_id, run_id=found.run_id, timestamp=found.timestamp)
            for key, found in latest(instance, asset, keys).items()
        }
    ids = _latest_ids(instance, asset, keys)
    # Three columns only: the events themselves, with all their metadata, take a millisecond each to read.
    table = SqlEventLogStorageTable.c
    wanted = select(table.partition, table.id, table.run_id, table.timestamp).where(
        table.id.in_(list(ids.values()))
    )
    with storage.index_connection() as connection:
        rows = connection.execute(wanted).all()
    return {
        key: Target(storage_id=number, run_id=run, timestamp=at.replace(tzinfo=UTC).timestamp())
        for key, number, run, at in rows
    }


def _latest_ids(instance: dg.DagsterInstance, asset: dg.AssetKey, keys: Iterable[str]) -> Mapping[str, int]:
    wanted = set(keys)
    if not wanted:  # Dagster would take that for all of them
        return {}
    return instance.event_log_storage.get_latest_storage_id_by_partition(
        asset, dg.DagsterEventType.ASSET_MATERIALIZATION, wanted
    )


def latest(
    instance: dg.DagsterInstance, asset: dg.AssetKey, keys: Iterable[str]
) -> dict[str, dg.EventLogRecord]:
    """The latest materialisation of each partition."""
    ids = _latest_ids(instance, asset, keys)
    if not ids:
        return {}
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, storage_ids=list(ids.values())), limit=len(ids)
    ).records
    return {record.partition_key: record for record in records if record.partition_key is not None}
