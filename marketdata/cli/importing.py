"""``marketdata import``: downloaded files into the lake."""

import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
import polars as pl
from rich import box
from rich.table import Table

from marketdata.cli.context import context
from marketdata.cli.failures import say
from marketdata.cli.import_progress import import_progress
from marketdata.cli.output import choose_format, sink
from marketdata.cli.progress import human_bytes, human_rate, human_time
from marketdata.cli.table import show, terminal_width
from marketdata.errors import UnknownName
from marketdata.import_report import ImportReport, Tally
from marketdata.importing import import_files
from marketdata.manifest import Status
from marketdata.market import Market
from marketdata.sources.formats import FORMATS

_OUTPUTS = ("table", "csv", "json", "parquet")
_MARKETS_SHOWN = 20
_NAMED = 20
_WIDTH = 116
_ONLY_WIDE = {"files", "size", "time", "days", "unknown"}
_SCHEMA = pl.Schema(
    {
        "format": pl.String(),
        "files": pl.Int64(),
        "finished_before": pl.Int64(),
        "left_out": pl.Int64(),
        "rows": pl.Int64(),
        "accepted": pl.Int64(),
        "repeated": pl.Int64(),
        "rejected": pl.Int64(),
        "empty": pl.Int64(),
        "kept": pl.Int64(),
        "rejected_by_reason": pl.String(),
        "days": pl.Int64(),
        "days_complete": pl.Int64(),
        "days_gaps": pl.Int64(),
        "days_unknown": pl.Int64(),
        "bytes": pl.Int64(),
        "seconds": pl.Float64(),
        "rows_per_second": pl.Float64(),
    }
)


def run_import(
    files: Sequence[str],
    format: str | None,  # noqa: A002
    market: str | None,
    *,
    of: str | None = None,
    again: bool = False,
    output: Path | None = None,
) -> int:
    """Import and say what became of every row; 1 when a file was left out.

    ``format`` is of the summary; a format of files is understood there too, ``of`` is the place for it.
    """
    if format in FORMATS and of is None:
        format, of = None, format  # noqa: A001
    if format is not None and format not in _OUTPUTS:
        raise UnknownName(
            format,
            kind="format",
            known=(*_OUTPUTS, *FORMATS),
            hint=f"Of the summary: {' '.join(_OUTPUTS)}. Of the files, with --as: {' '.join(FORMATS)}.",
        )
    chosen = "table" if format is None and output is None else choose_format(format, output, _OUTPUTS)
    here = context()
    with import_progress() as progress:
        report = import_files(
            here.lake,
            files,
            format=of,
            market=None if market is None else Market.parse(market),
            now=here.now,
            again=again,
            on_progress=progress,
        )
    if chosen == "table" and output is None:
        _print(report)
    else:
        with sink(chosen, output, rows=len(report.tallies) + 2) as target:
            target.write(summary_frame(report))
    _warn(report)
    return 1 if report.left_out else 0


def summary_frame(report: ImportReport) -> pl.DataFrame:
    """One row a format, then one named total; ``rejected_by_reason`` is a JSON object."""
    left_out = dict.fromkeys(("", *report.tallies), 0)
    for each in report.left_out:
        left_out[each.format] = left_out.get(each.format, 0) + 1
    rows = [
        _row(name, tally, left_out[name], tally.seconds) for name, tally in sorted(report.tallies.items())
    ]
    rows.append(_row("total", report.total, len(report.left_out), report.seconds))
    return pl.DataFrame(rows, schema=_SCHEMA)


def _row(name: str, tally: Tally, left_out: int, seconds: float) -> dict[str, object]:
    return {
        "format": name,
        "files": tally.files,
        "finished_before": tally.finished_before,
        "left_out": left_out,
        "rows": tally.rows,
        "accepted": tally.accepted,
        "repeated": tally.repeated,
        "rejected": tally.rejected.total(),
        "empty": tally.empty,
        "kept": tally.kept,
        "rejected_by_reason": orjson.dumps(dict(sorted(tally.rejected.items()))).decode(),
        "days": tally.days,
        **{f"days_{status.value}": tally.statuses[status] for status in Status},
        "bytes": tally.bytes,
        "seconds": seconds,
        "rows_per_second": tally.rows / seconds if seconds > 0 else None,
    }


