"""``marketdata candles --follow``: candles of history, then live ones as they come."""

import sys
from collections.abc import Mapping

import polars as pl
import typer

from marketdata.cli.context import context
from marketdata.cli.output import choose_format, sink
from marketdata.cli.times import Asked, time_range
from marketdata.errors import UsageError
from marketdata.provider import Provider

_HEAD = f"{'open_time':<20} {'open':>12} {'high':>12} {'low':>12} {'close':>12} {'volume':>14} {'trades':>7}"


def run_follow(
    market: str,
    interval: str,
    asked: Asked,
    *,
    format: str | None,  # noqa: A002
    rows: int,
    unfit: Mapping[str, bool],
) -> int:
    """Write candles until it is interrupted.

    Args:
        rows: how many come first where no start is given.
        unfit: options that do not go with it, and whether they were given.
    """
    for option, given in {**unfit, "--end": asked.end is not None}.items():
        if given:
            msg = f"--follow has no end, and {option} does not go with it."
            raise UsageError(msg, hint=f"Leave out {option} or --follow.")
    chosen = choose_format(format, None, ("table", "csv", "json"))
    here = context()
    start = None if asked.start is None and asked.last is None else time_range(asked, here.now)[0]
    with (
        Provider(here.settings, clock=lambda: here.now) as provider,
        provider.live(market, interval, rows, start=start) as live,
    ):
        if chosen == "table":
            typer.echo(_HEAD)
            for candles in live:
                typer.echo("\n".join(_lines(candles)))
        else:
            with sink(chosen, None) as target:
                for candles in live:
                    target.write(candles)
                    sys.stdout.flush()
                    sys.stdout.buffer.flush()
    return 0


def _lines(candles: pl.DataFrame) -> list[str]:
    """A line a candle; a correction is marked."""
    return [
        f"{row['open_time']:%Y-%m-%d %H:%M:%S}  {row['open']:>12,.8g} {row['high']:>12,.8g}"
        f" {row['low']:>12,.8g} {row['close']:>12,.8g} {row['volume']:>14,.6g} {row['trade_count']:>7,}"
        f"{'  corrected' if row['correction'] else ''}"
        for row in candles.iter_rows(named=True)
    ]
