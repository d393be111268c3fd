"""``make up``: the platform stays up until Ctrl-C, on the synthetic market or on the real exchanges."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from rich.console import Console

from marketdata.cli.failures import report
from marketdata.settings import Settings
from marketdata_dagster import demo_store
from marketdata_dagster.home import demo_settings, exclusive
from marketdata_dagster.stack import LocalStack


def main(arguments: Sequence[str] | None = None) -> int:
    """Start everything, say where it is, stay until interrupted, stop everything; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make up ARGS=...", description=__doc__)
    parser.add_argument("--real", action="store_true", help="the real exchanges, with the settings of .env")
    parser.add_argument("--port", type=int, default=3000, help="of the Dagster UI; 0 takes a free one")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    try:
        up(real=options.real, port=options.port)
    except KeyboardInterrupt:
        Console().print("Stopped.")
    except Exception as error:
        return report(error, debug=options.debug)
    return 0


def up(*, real: bool, port: int) -> None:
    """Start everything and hold it."""
    settings = Settings.load() if real else demo_settings()
    console = Console(highlight=False)
    with exclusive(settings.home.absolute()), ExitStack() as started:
        console.print("Starting ...")
        environment: dict[str, str] = {}
        if not real:
            store = started.enter_context(demo_store.embedded(settings.home, console))
            environment = demo_store.environment(store)
        with LocalStack(settings, exchange=not real, port=port, environment=environment) as stack:
            console.print(f"\n  Dagster UI       {stack.urls.webserver}")
            if stack.urls.exchange is not None:
                console.print(f"  local exchange   {stack.urls.exchange}   (its data is synthetic)")
            console.print(f"  lake             {settings.lake_url}")
            if not real:
                console.print(f"  store            {demo_store.named(store)}", soft_wrap=True)
            console.print(f"  logs             {settings.home.absolute() / 'logs'}")
            console.print("\nOpen an asset, press Materialize, choose days and symbols. Ctrl-C ends it.")
            stack.hold()


if __name__ == "__main__":
    sys.exit(main())
