"""The quality profile of a day of 2 million trades: the rules alone, and a day of the lake from file to file.

``python -m bench quality``. The trades are drawn: one market, one day, ids in a row, in bursts that share a
time; once as they are and once with what the rules look for (holes, prices ten times too high, large amounts,
a stalled minute).
"""

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from statistics import median

import polars as pl

from bench.fold import day_of_trades
from bench.table import Row
from marketdata import quality
from marketdata.completeness import build_manifest
from marketdata.lake import Lake
from marketdata.lake.paths import Part
from marketdata.manifest import Ids, day_window
from marketdata.market import Market
from marketdata.profile import profile
from marketdata.profiling import profile_day
from marketdata.settings import Settings

_MARKET = Market("binance", "BTC/USDT")
_DAY = date(2025, 6, 8)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_ROWS, _ROUNDS = 2_000_000, 5


def run(rows: int = _ROWS, rounds: int = _ROUNDS) -> list[Row]:
    """Measure; about half a minute."""
    trades = day_of_trades(rows).with_columns(pl.col("time").dt.truncate("100ms"))
    window = day_window(_DAY)
    spoiled = _spoiled(trades)
    each = f"{rows:,} trades, all rules"
    clean = _seconds(lambda: profile(trades, window, sequential=True), rounds)
    found = profile(spoiled, window, sequential=True).counts
    odd = _seconds(lambda: profile(spoiled, window, sequential=True), rounds)
    rules = {
        "pauses": quality.time_gaps,
        "prices": quality.price_outliers,
        "amounts": quality.volume_outliers,
        "rows alike": quality.repeated_rows,
    }
    parts = {name: _seconds(partial(rule, trades), rounds) for name, rule in rules.items()}
    slowest = ", ".join(f"{name} {1000 * took:.0f} ms" for name, took in parts.items())
    told = ", ".join(f"{count:,} x {rule}" for rule, count in found.items())
    return [
        Row("profile of an ordinary day", clean, "s", "<= 2", note=f"{each}; {slowest}"),
        Row("profile of a day full of faults", odd, "s", "<= 2", note=f"{each}; {told}"),
        Row(
            "a day of the lake looked at",
            _of_lake(spoiled, rounds),
            "s",
            note="file read, profile, findings and ledger written",
        ),
    ]


def _spoiled(trades: pl.DataFrame) -> pl.DataFrame:
    """The same with a thousand holes, a hundred wrong prices and amounts each, and a stalled minute."""
    number = pl.int_range(pl.len())
    stalled = pl.col("time").dt.strftime("%H:%M") == "13:30"
    return trades.with_columns(
        pl.when(number % 20_011 == 7).then(pl.col("price") * 10).otherwise("price").alias("price"),
        pl.when(number % 20_021 == 9).then(pl.col("amount") * 1e5).otherwise("amount").alias("amount"),
    ).filter((number % 2_003 != 5) & ~stalled)


def _of_lake(trades: pl.DataFrame, rounds: int) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = Settings.load(home=Path(folder), database_url=None)
        lake = Lake.open(str(Path(folder) / "lake"), settings=settings)
        manifest = build_manifest(
            _MARKET,
            _DAY,
            trades,
            source="bench",
            ids=Ids.SEQUENTIAL,
            covered=[day_window(_DAY)],
            previous_id=None,
            following_id=None,
            not_served=(),
            repeated=0,
            rejected={},
            pages=1,
            cursor=None,
            evidence={},
        )
        lake.write_trades(_MARKET, _DAY, trades, manifest)

        def look() -> None:
            lake.storage.delete(Part("findings", _MARKET, _DAY).key)
            profile_day(settings, lake, _MARKET, _DAY, now=_NOW)

        return _seconds(look, rounds)


def _seconds(work: Callable[[], object], rounds: int) -> float:
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return median(took)
