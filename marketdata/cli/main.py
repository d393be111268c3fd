"""What is typed: commands, options and their help. The work is in one module a command.

Those modules bring polars, pyarrow and ccxt along; each is imported when its command runs, so that help
and typing errors answer at once.
"""
# ruff: noqa: PLC0415

import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from marketdata import __version__
from marketdata.cli import failures
from marketdata.cli.db import db
from marketdata.cli.options import End, Format, Last, OneMarket, Output, Rows, Start
from marketdata.cli.times import Asked

_DOCS = "All settings are environment variables: [b]marketdata settings[/b] lists them."

app = typer.Typer(
    name="marketdata",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog=_DOCS,
)
app.add_typer(db)


@app.callback(invoke_without_command=True)
def marketdata(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[  # noqa: ARG001 - taken out of the arguments by main(), so that it may stand anywhere
        bool, typer.Option("--debug", help="Print a stack trace when something fails.")
    ] = False,
) -> None:
    """Every public trade of the crypto markets you track, proved complete, as candles.

    A market is written exchange:BASE/QUOTE, as in kraken:BTC/USD.
    Times are UTC; a range includes its start and not its end.
    """
    if version:
        typer.echo(f"marketdata {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command(
    epilog="[b]Examples[/b]\n\nmarketdata backfill --last 7d\n\n"
    "marketdata backfill kraken:BTC/USD binance:BTC/USDT --start 2025-06-01 --end 2025-06-08"
)
def backfill(
    markets: Annotated[
        list[str] | None,
        typer.Argument(metavar="MARKET", help="Default: all markets of the market file.", show_default=False),
    ] = None,
    *,
    start: Start = None,
    end: End = None,
    last: Last = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Fetch complete days again too.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, max=64, help="Days fetched side by side. Default: MARKETDATA_WORKERS."
        ),
    ] = None,
) -> int:
    """Fetch days of trades, prove them complete and fold them into candles.

    Whole UTC days that are over; days that are complete are left alone.
    It can be stopped at any time: the same command goes on at the page where it stopped.
    Exits 1 when a day failed or has gaps.
    """
    from marketdata.cli.backfill import run_backfill

    return run_backfill(markets or [], Asked(start, end, last), refresh=refresh, workers=workers)


@app.command(
    epilog="[b]Examples[/b]\n\nmarketdata candles kraken:BTC/USD --interval 1h --last 2d\n\n"
    "marketdata candles kraken:BTC/USD -i 1d --start 2025-06-01 --end 2025-07-01 -o june.parquet"
)
def candles(
    market: OneMarket,
    *,
    interval: Annotated[
        str, typer.Option("--interval", "-i", help="1s 10s 1m 5m 15m 30m 1h 4h 12h 1d 1w")
    ] = "1m",
    start: Start = None,
    end: End = None,
    last: Last = None,
    fill: Annotated[
        str | None,
        typer.Option("--fill", metavar="HOW", help="previous: add marked rows for empty intervals."),
    ] = None,
    format: Format = None,  # noqa: A002
    output: Output = None,
    rows: Rows = 20,
    chart: Annotated[bool, typer.Option("--chart", help="Draw them in the terminal instead.")] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Then the live ones, until Ctrl-C; a line each (table, csv, json)."),
    ] = False,
) -> int:
    """Print candles of the store where one is configured, else of the lake.

    An interval without trades has no candle. Days that are not there are named on stderr.
    """
    if follow:
        from marketdata.cli.follow import run_follow

        return run_follow(
            market,
            interval,
            Asked(start, end, last),
            format=format,
            rows=rows,
            unfit={"--fill": fill is not None, "--chart": chart, "--output": output is not None},
        )
    from marketdata.cli.read import run_candles

    return run_candles(
        market,
        interval,
        Asked(start, end, last),
        fill=fill,
        format=format,
        output=output,
        rows=rows,
        chart=chart,
    )


@app.command(
    epilog="[b]Examples[/b]\n\n"
    "marketdata trades kraken:BTC/USD --start 2025-06-01T12:00 --end 2025-06-01T13:00\n\n"
    "marketdata trades kraken:BTC/USD --last 24h --format csv | head"
)
def trades(
    market: OneMarket,
    *,
    start: Start = None,
    end: End = None,
    last: Last = None,
    format: Format = None,  # noqa: A002
    output: Output = None,
    rows: Rows = 20,
) -> int:
    """Print trades of the store where one is configured, else of the lake, in order of time and id."""
    from marketdata.cli.read import run_trades

    return run_trades(market, Asked(start, end, last), format=format, output=output, rows=rows)


