"""Candle widths. An interval is half-open, ``[open_time, open_time + width)``, in UTC; weeks start on Monday.

Adding an interval is one line in ``_WIDTHS``.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from marketdata.errors import UnknownName

_SECOND = 1_000_000  # microseconds
_WIDTHS: dict[str, int] = {
    "1s": _SECOND,
    "10s": 10 * _SECOND,
    "1m": 60 * _SECOND,
    "5m": 300 * _SECOND,
    "15m": 900 * _SECOND,
    "30m": 1_800 * _SECOND,
    "1h": 3_600 * _SECOND,
    "4h": 14_400 * _SECOND,
    "12h": 43_200 * _SECOND,
    "1d": 86_400 * _SECOND,
    "1w": 604_800 * _SECOND,
}
# 1970-01-01 was a Thursday; the first Monday is four days later. Every narrower width divides a day.
_MONDAY = 4 * 86_400 * _SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """A candle width. ``us`` is the width in microseconds, ``name`` its name (``1m``)."""

    us: int
    name: str

    @classmethod
    def parse(cls, text: "str | Interval") -> "Interval":
        """Return the interval of that name.

        Raises:
            UnknownName: the name is none of the eleven.
        """
        if isinstance(text, Interval):
            return text
        try:
            return _BY_NAME[text]
        except KeyError:
            hint = f"Intervals: {' '.join(_WIDTHS)}."
            raise UnknownName(text, kind="interval", known=_WIDTHS, hint=hint) from None

    def __str__(self) -> str:
        """Return the name, so that an interval prints as ``1m``."""
        return self.name

    @property
    def width(self) -> timedelta:
        """The width as a timedelta."""
        return timedelta(microseconds=self.us)

    @property
    def offset_us(self) -> int:
        """Where the grid starts, microseconds after the epoch."""
        return _MONDAY if self.us == _WIDTHS["1w"] else 0

    def floor_us(self, time_us: int) -> int:
        """Open time of the interval that holds ``time_us``; both in microseconds since the epoch."""
        return (time_us - self.offset_us) // self.us * self.us + self.offset_us

    def ceil_us(self, time_us: int) -> int:
        """First open time at or after ``time_us``."""
        return self.floor_us(time_us - 1) + self.us

    def floor(self, time: datetime) -> datetime:
        """Open time of the interval that holds ``time`` (an aware datetime)."""
        return from_us(self.floor_us(to_us(time)))

    def ceil(self, time: datetime) -> datetime:
        """First open time at or after ``time`` (an aware datetime); at the end of the calendar the last."""
        try:
            return from_us(self.ceil_us(to_us(time)))
        except OverflowError:
            return self.floor(time)

    def floor_expr(self, time: pl.Expr) -> pl.Expr:
        """Polars expression of :meth:`floor` over a ``Datetime("us", "UTC")`` column."""
        us = time.to_physical()
        floored = (us - self.offset_us) // self.us * self.us + self.offset_us
        return floored.cast(pl.Datetime("us", "UTC"))

    def divides(self, wider: "Interval") -> bool:
        """Whether every interval of ``wider`` is a whole number of this one's."""
        return wider.us % self.us == 0 and (wider.offset_us - self.offset_us) % self.us == 0


INTERVALS: tuple[Interval, ...] = tuple(Interval(us, name) for name, us in _WIDTHS.items())
_BY_NAME = {interval.name: interval for interval in INTERVALS}


def to_us(time: datetime) -> int:
    """Microseconds since the epoch of an aware datetime, exactly (no float on the way)."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_us(time_us: int) -> datetime:
    """Aware UTC datetime of microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=time_us)
