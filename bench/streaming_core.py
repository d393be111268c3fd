"""The pure core of live candles: trades in, candles out, no broker. Peers: bytewax and tardis-dev.

``python -m bench streaming_core``. Trades of one market at 20,000 a second, in batches as a consumer brings
them, into 1s, 10s and 1m. The peers get fewer of the same trades, in memory and in the form that is theirs.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median

import polars as pl

from bench import peers
from bench.fold import day_of_trades
from bench.table import Row
from marketdata.fold import fold
from marketdata.interval import from_us
from marketdata.market import Market
from realtime.candles import CandleCore

_MARKET = Market.parse("kraken:BTC/USD")
_ROWS, _RATE, _ROUNDS = 5_000_000, 20_000, 5
_BATCHES = (50_000, 10_000, 1_000, 100)
_PEER_ROWS = {"bytewax": 100_000, "tardis-dev": 1_000_000}


def trades_at(rate: int, rows: int) -> pl.DataFrame:
    """Trades of one market, ``rate`` a second, TRADE_SCHEMA, in order."""
    trades = day_of_trades(rows)
    start = trades["time"].to_physical()[0]
    time_us = start + pl.int_range(rows, eager=True) * (1_000_000 // rate)
    return trades.with_columns(time_us.cast(trades.schema["time"]).alias("time"))


def streamed(trades: pl.DataFrame, size: int) -> tuple[float, int]:
    """Seconds for all trades in batches of ``size``, and how many final candles of 1m came out."""
    batches = [trades.slice(at, size) for at in range(0, len(trades), size)]
    arrivals = [from_us(int(batch["time"].to_physical()[-1])) for batch in batches]
    core = CandleCore(["1s", "10s", "1m"])
    core.add(_MARKET, trades.head(1), arrivals[0])
    core.complete(_MARKET, trades.head(0), arrivals[0])
    found = []
    began = time.perf_counter()
    for batch, now in zip(batches, arrivals, strict=True):
        found.append(core.add(_MARKET, batch, now).candles)
    took = time.perf_counter() - began
    ends = core.tick(arrivals[-1] + timedelta(hours=1), [_MARKET])
    finals = pl.concat([*found, *(update.candles for update in ends)]).filter(
        pl.col("final") & (pl.col("interval") == "1m")
    )
    assert finals["trade_count"].sum() == trades["fills"].sum()
    return took, len(finals)


def run(rows: int = _ROWS, rounds: int = _ROUNDS) -> list[Row]:
    """Measure; about a minute."""
    trades = trades_at(_RATE, rows)
    minutes = len(fold(trades, "1m"))
    took: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        few, many = Path(folder) / "trades.parquet", Path(folder) / "trades.f8"
        _for_bytewax(trades.head(_PEER_ROWS["bytewax"]), few)
        _for_tardis(trades.head(_PEER_ROWS["tardis-dev"]), many)
        with (
            peers.started("windows", str(few)) as python,
            peers.started_node("tardis", "bars.js", str(many)) as node,
        ):
            for _ in range(rounds):
                for size in _BATCHES:
                    part = trades.head(min(rows, size * 2_000))
                    seconds, candles = streamed(part, size)
                    assert part is not trades or candles == minutes
                    took[str(size)].append(seconds / len(part))
                for others in (python, node):
                    for name in others.versions:
                        took[name].append(others.seconds(name) / _PEER_ROWS[name])
            versions = python.versions | node.versions
    rate: Callable[[str], float] = lambda name: 1 / median(took[name]) / 1e6  # noqa: E731
    best = rate(str(_BATCHES[0]))
    unit = "million trades/s"
    table = [
        Row(
            f"live core, three intervals, batches of {size:,}",
            rate(str(size)),
            unit,
            ">= 10" if size == _BATCHES[0] else "",
            note=f"{median(took[str(size)]) * size * 1e6:,.0f} us a batch, running and final candles",
        )
        for size in _BATCHES
    ]
    budgets = {
        "bytewax": (
            "fold_window",
            ">= 20x",
            "the same three intervals; its folder is Python, as its users write it",
        ),
        "tardis-dev": (
            "computeTradeBars",
            ">= 5x",
            "the same three intervals in Node.js, in one pass; no late trades",
        ),
    }
    for name, version in versions.items():
        work, budget, note = budgets[name]
        peer = f"{name} {version} {work}"
        table.append(
            Row(f"the same against {name}", best, unit, budget, peer, rate(name), best / rate(name), note)
        )
    return table


def _for_bytewax(trades: pl.DataFrame, path: Path) -> None:
    trades.select("time", "price", "amount", (pl.col("side") == "buy").alias("buy")).write_parquet(path)


def _for_tardis(trades: pl.DataFrame, path: Path) -> None:
    columns = trades.select(
        pl.col("time").to_physical() / 1_000, "price", "amount", (pl.col("side") == "buy").cast(pl.Float64)
    )
    path.write_bytes(columns.to_numpy(order="c").tobytes())
