"""Days that came into the lake by another way than a run: the command line, an import, a copied folder.

One listing of the lake a kind tells which files are new or were written again; only those are opened. Days
that Dagster does not know, or knows with another content, are recorded as a run would have recorded them.
"""

from collections.abc import Collection, Iterable, Mapping

import dagster as dg
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from pyarrow import fs as pafs

from marketdata.errors import CorruptFile
from marketdata.lake import Lake
from marketdata.lake.paths import Kind, Part, root_folder
from marketdata_dagster import metadata, verdicts
from marketdata_dagster.checks import AGREE, COMPLETE, evaluation, judged, latest, targeted
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.defs.resources import Platform

# In the order they are made; the name of a kind is the last part of its asset's key.
KINDS: tuple[Kind, ...] = ("trades", "candles", "exchange_candles")
# A tick stays short; the rest follows at the next one.
MOST_A_TICK = 200


def written(lake: Lake, kind: Kind) -> dict[Job, int]:
    """When each day of a kind was written (ns since the epoch, by the lake's own clock)."""
    storage = lake.storage
    selector = pafs.FileSelector(storage.full(root_folder(kind)), recursive=True, allow_not_found=True)
    with storage.errors(root_folder(kind)):
        infos = storage.fs.get_file_info(selector)
    times: dict[Job, int] = {}
    for info in infos:
        part = Part.parse(info.path[len(storage.root) + 1 :])
        if part is not None:
            job = Job(part.market, part.day)
            times[job] = max(times.get(job, 0), info.mtime_ns)
    return times


def pick(
    times: Mapping[Job, int],
    known: Collection[Job],
    *,
    until: int,
    limits: Mapping[Job, int],
    now: int,
    most: int = MOST_A_TICK,
) -> tuple[list[Job], int]:
    """Days to look at now, oldest first, and up to which time everything has been looked at then.

    Args:
        times: when each day was written.
        known: the days Dagster has in any form.
        until: what the tick before has returned.
        limits: a day written later than this is left for now, to the run that is writing it.
        now: the time, as the others. A file that says a later one (a clock was ahead, a copy brought its own)
            is looked at until then: what is written meanwhile must not pass for seen.
        most: how many at once.
    """
    until = min(until, now)
    chosen: list[Job] = []
    unseen: list[int] = []
    for at, job in sorted((at, job) for job, at in times.items() if at > until or job not in known):
        if len(chosen) < most and at <= limits.get(job, at):
            chosen.append(job)
        elif at > until:
            unseen.append(at)
    seen = min(unseen) - 1 if unseen else max(times.values(), default=until)
    return chosen, max(until, min(seen, now))


def record(
    instance: dg.DagsterInstance, platform: Platform, exchange: str, kind: Kind, jobs: Iterable[Job]
) -> list[Job]:
    """Record these days of one exchange unless Dagster has them with the same content; says which it has not.

    Raises:
        MarketDataError: a file cannot be read. A damaged one is no error: its check fails.
    """
    asset = dg.AssetKey([exchange, kind])
    wanted = {job.key: job for job in jobs}
    before = latest(instance, asset, wanted)
    news: list[Job] = []
    damaged: list[Job] = []
    for key, job in wanted.items():
        event = before[key].asset_materialization if key in before else None
        try:
            held = metadata.content_hash(kind, platform.lake, job)
            if held is None or (event is not None and metadata.hash_in(event.metadata) == held):
                continue
            facts = metadata.of(kind, platform.lake, job)
        except CorruptFile:
            damaged.append(job)
            continue
        if facts is None:
            continue
        instance.report_runless_asset_event(
            dg.AssetMaterialization(asset, partition=key, metadata=dict(facts))
        )
        news.append(job)
    # What is damaged is shown as that, by its check; that it is repaired is the matter of another sensor.
    _evaluate(instance, platform, exchange, kind, news + (damaged if kind == "trades" else []))
    return news


def _evaluate(
    instance: dg.DagsterInstance, platform: Platform, exchange: str, kind: Kind, jobs: list[Job]
) -> None:
    """Check the days that were recorded just now; the comparison waits until there are candles."""
    name = COMPLETE if kind == "trades" else AGREE
    asset = dg.AssetKey([exchange, "trades" if kind == "trades" else "candles"])
    targets = targeted(instance, asset, [job.key for job in jobs])

    def judge(job: Job) -> verdicts.Verdict:
        if name == COMPLETE:
            return verdicts.every_trade_is_there(platform.lake, job, platform.now())
        return verdicts.candles_agree_with_the_exchange(platform.lake, job)

    for job in jobs:
        if job.key not in targets:
            continue
        verdict = judged(judge, job)
        _forget(instance, asset, name, job)
        instance.report_runless_asset_event(evaluation(asset, name, job, verdict, targets[job.key]))


def _forget(instance: dg.DagsterInstance, asset: dg.AssetKey, name: str, job: Job) -> None:
    """Remove what an earlier tick said of this day.

    Dagster 1.13 keeps one evaluation a check, run and partition, and all that come without a run share one
    empty run id: the second evaluation of a partition would break its unique index. The event itself stays.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return
    table = AssetCheckExecutionsTable
    earlier = table.delete().where(
        table.c.asset_key == asset.to_string(),
        table.c.check_name == name,
        table.c.run_id == "",
        table.c.partition == job.key,
    )
    with storage.index_connection() as connection:
        connection.execute(earlier)
