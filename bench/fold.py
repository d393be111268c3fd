"""Trades to candles, and the other work on whole frames of trades. Peers: freqtrade and ArcticDB.

``python -m bench fold``. The trades are drawn: 10 million of one market on one day, in order, milliseconds,
prices in cents. All figures are medians of rounds in which everything takes its turn.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl

from bench import peers
from bench.table import Row
from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.completeness import content_hash
from marketdata.fold import fold, fold_many, merge
from marketdata.interval import INTERVALS, to_us
from marketdata.manifest import day_window
from marketdata.reconcile import compare
from marketdata.trade import TRADE_SCHEMA, assign_ids, merge_trades, validate

_DAY = date(2025, 6, 8)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_ROWS = 10_000_000
_ROUNDS = 7
_BATCH = 10_000


def day_of_trades(rows: int) -> pl.DataFrame:
    """Trades of one market on one day, TRADE_SCHEMA, in order; the same on every machine."""
    rng = np.random.default_rng(1)
    start = to_us(day_window(_DAY)[0])
    times = np.sort(rng.integers(0, 86_400_000, rows)) * 1000 + start
    frame = pl.DataFrame(
        {
            "trade_id": np.arange(rows, dtype=np.int64) + 10**9,
            "time": times,
            "price": np.round(60_000 + np.cumsum(rng.normal(0, 0.1, rows)), 2),
            "amount": np.round(rng.exponential(0.05, rows) + 1e-5, 5),
            "side": pl.Series(rng.integers(0, 2, rows), dtype=pl.UInt8),
            "fills": rng.integers(1, 4, rows).astype(np.int32),
        }
    )
    side = pl.when(pl.col("side") == 0).then(pl.lit("buy")).otherwise(pl.lit("sell"))
    return frame.with_columns(side.alias("side")).cast(TRADE_SCHEMA)  # type: ignore[arg-type]


def run(rows: int = _ROWS, rounds: int = _ROUNDS) -> list[Row]:
    """Measure; about two minutes."""
    trades = day_of_trades(rows)
    took: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "trades.parquet"
        _for_peers(trades, file)
        with peers.started("candles", str(file)) as others:
            fold_many(trades, INTERVALS)
            for _ in range(rounds):
                took["1m"].append(_seconds(lambda: fold(trades, "1m")))
                took["all"].append(_seconds(lambda: fold_many(trades, INTERVALS)))
                for name in others.versions:
                    took[name].append(others.seconds(name))
    figures = [_rate(rows, took["1m"]), _rate(rows, took["all"])]
    each = f"{rows:,} trades in order, all columns"
    table = [
        Row("trades to 1m candles", figures[0], "million trades/s", ">= 30", note=each),
        Row(
            "all eleven intervals in one call",
            median(took["all"]) / median(took["1m"]),
            "times the time of 1m",
            "<= 1.5",
            note=f"{figures[1]:.0f} million trades/s",
        ),
    ]
    notes = {
        "freqtrade": ("trades_to_ohlcv", ">= 20x", "open, high, low, close and volume only"),
        "ArcticDB": (
            "resample",
            ">= 1x",
            "from LMDB; eleven columns, products of price and amount stored ready",
        ),
    }
    for name, version in others.versions.items():
        work, budget, note = notes[name]
        theirs = _rate(rows, took[name])
        peer = f"{name} {version} {work}"
        what = f"the same against {name}"
        table.append(
            Row(what, figures[0], "million trades/s", budget, peer, theirs, figures[0] / theirs, note)
        )
    return table + _whole_frames(trades)


def _whole_frames(trades: pl.DataFrame) -> list[Row]:
    """The other work on frames of trades, each three times."""
    rows = len(trades)
    shuffled = trades.sample(fraction=1, shuffle=True, seed=2)
    no_ids = trades.with_columns(pl.lit(None, pl.Int64).alias("trade_id"), pl.col("time").dt.truncate("1s"))
    batches = [trades.slice(at, _BATCH) for at in range(0, min(rows, 50 * _BATCH), _BATCH)]
    work: list[tuple[str, int, str, Callable[[], object]]] = [
        ("trades in any order to 1m candles", rows, "", lambda: fold(shuffled, "1m")),
        (
            f"batches of {_BATCH:,} trades folded and merged, as a stream does",
            sum(map(len, batches)),
            "",
            lambda: _streamed(batches),
        ),
        ("validation", rows, "", lambda: validate(trades, now=_NOW)),
        ("ids for trades without", rows, ">= 5", lambda: assign_ids(no_ids)),
        ("merging a day with itself", 2 * rows, "", lambda: merge_trades(trades, trades)),
        ("content hash", rows, ">= 10", lambda: content_hash(trades)),
    ]
    table = []
    for what, count, budget, function in work:
        rate = _rate(count, [_seconds(function) for _ in range(3)])
        table.append(Row(what, rate, "million trades/s", budget))
    ours = fold(trades, "1m")
    theirs = ours.select(EXCHANGE_CANDLE_SCHEMA.names())
    start, end = day_window(_DAY)
    once = median(_seconds(lambda: compare(ours, theirs, start, end)) for _ in range(50))
    note = f"{once * 1000:.1f} ms a day of 1,440 candles, times 2,555"
    return [*table, Row("7 markets x 365 days of candles compared", once * 7 * 365, "s", "<= 30", note=note)]


def _streamed(batches: list[pl.DataFrame]) -> pl.DataFrame:
    candles = fold(batches[0])
    for batch in batches[1:]:
        candles = merge(candles[-2:], fold(batch))
    return candles


def _for_peers(trades: pl.DataFrame, path: Path) -> None:
    """The same trades with what a peer cannot compute inside its resample."""
    quote = pl.col("price") * pl.col("amount")
    bought = pl.when(pl.col("side") == "buy")
    trades.with_columns(
        quote.alias("quote"),
        bought.then("amount").otherwise(0.0).alias("bought"),
        bought.then(quote).otherwise(0.0).alias("bought_quote"),
        pl.col("fills").cast(pl.Int64),
    ).drop("side").write_parquet(path, compression="lz4")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _rate(rows: int, seconds: list[float]) -> float:
    return rows / median(seconds) / 1e6
