"""``marketdata coverage``: which days are there, as a map in the terminal or a row a day."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path

import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from marketdata.cli.context import context, held_market
from marketdata.cli.output import choose_format, destination, sink
from marketdata.cli.table import draw
from marketdata.cli.times import Asked, day_range, days_between
from marketdata.errors import MarketDataError
from marketdata.manifest import Manifest, Status
from marketdata.market import Market

MISSING = "missing"
_STATES = (*(status.value for status in Status), MISSING)
_SIGNS = {"complete": "█", "gaps": "▒", "unknown": "?", MISSING: "·"}
_ASCII_SIGNS = {"complete": "#", "gaps": "~", "unknown": "?", MISSING: "."}
_STYLES = {"complete": "green", "gaps": "yellow", "unknown": "cyan", MISSING: "red"}
_FORMATS = ("map", "csv", "json", "parquet")
_TOTALS_WIDTH = 24
_REASONS_SHOWN = 8
_SCHEMA = pl.Schema(
    {
        "exchange": pl.String(),
        "symbol": pl.String(),
        "day": pl.Date(),
        "status": pl.String(),
        "reason": pl.String(),
        "rows": pl.Int64(),
        "missing_trades": pl.Int64(),
        "not_served_trades": pl.Int64(),
        "rejected_rows": pl.Int64(),
        "source": pl.String(),
    }
)


def run_coverage(
    text: str | None,
    asked: Asked,
    *,
    format: str | None,  # noqa: A002
    output: Path | None,
) -> int:
    """Draw the map or write the rows."""
    chosen = choose_format(format, output, _FORMATS)
    here = context()
    held = here.lake.days() if text is None else dict([held_market(here, text)])
    if not held and not asked:
        msg = f"The lake {here.lake.url!r} is empty."
        raise MarketDataError(msg, hint="To fetch something: marketdata backfill --last 7d")
    tracked = [entry.market for entry in here.settings.tracked] if text is None else []
    markets = sorted({*held, *tracked})
    if asked:
        first, after = day_range(asked, here.now)
    else:
        first = min(days[0] for days in held.values())
        after = max(days[-1] for days in held.values()) + timedelta(days=1)
    only = markets[0] if text is not None else None
    manifests = here.lake.manifests(only, first, after)
    if chosen == "map":
        with destination(output) as file:
            draw(render_coverage(manifests, markets, first, after), file)
        return 0
    with sink(chosen, output) as target:
        target.write(coverage_frame(manifests, markets, first, after))
    return 0


def coverage_frame(
    manifests: Iterable[Manifest], markets: Sequence[Market], start: date, end: date
) -> pl.DataFrame:
    """One row a market and day of ``[start, end)``; ``status`` is missing where there is no manifest."""
    known = _by_day(manifests)
    rows = []
    for market in markets:
        for day in days_between(start, end):
            manifest = known.get((market, day))
            rows.append(
                (market.exchange, market.symbol, day, MISSING, "not in the lake", 0, None, None, None, None)
                if manifest is None
                else (
                    market.exchange,
                    market.symbol,
                    day,
                    manifest.status.value,
                    manifest.reason,
                    manifest.rows,
                    manifest.missing_count,
                    manifest.not_served_count,
                    sum(manifest.rejected.values()),
                    manifest.source,
                )
            )
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def render_coverage(
    manifests: Iterable[Manifest],
    markets: Sequence[Market],
    start: date,
    end: date,
    *,
    ascii_only: bool | None = None,
) -> "CoverageMap":
    """Return a map of the days ``[start, end)`` for :meth:`rich.console.Console.print`.

    A line a market and a sign a day; long ranges are broken by month. Below it the legend with counts, and
    why days are not complete. ``ascii_only=None`` asks the console.
    """
    return CoverageMap(_by_day(manifests), tuple(markets), start, end, ascii_only)


class CoverageMap:
    """What :func:`render_coverage` returns; fits itself to the width of the console."""

    def __init__(
        self,
        known: Mapping[tuple[Market, date], Manifest],
        markets: tuple[Market, ...],
        start: date,
        end: date,
        ascii_only: bool | None,
    ) -> None:
        """Use :func:`render_coverage`."""
        self._known, self._markets = known, markets
        self._days = days_between(start, end)
        self._ascii = ascii_only

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the lines."""
        plain = self._ascii if self._ascii is not None else options.ascii_only
        signs = _ASCII_SIGNS if plain else _SIGNS
        label = max((len(str(market)) for market in self._markets), default=0)
        room = max(options.max_width - label - 2, 7)
        with_totals = len(self._days) + _TOTALS_WIDTH <= room
        cell = 3 if 3 * len(self._days) <= room - (_TOTALS_WIDTH if with_totals else 0) else 1
        blocks = list(_blocks(self._days, room // cell))
        for number, block in enumerate(blocks):
            if number:
                yield Text("")
            for heading in _headings(block, cell, room):
                yield Text(" " * (label + 2) + heading, style="dim", no_wrap=True)
            for market in self._markets:
                yield self._line(market, block, label, cell, signs, totals=with_totals and len(blocks) == 1)
        yield Text("")
        yield self._legend(signs)
        yield from self._reasons()

    def _state(self, market: Market, day: date) -> str:
        manifest = self._known.get((market, day))
        return MISSING if manifest is None else manifest.status.value

    def _line(
        self,
        market: Market,
        block: Sequence[date],
        label: int,
        cell: int,
        signs: Mapping[str, str],
        *,
        totals: bool,
    ) -> Text:
        line = Text(f"{market!s:<{label}}  ", no_wrap=True)
        for day in block:
            state = self._state(market, day)
            wide = signs[state] * 2 + " " if cell == 3 else signs[state]
            line.append(wide, style=_STYLES[state])
        if totals:
            held = [self._known[market, day] for day in block if (market, day) in self._known]
            whole = sum(manifest.status is Status.COMPLETE for manifest in held)
            line.append(f"  {whole}/{len(block)}  {sum(manifest.rows for manifest in held):>11,} rows")
        return line

    def _legend(self, signs: Mapping[str, str]) -> Text:
        counts = Counter(self._state(market, day) for market in self._markets for day in self._days)
        legend = Text()
        for state in _STATES:
            legend.append(signs[state], style=_STYLES[state])
            legend.append(f" {state} {counts[state]:,}   ")
        return legend

    def _reasons(self) -> Iterator[Text]:
        broken = [
            manifest
            for (market, day), manifest in sorted(self._known.items())
            if manifest.status is not Status.COMPLETE and market in self._markets and day in set(self._days)
        ]
        for manifest in broken[:_REASONS_SHOWN]:
            yield Text(f"{manifest.market} {manifest.day} {manifest.status}: {manifest.reason}")
        if len(broken) > _REASONS_SHOWN:
            yield Text(f"and {len(broken) - _REASONS_SHOWN} more; --format csv lists all of them")


def _by_day(manifests: Iterable[Manifest]) -> dict[tuple[Market, date], Manifest]:
    return {(manifest.market, manifest.day): manifest for manifest in manifests}


def _blocks(days: Sequence[date], columns: int) -> Iterator[list[date]]:
    """All days in one line where they fit, otherwise as many whole months a line as fit."""
    if len(days) <= columns:
        yield list(days)
        return
    block: list[date] = []
    for _, month in groupby(days, key=lambda day: (day.year, day.month)):
        more = list(month)
        if block and len(block) + len(more) > columns:
            yield block
            block = []
        block += more
        while len(block) > columns:
            yield block[:columns]
            block = block[columns:]
    yield block


def _headings(block: Sequence[date], cell: int, room: int) -> tuple[str, str]:
    """Two lines: the month at its first day, and days of the month; none that the line would cut."""
    months, days = [" "] * room, [" "] * room
    free = 0
    for place, day in enumerate(block):
        at = place * cell
        if (place == 0 or day.day == 1) and free <= at <= room - 7:
            months[at : at + 7] = f"{day:%Y-%m}"
            free = at + 8
        if cell == 3:
            days[at : at + 2] = f"{day:%d}"
        elif day.day in (1, 10, 20):
            text = str(day.day)
            if at + len(text) <= room:
                days[at : at + len(text)] = text
    return "".join(months).rstrip(), "".join(days).rstrip()
