"""``marketdata candles`` and ``marketdata trades``: what the provider reads, from the store or the lake."""

import shutil
import sys
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Literal

import polars as pl
import typer

from marketdata.cli.chart import render_chart
from marketdata.cli.context import Context, Days, context
from marketdata.cli.output import choose_format, sink
from marketdata.cli.times import Asked, days_between, time_range
from marketdata.errors import UnknownName, UsageError
from marketdata.interval import Interval
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from marketdata.provider import Provider


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
    with _provider(here) as provider:
        market, _ = _held(provider, here, text, begin, finish)
        frame = provider.candles(market, interval, begin, finish, filling)
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
    with _provider(here) as provider:
        market, held = _held(provider, here, text, begin, finish)
        days = [day for day in days_between(begin.date(), _last_day(finish)) if day in held]
        with sink(chosen, output, rows=rows, optional=("fills",)) as target:
            for day in days:
                opens, closes = day_window(day)
                frame = provider.trades(market, max(begin, opens), min(finish, closes))
                target.write(frame if chosen == "table" else _named(frame, market, None))
    return 0


def _provider(here: Context) -> Provider:
    return Provider(here.settings, clock=lambda: here.now)


def _fill(text: str | None) -> Literal["previous"] | None:
    if text is None or text == "previous":
        return "previous" if text else None
    raise UnknownName(text, kind="fill", known=["previous"])


def _held(
    provider: Provider, here: Context, text: str, begin: datetime, finish: datetime
) -> tuple[Market, set[date]]:
    """The market meant and its days of the range; says on stderr what of it is not there."""
    market = provider.find_market(text)
    first, after = begin.date(), _last_day(finish)
    known = provider.coverage(market, first, after)
    held: set[date] = set(known["day"])
    if provider.source == "store":  # where a stream writes before a day is over and has a manifest
        held |= set(provider.candles(market, "1d", first, after)["open_time"].dt.date())
    broken = known.filter(pl.col("status") != Status.COMPLETE).select("day", "status", "reason").rows()
    Days(provider.source, market, held, lambda: _bounds(provider, market), broken).warn(
        first, after, here.now.date()
    )
    return market, held


def _bounds(provider: Provider, market: Market) -> tuple[date, date]:
    days: list[date] = provider.coverage(market)["day"].to_list()
    found = provider.data_range(market)
    for span in () if found is None else (found.trades, found.candles):
        days += [] if span is None else [edge.date() for edge in span]
    return min(days), max(days)


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
