"""Quality: what is odd about a day's trades, one row a finding, and a check that says whether anything is."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from marketdata.errors import MarketDataError
from marketdata.manifest import day_window
from marketdata.profiling import DayProfile, profile_day
from marketdata_dagster import checks, picture
from marketdata_dagster.defs.partitions import Job, jobs
from marketdata_dagster.defs.resources import Platform
from marketdata_dagster.metadata import HASH, ROWS, Metadata, table
from marketdata_dagster.settle import Outcome, settle
from marketdata_dagster.verdicts import Verdict

NOTHING_ODD = "nothing_odd"
_FIRST = 20
_SHOWN = ("rule", "time", "trade_id", "value", "detail")


def build(
    exchange: str,
    partitions_def: dg.PartitionsDefinition[str],
    policy: dg.BackfillPolicy,
    trades: dg.AssetsDefinition,
) -> dg.AssetsDefinition:
    """The quality asset of one exchange."""

    @dg.asset(
        key=[exchange, "quality"],
        group_name=exchange,
        description="What is odd about the trades: pauses, prices, amounts, repeats, ids, order, refusals.",
        deps=[trades],
        partitions_def=partitions_def,
        backfill_policy=policy,
        kinds={"parquet", "polars"},
    )
    def quality(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        outcome = Outcome()
        for job in jobs(exchange, context.partition_keys, context.run.tags):
            try:
                found = profile_day(
                    platform.settings,
                    platform.lake,
                    job.market,
                    job.day,
                    now=platform.now(),
                    run_id=context.run.run_id,
                )
            except MarketDataError as error:
                outcome.failed[job] = error
                continue
            outcome.made[job] = of_profile(platform, job, found)
        return settle(context, outcome)

    return quality


def check(
    exchange: str, partitions_def: dg.PartitionsDefinition[str], quality: dg.AssetsDefinition
) -> dg.AssetChecksDefinition:
    """The check of one exchange's quality; it warns and stops nothing."""

    def nothing_odd(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[Any]:
        wanted = jobs(exchange, context.partition_keys, context.run.tags)
        yield from checks.evaluate(
            context, quality.key, NOTHING_ODD, wanted, lambda job: judged(platform, job)
        )

    return dg.asset_check(
        asset=quality,
        name=NOTHING_ODD,
        partitions_def=partitions_def,
        description="No rule found anything that nothing explains. A warning: odd is not yet wrong.",
    )(nothing_odd)  # type: ignore[arg-type]


def of_profile(platform: Platform, job: Job, found: DayProfile) -> Metadata:
    """Metadata of a day's profile: the picture with findings marked, counts by rule, the first of them."""
    profile = found.profile
    findings, odd = profile.findings, profile.findings.filter("suspicious")
    path = platform.lake.path("findings", job.market, job.day)
    drawn = picture.of_day(picture.of_trades(found.trades), job.day, odd["time"])
    return {
        "picture": dg.MetadataValue.md(drawn),
        ROWS: dg.MetadataValue.int(len(findings)),
        "suspicious": dg.MetadataValue.int(len(odd)),
        "said": dg.MetadataValue.text(profile.sentence),
        "by rule": dg.MetadataValue.json(dict(profile.counts)),
        "first findings": dg.MetadataValue.md(table(_SHOWN, [findings.head(_FIRST)])),
        "trades": dg.MetadataValue.int(profile.rows),
        "rejected": dg.MetadataValue.json(dict(profile.rejected)),
        "new in the ledger": dg.MetadataValue.int(found.recorded),
        HASH: dg.MetadataValue.text(f"trades {found.manifest.content_hash}"),
        "file": dg.MetadataValue.url(path) if "://" in path else dg.MetadataValue.path(path),
    }


def judged(platform: Platform, job: Job) -> Verdict:
    """Whether anything about a day is odd that nothing explains, by the findings kept in the lake."""
    facts = platform.lake.findings_facts(job.market, job.day)
    if facts is None:
        return Verdict(passed=False, sentence="Nobody has looked at this day.", notable=True)
    manifest = platform.lake.manifest(job.market, job.day)
    if manifest is None or facts["trades"] != manifest.content_hash:
        said = "The day was looked at when it held other trades."
        return Verdict(passed=False, sentence=said, notable=True)
    findings = platform.lake.read_findings(job.market, *day_window(job.day))
    odd = findings.filter("suspicious")
    if odd.is_empty():
        explained = f" {len(findings):,} findings are explained." if len(findings) else ""
        return Verdict(passed=True, sentence=f"Nothing odd.{explained}")
    counts = odd.group_by("rule").len().sort("rule").rows()
    said = ", ".join(f"{count:,} x {rule}" for rule, count in counts)
    shown = {"findings": dg.MetadataValue.md(table(_SHOWN, [odd.head(_FIRST)]))}
    return Verdict(passed=False, sentence=f"{said}.", notable=True, metadata=shown)
