"""What every feed is: trades (or candles) of markets, in order and each once, to whoever takes them."""

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import polars as pl

from marketdata.interval import Interval
from marketdata.market import Market

# Trades of one market, TRADE_SCHEMA, and when they were received. The feed waits until it returns.
Out = Callable[[Market, pl.DataFrame, datetime], Awaitable[None]]
# Candles as the exchange serves them, EXCHANGE_CANDLE_SCHEMA: new ones, and those that changed.
CandlesOut = Callable[[Market, Interval, pl.DataFrame, datetime], Awaitable[None]]
# What was refused, REJECT_SCHEMA; the market is None where the frame does not say it.
Refused = Callable[[Market | None, pl.DataFrame], Awaitable[None]]

_KEPT_NOTES = 200


@dataclass(frozen=True, slots=True)
class Position:
    """The last trade that was handed on, as the topic has it: where a restarted feed goes on."""

    trade_id: int
    time: datetime


@dataclass(slots=True)
class FeedEvents:
    """What happened to a feed, as totals since its start.

    Attributes:
        trades: handed on (of a poller: candles); ``fetched`` of them came by REST after they were missed.
        connections: sockets that were opened, the first included.
        reconnects: sockets that were opened again, by reason.
        requests: times that REST was asked for what was missed.
        repeats: trades dropped because they had been handed on.
        overflows: times that a buffer was full, so that what was dropped is asked for by REST.
        rejected: rows and frames refused, by reason.
        not_served: ids that REST does not serve either; the feed went on without them.
        renumbered: times that a market's ids began anew, or the position was wrong.
        last_frame: when something was last received, of whatever kind.
        last_trade: time of the newest trade by market.
        notes: the last things worth a line, oldest first.
    """

    trades: int = 0
    fetched: int = 0
    connections: int = 0
    reconnects: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    repeats: int = 0
    overflows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    not_served: int = 0
    renumbered: int = 0
    last_frame: datetime | None = None
    last_trade: dict[Market, datetime] = field(default_factory=dict)
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_NOTES))


class Feed(Protocol):
    """A source of live trades."""

    events: FeedEvents

    async def run(self, out: Out, refused: Refused | None = None) -> None:
        """Hand trades on until it is cancelled, or until a replay has ended.

        Each market's trades come in order and each once.

        Raises:
            UsageError: a market or an exchange cannot be followed in this way.
        """
        ...
