"""The contract of a history source: an iterator of pages with a durable cursor."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

import polars as pl

from marketdata.errors import ExchangeRefused
from marketdata.interval import Interval
from marketdata.market import Market
from marketdata.trade import empty_rejects


class OnlyNewestServed(ExchangeRefused):
    """The exchange has no history but its newest trades, and these begin later than what was asked for.

    Attributes:
        newest: those trades, TRADE_SCHEMA, in order of time.
    """

    def __init__(self, message: str, *, newest: pl.DataFrame, hint: str | None = None) -> None:
        """Say what is not served, and bring what is."""
        super().__init__(message, hint=hint)
        self.newest = newest


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a source.

    Attributes:
        trades: accepted rows inside ``[start, end)``, TRADE_SCHEMA, in the order the source served them.
            ``trade_id`` is null throughout where the source has no ids; ids are then given when the
            whole day is sealed (:func:`marketdata.trade.assign_ids`), because only then is it known
            which identical rows lie on both sides of a page boundary.
        next_cursor: where the next page starts, in the exchange's own terms (Kraken: ``last``,
            nanoseconds, as a string; Binance: the next aggTrade id). ``None`` on the last page.
        rejects: rows refused, REJECT_SCHEMA: the raw row as JSON and the reason.
        reached: how far in time this and all earlier pages are known to be complete
            (never beyond ``end``); progress and first evidence of coverage.
        previous_id: id of the trade just before ``start``, when this page has shown it.
        following_id: id of the first trade at or after ``end``, when this page has shown it.
        evidence: short facts for the manifest, e.g. ``{"archive_sha256": "…"}``.
    """

    trades: pl.DataFrame
    next_cursor: str | None
    reached: datetime
    rejects: pl.DataFrame = field(default_factory=empty_rejects)
    previous_id: int | None = None
    following_id: int | None = None
    evidence: dict[str, str] = field(default_factory=dict)


@runtime_checkable
class TradeSource(Protocol):
    """A source of public trades of one exchange.

    ``sequential_ids`` says whether a hole in the ids proves a missing trade.
    """

    name: str
    exchange: str
    sequential_ids: bool

    def pages(
        self, market: Market, start: datetime, end: datetime, cursor: str | None = None
    ) -> Iterator[Page]:
        """Yield the trades of ``[start, end)``, page after page, from ``cursor`` on when one is given.

        Nothing is lost and nothing repeated at page boundaries; a consumer that stops after any page
        and comes back with its ``next_cursor`` gets exactly the rest.

        Raises:
            UnknownName: the exchange does not list the symbol.
            TransientError: retries are used up.
            PermanentError: a retry cannot help.
        """
        ...

    def refetch(
        self, market: Market, first_id: int, last_id: int, around: tuple[datetime, datetime]
    ) -> pl.DataFrame:
        """Ask once more for the ids ``first_id..last_id`` (inclusive), known to lie within ``around``.

        Returns what the exchange serves of them, TRADE_SCHEMA; possibly empty. Sources without
        sequential ids return an empty frame.
        """
        ...


@runtime_checkable
class CandleSource(Protocol):
    """A source of the exchange's own candles. ``intervals`` are those it serves, on our grid."""

    name: str
    exchange: str
    intervals: tuple[Interval, ...]

    def candles(self, market: Market, interval: Interval, start: datetime, end: datetime) -> pl.DataFrame:
        """Final candles with ``open_time`` in ``[start, end)`` as served, EXCHANGE_CANDLE_SCHEMA.

        A candle that is still running is never returned, and one the exchange wrote for an interval
        without trades (volume and count 0) is left out. May be shorter than asked for: Kraken serves
        the last 720 intervals only.
        """
        ...

    def candles_from(self, interval: Interval, now: datetime) -> datetime | None:
        """Oldest ``open_time`` this source still serves at ``now``; ``None`` when there is no limit."""
        ...
