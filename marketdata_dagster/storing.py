"""Days of the lake into the store: the work of its assets, what the UI shows of it, and its check."""

from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Literal

import dagster as dg
from pydantic import Field

from marketdata.errors import MarketDataError
from marketdata.manifest import Manifest, Status, day_window
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.defs.resources import Platform
from marketdata_dagster.metadata import HASH, ROWS, Metadata
from marketdata_dagster.settle import Outcome
from marketdata_dagster.verdicts import Verdict

# Runs that write to the database hold a place in this pool. Its limit is for whoever wants to spare the
# database: a place for each run that may run, so that exchanges do not wait for each other.
POOL = "store"
PLACES = 4
_EVERY = 20

_FREE = (
    ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)
# A day that came into the lake goes on into the store, whoever brought it: a run without the store, the
# command line, an import. A run that makes both is left alone.
FOLLOW = (dg.AutomationCondition.any_deps_updated().since_last_handled() & _FREE).with_label(
    "the lake has a new day"
)
# The gap sensor sees by its trades whether the store has a day. Where those came and the candles did not,
# because the disk was full or the server went away between the two, nobody else would ask for them again.
FOLLOW_OR_AGAIN = FOLLOW | (
    dg.AutomationCondition.in_latest_time_window(timedelta(days=7))
    & dg.AutomationCondition.cron_tick_passed("30 */6 * * *")
    & dg.AutomationCondition.execution_failed()
    & _FREE
).with_label("the candles did not come")


class LoadConfig(dg.Config):
    """What can be chosen when a load is launched by hand."""

    refresh: bool = Field(default=False, description="Copy trades again that the store holds already.")


def load(
    kind: Literal["trades", "candles"],
    platform: Platform,
    wanted: list[Job],
    write: Callable[[str], None],
    *,
    refresh: bool,
) -> Outcome:
    """Put these days of the lake in place of what the store holds; a day that fails stops no other."""
    from marketdata.store.load import LoadReport, load_day  # the store is an optional part  # noqa: PLC0415

    def facts(report: LoadReport) -> Metadata:
        common = {
            "dagster/table_name": dg.MetadataValue.text("trade" if kind == "trades" else "candle"),
            "database": dg.MetadataValue.text(where(platform)),
            "seconds": dg.MetadataValue.float(round(report.seconds, 3)),
            "skipped": dg.MetadataValue.bool(report.skipped),
            "status": dg.MetadataValue.text(report.manifest.status.value),
            "reason": dg.MetadataValue.text(report.manifest.reason),
            **_file(platform, kind, job),
        }
        if kind == "trades":
            return {
                ROWS: dg.MetadataValue.int(report.manifest.rows),
                "rows copied": dg.MetadataValue.int(report.rows),
                "rows per second": dg.MetadataValue.int(round(report.rows_per_second)),
                HASH: dg.MetadataValue.text(report.manifest.content_hash),
                **common,
            }
        return {
            ROWS: dg.MetadataValue.int(_candles(platform, job)),
            "candles new or changed": dg.MetadataValue.int(report.candles_changed),
            "candles removed": dg.MetadataValue.int(report.candles_removed),
            HASH: dg.MetadataValue.text(f"trades {report.manifest.content_hash}"),
            **common,
        }

    outcome = Outcome()
    number = count(1)
    for job in wanted:
        try:
            report = load_day(
                platform.settings,
                platform.lake,
                job.market,
                job.day,
                refresh=refresh,
                trades=kind == "trades",
                candles=kind == "candles",
                widen=False,
            )
        except MarketDataError as error:
            outcome.failed[job] = error
            continue
        outcome.made[job] = facts(report)
        done = next(number)
        if done % _EVERY == 0 or done == len(wanted):
            write(f"{done} of {len(wanted)} days in the store; {job.market} {job.day}: {report.rows:,} rows.")
    if kind == "candles" and outcome.made:
        _widen(platform, outcome)
    return outcome


def _widen(platform: Platform, outcome: Outcome) -> None:
    """Make wider candles once for all days. If that fails so does the last day, and a retry makes them."""
    from marketdata.store import engine, wider  # noqa: PLC0415

    try:
        wider.refresh(engine.database_url(platform.settings))
    except MarketDataError as error:
        last = max(outcome.made)
        del outcome.made[last]
        outcome.failed[last] = error


def where(platform: Platform) -> str:
    """``host:port/database`` of the store."""
    from marketdata.store import engine  # noqa: PLC0415

    return engine.where(engine.database_url(platform.settings))


def the_store_equals_the_lake(platform: Platform, job: Job) -> Verdict:
    """Whether the rows in the store, counted and hashed, are those of the lake's manifest.

    Of a day that is not complete the store may hold more, above all what the stream has brought since.
    """
    from marketdata.store.contents import contents  # noqa: PLC0415

    manifest = platform.lake.manifest(job.market, job.day)
    if manifest is None:
        return Verdict(passed=False, sentence="The lake does not hold this day.")
    held = contents(platform.settings, job.market, job.day)
    facts: Metadata = {
        "rows": dg.MetadataValue.int(held.rows),
        "rows of the manifest": dg.MetadataValue.int(manifest.rows),
        HASH: dg.MetadataValue.text(held.content_hash),
        "content hash of the manifest": dg.MetadataValue.text(manifest.content_hash),
    }
    fault = _fault(manifest, held.rows, held.content_hash)
    more = held.rows - manifest.rows
    beside = f"{manifest.rows:,} trades of the lake, and {more:,} that the lake does not have yet."
    sentence = fault or (beside if more else f"{held.rows:,} trades, the same as in the lake.")
    return Verdict(passed=fault is None, sentence=sentence, metadata=facts)


def _fault(manifest: Manifest, rows: int, content_hash: str) -> str | None:
    if rows > manifest.rows and manifest.status is not Status.COMPLETE:
        return None
    if rows != manifest.rows:
        return f"The store holds {rows:,} trades of the day, the lake {manifest.rows:,}."
    if content_hash != manifest.content_hash:
        return f"The {rows:,} trades in the store say something else than those in the lake."
    return None


def _candles(platform: Platform, job: Job) -> int:
    return len(platform.lake.read_candles(job.market, "1m", *day_window(job.day)))


def _file(platform: Platform, kind: Literal["trades", "candles"], job: Job) -> dict[str, dg.MetadataValue]:
    path = platform.lake.path(kind, job.market, job.day, None if kind == "trades" else "1m")
    value = dg.MetadataValue.url(path) if "://" in path else dg.MetadataValue.path(path)
    return {"file": value}
