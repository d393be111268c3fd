"""``marketdata candles`` and ``marketdata trades``: the reading side of the lake."""

import shutil
import sys
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Literal

import polars as pl
import typer

from marketdata import reading
from marketdata.cli.chart import render_chart
from marketdata.cli.context import Context, context, held_market, warn_of_gaps
from marketdata.cli.output import choose_format, sink
from marketdata.cli.times import Asked, days_between, time_range
from marketdata.errors import UnknownName, UsageError
from marketdata.interval import Interval
from marketdata.manifest import day_window
from marketdata.market import Market


def run_candles(
    text: str,
    interval_name: str,
    asked: Asked,
    *,
    fill: str | None,
    format: str | None,  # noqa: A002
    output: Path | None,
    rows: int,
    chart: bool,
) -> int:
    """Write candles, or draw them."""
    interval = Interval.parse(interval_name)
    filling = _fill(fill)
    if chart and (format is not None or output is not None):
        msg = "--chart draws in the terminal and has no format."
        raise UsageError(msg, hint="Leave out --chart, or --format and --output.")
    chosen = "chart" if chart else choose_format(format, output)
    here = context()
    begin, finish = time_range(asked, here.now)
    market, _ = _held(here, text, begin, finish)
    frame = reading.candles(here.lake, market, interval, begin, finish, fill=filling)
    if chosen == "chart":
        size = shutil.get_terminal_size((100, 30))
        typer.echo(render_chart(frame, size.columns, min(size.lines - 2, 24), colour=sys.stdout.isatty()))
        return 0
    with sink(chosen, output, rows=rows, optional=("vwap", "trades")) as target:
        target.write(_candle_table(frame) if chosen == "table" else _named(frame, market, interval))
    return 0


def run_trades(
    text: str,
    asked: Asked,
    *,
    format: str | None,  # noqa: A002
    output: Path | None,
    rows: int,
) -> int:
    """Write trades day by day, so that a year needs no more memory than a day."""
    chosen = choose_format(format, output)
    here = context()
    begin, finish = time_range(asked, here.now)
    market, held = _held(here, text, begin, finish)
    days = [day for day in days_between(begin.date(), _last_day(finish)) if day in held]
    with sink(chosen, output, rows=rows, optional=("fills",)) as target:
        for day in days:
            opens, closes = day_window(day)
            frame = reading.trades(here.lake, market, max(begin, opens), min(finish, closes))
            target.write(frame if chosen == "table" else _named(frame, market, None))
    return 0


def _fill(text: str | None) -> Literal["previous"] | None:
    if text is None or text == "previous":
        return "previous" if text else None
    raise UnknownName(text, kind="fill", known=["previous"])


def _held(here: Context, text: str, begin: datetime, finish: datetime) -> tuple[Market, set[date]]:
    market, held = held_market(here, text)
    warn_of_gaps(here, market, held, begin.date(), _last_day(finish))
    return market, set(held)


def _last_day(finish: datetime) -> date:
    """The first day that a half-open range does not touch."""
    return finish.date() if finish.time() == time(0) else finish.date() + timedelta(days=1)


def _candle_table(frame: pl.DataFrame) -> pl.DataFrame:
    vwap = (pl.col("quote_volume") / pl.col("volume")).round_sig_figs(7).alias("vwap")
    marks = (
        [pl.when("filled").then(pl.lit("filled")).otherwise(pl.lit("")).alias("")]
        if "filled" in frame.columns
        else []
    )
    return frame.select(
        "open_time",
        "open",
        "high",
        "low",
        "close",
        "volume",
        vwap.fill_nan(None),
        pl.col("trade_count").alias("trades"),
        *marks,
    )


def _named(frame: pl.DataFrame, market: Market, interval: Interval | None) -> pl.DataFrame:
    """With the columns that say whose they are, as wherever frames of several markets meet."""
    names = {"exchange": market.exchange, "symbol": market.symbol}
    if interval is not None:
        names["interval"] = interval.name
    return frame.select(*[pl.lit(value).alias(name) for name, value in names.items()], pl.all())
