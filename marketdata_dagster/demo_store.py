"""The demo's store: a PostgreSQL from a wheel, filled by the same backfill, held against the lake."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median

import psycopg
from rich.console import Console
from rich.table import Table
from rich.text import Text

from marketdata import reconcile
from marketdata.errors import UsageError
from marketdata.lake import Lake
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.provider import Provider
from marketdata.store import engine, migrate
from marketdata.store.embedded import EmbeddedServer, wheel_binaries
from marketdata_dagster.home import DEMO_ENVIRONMENT

INTERVALS = ("1m", "5m", "1h", "1d")
_NEWEST = 200
_READS = 20


@contextmanager
def embedded(home: Path, console: Console) -> Iterator[str | None]:
    """A server with the schema in ``home/postgres``, stopped at the end; ``None`` where none can be had."""
    try:
        wheel_binaries()
    except UsageError as error:
        console.print(f"[yellow]No store in this demo:[/yellow] {error}")
        yield None
        return
    # The demo's data can be made again at any time: the disk is not waited for.
    with EmbeddedServer(home / "postgres", options={"fsync": "off", "full_page_writes": "off"}) as url:
        migrate.upgrade(url)
        yield url


def environment(url: str | None) -> dict[str, str]:
    """Variables of the demo's processes."""
    return DEMO_ENVIRONMENT if url is None else {**DEMO_ENVIRONMENT, "MARKETDATA_DATABASE_URL": url}


def named(url: str | None) -> str:
    """Where the store is, for people."""
    return "none" if url is None else engine.where(url)


def summarise(
    console: Console, lake: Lake, url: str, markets: Sequence[Market], days: tuple[date, date]
) -> int:
    """Print what the store holds beside the lake; returns how many candles differ or are missing."""
    start, end = (day_window(day)[0] for day in days)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("market", no_wrap=True)
    for name in ("trades", *INTERVALS, "equal", "differ"):
        table.add_column(name, justify="right", no_wrap=True)
    differ = 0
    with Provider(lake=lake) as there, Provider(database_url=url) as here, engine.connect(url) as connection:
        for market in markets:
            counts, equal, wrong = [], 0, 0
            for interval in INTERVALS:
                ours = here.candles(market, interval, start, end)
                theirs = there.candles(market, interval, start, end)
                found = reconcile.compare(ours, theirs, start, end)
                counts.append(len(ours))
                equal, wrong = equal + found.equal, wrong + found.compared - found.equal
            differ += wrong if equal else 1
            table.add_row(
                str(market),
                f"{_trades(connection, market):,}",
                *(f"{count:,}" for count in counts),
                Text(f"{equal:,}", style="green"),
                Text(f"{wrong:,}", style="red" if wrong else "green"),
            )
        took = _newest(here, markets[0])
        version = connection.info.server_version // 10_000
    console.rule(f"the same candles from the store (PostgreSQL {version}, from a wheel)", align="left")
    console.print(table)
    console.print(f"[dim]The newest {_NEWEST} candles of {markets[0]} take {took * 1000:.1f} ms.[/dim]")
    if differ:
        console.print(f"[red]{differ} candles of the store differ from the lake's.[/red]")
    return differ


def _trades(connection: psycopg.Connection, market: Market) -> int:
    row = connection.execute(
        "SELECT count(*) FROM v_trade WHERE exchange = %s AND symbol = %s", (market.exchange, market.symbol)
    ).fetchone()
    return 0 if row is None else int(row[0])


def _newest(provider: Provider, market: Market) -> float:
    """Seconds that a read of the newest candles takes, the median of some."""
    took = []
    for _ in range(_READS):
        began = time.perf_counter()
        provider.latest_candles(market, "1m", _NEWEST)
        took.append(time.perf_counter() - began)
    return median(took)
