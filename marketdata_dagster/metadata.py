"""What the UI shows of a partition: numbers, a picture of the day, some rows, where the files lie."""

from collections.abc import Iterable, Mapping
from datetime import datetime

import dagster as dg
import polars as pl

from marketdata.backfill import DayReport
from marketdata.candle import hash_of_cells
from marketdata.errors import CorruptFile
from marketdata.evidence import Evidence
from marketdata.interval import INTERVALS, Interval
from marketdata.lake import Lake
from marketdata.lake.paths import Kind
from marketdata.manifest import Manifest, day_window
from marketdata.reconcile import Comparison
from marketdata_dagster import picture
from marketdata_dagster.defs.partitions import Job

Metadata = Mapping[str, dg.MetadataValue]
ROWS = "dagster/row_count"  # the UI shows and plots this one by itself
HASH = "content hash"
MINUTES = 1440
_PREVIEW_ROWS = 3
_PREVIEW = (
    "trade_id", "time", "price", "amount", "side",
    "open_time", "open", "high", "low", "close", "volume", "trade_count",
)  # fmt: skip
_MAX_RANGES = 20


def of(kind: Kind, lake: Lake, job: Job) -> Metadata | None:
    """Metadata of what the lake holds of that kind and day; ``None`` when it holds nothing."""
    if kind == "trades":
        manifest = lake.manifest(job.market, job.day)
        return None if manifest is None else of_trades(lake, job, manifest)
    if kind == "candles":
        if not lake.size("candles", job.market, job.day, "1m"):
            return None
        return of_candles(lake, job, lake.read_candles(job.market, "1m", *day_window(job.day)))
    return of_exchange_candles(lake, job)


def content_hash(kind: Kind, lake: Lake, job: Job) -> str | None:
    """The content hash that :func:`of` would give, without the picture and the rows."""
    if kind == "trades":
        manifest = lake.manifest(job.market, job.day)
        return None if manifest is None else manifest.content_hash
    if kind == "candles":
        return _of_its_trades(lake, job) if lake.size("candles", job.market, job.day, "1m") else None
    facts = of_exchange_candles(lake, job)
    return None if facts is None else hash_in(facts)


def of_trades(lake: Lake, job: Job, manifest: Manifest, report: DayReport | None = None) -> Metadata:
    """Metadata of a day of trades; ``report`` adds how the fetch went, when there was one."""
    start, end = day_window(job.day)
    trades = lake.read_trades(job.market, start, end)
    covered = sum((until - since).total_seconds() for since, until in manifest.covered)
    values: dict[str, dg.MetadataValue] = {
        "picture": dg.MetadataValue.md(picture.of_day(picture.of_trades(trades), job.day)),
        ROWS: dg.MetadataValue.int(manifest.rows),
        "status": dg.MetadataValue.text(manifest.status.value),
        "reason": dg.MetadataValue.text(manifest.reason),
        "percent of the day": dg.MetadataValue.float(round(100 * covered / (end - start).total_seconds(), 2)),
        "pages": dg.MetadataValue.int(manifest.pages),
    }
    if report is not None and not report.skipped:
        values["seconds"] = dg.MetadataValue.float(round(report.seconds, 2))
        values["rows per second"] = dg.MetadataValue.int(
            round(report.fetched_rows / max(report.seconds, 1e-3))
        )
        values["pages kept from an earlier try"] = dg.MetadataValue.int(report.resumed_pages)
    values |= {
        "raw trades": dg.MetadataValue.int(manifest.fills),
        "first id": _id(manifest.first_id),
        "last id": _id(manifest.last_id),
        "ids": dg.MetadataValue.text(manifest.ids.value),
        "missing ids": dg.MetadataValue.text(ranges(manifest.missing_ids)),
        "ids not served": dg.MetadataValue.text(ranges(manifest.not_served)),
        "rejected": dg.MetadataValue.text(
            ", ".join(f"{count} {reason}" for reason, count in sorted(manifest.rejected.items())) or "none"
        ),
        "repeated": dg.MetadataValue.int(manifest.repeated),
        "preview": dg.MetadataValue.md(preview(trades)),
        "source": dg.MetadataValue.text(manifest.source),
        "evidence": dg.MetadataValue.json(dict(manifest.evidence)),
        HASH: dg.MetadataValue.text(manifest.content_hash),
        **_file(lake, "trades", job),
    }
    return values


def of_candles(lake: Lake, job: Job, candles: pl.DataFrame) -> Metadata:
    """Metadata of a day of one-minute candles; their content is known by that of their trades."""
    return {
        "picture": dg.MetadataValue.md(picture.of_day(candles, job.day)),
        ROWS: dg.MetadataValue.int(len(candles)),
        "minutes without a trade": dg.MetadataValue.int(MINUTES - len(candles)),
        "raw trades": dg.MetadataValue.int(int(candles["trade_count"].sum())),
        "volume": dg.MetadataValue.float(float(candles["volume"].sum())),
        "quote volume": dg.MetadataValue.float(float(candles["quote_volume"].sum())),
        "preview": dg.MetadataValue.md(preview(candles)),
        HASH: dg.MetadataValue.text(_of_its_trades(lake, job)),
        **_file(lake, "candles", job, "1m"),
    }


def _of_its_trades(lake: Lake, job: Job) -> str:
    facts = lake.read_facts("candles", job.market, job.day, "1m") or {}
    return f"trades {facts.get('trades', 'unknown')}"