@app.command(
    epilog="[b]Examples[/b]\n\nmarketdata coverage\n\n"
    "marketdata coverage kraken:BTC/USD --start 2025-01-01 --end 2025-07-01 --format csv"
)
def coverage(
    market: Annotated[
        str | None,
        typer.Argument(metavar="MARKET", help="Default: all markets.", show_default=False),
    ] = None,
    *,
    start: Start = None,
    end: End = None,
    last: Last = None,
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="map, or a row a day as csv, json or parquet.",
        ),
    ] = None,
    output: Output = None,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="What speaks for and against each day; text instead of map.")
    ] = False,
) -> int:
    """Show which days are complete, have gaps or are missing.

    Without a range: from the first to the last day in the lake.
    """
    if evidence:
        from marketdata.cli.evidence import run_evidence

        return run_evidence(market, Asked(start, end, last), format=format, output=output)
    from marketdata.cli.coverage import run_coverage

    return run_coverage(market, Asked(start, end, last), format=format, output=output)


@app.command(
    epilog="[b]Examples[/b]\n\nmarketdata gaps\n\n"
    "marketdata gaps kraken:BTC/USD --start 2025-01-01 --end 2025-07-01 --json"
)
def gaps(
    markets: Annotated[
        list[str] | None,
        typer.Argument(metavar="MARKET", help="Default: all markets of the market file.", show_default=False),
    ] = None,
    *,
    days: Annotated[
        int | None, typer.Option("--days", min=1, metavar="N", help="The last N days that are over.")
    ] = None,
    start: Start = None,
    end: End = None,
    json: Annotated[bool, typer.Option("--json", help="An object a line.")] = False,
) -> int:
    """Show what is missing, incomplete, damaged, stale or not served now, and what was done about it.

    Without a range: from the first held day of each market to yesterday.
    Exits 0 when nothing is open, 1 when something is; what the exchange does not serve is not open.
    """
    from marketdata.cli.gaps import run_gaps

    last = None if days is None else f"{days}d"
    return run_gaps(markets or [], Asked(start, end, last), as_json=json)


@app.command(
    epilog="[b]Examples[/b]\n\nmarketdata repairs --since 2025-06-01\n\nmarketdata repairs --case 3f2a91c0"
)
def repairs(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="From the beginning, and what is mere information.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Cases of which something was written since."),
    ] = None,
    case: Annotated[
        str | None, typer.Option("--case", metavar="ID", help="All entries of one case; its first digits do.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="An object a line.")] = False,
) -> int:
    """Tell what was found wrong, what was done about it and what holds now: the ledger, a row a case.

    Without an option: what was found wrong, and about which something was written in the last 7 days.
    """
    from marketdata.cli.repairs import run_repairs

    return run_repairs(everything=everything, since=since, case=case, as_json=json)


@app.command(
    "report",
    epilog="[b]Examples[/b]\n\nmarketdata report\n\nmarketdata report --day 2025-06-08 --open",
)
def report_(
    *,
    day: Annotated[
        str | None, typer.Option("--day", metavar="DAY", help="A UTC day. Default: yesterday.")
    ] = None,
    browse: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> int:
    """Write the report of a day: coverage, drift, late trades, rejected rows, findings and cases.

    It is one HTML file in the lake, which needs nothing else; its path is printed.
    """
    from marketdata.cli.report import run_report

    return run_report(day, browse=browse)


@app.command(
    "compare",
    epilog="[b]Example[/b]\n\nmarketdata compare kraken:BTC/USD --last 1d",
)
def compare(market: OneMarket, *, start: Start = None, end: End = None, last: Last = None) -> int:
    """Compare candles of the lake with the exchange's own.

    The exchange's candles are fetched where the lake has none yet. Exits 1 when one differs.
    """
    from marketdata.cli.compare import run_compare

    return run_compare(market, Asked(start, end, last))


@app.command(
    "compare-venues",
    epilog="[b]Example[/b]\n\nmarketdata compare-venues kraken:BTC/USD binance:BTC/USDT"
    " --start 2025-06-01 --end 2025-06-02",
)
def compare_venues(
    one: Annotated[str, typer.Argument(metavar="MARKET", show_default=False)],
    other: Annotated[str, typer.Argument(metavar="OTHER", show_default=False)],
    *,
    interval: Annotated[str, typer.Option("--interval", "-i", metavar="INTERVAL")] = "1m",
    start: Start = None,
    end: End = None,
    last: Last = None,
) -> int:
    """Show how far apart the same thing trades at two venues. Information: that they differ is no fault."""
    from marketdata.cli.venues import run_compare_venues

    return run_compare_venues(one, other, interval, Asked(start, end, last))


@app.command(
    "import",
    epilog="[b]Examples[/b]\n\nmarketdata import XBTUSD.csv downloads/\n\n"
    "marketdata import trades.csv --market kraken:BTC/USD --as kraken-trades\n\n"
    "marketdata import 'downloads/**/*.csv' --format json",
)
def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="Files, folders or patterns: .csv, .csv.gz, .zip of the exchanges, "
            ".feather, .parquet, .json, .json.gz of freqtrade.",
            show_default=False,
        ),
    ],
    *,
    market: Annotated[
        str | None,
        typer.Option("--market", "-m", metavar="MARKET", help="Default: the path of each file says it."),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="Format of the files. Default: recognised by content."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Read also files that were finished before.")
    ] = False,
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option("--format", "-f", metavar="FORMAT", help="Of the summary: table, csv, json or parquet."),
    ] = None,
    output: Output = None,
) -> int:
    """Bring downloaded files of trades or candles into the lake.

    Importing a file twice adds nothing. It can be stopped at any time: the same command passes over the files
    that were finished. Exits 1 when a file was left out: of no known format, or damaged.
    """
    from marketdata.cli.importing import run_import

    return run_import(files, format, market, of=of, again=again, output=output)


