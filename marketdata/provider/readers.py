"""What a provider reads from: a store or a lake, behind one set of calls."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Protocol

import polars as pl

from marketdata.errors import UsageError
from marketdata.interval import Interval
from marketdata.lake import Lake
from marketdata.lake.reader import LakeReader
from marketdata.market import Market
from marketdata.reading import DataRange, Wanted
from marketdata.settings import Settings


class Reader(Protocol):
    """Where a provider reads: a store or a lake. Times are aware, ranges points of the interval's grid."""

    kind: str

    @property
    def where(self) -> str:
        """What it reads, without a secret."""

    def open(self) -> None:
        """Connect."""

    def close(self) -> None:
        """Disconnect."""

    def markets(self) -> list[Market]:
        """Every market it knows."""

    def holds(self, market: Market) -> bool:
        """Whether it knows this one."""

    def candles(
        self, market: Market, wanted: Sequence[Wanted], *, fill: bool, details: bool
    ) -> list[pl.DataFrame]:
        """Candles of ranges."""

    def last(
        self, market: Market, interval: Interval, count: int, until: datetime, *, details: bool
    ) -> pl.DataFrame:
        """The last candles that open before ``until``."""

    def trades(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        """Trades of a range."""

    def begins(self, market: Market) -> datetime | None:
        """From when on it holds the market."""

    def data_range(self, market: Market) -> DataRange:
        """First and last times."""

    def coverage(self, market: Market | None, start: date | None, end: date | None) -> pl.DataFrame:
        """What is known of days."""


def open_reader(settings: Settings | None, database_url: str | None, lake: str | Lake | None) -> Reader:
    """The reader of what is given, else of what the settings name.

    Raises:
        UsageError: a setting is wrong, or what the store needs is not installed.
    """
    if isinstance(lake, Lake):
        return LakeReader(lake)
    if database_url is None:
        chosen = Settings.load() if settings is None else settings
        if lake is not None or chosen.database_url is None:
            return LakeReader(Lake.open(chosen.lake_url if lake is None else lake, settings=chosen))
        database_url = chosen.database_url.get_secret_value()
    try:
        from marketdata.store.reader import StoreReader  # noqa: PLC0415 - an extra; the lake does without
    except ImportError as error:
        msg = f"A store is configured, and the package {error.name!r} is missing."
        raise UsageError(msg, hint="Install it: pip install 'marketdata[store]'") from None
    return StoreReader(database_url)
