"""``make demo``: the main job from end to end on a synthetic market, with a summary a person can check.

Starts the local exchange, the Dagster webserver and daemon and a Kafka on loopback, launches one backfill of
seven days and six markets by the GraphQL call that the UI makes, streams live candles of the same markets
meanwhile, shows the progress of both, prints what is in the lake afterwards and what the exchange says about
it, and stops everything it has started. The exit code is 1 if anything is missing or differs.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from marketdata import reading
from marketdata.agreement import compare_day
from marketdata.cli.chart import render_chart
from marketdata.cli.coverage import render_coverage
from marketdata.cli.failures import report
from marketdata.cli.progress import human_bytes
from marketdata.errors import PermanentError
from marketdata.lake import Lake
from marketdata.manifest import Manifest, Status, day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata_dagster import demo_live, demo_repair, demo_store
from marketdata_dagster.graphql import ASSETS, STORE_ASSETS, Backfill
from marketdata_dagster.home import demo_settings, exclusive
from marketdata_dagster.memory import PeakMemory
from marketdata_dagster.stack import LocalStack

DAYS = 7
_LINE_EVERY_S = 5.0  # where the output is no terminal


@dataclass(frozen=True, slots=True)
class Result:
    """What the demo has made, to be looked at."""

    lake: Lake
    markets: tuple[Market, ...]
    start: date
    end: date

    @property
    def days(self) -> list[date]:
        """The days of the backfill."""
        return [self.start + timedelta(days=n) for n in range((self.end - self.start).days)]

    def manifests(self) -> list[Manifest]:
        """The manifests of the days that are in the lake."""
        return self.lake.manifests(start=self.start, end=self.end)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make demo ARGS=...", description=__doc__)
    parser.add_argument("--days", type=int, default=DAYS, help="days up to yesterday (default %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    try:
        return demo(options.days)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted; everything that was started has been stopped.")
        return 130
    except Exception as error:
        return report(error, debug=options.debug)


def demo(days: int = DAYS) -> int:
    """Run the demo over so many days; 0 if everything is there and equals the exchange's own."""
    console = Console(highlight=False, soft_wrap=False)
    settings = demo_settings()
    with exclusive(settings.home):
        _clear(settings.home)
        console.rule("marketdata demo", align="left")
        console.print(
            "The market is [bold]synthetic[/bold]: a local exchange makes it up and serves it as\n"
            "Kraken and Binance would. No price below was ever paid, and nothing leaves this machine."
        )
        end = datetime.now(UTC).date()
        markets = tuple(tracked.market for tracked in settings.tracked)
        result = Result(Lake.open(settings.lake_url), markets, end - timedelta(days=days), end)
        began = time.monotonic()
        with demo_store.embedded(settings.home, console) as store:
            backfill, seconds, memory, live, repaired = _run(console, settings, result, store)
            sound = summarise(console, result)
            if store is not None:
                console.print()
                sound = (
                    not demo_store.summarise(
                        console, result.lake, store, result.markets, (result.start, result.end)
                    )
                    and sound
                )
            console.print()
            sound = demo_live.show(console, live) and sound
            if repaired is not None:
                console.print()
                sound = demo_repair.show(console, repaired) and sound
        console.print()
        console.print(
            f"time     [bold]{seconds:.1f} s[/bold] for the backfill, "
            f"{time.monotonic() - began:.1f} s with all else\n"
            f"memory   [bold]{human_bytes(memory.largest)}[/bold] at the peak of a run, "
            f"{human_bytes(memory.total)} all processes together"
        )
        console.print(f"data     {settings.lake_url}", soft_wrap=True)
        console.print("look     [bold]make up[/bold] shows it in the Dagster UI\n")
        if not backfill.succeeded:
            console.print(f"[red]The backfill ended as {backfill.status}.[/red] {backfill.error or ''}")
            console.print(f"Its logs are in {settings.home / 'logs'}")
            return 1
        console.print("[green]Everything is there and equals the exchange's own.[/green]" if sound else "")
        console.print(demo_live.last_line(live), soft_wrap=True)
        return 0 if sound else 1


