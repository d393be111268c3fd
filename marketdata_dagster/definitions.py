"""The code location: one asset group an exchange, made from the market file."""

import warnings

import dagster as dg

from marketdata.settings import Settings, Tracked
from marketdata_dagster import checks
from marketdata_dagster.defs import (
    alerts,
    automation,
    candles,
    exchange_candles,
    live_gaps,
    partitions,
    quality,
    reconciliation,
    report,
    store_candles,
    store_trades,
    trades,
)
from marketdata_dagster.defs.resources import Platform

# Days of one symbol that one run takes: a year. Starting a run costs a second or two. A killed run loses
# nothing: the lake keeps pages.
DAYS_A_RUN = 366


def build(tracked: tuple[Tracked, ...], *, store: bool = False) -> dg.Definitions:
    """The definitions for these markets; with ``store`` those of the database too."""
    with warnings.catch_warnings():
        # Backfill policies and partitioned checks may still change: the version is pinned, tests hold them.
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return _build(tracked, store=store)


def _build(tracked: tuple[Tracked, ...], *, store: bool) -> dg.Definitions:
    exchanges = partitions.by_exchange(tracked)
    assets: list[dg.AssetsDefinition] = []
    asset_checks: list[dg.AssetChecksDefinition] = []
    days_of: dict[str, dg.MultiPartitionsDefinition] = {}
    made_of: dict[str, list[dg.AssetsDefinition]] = {}
    policy = dg.BackfillPolicy.multi_run(max_partitions_per_run=DAYS_A_RUN)
    for exchange, markets in exchanges.items():
        days = days_of[exchange] = partitions.definition(markets)
        raw = trades.build(exchange, days, policy)
        folded = candles.build(exchange, days, policy, raw)
        theirs = exchange_candles.build(exchange, days, policy)
        odd = quality.build(exchange, days, policy, raw)
        made = [raw, folded, theirs, odd]
        asset_checks += checks.build(exchange, days, raw, folded, theirs)
        asset_checks.append(quality.check(exchange, days, odd))
        if store:
            stored = store_trades.build(exchange, days, policy, raw)
            held = store_candles.build(exchange, days, policy, folded)
            made += [stored, held]
            asset_checks.append(checks.of_store(exchange, days, stored))
            assets.append(live_gaps.build(exchange, markets))
        compared = reconciliation.build(exchange, days, policy, [folded, theirs, *([held] if store else [])])
        made.append(compared)
        asset_checks.append(reconciliation.check(exchange, days, compared))
        made_of[exchange] = made
    asking = automation.build(exchanges, made_of, days_of, store=store)
    page, page_daily = report.build(tracked)
    return dg.Definitions(
        assets=[*assets, page, *(asset for made in asking.assets.values() for asset in made)],
        asset_checks=asset_checks,
        schedules=[*asking.schedules, page_daily],
        sensors=[*asking.sensors, alerts.build()],
        resources={"platform": Platform()},
        executor=dg.in_process_executor,
    )


settings = Settings.load()
defs = build(settings.tracked, store=settings.database_url is not None)