@app.command(
    epilog="[b]Example[/b]\n\nmarketdata exchange --port 8899\n\n"
    "then, in another terminal, the lines it prints and: marketdata backfill --last 7d"
)
def exchange(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8899,
    seed: Annotated[int, typer.Option("--seed", help="Of the synthetic market.")] = 7,
    latency_ms: Annotated[float, typer.Option("--latency-ms", min=0, help="Pause before each answer.")] = 0.0,
    capture: Annotated[
        Path | None,
        typer.Option("--capture", metavar="FOLDER", help="Serve captured payloads where there are some."),
    ] = None,
    *,
    now: Annotated[
        str | None, typer.Option("--now", metavar="TIME", help="Where its clock stands, or starts.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option("--speed", min=0, help="Seconds of its clock in one of the wall clock.")
    ] = None,
    load: Annotated[
        float | None, typer.Option("--load", min=0, help="Trades a second of every market, evenly spaced.")
    ] = None,
    faults: Annotated[
        str | None, typer.Option("--faults", metavar="JSON", help="Misbehaviour from the start on.")
    ] = None,
) -> int:
    """Start a local exchange that speaks as Kraken and Binance do, REST and WebSocket. Its data is synthetic.

    It listens on loopback only, needs no account and ends with Ctrl-C.
    """
    from marketdata.cli.exchange import run_exchange

    return run_exchange(port, seed, latency_ms, capture, now=now, speed=speed, load=load, faults=faults)


@app.command("settings")
def settings_() -> int:
    """Print every setting, its value and where it comes from. Secrets are masked."""
    from marketdata.cli.configuration import run_settings

    return run_settings()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing is raised."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = _take_debug(given)
    try:
        command = _with_others(typer.main.get_command(app), given)
        with command.make_context("marketdata", given) as context:
            code = command.invoke(context)
        sys.stdout.flush()
    except Exit as ended:
        return ended.exit_code
    except BaseException as error:  # the edge: no stack trace may pass
        return failures.report(error, debug=debug)
    return code if isinstance(code, int) else 0


def run() -> None:
    """Entry point of the ``marketdata`` command."""
    _prepare_streams()
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = failures.PIPE_CLOSED
    if code == failures.PIPE_CLOSED:
        # What is still buffered has nowhere to go; without this the interpreter complains about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if code == failures.INTERRUPTED:
        # Threads that wait for an exchange would hold the exit up. Every write is atomic, nothing is lost.
        os._exit(code)
    sys.exit(code)


def _prepare_streams() -> None:
    """A stream that is closed leads nowhere, and stdout shows what its encoding lacks as an escape."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It takes the number of the closed one, so that no file of ours gets what is meant for a stream.
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - stays open
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _with_others(group: Any, arguments: Sequence[str]) -> Any:
    """Add the commands that other packages bring (``marketdata stream``).

    Looking for them takes a tenth of a second, so it is done only where one of them may be meant.
    """
    word = next((argument for argument in arguments if not argument.startswith("-")), None)
    if word not in group.commands and "--version" not in arguments:
        for entry in entry_points(group="marketdata.commands"):
            group.add_command(typer.main.get_command(entry.load()), entry.name)
    return group


def _take_debug(arguments: list[str]) -> bool:
    """Remove ``--debug`` wherever it stands before ``--``; typer would want it before the command."""
    until = arguments.index("--") if "--" in arguments else len(arguments)
    found = "--debug" in arguments[:until]
    arguments[:until] = [argument for argument in arguments[:until] if argument != "--debug"]
    return found