def _clear(home: Path) -> None:
    """Remove what an earlier demo has left; never a folder that no demo made."""
    if home.exists() and any(home.iterdir()) and not (home / "dagster").is_dir():
        msg = f"{str(home)!r} holds something that is not an earlier demo's."
        raise PermanentError(msg, hint="Move it away; the demo writes there.")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)


def _run(
    console: Console, settings: Settings, result: Result, store: str | None
) -> tuple[Backfill, float, PeakMemory, list[demo_live.Agreement], demo_repair.Repaired | None]:
    """Start the platform, run the backfill while live candles come in, stop the platform."""
    environment = demo_store.environment(store)
    repaired = None
    with (
        demo_live.kafka(console) as (bootstrap, what),
        LocalStack(
            settings,
            exchange=True,
            exchange_arguments=["--faults", json.dumps(demo_live.FAULTS)],
            environment=environment,
        ) as stack,
        demo_live.Live(bootstrap, result.markets, stack.variables, stack.logs) as live,
    ):
        console.print(f"\nlocal exchange  {stack.urls.exchange}\nDagster UI      {stack.urls.webserver}")
        console.print(f"store           {demo_store.named(store)}", soft_wrap=True)
        console.print(f"Kafka           {bootstrap}   ({what})\n", soft_wrap=True)
        pids = stack.pids
        with PeakMemory(lambda: [*pids.values(), *live.pids], lambda: [pids["code-server"]]) as memory:
            began = time.monotonic()
            assets = ASSETS if store is None else (*ASSETS, *STORE_ASSETS)
            backfill_id = stack.graphql.launch_backfill(
                result.markets, result.start, result.end, title="make demo", assets=assets
            )
            last = result.end - timedelta(days=1)
            console.print(
                f"One backfill, launched as the UI does: {len(result.days)} days x {len(result.markets)} "
                f"markets,\n{result.start} to {last}: trades, candles, the exchange's own candles"
                + ("" if store is None else ", and the store")
                + ".\nMeanwhile the streamer makes live candles of the same markets."
            )
            with _Watch(console, result, live) as watch:
                backfill = stack.graphql.wait(backfill_id, progress=watch)
            seconds = time.monotonic() - began
            assert stack.urls.exchange is not None  # noqa: S101
            since = datetime.now(UTC)
            if backfill.succeeded:
                since = live.misbehaved(stack.urls.exchange)
                mine = settings.model_copy(
                    update={"database_url": None if store is None else SecretStr(store)}
                )
                repaired = _damage_and_wait(console, mine, result)
        console.print(f"\nOn the sockets: {demo_live.misbehaviour(stack.urls.exchange)}.")
        until = live.settle(since)
        compared = live.compared(settings, until)
    return backfill, seconds, memory, compared, repaired


def _damage_and_wait(console: Console, settings: Settings, result: Result) -> demo_repair.Repaired:
    """Cut a day in half, and watch what the sensor of gaps does about it."""
    market, day = result.markets[-1], result.days[len(result.days) // 2]
    damage = demo_repair.cut_in_half(result.lake, market, day)
    console.print(
        f"\n{market} {day} is cut in half: {damage.rows // 2:,} of {damage.rows:,} trades are left."
    )
    console.print("Nobody is told. The sensor looks every 30 seconds ...")
    return demo_repair.wait(settings, result.lake, damage, lambda line: console.print(f"  {line}"))


class _Watch:
    """Shows a backfill's progress: as a bar on a terminal, else as a line now and then."""

    def __init__(self, console: Console, result: Result, live: demo_live.Live) -> None:
        self._console, self._result, self._live = console, result, live
        self._said = 0.0
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("waiting for the daemon", total=None)

    def __enter__(self) -> "_Watch":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, backfill: Backfill) -> None:
        held = sum(len(days) for days in self._result.lake.days().values())
        wanted = len(self._result.days) * len(self._result.markets)
        total = max(backfill.targeted, 1)
        made = f"{backfill.materialized}/{backfill.targeted}"
        text = f"days {held}/{wanted}, partitions {made}; {self._live.line()}"
        if self._console.is_terminal:
            # A day is in the lake well before Dagster writes down what its run has made.
            done = (backfill.materialized / total + held / wanted) / 2
            self._bar.update(self._task, description=text, total=1.0, completed=done)
        elif time.monotonic() - self._said > _LINE_EVERY_S or backfill.over:
            self._said = time.monotonic()
            self._console.print(f"  {text}")


