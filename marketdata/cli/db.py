"""``marketdata db``: the schema, what the store holds, whether it is what it should be."""
# ruff: noqa: PLC0415 - psycopg, SQLAlchemy and polars come with a command that needs them

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marketdata.cli.failures import say
from marketdata.cli.options import End, Format, Last, Output, Start
from marketdata.cli.times import Asked
from marketdata.errors import UsageError

if TYPE_CHECKING:
    import polars as pl
    from psycopg import Connection

    from marketdata.settings import Settings

# A status is read as a whole; findings may be many.
_ALL_ROWS = 1_000
_PACKAGES = ("psycopg", "psycopg_pool", "sqlalchemy", "alembic")

db = typer.Typer(
    name="db",
    help="The store: a PostgreSQL, with TimescaleDB if it has it. MARKETDATA_DATABASE_URL says where it is.",
    no_args_is_help=True,
)


@contextmanager
def store() -> "Iterator[tuple[Settings, str]]":
    """The settings and the URL of the store; what PostgreSQL refuses becomes an error in our words.

    Raises:
        UsageError: there is no URL, or the packages of the store are not installed.
    """
    try:
        import psycopg

        from marketdata.settings import Settings
        from marketdata.store.engine import database_url, translate
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    settings = Settings.load()
    try:
        yield settings, database_url(settings)
    except psycopg.Error as error:
        raise translate(error) from None
    except ModuleNotFoundError as error:
        raise _missing(error) from None


def _missing(error: ModuleNotFoundError) -> BaseException:
    if (error.name or "").partition(".")[0] not in _PACKAGES:
        return error
    return UsageError(
        f"The store needs {error.name!r}, which is not installed.", hint="pip install 'marketdata[store]'"
    )


@contextmanager
def connected(*, autocommit: bool = False) -> "Iterator[tuple[Settings, Connection[Any]]]":
    """The settings, and a connection to the store."""
    with store() as (settings, url):
        from marketdata.store.engine import connect

        with connect(url, autocommit=autocommit) as connection:
            yield settings, connection


@db.command(
    epilog="[b]Examples[/b]\n\nmarketdata db upgrade\n\nmarketdata db upgrade --to 0003_candle",
)
def upgrade(
    to: Annotated[
        str, typer.Option("--to", metavar="STEP", help="A step, or its number. Default: the newest.")
    ] = "head",
) -> int:
    """Bring the schema up to date, and the jobs of TimescaleDB in line with the settings.

    It can be repeated at any time: what is done is left alone. Wider candles that a crash has left behind are
    made anew.
    """
    with store() as (settings, url):
        from marketdata.store import migrate

        done = migrate.upgrade(url, to, settings=settings)
    for step in done.steps:
        typer.echo(f"done: {step}")
    for line in done.policies:
        typer.echo(f"set: {line}")
    if done.refreshed:
        typer.echo(f"refreshed: {done.refreshed} changes that wider candles did not know of")
    if not (done.steps or done.policies or done.refreshed):
        typer.echo("The store is up to date.")
    return 0


@db.command(epilog="[b]Example[/b]\n\nmarketdata db downgrade --to 0003_candle --yes")
def downgrade(
    to: Annotated[
        str,
        typer.Option("--to", metavar="STEP", help="The last step to keep; base: none.", show_default=False),
    ],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Undo steps of the schema. The tables they made are removed, and what is in them."""
    with store() as (_, url):
        from marketdata.store import engine, migrate

        if not yes:
            question = f"Undo the steps after {to} in {engine.where(url)}? What they hold is lost."
            typer.confirm(question, abort=True, err=True)
        for step in migrate.downgrade(url, to):
            typer.echo(f"undone: {step}")
    return 0


@db.command(epilog="[b]Examples[/b]\n\nmarketdata db status\n\nmarketdata db status --format json")
def status(*, format: Format = None, output: Output = None) -> int:  # noqa: A002
    """Show the server, the step of the schema, the size of each table, and every job with its setting.

    Rows are counted where a table is small; of a large one they are the server's estimate.
    """
    from marketdata.cli.output import choose_format, destination, sink
    from marketdata.cli.table import TableSink

    chosen = choose_format(format, output)
    with connected() as (_, connection):
        from marketdata.store.status import status as read_status

        frame = read_status(connection)
    if chosen == "table":
        with destination(output) as file:
            for part in _parts(frame):
                table = TableSink(file, _ALL_ROWS, ("last_result", "next_run"))
                table.write(part)
                table.close()
        return 0
    with sink(chosen, output) as target:
        target.write(frame)
    return 0


def _parts(frame: "pl.DataFrame") -> "Iterator[pl.DataFrame]":
    """A table each of what the server is, of the tables and of the jobs, with the columns these have."""
    import polars as pl

    for kinds in (["server", "schema"], ["table"], ["job"]):
        part = frame.filter(pl.col("kind").is_in(kinds))
        if len(part):
            yield part.select(
                pl.col(name).alias(kinds[0] if name == "name" else name)
                for name in part.columns
                if name != "kind" and not part[name].is_null().all()
            )


@db.command(
    epilog="[b]Examples[/b]\n\nmarketdata db load\n\n"
    "marketdata db load kraken:BTC/USD --start 2025-06-01 --end 2025-06-08",
)
def load(
    markets: Annotated[
        list[str] | None,
        typer.Argument(metavar="MARKET", help="Default: all markets of the lake.", show_default=False),
    ] = None,
    *,
    start: Start = None,
    end: End = None,
    last: Last = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Copy days again that the store holds.")] = False,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=16, help="Days on their way at once, a connection each.")
    ] = 2,
) -> int:
    """Load days of the lake: trades, one-minute candles and what is known of each day.

    A day is replaced in one transaction: a reader sees the old day or the new one. Days that the store holds
    are left alone. Without a range: every day of the lake. Exits 1 when a day failed.
    """
    with store() as (_, url):
        from marketdata.cli.load import run_load

        return run_load(markets or [], Asked(start, end, last), url, refresh=refresh, workers=workers)


@db.command(
    epilog="[b]Examples[/b]\n\nmarketdata db check\n\n"
    "marketdata db check kraken:BTC/USD --start 2025-01-01 --end 2025-07-01",
)
def check(
    market: Annotated[
        str | None, typer.Argument(metavar="MARKET", help="Default: all markets.", show_default=False)
    ] = None,
    *,
    start: Start = None,
    end: End = None,
    last: Last = None,
    format: Format = None,  # noqa: A002
    output: Output = None,
) -> int:
    """Compare what is stored twice: wider candles with the fold of 1m, days with their manifests.

    Wider candles that a crash has left behind are made anew first. Exits 1 when something is wrong.
    """
    from marketdata.cli.output import choose_format, sink
    from marketdata.cli.times import time_range
    from marketdata.market import Market

    chosen = choose_format(format, output)
    wanted = None if market is None else Market.parse(market)
    asked = Asked(start, end, last)
    first, after = time_range(asked, datetime.now(UTC)) if asked else (None, None)
    with connected(autocommit=True) as (_, connection):
        from marketdata.store import check as checks
        from marketdata.store import migrate, wider

        migrate.require_head(connection)
        refreshed = wider.refresh(connection)
        findings = checks.check(connection, wanted, first, after)
    if refreshed:
        say(f"refreshed: {refreshed} changes that wider candles did not know of")
    if len(findings) or chosen != "table":
        with sink(chosen, output, rows=_ALL_ROWS) as target:
            target.write(findings)
    if not len(findings):
        say("The store is as it should be.")
    return 1 if len(findings) else 0
