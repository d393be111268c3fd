"""Reads of a lake, as the provider asks for them."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

import polars as pl

from marketdata import reading
from marketdata.interval import Interval
from marketdata.lake.lake import Lake
from marketdata.manifest import Manifest, day_window
from marketdata.market import Market
from marketdata.reading import COVERAGE_SCHEMA, DataRange, Wanted

_MINUTE = Interval.parse("1m")


class LakeReader:
    """Reads one lake. Safe to use from several threads."""

    kind = "lake"

    def __init__(self, lake: Lake) -> None:
        """Read ``lake``; there is nothing to connect to."""
        self.lake = lake

    @property
    def where(self) -> str:
        """Where the lake lies."""
        return self.lake.url

    def open(self) -> None:
        """Nothing is needed: a lake is files."""

    def close(self) -> None:
        """Nothing is kept open."""

    def markets(self) -> list[Market]:
        """Every market of which the lake has a day."""
        return list(self.lake.days())

    def holds(self, market: Market) -> bool:
        """Whether the lake has a day of the market."""
        return bool(self.lake.days(market))

    def candles(
        self, market: Market, wanted: Sequence[Wanted], *, fill: bool, details: bool
    ) -> list[pl.DataFrame]:
        """A frame for each of ``wanted``."""
        frames = []
        for each in wanted:
            frame = reading.candles(
                self.lake, market, each.interval, each.start, each.end, fill="previous" if fill else None
            )
            frames.append(self._detailed(market, each.interval, frame) if details else frame)
        return frames

    def last(
        self, market: Market, interval: Interval, count: int, until: datetime, *, details: bool
    ) -> pl.DataFrame:
        """The last ``count`` candles that open before ``until``, a point of the grid; oldest first."""
        days = self._days(market)
        if days:
            begins = interval.floor(day_window(days[0])[0])
            until = max(begins, min(until, interval.ceil(day_window(days[-1])[1])))
            frame = reading.last_of(
                lambda start, end: reading.candles(self.lake, market, interval, start, end),
                interval,
                count,
                until,
                begins,
            )
        else:
            frame = reading.candles(self.lake, market, interval, until, until)
        return self._detailed(market, interval, frame) if details else frame

    def trades(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        """Trades of ``[start, end)``, in order."""
        return reading.trades(self.lake, market, start, end)

    def begins(self, market: Market) -> datetime | None:
        """From when on the market is held: see :func:`marketdata.reading.known_from`."""
        days = self._days(market)
        held = (self.lake.manifest(market, day) for day in days)
        known = (reading.known_from(each.day, each.status, each.first_time) for each in held if each)
        return next((time for time in known if time is not None), day_window(days[0])[0] if days else None)

    def data_range(self, market: Market) -> DataRange:
        """First and last time of trades and candles."""
        days = self._days(market)

        def trade_times(day: date) -> pl.Series:
            return self.lake.read_trades(market, *day_window(day))["time"]

        def open_times(day: date) -> pl.Series:
            return reading.candles(self.lake, market, _MINUTE, *day_window(day))["open_time"]

        return DataRange(_ends(days, trade_times), _ends(days, open_times))

    def coverage(self, market: Market | None, start: date | None, end: date | None) -> pl.DataFrame:
        """One row a day of ``[start, end)``, COVERAGE_SCHEMA."""
        return coverage_frame(self.lake.manifests(market, start, end))

    def _days(self, market: Market) -> list[date]:
        return self.lake.days(market).get(market, [])

    def _detailed(self, market: Market, interval: Interval, frame: pl.DataFrame) -> pl.DataFrame:
        """With DETAILS: a lake has one revision, made from its days of trades."""
        if frame.is_empty():
            return reading.detailed(frame, interval, _statuses([]))
        first, last = frame["open_time"][0], frame["open_time"][-1] + interval.width
        held = self.lake.manifests(market, first.date(), last.date() + timedelta(days=1))
        return reading.detailed(frame, interval, _statuses(held))


def _statuses(manifests: Iterable[Manifest]) -> pl.DataFrame:
    rows = [(manifest.day, manifest.status.value) for manifest in manifests]
    return pl.DataFrame(rows, schema={"day": pl.Date(), "status": pl.String()}, orient="row")


def coverage_frame(manifests: Iterable[Manifest]) -> pl.DataFrame:
    """One row a manifest, COVERAGE_SCHEMA."""
    rows = [
        (
            manifest.market.exchange,
            manifest.market.symbol,
            manifest.day,
            manifest.status.value,
            manifest.reason,
            manifest.rows,
            manifest.fills,
            manifest.first_time,
            manifest.last_time,
            manifest.first_id,
            manifest.last_id,
            manifest.missing_count,
            manifest.not_served_count,
            sum(manifest.rejected.values()),
            manifest.source,
            manifest.ids.value,
            manifest.content_hash,
        )
        for manifest in manifests
    ]
    return pl.DataFrame(rows, schema=COVERAGE_SCHEMA, orient="row")


def _ends(days: Sequence[date], times: Callable[[date], pl.Series]) -> tuple[datetime, datetime] | None:
    """The first and the last time of days of which some may be empty."""
    for first in days:
        if len(found := times(first)):
            last = next(column for day in reversed(days) if len(column := times(day)))
            return found[0].astimezone(UTC), last[-1].astimezone(UTC)
    return None
