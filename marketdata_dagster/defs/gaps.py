"""The sensor that asks for days of the lake and the store which are missing, incomplete, damaged or stale.

It looks at files and at the store, not at what runs have said. What it has done is in the ledger, so a
restart changes nothing: see :mod:`marketdata.repair.plan` for who is asked when, and how often.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta

import dagster as dg
from dagster._core.storage.tags import WILL_RETRY_TAG

from marketdata import recording
from marketdata.errors import MarketDataError
from marketdata.lake import Lake
from marketdata.market import Market
from marketdata.repair import plan as planning
from marketdata.repair.days import Survey, store_from, stored_hashes
from marketdata.repair.judging import Begin, Reason, wanted
from marketdata.repair.plan import Ended, Request, Rules, Seen
from marketdata.settings import Settings, Tracked
from marketdata_dagster.busy import jobs_in_progress
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.defs.resources import Platform
from marketdata_dagster.settle import CANNOT_HELP, MAY_HELP, RETRY

EVERY_S = 30
CASE, ATTEMPT = "marketdata/case", "marketdata/attempt"
# What is made anew, by where the repair begins; all there is of an exchange where it begins with the trades.
_FOLLOWING = {
    Begin.CANDLES: ("candles", "store_candles", "reconciliation"),
    Begin.STORE: ("store_trades", "store_candles"),
}
_LONGEST_ERROR = 300
# By lake: what was read of it, and whether nothing was open after the last tick. Only to save time.
_surveys: dict[str, Survey] = {}
_at_rest: set[str] = set()


def build(
    tracked: Sequence[Tracked],
    assets: Mapping[str, Sequence[dg.AssetsDefinition]],
    days: Mapping[str, dg.PartitionsDefinition[str]],
) -> dg.SensorDefinition:
    """The sensor, for the assets of each exchange."""
    keys = {exchange: [asset.key for asset in made] for exchange, made in assets.items()}

    @dg.sensor(
        name="gaps",
        asset_selection=[key for made in keys.values() for key in made],
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for days that are missing, incomplete, damaged or stale, a few at a time.",
    )
    def gaps(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
        settings, lake, now = platform.settings, platform.lake, platform.now()
        store, away = _stored(settings)
        looked_at = None if store is None else store_from(settings, now)
        held = _survey(lake).held(tracked, now, store=store)
        needs = wanted(held, tracked, now, days=settings.repair_days, store_from=looked_at)
        if not needs and lake.url in _at_rest:
            return dg.SensorResult(skip_reason=f"Nothing is missing. {away}".rstrip())
        entries = recording.entries(settings, lake)
        graph = None if context.repository_def is None else context.repository_def.asset_graph
        busy = jobs_in_progress(context.instance, days, graph)
        planned = planning.plan(
            needs,
            held,
            entries,
            runs_of(context.instance, planning.open_cases(entries)),
            busy={(job.market, job.day) for job in busy},
            now=now,
            rules=rules(settings),
            store_from=looked_at,
        )
        # First what is known: a tick that dies after this asks again, and Dagster knows the run by its key.
        recording.record(settings, lake, planned.entries)
        (_at_rest.discard if planned.still_open else _at_rest.add)(lake.url)
        said = f"{len(needs)} days want a repair; {len(planned.requests)} are asked for now. {away}".rstrip()
        context.log.info(said)
        return dg.SensorResult(
            run_requests=[_run(request, keys[request.need.market.exchange]) for request in planned.requests],
            skip_reason=None if planned.requests else said,
        )

    return gaps


def rules(settings: Settings) -> Rules:
    """How many at once and how often, from the settings."""
    pauses = tuple(timedelta(minutes=int(each)) for each in settings.repair_pauses_minutes.split(","))
    return Rules(settings.repair_at_once, settings.repair_attempts, pauses)


def runs_of(instance: dg.DagsterInstance, cases: Sequence[str]) -> list[Seen]:
    """The runs that were started for these cases; of an attempt that Dagster has run again the last one."""
    found: dict[tuple[str, int], Seen] = {}
    if not cases:
        return []
    for run in instance.get_runs(dg.RunsFilter(tags={CASE: list(cases)})):  # the newest first
        key = (run.tags[CASE], int(run.tags[ATTEMPT]))
        if key not in found:
            ended, error = _ended(instance, run)
            found[key] = Seen(*key, run.run_id, ended, error)
    return list(found.values())


def _ended(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[Ended, str]:
    if not run.is_finished or run.tags.get(WILL_RETRY_TAG) == "true":
        return Ended.RUNNING, ""
    if run.is_success:
        return Ended.SUCCEEDED, ""
    failures = instance.get_records_for_run(
        run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=10
    ).records
    for record in failures:
        event = record.event_log_entry.dagster_event
        said = None if event is None else event.step_failure_data.user_failure_data
        if said is not None and RETRY in said.metadata:
            ended = {MAY_HELP: Ended.FAILED, CANNOT_HELP: Ended.REFUSED}[str(said.metadata[RETRY].value)]
            return ended, (said.description or "")[:_LONGEST_ERROR]
    return Ended.BROKEN, ""


def _run(request: Request, keys: Iterable[dg.AssetKey]) -> dg.RunRequest:
    need = request.need
    following = _FOLLOWING.get(need.begin)
    exchange = need.market.exchange
    refresh = {"ops": {f"{exchange}__trades": {"config": {"refresh": True}}}}
    return dg.RunRequest(
        run_key=request.run_key,
        partition_key=Job(need.market, need.day).key,
        asset_selection=[key for key in keys if following is None or key.path[-1] in following],
        run_config=refresh if need.reason is Reason.DAMAGED else {},
        tags={CASE: request.case, ATTEMPT: str(request.attempt), "marketdata/reason": need.reason.value},
    )


def _stored(settings: Settings) -> tuple[dict[tuple[Market, date], str] | None, str]:
    """What the store has; a store that is away is asked at the next tick, and the lake is looked at now."""
    try:
        return stored_hashes(settings), ""
    except MarketDataError as error:
        return None, f"The store could not be asked: {error.message}"


def _survey(lake: Lake) -> Survey:
    return _surveys.setdefault(lake.url, Survey(lake))
