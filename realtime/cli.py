"""``marketdata stream``: live trades into Kafka, candles out of them, both into the store."""
# ruff: noqa: PLC0415 - polars, Kafka's client and ccxt come with a command that needs them

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from marketdata.cli.options import End, Format, Last, Output, Start
from marketdata.errors import UsageError

if TYPE_CHECKING:
    from marketdata.settings import Settings

_PACKAGES = {"confluent_kafka": "stream", "prometheus_client": "stream", "structlog": "stream"}
_PACKAGES |= {"psycopg": "store", "psycopg_pool": "store", "sqlalchemy": "store"}

stream = typer.Typer(
    name="stream",
    add_completion=False,
    help="Live trades and candles over Kafka. MARKETDATA_KAFKA_BOOTSTRAP_SERVERS says where it is.",
    no_args_is_help=True,
)

Markets = Annotated[
    list[str] | None,
    typer.Argument(metavar="MARKET", help="Default: all markets of the market file.", show_default=False),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        min=0,
        max=65535,
        help="Serve /metrics, /healthz and /readyz here; 0 takes a free one. Default: none.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="NAME", help="Consumer group. Instances of one group share the work."),
]
Instance = Annotated[
    str | None,
    typer.Option(
        "--instance",
        metavar="NAME",
        help="Name of this instance, its own in the group: started again it has its partitions back at once.",
    ),
]
UntilEnd = Annotated[
    bool, typer.Option("--until-end", help="End when all that was there at the start is handled.")
]


@contextmanager
def _configured(service: str) -> "Iterator[Settings]":
    """The settings, with logs set up; a package that is missing becomes an error in our words."""
    try:
        from marketdata.settings import Settings
        from realtime import logs

        settings = Settings.load()
        logs.configure(service)
        yield settings
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _PACKAGES:
            raise
        msg = f"The streamer needs {name!r}, which is not installed."
        raise UsageError(msg, hint=f"pip install 'marketdata[{_PACKAGES[name]}]'") from None


@stream.command()
def topics() -> int:
    """Create the topics that are absent, and say what differs in those that are there.

    It can be repeated at any time; nothing that is there is changed.
    """
    with _configured("topics") as settings:
        from realtime.services import apps

        for line in apps.make_topics(settings):
            typer.echo(line)
    return 0


@stream.command()
def feed(markets: Markets = None, *, port: Port = None) -> int:
    """Bring the trades of exchanges into Kafka until Ctrl-C.

    After a restart it goes on behind the last trade in the topic: what was missed is fetched by REST first.
    """
    with _configured("feed") as settings:
        from realtime.services import apps

        apps.run_feed(settings, markets or [], port=port)
    return 0


@stream.command()
def replay(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MARKET|FILE",
            help="A market of the lake, or a captured file of frames.",
            show_default=False,
        ),
    ],
    *,
    start: Start = None,
    end: End = None,
    last: Last = None,
    speed: Annotated[
        float,
        typer.Option("--speed", min=0, help="1: as it was; 60: a minute a second; 0: as fast as it goes."),
    ] = 1.0,
) -> int:
    """Bring trades that were into Kafka once more: of the lake, or of a captured file."""
    with _configured("replay") as settings:
        from marketdata.cli.times import Asked
        from realtime.services import apps

        count = apps.run_replay(settings, source, Asked(start, end, last), speed)
        typer.echo(f"{count:,} trades were sent.")
    return 0


@stream.command()
def poll(markets: Markets = None, *, port: Port = None) -> int:
    """Ask exchanges for each closed minute's candle by REST, and write it into the store, until Ctrl-C.

    For venues without a stream of trades. Such candles have source "exchange"; those made of trades replace
    them when they are loaded.
    """
    with _configured("poll") as settings:
        from realtime.services import apps

        apps.run_poll(settings, markets or [], port=port)
    return 0


@stream.command()
def candles(
    *,
    intervals: Annotated[
        str,
        typer.Option(
            "--intervals", metavar="LIST", help="Separated by commas; the first divides the others."
        ),
    ] = "1s,10s,1m",
    delay_ms: Annotated[
        int,
        typer.Option(
            "--delay-ms", min=0, help="How long a window waits behind its end for trades out of order."
        ),
    ] = 500,
    grace_s: Annotated[
        float, typer.Option("--grace-s", min=0, help="How long behind its end a late trade still counts.")
    ] = 30.0,
    group: Group = None,
    instance: Instance = None,
    port: Port = None,
    until_end: UntilEnd = False,
    history: Annotated[
        bool,
        typer.Option("--history/--no-history", help="Complete first candles from the lake or the exchange."),
    ] = True,
) -> int:
    """Make candles of the trades in Kafka until Ctrl-C: running ones at once, final ones exactly once."""
    # Small batches are most of its work, and handing each to a pool of threads takes longer than doing it.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    with _configured("candles") as settings:
        from realtime.services import apps
        from realtime.services.history import NoHistory

        apps.run_candles(
            settings,
            intervals.split(","),
            delay_ms=delay_ms,
            grace_s=grace_s,
            group=group,
            instance=instance,
            port=port,
            until_end=until_end,
            history=None if history else NoHistory(),
        )
    return 0


@stream.command()
def sink(
    what: Annotated[
        str, typer.Argument(metavar="[trades|candles|all]", help="What is stored.", show_default=False)
    ] = "all",
    *,
    group: Group = None,
    instance: Instance = None,
    port: Port = None,
    until_end: UntilEnd = False,
) -> int:
    """Write trades and final one-minute candles from Kafka into the store until Ctrl-C."""
    with _configured("sink") as settings:
        from realtime.services import apps

        apps.run_sink(settings, what, group=group, instance=instance, port=port, until_end=until_end)
    return 0


@stream.command()
def status(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
    every_s: Annotated[float, typer.Option("--every-s", min=0.2, help="Seconds between two looks.")] = 2.0,
    format: Format = None,  # noqa: A002
) -> int:
    """Show topics, rates and how far each consumer is behind, as a table that lives until Ctrl-C."""
    with _configured("status") as settings:
        from realtime import status as live

        live.run_status(settings, once=once, every_s=every_s, format=format)
    return 0


@stream.command("dead-letters")
def dead_letters(
    *,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Most recent ones shown.")] = 50,
    format: Format = None,  # noqa: A002
    output: Output = None,
) -> int:
    """Show what was refused: reason, position and bytes."""
    with _configured("dead-letters") as settings:
        from realtime.services import apps

        apps.show_dead_letters(settings, rows, format=format, output=output)
    return 0


@stream.command("replay-dead-letters")
def replay_dead_letters() -> int:
    """Send refused messages again that can be read now; the others stay dead letters.

    Each is sent once, however often this is repeated.
    """
    with _configured("replay-dead-letters") as settings:
        from realtime.services import apps

        done = apps.replay_dead_letters(settings)
        typer.echo(f"{done.sent:,} messages were sent again, {done.kept:,} still cannot be read.")
    return 0


@stream.command()
def up(
    markets: Markets = None,
    *,
    instances: Annotated[int, typer.Option("--instances", min=1, max=16, help="Of the candle service.")] = 1,
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65000, help="Of the first service; the others count on. 0: none."),
    ] = 9400,
) -> int:
    """Start feed, candle service and, where a store is configured, the sink; until Ctrl-C.

    A service that ends is started again.
    """
    with _configured("up") as settings:
        from realtime.services import apps

        return apps.run_up(settings, markets or [], instances=instances, port=port or None)
