"""The sensor that tells people: checks that failed, repairs that were given up, dead feeds, drift.

It asks for no run. What it has told is kept in the lake by :mod:`marketdata.alerts`, so that a tick that dies
or begins again tells nothing twice; what the webhook does not take is tried again at the next tick.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from urllib.parse import quote

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._serdes import deserialize_value
from sqlalchemy import select

from marketdata import recording
from marketdata.alerting import of_entries
from marketdata.alerts import Alert, Severity, news, send
from marketdata.settings import Settings
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.defs.resources import Platform

EVERY_S = 30
# Entries are looked at again for so long: one of a service on another machine may come late.
_LOOK_BACK = timedelta(days=1)
# Ids are given before they are committed: one below the highest seen may appear after it.
_OVERLAP = 1_000
# From so many on, failures of one check in one run are told in one message.
_TOGETHER = 4
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Failed:
    """An evaluation of a check that did not pass."""

    event_id: int
    run_id: str
    asset: dg.AssetKey
    evaluation: dg.AssetCheckEvaluation
    at: datetime

    @property
    def key(self) -> str:
        """The same for the same verdict on the same partition and day: a repair that is tried five times
        and finds the same five times is told once."""
        said = self.evaluation.description or ""
        what = (self.asset.to_string(), self.evaluation.check_name, str(self.evaluation.partition), said)
        return f"check {self.at:%Y-%m-%d} {sha256(json.dumps(what).encode()).hexdigest()[:24]}"


def build() -> dg.SensorDefinition:
    """The sensor."""

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells of failed checks, repairs that were given up, dead feeds and drift, each once.",
    )
    def alerts(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SkipReason:
        settings, lake, now = platform.settings, platform.lake, platform.now()
        cursor = json.loads(context.cursor or "{}")
        since = datetime.fromisoformat(cursor["at"]) if "at" in cursor else now
        failures = failed(context.instance, cursor.get("event", 0) - _OVERLAP, since - _LOOK_BACK)
        unheard = news(lake, [each.key for each in failures])
        entries = recording.entries(settings, lake, since - _LOOK_BACK)
        wanted = [
            *of_failures(settings, [each for each in failures if each.key in unheard]),
            *of_entries(settings, entries),
        ]
        told = send(settings, lake, wanted)
        event = max([cursor.get("event", 0), *(each.event_id for each in failures)])
        context.update_cursor(json.dumps({"event": event, "at": now.isoformat()}))
        return dg.SkipReason(f"Alerts that went out: {told}." if told else "Nothing new to tell.")

    return alerts


def failed(instance: dg.DagsterInstance, after: int, since: datetime) -> list[Failed]:
    """Evaluations that did not pass, by id: of later events than ``after``, written from ``since`` on.

    One that another evaluation has replaced, in the same run or without a run, is not among them.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return []
    table = AssetCheckExecutionsTable.c
    wanted = (
        select(table.evaluation_event_storage_id, table.evaluation_event)
        .where(
            table.execution_status == AssetCheckExecutionRecordStatus.FAILED.value,
            table.evaluation_event_storage_id > after,
        )
        .order_by(table.evaluation_event_storage_id)
    )
    with storage.index_connection() as connection:
        rows = connection.execute(wanted).all()
    found = []
    for number, text in rows:
        event = deserialize_value(text, dg.EventLogEntry)
        at = datetime.fromtimestamp(event.timestamp, UTC)
        evaluation = event.get_dagster_event().asset_check_evaluation_data
        if at >= since:
            found.append(Failed(number, event.run_id, evaluation.asset_key, evaluation, at))
    return found


def of_failures(settings: Settings, failures: Sequence[Failed]) -> Iterator[Alert]:
    """One alert a failure, or one for those of one check in one run where they are many."""
    groups: dict[tuple[str, dg.AssetCheckKey], list[Failed]] = {}
    for each in {each.key: each for each in failures}.values():
        groups.setdefault((each.run_id, each.evaluation.asset_check_key), []).append(each)
    for some in groups.values():
        if len(some) < _TOGETHER:
            yield from (_one(settings, each) for each in some)
        else:
            yield _many(settings, some)


def _one(settings: Settings, each: Failed) -> Alert:
    title = f"{_subject(each)}: the check {each.evaluation.check_name} failed"
    text = each.evaluation.description or "It gives no reason."
    return Alert(
        each.key, title, text, _severity(each), _link(settings, each.asset, each.evaluation.partition)
    )


def _many(settings: Settings, some: Sequence[Failed]) -> Alert:
    first = some[0]
    asset = " ".join(first.asset.path)
    named = [f"{each.evaluation.partition}: {each.evaluation.description}" for each in some[:_NAMED]]
    more = [f"and {len(some) - _NAMED} more"] if len(some) > _NAMED else []
    keys = tuple(each.key for each in some)
    return Alert(
        key=keys[0],
        title=f"{asset}: the check {first.evaluation.check_name} failed for {len(some)} partitions",
        text="\n".join([*named, *more]),
        severity=max((_severity(each) for each in some), key=[Severity.WARNING, Severity.ERROR].index),
        link=_link(settings, first.asset, first.evaluation.partition),
        covers=keys[1:],
    )


def _severity(each: Failed) -> Severity:
    is_error = each.evaluation.severity is dg.AssetCheckSeverity.ERROR
    return Severity.ERROR if is_error else Severity.WARNING


def _subject(each: Failed) -> str:
    asset, partition = each.asset, each.evaluation.partition
    if len(asset.path) == 2 and partition is not None and "|" in partition:
        job = Job.of(asset.path[0], partition)
        return f"{job.market} {job.day} {asset.path[1]}"
    return " ".join([*asset.path, *([partition] if partition else [])])


def _link(settings: Settings, asset: dg.AssetKey, partition: str | None) -> str | None:
    if settings.dagster_url is None:
        return None
    page = f"{settings.dagster_url}/assets/{'/'.join(asset.path)}"
    return page if partition is None else f"{page}?partition={quote(partition, safe='')}"
