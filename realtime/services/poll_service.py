"""Candles as exchanges serve them, into the store: for venues without a stream of trades."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime

import polars as pl

from marketdata.candle import CANDLE_SCHEMA
from marketdata.interval import Interval
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.store.buffer import BufferedWriter
from marketdata.store.candles import STORED_SCHEMA
from realtime.feeds.poller import CandlePoller
from realtime.health import Health
from realtime.metrics import Metrics

_LOOK_S = 0.5
# Candles whose issues are counted; exchanges correct the last few.
_KEPT = 1_000


class Issues:
    """How often each candle has come: the store takes a changed one only with a higher revision."""

    def __init__(self) -> None:
        """None has come."""
        self._counts: dict[Market, dict[datetime, int]] = {}

    def stored(self, market: Market, served: pl.DataFrame) -> pl.DataFrame:
        """Candles as the store keeps them, STORED_SCHEMA, of EXCHANGE_CANDLE_SCHEMA."""
        counts = self._counts.setdefault(market, {})
        revisions = []
        for open_time in served["open_time"]:
            counts[open_time] = counts.get(open_time, -1) + 1
            revisions.append(counts[open_time])
        while len(counts) > _KEPT:
            del counts[next(iter(counts))]
        absent = [name for name in CANDLE_SCHEMA if name not in served.columns]
        return served.with_columns(
            *[pl.lit(None, CANDLE_SCHEMA[name]).alias(name) for name in absent],
            pl.Series("revision", revisions, pl.Int32),
            source=pl.lit("exchange"),
            coverage=pl.lit("unknown"),
        ).select(STORED_SCHEMA.names())


async def polled(
    settings: Settings,
    markets: Sequence[Market],
    writer: BufferedWriter,
    stop: threading.Event,
    *,
    metrics: Metrics,
    health: Health,
    resume_from: Mapping[Market, datetime] | None = None,
) -> None:
    """Ask and write until ``stop`` is set.

    Args:
        resume_from: the last candle of each market that the store has; what has closed since comes first.

    Raises:
        UsageError: an exchange does not serve one-minute candles, or does not list a market.
    """
    poller, issues = CandlePoller(markets, settings, resume_from=resume_from), Issues()

    async def out(market: Market, _: Interval, served: pl.DataFrame, __: datetime) -> None:
        await asyncio.to_thread(writer.write_candles, market, issues.stored(market, served))
        metrics.candles.labels(str(market), "exchange").inc(len(served))

    running = asyncio.create_task(poller.run(out))
    health.ready()
    try:
        while not stop.is_set() and not running.done():
            await asyncio.wait([running], timeout=_LOOK_S)
            metrics.buffer.set(writer.stats.waiting)
            health.beat()
        if running.done():
            running.result()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
