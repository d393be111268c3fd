"""A local exchange with the sources pointed at it, and a clock that never really sleeps."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from marketdata.exchange_sim import RunningExchange
from marketdata.exchange_sim.listing import LISTINGS, Listing, day_number
from marketdata.exchange_sim.market import Columns, trades_of_day
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources.base import Page
from marketdata.sources.client import Client
from marketdata.sources.pace import Clock
from marketdata.trade import SIDE, TIME, TRADE_SCHEMA

DAY = date(2025, 6, 8)
SEED = 7


@dataclass
class FakeTime:
    """A clock whose sleep only moves its hands; remembers each sleep."""

    seconds: float = 1_000.0
    slept: list[float] = field(default_factory=list)
    chance: float = 0.5

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.seconds, self.sleep, lambda: self.chance, lambda: datetime.now(UTC))


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@dataclass
class Venue:
    """A running local exchange and the settings that point at it."""

    running: RunningExchange
    settings: Settings
    time: FakeTime

    def client(self, exchange: str, **changes: Any) -> Client:
        """A client of it; what it sleeps is in ``time``."""
        return Client(exchange, self.settings.model_copy(update=changes), self.time.clock)

    def faults(self, *faults: dict[str, Any]) -> None:
        """Misbehave so from now on."""
        self.running.faults(faults)

    def applied(self) -> int:
        """How many requests the faults have met."""
        return sum(fault["applied"] for fault in self.running.fault_counts())


@pytest.fixture
def venue(exchange_server: Callable[..., RunningExchange], fake_time: FakeTime) -> Callable[..., Venue]:
    """Start a local exchange: ``venue(captures=..., tapes=...)``."""

    def start(**config: Any) -> Venue:
        running = exchange_server(seed=SEED, **config)
        settings = Settings(
            kraken_url=running.kraken,
            binance_url=running.binance,
            binance_archive_url=running.archive,
            request_interval_ms=0,
            request_timeout_s=60,
            request_attempts=4,
        )
        return Venue(running, settings, fake_time)

    return start


def truth(market: Market, day: date = DAY) -> pl.DataFrame:
    """The trades of the synthetic market's own function, as the exchange shows them."""
    listing = next(each for each in LISTINGS if each.market == str(market))
    return shown(listing, trades_of_day(SEED, listing, day_number(day)))


def shown(listing: Listing, rows: Columns) -> pl.DataFrame:
    """Rows of the local exchange as TRADE_SCHEMA; prices and amounts are on the listing's grid."""
    return pl.DataFrame(
        {
            "trade_id": rows.id,
            "time": pl.Series(rows.shown // 10).cast(TIME),
            "price": rows.ticks / 10**listing.tick,
            "amount": rows.lots / 10**listing.lot,
            "side": pl.Series(["buy" if buys else "sell" for buys in rows.taker_buys], dtype=SIDE),
            "fills": pl.Series(rows.fills).cast(pl.Int32),
        },
        schema=TRADE_SCHEMA,
    )


def trades_of(pages: Iterable[Page]) -> pl.DataFrame:
    """All trades of pages, in the order served."""
    return pl.concat([page.trades for page in pages])


def holes(trades: pl.DataFrame, expected: pl.DataFrame) -> list[tuple[int, int]]:
    """Inclusive ranges of the expected ids that are not among the trades; expected ids have no holes."""
    absent = sorted(set(expected["trade_id"]) - set(trades["trade_id"]))
    starts = [each for each in absent if each - 1 not in absent]
    ends = [each for each in absent if each + 1 not in absent]
    return list(zip(starts, ends, strict=True))
