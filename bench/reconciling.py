"""Reconciling a year of seven markets: files read, candles compared, results written.

``python -m bench reconciling``. Each day has 1,440 candles of its own trades, the exchange's own beside them,
and what a stream said of them, in memory. Once all are equal; once the stream lacks trades in one minute of a
hundred and the exchange's volume differs in one of 500; each once more with nothing new.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from bench.fold import day_of_trades
from bench.table import Row
from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.completeness import build_manifest
from marketdata.errors import MarketDataError
from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.manifest import Ids, Manifest, day_window
from marketdata.market import Market
from marketdata.reconciliation import Reconciled, reconcile_days
from marketdata.settings import Settings

_MARKETS = [Market("binance", f"{base}/USDT") for base in ("BTC", "ETH", "SOL", "XRP", "ADA", "DOT", "LTC")]
_FIRST = date(2024, 6, 1)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_DAYS, _MONTH = 365, 31
_ROWS = 14_400  # trades of a day


@dataclass(frozen=True)
class _Made:
    """What is written, made of one day and moved to the others."""

    trades: pl.DataFrame
    batch: pl.DataFrame
    stream: pl.DataFrame
    exchange: pl.DataFrame


def run(days: int = _DAYS) -> list[Row]:
    """Measure; about three minutes, most of which the files take to be written."""
    rows = []
    whole = f"{len(_MARKETS)} markets x {days} days"
    for name, made in (("all equal", _made()), ("18 findings on every day", _spoiled(_made()))):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            settings = Settings.load(home=Path(folder), database_url=None, kafka_bootstrap_servers=None)
            lake = Lake.open(settings.lake_url, settings=settings)
            _fill(lake, made, days)
            took, found = _reconciled(settings, lake, made, days)
            note = f"{1000 * took / (len(_MARKETS) * days):.1f} ms a day; {found.sentence}"
            budget = "<= 30" if name == "all equal" else ""  # not every day of a year has findings
            rows.append(Row(f"{whole} reconciled, {name}", took, "s", budget, note=note))
            again, _ = _reconciled(settings, lake, made, days)
            rows.append(Row(f"the same with nothing new, {name}", again, "s", "<= 30"))
    return rows


def _made() -> _Made:
    trades = day_of_trades(_ROWS)
    batch = fold(trades, "1m")
    said = batch.with_columns(
        pl.lit(0, pl.Int32).alias("revision"),
        pl.lit("stream").alias("source"),
        pl.lit("unknown").alias("coverage"),
    )
    return _Made(trades, batch, said, batch.select(EXCHANGE_CANDLE_SCHEMA.names()))


def _spoiled(made: _Made) -> _Made:
    """The stream lacks trades of one minute in a hundred, the exchange says other volumes in one of 500."""
    number = pl.int_range(pl.len())
    late = (number % 100 == 7) & (pl.col("trade_count") > 1)
    stream = made.stream.with_columns(
        pl.when(late).then(pl.col("trade_count") - 1).otherwise("trade_count").alias("trade_count"),
        pl.when(late).then(pl.col("volume") * 0.9).otherwise("volume").alias("volume"),
    )
    other = pl.when(number % 500 == 3).then(pl.col("volume") * 1.01).otherwise("volume")
    return replace(made, stream=stream, exchange=made.exchange.with_columns(other.alias("volume")))


def _fill(lake: Lake, made: _Made, days: int) -> None:
    first = made.batch["open_time"][0].date()
    trades = made.trades.head(100)  # of the trades only what is known of them is read
    for number in range(days):
        day = _FIRST + timedelta(days=number)
        moved = _moved(trades, day - first)
        batch, exchange = _moved(made.batch, day - first), _moved(made.exchange, day - first)
        manifest = _manifest(moved, day)
        for market in _MARKETS:
            lake.write_trades(market, day, moved, replace(manifest, market=market))
            lake.write_candles(market, day, "1m", batch, facts={"trades": manifest.content_hash})
            facts = {"served": "whole", "from": day_window(day)[0].isoformat(), "source": "bench"}
            lake.write_candles(market, day, "1m", exchange, kind="exchange_candles", facts=facts)


def _manifest(trades: pl.DataFrame, day: date) -> Manifest:
    return build_manifest(
        _MARKETS[0],
        day,
        trades,
        source="bench",
        ids=Ids.SEQUENTIAL,
        covered=[day_window(day)],
        previous_id=None,
        following_id=None,
        not_served=(),
        repeated=0,
        rejected={},
        pages=1,
        cursor=None,
        evidence={},
    )


def _moved(frame: pl.DataFrame, by: timedelta) -> pl.DataFrame:
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    return frame.with_columns(pl.col(times) + by)


def _reconciled(settings: Settings, lake: Lake, made: _Made, days: int) -> tuple[float, Reconciled]:
    """Months one after the other, as the asset does."""
    first = made.stream["open_time"][0].date()
    took = 0.0
    last: Reconciled | MarketDataError | None = None
    for begin in range(0, days, _MONTH):
        month = [_FIRST + timedelta(days=number) for number in range(begin, min(days, begin + _MONTH))]
        streamed = pl.concat([_moved(made.stream, day - first) for day in month])
        began = time.perf_counter()
        for market in _MARKETS:
            found = reconcile_days(settings, lake, market, month, now=_NOW, streamed=streamed)
            last = found[month[-1]]
        took += time.perf_counter() - began
    if not isinstance(last, Reconciled):
        raise TypeError(last)
    return took, last
