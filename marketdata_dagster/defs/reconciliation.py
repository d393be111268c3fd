"""Reconciliation: the stream, the trades and the exchange beside each other for each day, made to agree."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from marketdata.comparing import said
from marketdata.errors import CorruptFile, MarketDataError
from marketdata.manifest import day_window
from marketdata.reconcile import EXCHANGE, STREAM, Side
from marketdata.reconciliation import WRONG, Reconciled, known_result, reconcile_days
from marketdata_dagster import checks, picture, story
from marketdata_dagster.checks import RECONCILED
from marketdata_dagster.defs.partitions import Job, jobs
from marketdata_dagster.defs.resources import Platform
from marketdata_dagster.metadata import HASH, ROWS, Metadata, table
from marketdata_dagster.settle import Outcome, settle
from marketdata_dagster.verdicts import Verdict

_FIRST = 20
_SHOWN = (
    "open_time", "interval", "compared_with", "finding", "said_close", "true_close", "said_volume",
    "true_volume", "close_drift", "volume_drift", "alone", "state",
)  # fmt: skip
# Days whose streamed candles are read and held at once.
_AT_ONCE = timedelta(days=31)


class ReconcileConfig(dg.Config):
    """What can be chosen when a reconciliation is launched by hand."""

    again: bool = Field(
        default=False, description="Compare and repair also days that were compared before, as they are."
    )


def build(
    exchange: str,
    partitions_def: dg.PartitionsDefinition[str],
    policy: dg.BackfillPolicy,
    deps: Iterable[dg.AssetsDefinition],
) -> dg.AssetsDefinition:
    """The reconciliation asset of one exchange.

    With a store it comes behind the candles there: a load keeps what the stream had said.
    """

    @dg.asset(
        key=[exchange, "reconciliation"],
        group_name=exchange,
        description="Stream, batch and the exchange's own candles side by side; what is wrong is put right.",
        deps=list(deps),
        partitions_def=partitions_def,
        backfill_policy=policy,
        # It may ask the exchange for the trades of a day once more.
        pool=exchange,
        kinds={"parquet", "polars"},
    )
    def reconciliation(
        context: dg.AssetExecutionContext, config: ReconcileConfig, platform: Platform
    ) -> dg.MaterializeResult[None]:
        wanted = jobs(exchange, context.partition_keys, context.run.tags)
        return settle(context, reconcile(platform, wanted, run_id=context.run.run_id, again=config.again))

    return reconciliation


def reconcile(platform: Platform, wanted: list[Job], *, run_id: str, again: bool) -> Outcome:
    """Reconcile these days, market by market; a day that fails stops no other."""
    outcome, now = Outcome(), platform.now()
    for some in _together(wanted):
        first, last = some[0], some[-1]
        try:
            window = day_window(first.day)[0], day_window(last.day)[1]
            results = reconcile_days(
                platform.settings,
                platform.lake,
                first.market,
                [job.day for job in some],
                now=now,
                run_id=run_id,
                streamed=said(platform.settings, first.market, *window),
                again=again,
            )
        except MarketDataError as error:
            outcome.failed.update(dict.fromkeys(some, error))
            continue
        for job in some:
            found = results[job.day]
            if isinstance(found, MarketDataError):
                outcome.failed[job] = found
            else:
                outcome.made[job] = of_result(platform, job, found)
    return outcome


def check(
    exchange: str, partitions_def: dg.PartitionsDefinition[str], reconciliation: dg.AssetsDefinition
) -> dg.AssetChecksDefinition:
    """The check of one exchange's reconciliation."""

    def agree(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[Any]:
        wanted = jobs(exchange, context.partition_keys, context.run.tags)
        told = story.teller(platform.settings, platform.lake)

        def judge(job: Job) -> Verdict:
            found = judged(platform, job)
            return replace(found, metadata={**found.metadata, **told(job.market, job.day)})

        yield from checks.evaluate(context, reconciliation.key, RECONCILED, wanted, judge)

    return dg.asset_check(
        asset=reconciliation,
        name=RECONCILED,
        blocking=True,
        partitions_def=partitions_def,
        description="Stream, batch and exchange agree, or what differed is repaired or explained.",
    )(agree)  # type: ignore[arg-type]


def judged(platform: Platform, job: Job) -> Verdict:
    """Whether anything of the day stays wrong, by the result that is kept in the lake."""
    try:
        found = known_result(platform.lake, job.market, job.day)
    except CorruptFile as error:
        return Verdict(passed=False, sentence=str(error))
    if found is None:
        return Verdict(passed=False, sentence="This day was not reconciled.")
    facts: dict[str, dg.MetadataValue] = {}
    if not found.settled:
        wrong = found.differences.filter(pl.col("state") == WRONG)
        facts["wrong"] = dg.MetadataValue.md(table(_SHOWN, [wrong.head(_FIRST)]))
    drifted = any(side.drift.beyond(platform.settings.drift_alert_percent) for side in found.sides.values())
    return Verdict(
        passed=found.settled, sentence=found.sentence, notable=found.settled and drifted, metadata=facts
    )


def of_result(platform: Platform, job: Job, found: Reconciled) -> Metadata:
    """Metadata of a day: what was equal, the classes, the drift with a picture, the first differences."""
    path = platform.lake.path("reconciliation", job.market, job.day)
    values: dict[str, dg.MetadataValue] = {
        "said": dg.MetadataValue.text(found.sentence),
        "picture": dg.MetadataValue.md(_picture(found)),
        ROWS: dg.MetadataValue.int(len(found.differences)),
    }
    for name, what in ((STREAM, "stream and batch"), (EXCHANGE, "batch and exchange")):
        if (side := found.sides.get(name)) is not None:
            values |= _of_side(what, side)
    manifest = platform.lake.manifest(job.market, job.day)
    content = "nothing" if manifest is None else manifest.content_hash
    return {
        **values,
        "first differences": dg.MetadataValue.md(table(_SHOWN, [found.differences.head(_FIRST)])),
        "compared before": dg.MetadataValue.bool(found.known),
        "told to live readers": dg.MetadataValue.int(found.published),
        HASH: dg.MetadataValue.text(f"trades {content}"),
        "file": dg.MetadataValue.url(path) if "://" in path else dg.MetadataValue.path(path),
    }


def _of_side(what: str, side: Side) -> dict[str, dg.MetadataValue]:
    drift = side.drift
    return {
        f"{what}: compared": dg.MetadataValue.int(side.compared),
        f"{what}: equal": dg.MetadataValue.int(side.equal),
        f"{what}: classes": dg.MetadataValue.json(dict(side.counts)),
        f"{what}: drift of the close, at most, %": dg.MetadataValue.float(round(drift.close_max, 6)),
        f"{what}: drift of the day's volume, %": dg.MetadataValue.float(round(drift.volume_day, 6)),
        f"{what}: drift of a candle's volume, at most, %": dg.MetadataValue.float(round(drift.volume_max, 6)),
    }


def _picture(found: Reconciled) -> str:
    drift = found.differences.select(
        "open_time", pl.max_horizontal("close_drift", "volume_drift").fill_null(0.0).alias("drift")
    )
    return picture.of_drift(drift, found.day)


def _together(wanted: list[Job]) -> Iterator[list[Job]]:
    """Days of one market that are read together: neighbours, a month at most."""
    for _, of_market in groupby(sorted(wanted), key=lambda job: job.market):
        some: list[Job] = []
        for job in of_market:
            if some and job.day - some[0].day >= _AT_ONCE:
                yield some
                some = []
            some.append(job)
        yield some
