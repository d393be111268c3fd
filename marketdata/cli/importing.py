"""``marketdata import``: downloaded files into the lake."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from marketdata.cli.context import context
from marketdata.cli.failures import say
from marketdata.cli.progress import human_rate
from marketdata.importing import ImportProgress, ImportReport, import_files
from marketdata.market import Market


def run_import(files: Sequence[str], format: str | None, market: str | None) -> int:  # noqa: A002
    """Import and say what became of every row."""
    here = context()
    console = Console(stderr=True)
    with console.status("Recognising files…") as status:

        def show(progress: ImportProgress) -> None:
            part = "" if progress.fraction is None else f" {progress.fraction:.0%}"
            status.update(
                f"{progress.file}{part}: {progress.market} {progress.day}, {progress.rows:,} rows, "
                f"{human_rate(progress.rows_per_second)}"
            )

        report = import_files(
            here.lake,
            files,
            format=format,
            market=None if market is None else Market.parse(market),
            now=here.now,
            on_progress=show if console.is_terminal else None,
        )
    _print(report)
    for kept in report.kept:
        left = f"{kept.rows:,} rows not taken: {kept.reason}"
        say(f"warning: {kept.market} {kept.day} was left as it is, {left}")
    return 0


def _print(report: ImportReport) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("market", "days", "from", "to"):
        table.add_column(name, justify="right" if name == "days" else "left")
    for market, days in sorted(report.days.items()):
        table.add_row(str(market), f"{len(days):,}", str(min(days)), str(max(days)))
    console = Console(highlight=False)
    console.print(table)
    parts = [f"{report.rows:,} rows read", f"{report.accepted:,} new", f"{report.repeated:,} were there"]
    if report.empty:
        parts.append(f"{report.empty:,} empty candles left out")
    parts += [f"{count:,} refused ({reason})" for reason, count in sorted(report.rejected.items())]
    left = sum(kept.rows for kept in report.kept)
    if left:
        parts.append(f"{left:,} not taken")
    speed = human_rate(report.rows / max(report.seconds, 1e-6))
    console.print(f"{', '.join(parts)}; {report.seconds:.1f} s, {speed}", soft_wrap=True)
