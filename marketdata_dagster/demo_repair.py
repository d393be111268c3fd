"""The demo's repair: a day of the lake is cut in half, and the platform finds and repairs it by itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
from pyarrow import parquet as pq
from rich.console import Console
from rich.table import Table

from marketdata import ledger, recording
from marketdata.completeness import content_hash
from marketdata.errors import MarketDataError
from marketdata.lake import Lake
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.settings import Settings

# Two ticks of the sensor, and a run that begins behind the second one.
_PATIENCE_S = 600.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Damage:
    """A day that was cut in half, and what it was before."""

    market: Market
    day: date
    rows: int
    content: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Repaired:
    """How the damage ended: the ledger's entries of it, and whether the day is what it was."""

    damage: Damage
    seconds: float
    sound: bool
    entries: pl.DataFrame


def cut_in_half(lake: Lake, market: Market, day: date) -> Damage:
    """Take the later half of a day's rows away, behind the back of all that writes the lake."""
    manifest = lake.manifest(market, day)
    assert manifest is not None  # noqa: S101  # the demo has just made it
    path = Path(lake.path("trades", market, day))
    table = pq.read_table(path)
    half = table.slice(0, len(table) // 2)
    pq.write_table(half, path.with_suffix(".half"), compression="zstd")
    path.with_suffix(".half").replace(path)
    return Damage(market, day, manifest.rows, manifest.content_hash, datetime.now(UTC))


def wait(settings: Settings, lake: Lake, damage: Damage, say: Callable[[str], None]) -> Repaired:
    """Wait until the ledger says that the day is repaired, and look whether it is."""
    began = time.monotonic()
    told = 0
    found = ledger.LEDGER_SCHEMA.to_frame()
    while time.monotonic() < began + _PATIENCE_S:
        entries = recording.entries(settings, lake, damage.at)
        found = _of(entries, damage)
        for row in found.rows(named=True)[told:]:
            say(f"{time.monotonic() - began:5.1f} s  {row['event']:8} {_short(lake, row['detail'])}")
        told = len(found)
        if _state(found) == ledger.State.REPAIRED:
            break
        time.sleep(_POLL_S)
    named = found.with_columns(pl.col("detail").map_elements(lambda text: _short(lake, text), pl.String))
    return Repaired(damage, time.monotonic() - began, _is_whole(lake, damage), named)


def show(console: Console, repaired: Repaired) -> bool:
    """Print the story; returns whether the day is what it was before."""
    damage = repaired.damage
    console.rule("a day cut in half, and what the platform did about it", align="left")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("time (UTC)", "event", "state", "what"):
        table.add_column(name, no_wrap=name != "what")
    for row in repaired.entries.rows(named=True):
        table.add_row(f"{row['at']:%H:%M:%S}", row["event"], row["state"], row["detail"])
    console.print(table)
    if repaired.sound and _state(repaired.entries) == ledger.State.REPAIRED:
        console.print(
            f"{damage.market} {damage.day} has its {damage.rows:,} trades again, the same ones, "
            f"after [green]{repaired.seconds:.0f} s[/green] and with no hand on it."
        )
        return True
    console.print(f"[red]{damage.market} {damage.day} is not what it was.[/red]")
    return False


def _short(lake: Lake, text: str) -> str:
    """A sentence without the place of the lake, which is the same in all of them."""
    return text.replace(f"{lake.url}/", "").replace("'", "")


def _of(entries: pl.DataFrame, damage: Damage) -> pl.DataFrame:
    start, end = day_window(damage.day)
    return entries.filter(
        pl.col("exchange") == damage.market.exchange,
        pl.col("symbol") == damage.market.symbol,
        pl.col("subject") == "trades",
        pl.col("start") >= start,
        pl.col("end") <= end,
    )


def _state(entries: pl.DataFrame) -> str | None:
    return None if entries.is_empty() else str(ledger.cases(entries)["state"][-1])


def _is_whole(lake: Lake, damage: Damage) -> bool:
    try:
        manifest = lake.manifest(damage.market, damage.day)
        trades = lake.read_trades(damage.market, *day_window(damage.day))
    except MarketDataError:
        return False
    return manifest is not None and manifest.content_hash == damage.content == content_hash(trades)
