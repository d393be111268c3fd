"""Holes in the live tables of the last days: a sensor that sees them, and an asset that fills them."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

import dagster as dg

from marketdata import recording
from marketdata.errors import MarketDataError
from marketdata.ledger import State
from marketdata.repair import live
from marketdata.repair.live import Hole
from marketdata.settings import Settings, Tracked
from marketdata_dagster.busy import RUNNING
from marketdata_dagster.defs.gaps import rules
from marketdata_dagster.defs.resources import Platform
from marketdata_dagster.settle import CANNOT_HELP, MAY_HELP, RETRY
from marketdata_dagster.storing import POOL

if TYPE_CHECKING:
    from marketdata.repair.watching import Watch

EVERY_S = 60
NAME = "live_repair"
# What a run was started for, on its tags; all that were started for the same have the same.
HOLES = "marketdata/holes"
_SHOWN = 50


def build(exchange: str, markets: Sequence[Tracked]) -> dg.AssetsDefinition:
    """The asset of one exchange; it has no partitions, for what it fills is of now."""

    @dg.asset(
        key=[exchange, NAME],
        group_name=exchange,
        description=(
            "Fills holes in the live tables of the last two days: from the exchange's candles at once where "
            "the hole is under 12 hours, and from its trades."
        ),
        pool=POOL,
        kinds={"postgres"},
    )
    def live_repair(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        from marketdata.repair.filling import fill  # the store is an optional part  # noqa: PLC0415

        settings, lake, now = platform.settings, platform.lake, platform.now()
        found = holes_of(settings, {exchange: markets}, now)[exchange]
        rule = rules(settings)
        wanted = live.due(found, recording.entries(settings, lake), now, rule.pauses)
        context.log.info(f"{len(wanted)} of {len(found)} holes are filled now.")
        done = fill(
            settings, lake, wanted, now=now, rules=rule, run_id=context.run.run_id, say=context.log.info
        )
        failed = [each for each in done if each.state in {State.FAILED, State.EXHAUSTED}]
        lines = [f"| {d.hole.market} | {d.hole.sentence} | {d.state} | {d.sentence} |" for d in done[:_SHOWN]]
        table = "\n".join(["| market | what was wrong | now | what was done |", "|---|---|---|---|", *lines])
        if failed:
            msg = f"{len(failed)} of {len(done)} holes could not be filled. {failed[0].sentence}"
            raise dg.Failure(
                msg,
                metadata={
                    "holes": dg.MetadataValue.md(table),
                    RETRY: MAY_HELP if any(each.state is State.FAILED for each in failed) else CANNOT_HELP,
                },
                allow_retries=False,
            )
        return dg.MaterializeResult(
            metadata={
                "holes filled": len(done),
                "trades": sum(each.trades for each in done),
                "candles made anew": sum(each.remade for each in done),
                "holes": dg.MetadataValue.md(table),
            }
        )

    return live_repair


def sensor(exchanges: Mapping[str, Sequence[Tracked]]) -> dg.SensorDefinition:
    """The sensor that asks for it."""
    keys = {exchange: dg.AssetKey([exchange, NAME]) for exchange in exchanges}

    @dg.sensor(
        name="live_gaps",
        asset_selection=list(keys.values()),
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks at the live tables of the last two days for holes, and has them filled.",
    )
    def live_gaps(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
        settings, now = platform.settings, platform.now()
        try:
            found = holes_of(settings, exchanges, now, watch=_watch(settings.lake_url))
        except MarketDataError as error:
            return dg.SensorResult(skip_reason=f"The store could not be asked: {error.message}")
        if not any(found.values()):
            return dg.SensorResult(skip_reason="There is no hole.")
        entries = recording.entries(settings, platform.lake)
        requests = []
        for exchange, holes in found.items():
            wanted = live.due(holes, entries, now, rules(settings).pauses)
            if wanted and not _runs(context.instance, keys[exchange]):
                tokens = "\n".join(
                    live.token(hole, now, live.past(entries, hole).attempts) for hole in wanted
                )
                digest = hashlib.sha256(tokens.encode()).hexdigest()[:16]
                died = _died(context.instance, f"{exchange}:{digest}")
                if died is not None and died < settings.repair_attempts:
                    requests.append(
                        dg.RunRequest(
                            run_key=f"{exchange}:{digest}:{died}",
                            asset_selection=[keys[exchange]],
                            tags={HOLES: f"{exchange}:{digest}"},
                        )
                    )
        said = f"{sum(map(len, found.values()))} holes are known; {len(requests)} runs are asked for."
        return dg.SensorResult(run_requests=requests, skip_reason=None if requests else said)

    return live_gaps


def holes_of(
    settings: Settings,
    exchanges: Mapping[str, Sequence[Tracked]],
    now: datetime,
    watch: "Watch | None" = None,
) -> dict[str, list[Hole]]:
    """Holes of the tracked markets by exchange."""
    from marketdata.repair.watching import Watch  # the store is an optional part  # noqa: PLC0415

    markets = [entry.market for entries in exchanges.values() for entry in entries]
    counted = [exchange for exchange, entries in exchanges.items() if _counts(entries[0], settings, now)]
    found = (watch or Watch()).holes(settings, markets, now, ids=counted)
    return {exchange: [hole for hole in found if hole.market.exchange == exchange] for exchange in exchanges}


def _counts(entry: Tracked, settings: Settings, now: datetime) -> bool:
    """Whether the exchange's ids count up by one."""
    from marketdata.sources import trade_source  # ccxt takes a second to import  # noqa: PLC0415

    return trade_source(entry.market, now.date(), settings, now).sequential_ids


@cache
def _watch(lake_url: str) -> "Watch":  # noqa: ARG001 - what it is kept by
    from marketdata.repair.watching import Watch  # noqa: PLC0415

    return Watch()


def _died(instance: dg.DagsterInstance, holes: str) -> int | None:
    """How many runs have failed over these holes and left nothing in the ledger that would tell them apart.

    Such a run was killed, and nothing speaks of its attempt: a request under the same key would be taken for
    it. ``None`` while Dagster is about to start the last one again.
    """
    failed = instance.get_runs(dg.RunsFilter(tags={HOLES: holes}, statuses=[dg.DagsterRunStatus.FAILURE]))
    return None if any(run.is_complete_and_waiting_to_retry for run in failed) else len(failed)


def _runs(instance: dg.DagsterInstance, key: dg.AssetKey) -> bool:
    """Whether a run is filling holes already."""
    return any(
        key in (run.asset_selection or ()) for run in instance.get_runs(dg.RunsFilter(statuses=RUNNING))
    )