def _print(report: ImportReport) -> None:
    show(_markets(report))
    if len(report.days) > _MARKETS_SHOWN:
        print(f"and {len(report.days) - _MARKETS_SHOWN:,} more markets\n")
    # A file has room for all columns.
    show(_formats(report, narrow=sys.stdout.isatty() and terminal_width() < _WIDTH))
    total = report.total
    parts = [f"{total.rows:,} rows read", f"{total.accepted:,} new", f"{total.repeated:,} were there"]
    if total.empty:
        parts.append(f"{total.empty:,} empty candles left out")
    parts += [f"{count:,} refused ({reason})" for reason, count in sorted(total.rejected.items())]
    if total.kept:
        parts.append(f"{total.kept:,} not taken")
    if total.finished_before:
        parts.append(f"{_files(total.finished_before)} finished before")
    speed = human_rate(total.rows / max(report.seconds, 1e-6))
    print(f"{', '.join(parts)}; {report.seconds:.1f} s, {speed}")


def _markets(report: ImportReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("market", "days", "from", "to"):
        table.add_column(name, justify="right" if name == "days" else "left")
    for market, days in sorted(report.days.items())[:_MARKETS_SHOWN]:
        span = (str(min(days)), str(max(days))) if days else ("", "")
        table.add_row(str(market), f"{len(days):,}", *span)
    return table


def _formats(report: ImportReport, *, narrow: bool) -> Table:
    lines = [(name, tally, tally.seconds) for name, tally in sorted(report.tallies.items())]
    if len(lines) > 1:
        lines.append(("total", report.total, report.seconds))
    columns = {
        "format": [name for name, _, _ in lines],
        "files": [f"{tally.files:,}" for _, tally, _ in lines],
        "rows": [f"{tally.rows:,}" for _, tally, _ in lines],
        "new": [f"{tally.accepted:,}" for _, tally, _ in lines],
        "there": [f"{tally.repeated:,}" for _, tally, _ in lines],
        "refused": [f"{tally.rejected.total():,}" for _, tally, _ in lines],
        "days": [f"{tally.days:,}" for _, tally, _ in lines],
        **{status.value: [_days(tally, status) for _, tally, _ in lines] for status in Status},
        "size": [human_bytes(tally.bytes) for _, tally, _ in lines],
        "time": [human_time(seconds) for _, _, seconds in lines],
        "rows/s": [human_rate(tally.rows / seconds) if seconds else "" for _, tally, seconds in lines],
    }
    if not any(tally.statuses[Status.GAPS] for _, tally, _ in lines):
        del columns[Status.GAPS.value]
    if narrow:
        columns = {name: texts for name, texts in columns.items() if name not in _ONLY_WIDE}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in columns:
        table.add_column(name, justify="left" if name == "format" else "right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _days(tally: Tally, status: Status) -> str:
    """Candles have no status."""
    return f"{tally.statuses[status]:,}" if tally.statuses.total() else ""


def _warn(report: ImportReport) -> None:
    for kept in report.kept[:_NAMED]:
        left = f"{kept.rows:,} rows not taken: {kept.reason}"
        say(f"warning: {kept.market} {kept.day} was left as it is, {left}")
    if len(report.kept) > _NAMED:
        say(f"warning: {len(report.kept) - _NAMED:,} more days were left as they are")
    if report.passed_over:
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in report.passed_over.most_common(5))
        say(f"passed over in the folders: {kinds}")
    for left_out in report.left_out[:_NAMED]:
        say(f"left out: {left_out.error}")
    if report.left_out:
        more = len(report.left_out) - _NAMED
        rest = f"; {more:,} of them not named here" if more > 0 else ""
        say(f"warning: {_files(len(report.left_out))} left out, the others were imported{rest}")


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"
