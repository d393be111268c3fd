"""What a check says of one day; no Dagster in the reasoning, so that every rule can be tested by itself."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import polars as pl

from marketdata.backfill import compare_day
from marketdata.completeness import Ranges, missing_ranges, without
from marketdata.errors import CorruptFile
from marketdata.evidence import evidence_of
from marketdata.lake import Lake
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata_dagster import metadata
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a check passes, in one sentence why, and whether it deserves a second look although it does."""

    passed: bool
    sentence: str
    notable: bool = False
    metadata: Metadata = field(default_factory=dict)


def every_trade_is_there(lake: Lake, job: Job, now: datetime) -> Verdict:
    """Whether the lake holds every trade that the exchange serves of that day.

    The file itself is looked at, not only its manifest: the rows lie in the day, their ids have no hole but
    those the exchange was asked for twice and does not serve, and the day joins the days before and after.
    """
    try:
        manifest = lake.manifest(job.market, job.day)
        if manifest is None:
            return Verdict(passed=False, sentence="The lake does not hold this day.")
        trades = lake.read_trades(job.market, *day_window(job.day))
    except CorruptFile as damage:
        return Verdict(passed=False, sentence=f"The file of the day is damaged. {damage.message}")
    facts = {**metadata.of_verdict(manifest), **_evidence(lake, manifest, trades)}
    fault = next(_faults(lake, manifest, trades, now), None)
    if fault is not None:
        return Verdict(passed=False, sentence=fault, metadata=facts)
    if manifest.not_served:
        sentence = f"{manifest.reason} Not served by the exchange: {metadata.ranges(manifest.not_served)}."
        return Verdict(passed=True, sentence=sentence, notable=True, metadata=facts)
    return Verdict(passed=True, sentence=manifest.reason, metadata=facts)


def _evidence(lake: Lake, manifest: Manifest, trades: pl.DataFrame) -> Metadata:
    """What speaks for the day beside its trades; that such a file is damaged says nothing of the trades."""
    try:
        return metadata.of_evidence(evidence_of(lake, manifest, trades))
    except CorruptFile as damage:
        return metadata.of_damaged_evidence(damage)


def _faults(lake: Lake, manifest: Manifest, trades: pl.DataFrame, now: datetime) -> Iterator[str]:
    _, end = day_window(manifest.day)
    if now < end:
        yield f"The day is still running until {end:%Y-%m-%d %H:%M} UTC."
    if manifest.status is not Status.COMPLETE:
        yield manifest.reason
    if len(trades) != manifest.rows:
        yield f"The file holds {len(trades):,} trades of the day, its manifest says {manifest.rows:,}."
    if manifest.ids is not Ids.SEQUENTIAL:
        return
    before, after = manifest.previous_id, manifest.following_id
    holes = missing_ranges(
        trades["trade_id"].sort(),
        None if before is None else before + 1,
        None if after is None else after - 1,
    )
    unexplained = without(holes, manifest.not_served)
    if unexplained:
        yield f"Ids are missing: {metadata.ranges(unexplained)}."
    days = [_neighbour(lake, manifest, timedelta(days=n)) for n in (-1, 1)]
    for earlier, later in ((days[0], manifest), (manifest, days[1])):
        if earlier is not None and later is not None and (lost := between(earlier, later)):
            yield f"{earlier.day} and {later.day} do not join; in neither: {metadata.ranges(lost)}."


def _neighbour(lake: Lake, manifest: Manifest, away: timedelta) -> Manifest | None:
    """What is known of the day before or after; a damaged one fails its own check, and says nothing here."""
    try:
        return lake.manifest(manifest.market, manifest.day + away)
    except CorruptFile:
        return None


def candles_agree_with_the_exchange(lake: Lake, job: Job) -> Verdict:
    """Whether our candles of that day equal the exchange's own, as far as it serves them."""
    comparison = compare_day(lake, job.market, job.day)
    facts = metadata.of_comparison(comparison)
    if comparison.compared == 0 and comparison.different.is_empty():
        asked = lake.read_facts("exchange_candles", job.market, job.day, "1m") is not None
        sentence = "The exchange no longer serves" if asked else "The exchange has not been asked for"
        return Verdict(passed=True, sentence=f"{sentence} candles of this day.", metadata=facts)
    if comparison.different.is_empty():
        sentence = f"{comparison.equal:,} of {comparison.compared:,} candles are equal."
        return Verdict(passed=True, sentence=sentence, metadata=facts)
    sentence = f"{comparison.equal:,} of {comparison.compared:,} candles are equal; see the findings."
    return Verdict(passed=False, sentence=sentence, metadata=facts)


def between(earlier: Manifest, later: Manifest) -> Ranges:
    """Ids between two neighbouring days that are in neither and that nobody knows to be not served."""
    if {earlier.ids, later.ids} != {Ids.SEQUENTIAL}:
        return ()
    last = earlier.last_id if earlier.last_id is not None else earlier.previous_id
    first = later.first_id if later.first_id is not None else later.following_id
    if last is None or first is None or first <= last + 1:
        return ()
    return without(((last + 1, first - 1),), (*earlier.not_served, *later.not_served))
