"""What callers write for a market, an interval and a time (pure). Those without types may pass anything."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, date, datetime, time
from operator import index
from typing import Any, Literal

from marketdata.errors import BadRange, UsageError
from marketdata.interval import Interval
from marketdata.market import Market, market_from_spelling

Time = datetime | date | str
Fill = Literal["previous"] | None
_DATE_LENGTH = len("2025-06-01")
_MOST = 10_000_000


def spellings(market: Any) -> list[Market]:
    """What a text may mean, likeliest first.

    Raises:
        UsageError: it says no exchange or no symbol.
    """
    if isinstance(market, Market):
        return [market]
    if not isinstance(market, str):
        msg = f"market = {market!r} is no market."
        raise UsageError(msg, hint="Write it as 'kraken:BTC/USD'.")
    exchange, colon, symbol = market.partition(":")
    meant = []
    if not colon or "/" in symbol or "-" in symbol:
        meant.append(Market.parse(market))
    with suppress(UsageError):
        meant.append(market_from_spelling(exchange, symbol))
    return meant or [Market.parse(market)]


def instant(value: Any, name: str) -> datetime:
    """The moment meant by what may stand for one, a Time.

    Raises:
        BadRange: it is no time, one without zone, or none of the years 1 to 9999 in UTC; names the argument
            ``name``.
    """
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if len(value) == _DATE_LENGTH else datetime.fromisoformat(value)
        except ValueError:
            msg = f"{name} = {value!r} is not a date or a time."
            raise BadRange(msg, hint="Write it as '2025-06-01' or '2025-06-01T12:00Z'.") from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            msg = f"{name} = {value.isoformat()} has no zone."
            raise BadRange(msg, hint="Give it one: datetime(2025, 6, 1, tzinfo=UTC), '2025-06-01T12:00Z'.")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            msg = f"{name} = {value.isoformat()} is out of range in UTC."
            raise BadRange(msg, hint="Times are of the years 1 to 9999.") from None
    if isinstance(value, date):
        return datetime.combine(value, time(0), UTC)
    msg = f"{name} = {value!r} is no time."
    raise BadRange(msg, hint="Give an aware datetime, a date, or ISO text.")


def time_range(start: Time, end: Time) -> tuple[datetime, datetime]:
    """The moments meant by two times in order; see :func:`instant`."""
    first, last = instant(start, "start"), instant(end, "end")
    check_order(first, last)
    return first, last


def check_order(start: datetime, end: datetime) -> None:
    """Refuse a reversed range.

    Raises:
        BadRange: the end is before the start.
    """
    if end < start:
        msg = f"The range from {show(start)} to {show(end)} is reversed."
        raise BadRange(msg, hint="The start comes first; the end is exclusive.")


def count_of(n: Any) -> int:
    """The number of candles meant; NumPy's integers are some, too.

    Raises:
        UsageError: it is no integer, below 1 or above ten millions.
    """
    count = 0
    if not isinstance(n, bool):
        with suppress(TypeError):
            count = index(n)
    if not 1 <= count <= _MOST:
        msg = f"n = {n!r} is no number of candles."
        raise UsageError(msg, hint=f"Give an integer from 1 to {_MOST}.")
    return count


def width_of(interval: Any) -> Interval:
    """The interval meant.

    Raises:
        UnknownName: there is none of that name.
        UsageError: it is no name.
    """
    if not isinstance(interval, (str, Interval)):
        msg = f"interval = {interval!r} is no interval."
        raise UsageError(msg, hint="Write it as '1m', '4h' or '1w'.")
    return Interval.parse(interval)


def widths_of(intervals: Any) -> list[Interval]:
    """The intervals meant, each once.

    Raises:
        UnknownName: there is none of a name.
        UsageError: it is one name, or nothing that has names.
    """
    if isinstance(intervals, (str, Interval)) or not isinstance(intervals, Iterable):
        msg = f"intervals = {intervals!r} are no intervals."
        raise UsageError(msg, hint="Give a list: ['1m', '1h'].")
    return list(dict.fromkeys(map(width_of, intervals)))


def show(instant: datetime) -> str:
    """``2025-06-01T12:00:00Z``."""
    return instant.isoformat().replace("+00:00", "Z")
