"""Partitions: UTC day x symbol, one definition an exchange.

A key reads ``2025-06-08|BTC-USD``: the day, and the symbol as its path-safe slug. The day that is still
running is no partition, so nothing can mark it complete.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from marketdata.market import Market, symbol_from_slug
from marketdata.settings import Tracked

DATE = "date"
SYMBOL = "symbol"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
KEY_TAG = "dagster/partition"
_RANGES_KEPT = 16


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One partition: a market, a UTC day and the key they have here."""

    market: Market
    day: date

    @property
    def key(self) -> str:
        """``2025-06-08|BTC-USD``."""
        return f"{self.day.isoformat()}|{self.market.symbol_slug}"

    @classmethod
    def of(cls, exchange: str, key: str) -> "Job":
        """Read a key of that exchange."""
        day, _, slug = key.partition("|")
        return cls(Market(exchange, symbol_from_slug(slug)), date.fromisoformat(day))


def by_exchange(tracked: Iterable[Tracked]) -> dict[str, list[Tracked]]:
    """The tracked markets of each exchange, in the order of the market file."""
    grouped: dict[str, list[Tracked]] = {}
    for entry in tracked:
        grouped.setdefault(entry.market.exchange, []).append(entry)
    return grouped


class DayBySymbol(dg.MultiPartitionsDefinition):
    """Partitions by day and symbol that list the keys of a range once, and all keys once a day.

    Dagster lists those of a range anew for each key of a run, to see whether the key is one of them: the
    square of the days, and a third of what a run of 122 days computed. And it lists all keys for each asset
    whenever its daemon looks at a backfill: a quarter of what the daemon computed in one of 365 days. The
    keys between two given ones never change; all keys change at midnight.
    """

    def __init__(self, dimensions: Mapping[str, dg.PartitionsDefinition[str]]) -> None:
        """As in Dagster."""
        super().__init__(dict(dimensions))
        self._ranges: OrderedDict[tuple[str, str], tuple[str, ...]] = OrderedDict()
        self._all: tuple[date | None, Sequence[dg.MultiPartitionKey]] = (None, ())

    def _get_partition_keys(  # type: ignore[override]  # a method with a cache of its own there
        self, _current_time: datetime
    ) -> Sequence[dg.MultiPartitionKey]:
        today = _current_time.astimezone(UTC).date()
        day, keys = self._all
        if day != today:
            keys = super()._get_partition_keys(_current_time)
            self._all = (today, keys)
        return keys

    def get_partition_keys_in_range(  # type: ignore[override]
        self,
        partition_key_range: dg.PartitionKeyRange,
        dynamic_partitions_store: Any = None,
    ) -> Sequence[str]:
        """The keys between two keys, both inclusive, in order."""
        ends = (str(partition_key_range.start), str(partition_key_range.end))
        keys = self._ranges.get(ends)
        if keys is None:
            keys = tuple(super().get_partition_keys_in_range(partition_key_range, dynamic_partitions_store))
            self._ranges[ends] = keys
            if len(self._ranges) > _RANGES_KEPT:
                self._ranges.popitem(last=False)
        return keys


def definition(tracked: Sequence[Tracked]) -> dg.MultiPartitionsDefinition:
    """Days from the earliest ``since`` of these markets to yesterday, times their symbols."""
    start = min(entry.since for entry in tracked)
    return DayBySymbol(
        {
            DATE: dg.DailyPartitionsDefinition(start_date=start.isoformat(), timezone="UTC"),
            SYMBOL: dg.StaticPartitionsDefinition([entry.market.symbol_slug for entry in tracked]),
        }
    )


def jobs(exchange: str, keys: Iterable[str], tags: Mapping[str, str]) -> list[Job]:
    """The partitions a step works on.

    Raises:
        dagster.Failure: the run names both a range of partitions and a single one. Dagster launches such
            runs from a partitioned job's page, and they would write one partition of the range and
            report success for all of it.
    """
    if RANGE_START in tags and any(tag == KEY_TAG or tag.startswith(f"{KEY_TAG}/") for tag in tags):
        msg = (
            "This run names a range of partitions and also a single partition, so what it should write is "
            "not clear. Launch the backfill from the asset's page or from the asset graph."
        )
        raise dg.Failure(msg, allow_retries=False)
    return [Job.of(exchange, key) for key in keys]