def summarise(console: Console, result: Result) -> bool:
    """Print what a person can check; returns whether all days are complete and no candle differs."""
    manifests = result.manifests()
    console.print()
    console.rule("every day, complete or not", align="left")
    console.print(render_coverage(manifests, result.markets, result.start, result.end))
    console.print()
    console.rule("rows, bytes, and candles beside the exchange's own", align="left")
    differences = _print_markets(console, result, manifests)
    console.print("[dim]Kraken serves 720 candles of a width; older days are compared in wider ones.[/dim]")
    console.print()
    _print_candles(console, result)
    wanted = len(result.days) * len(result.markets)
    complete = sum(manifest.status is Status.COMPLETE for manifest in manifests)
    if complete != wanted:
        console.print(f"[red]{wanted - complete} of {wanted} days are not complete.[/red]")
    if differences:
        console.print(f"[red]{differences} candles differ from the exchange's own.[/red]")
    return complete == wanted and not differences


def _table(first: str, *others: str) -> Table:
    """A table without lines; numbers to the right, nothing broken over two lines."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print_markets(console: Console, result: Result, manifests: Sequence[Manifest]) -> int:
    """One line a market; returns how many candles differ or could not be compared at all."""
    table = _table("market", "trades", "fills", "size", "B/trade", "candles", "equal", "differ")
    sums = [0] * 6
    for market in result.markets:
        own = [manifest for manifest in manifests if manifest.market == market]
        rows, fills = sum(manifest.rows for manifest in own), sum(manifest.fills for manifest in own)
        size = sum(result.lake.size("trades", market, manifest.day) for manifest in own)
        first, last = day_window(result.start)[0], day_window(result.end)[0]
        candles = len(reading.candles(result.lake, market, "1m", first, last))
        compared = [compare_day(result.lake, market, manifest.day) for manifest in own]
        equal = sum(one.equal for one in compared)
        different = sum(one.compared - one.equal for one in compared)
        for index, value in enumerate((rows, fills, size, candles, equal, different)):
            sums[index] += value
        _add(table, str(market), (rows, fills, size, candles, equal, different))
    table.add_section()
    _add(table, "all", sums)
    console.print(table)
    return sums[5] if sums[4] else 1


def _add(table: Table, name: str, figures: Sequence[int]) -> None:
    rows, fills, size, candles, equal, different = figures
    table.add_row(
        name,
        f"{rows:,}",
        f"{fills:,}",
        human_bytes(size),
        f"{size / rows:.1f}" if rows else "-",
        f"{candles:,}",
        Text(f"{equal:,}", style="green"),
        Text(f"{different:,}", style="red" if different else "green"),
    )


def _print_candles(console: Console, result: Result) -> None:
    """A chart of the last day of the first market, and its last few candles."""
    market = result.markets[0]
    last = result.end - timedelta(days=1)
    console.rule(f"{market} on {last} (synthetic)", align="left")
    width = min(console.width, 100)
    hours = reading.candles(result.lake, market, "15m", *day_window(last))
    console.print(Text.from_ansi(render_chart(hours, width=width, height=14, colour=console.is_terminal)))
    console.print()
    tail = reading.candles(result.lake, market, "1h", *day_window(last)).tail(4)
    table = _table("1h candle", "open", "high", "low", "close", "volume", "trades", "vwap")
    for row in tail.with_columns((pl.col("quote_volume") / pl.col("volume")).alias("vwap")).iter_rows(
        named=True
    ):
        prices = [f"{row[name]:,.2f}" for name in ("open", "high", "low", "close")]
        table.add_row(
            f"{row['open_time']:%m-%d %H:%M}", *prices, f"{row['volume']:,.4f}", f"{row['trade_count']:,}",
            f"{row['vwap']:,.2f}",
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