def of_exchange_candles(lake: Lake, job: Job) -> Metadata | None:
    """Metadata of the exchange's own candles of a day; ``None`` when it was never asked for them."""
    held = {
        interval.name: facts
        for interval in INTERVALS
        if (facts := _facts_of_exchange_candles(lake, job, interval)) is not None
    }
    if not held:
        return None
    values: dict[str, dg.MetadataValue] = {
        ROWS: dg.MetadataValue.int(sum(rows for rows, _ in held.values())),
        "candles": dg.MetadataValue.text(
            ", ".join(f"{rows} of {name}" for name, (rows, _) in held.items() if rows)
            or "none: the exchange no longer serves candles of this day"
        ),
        HASH: dg.MetadataValue.text(" ".join(content for _, content in held.values())),
    }
    for interval in held:
        values |= _file(lake, "exchange_candles", job, interval)
    return values


def of_comparison(comparison: Comparison) -> Metadata:
    """Metadata of a comparison with the exchange's own candles."""
    values: dict[str, dg.MetadataValue] = {
        "compared": dg.MetadataValue.int(comparison.compared),
        "equal": dg.MetadataValue.int(comparison.equal),
        "different": dg.MetadataValue.int(comparison.compared - comparison.equal),
    }
    if not comparison.different.is_empty():
        values["findings"] = dg.MetadataValue.md(
            table(comparison.different.columns, [comparison.different.head(_MAX_RANGES)])
        )
    return values


def of_verdict(manifest: Manifest) -> Metadata:
    """Metadata of a check of a day: what its manifest says."""
    return {
        "status": dg.MetadataValue.text(manifest.status.value),
        "rows": dg.MetadataValue.int(manifest.rows),
        "missing ids": dg.MetadataValue.text(ranges(manifest.missing_ids)),
        "ids not served": dg.MetadataValue.text(ranges(manifest.not_served)),
        "covered": dg.MetadataValue.text(
            ", ".join(f"{since:%H:%M:%S} to {until:%Y-%m-%d %H:%M:%S}" for since, until in manifest.covered)
            or "nothing"
        ),
        "source": dg.MetadataValue.text(manifest.source),
        HASH: dg.MetadataValue.text(manifest.content_hash),
    }


def of_evidence(evidence: Evidence) -> Metadata:
    """Metadata of what speaks for or against a day: a line a fact."""
    word = {True: "agrees", False: "CONTRADICTS", None: "proves nothing"}
    lines = [f"- {fact.kind} {word[fact.agrees]}: {fact.sentence}" for fact in evidence.facts]
    lines += [
        f"- exchange's outage {each.start:%H:%M:%S} to {each.end:%H:%M:%S}: {each.evidence}"
        for each in evidence.outages
    ]
    return {"evidence": dg.MetadataValue.md("\n".join(lines))}


def of_damaged_evidence(damage: CorruptFile) -> Metadata:
    """The same where a file that would speak cannot be read."""
    return {"evidence": dg.MetadataValue.md(f"- It cannot be read: {damage.message}")}


def preview(frame: pl.DataFrame) -> str:
    """The first and last rows as a Markdown table short enough to stand in the page."""
    for count in range(_PREVIEW_ROWS, 0, -1):
        ends = [frame] if len(frame) <= 2 * count else [frame.head(count), frame.tail(count)]
        text = table(_PREVIEW, ends)
        if len(text) <= picture.INLINE_LIMIT:
            break
    return text


def table(names: Iterable[str], frames: Iterable[pl.DataFrame]) -> str:
    """A Markdown table of those of the columns that are there; times of one day without their date."""
    shown: list[str] = []
    lines: list[str] = []
    for frame in frames:
        shown = [name for name in names if name in frame.columns]
        at = [frame.columns.index(name) for name in shown]
        lines += [f"| {' | '.join(_cell(row[n]) for n in at)} |" for row in frame.rows()]
    if not lines:
        return "No rows."
    return "\n".join([f"| {' | '.join(shown)} |", f"|{' --- |' * len(shown)}", *lines])


def ranges(ids: tuple[tuple[int, int], ...]) -> str:
    """Inclusive ranges of ids, at most twenty of them written out."""
    if not ids:
        return "none"
    count = sum(last - first + 1 for first, last in ids)
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ids[:_MAX_RANGES])
    more = f" and {len(ids) - _MAX_RANGES} more ranges" if len(ids) > _MAX_RANGES else ""
    return f"{count}: {shown}{more}"


def hash_in(metadata: Mapping[str, dg.MetadataValue]) -> str | None:
    """The content hash a materialisation has recorded."""
    value = metadata.get(HASH)
    return None if value is None else str(value.value)


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.strftime("%H:%M:%S.%f").rstrip("0").rstrip(".")
    if isinstance(value, float):
        return f"{value:.10g}"
    return "" if value is None else str(value)


def _id(value: int | None) -> dg.MetadataValue:
    # As text: the UI's JavaScript rounds integers beyond 2**53, and fingerprints have 63 bits.
    return dg.MetadataValue.text("none" if value is None else str(value))


def _facts_of_exchange_candles(lake: Lake, job: Job, interval: Interval) -> tuple[int, str] | None:
    facts = lake.read_facts("exchange_candles", job.market, job.day, interval)
    if facts is None:
        return None
    if "content" in facts:
        return int(facts["rows"]), facts["content"]
    # Written before the file said it of itself.
    candles = lake.read_candles(job.market, interval, *day_window(job.day), kind="exchange_candles")
    return len(candles), hash_of_cells(candles)


def _file(lake: Lake, kind: Kind, job: Job, interval: str | None = None) -> dict[str, dg.MetadataValue]:
    path = lake.path(kind, job.market, job.day, interval)
    suffix = f" ({interval})" if kind == "exchange_candles" else ""
    return {
        f"file{suffix}": dg.MetadataValue.url(path) if "://" in path else dg.MetadataValue.path(path),
        f"bytes{suffix}": dg.MetadataValue.int(lake.size(kind, job.market, job.day, interval)),
    }
