"""What callers write for a market and for a time (pure)."""

from contextlib import suppress
from datetime import UTC, date, datetime, time
from typing import Any, Literal

from marketdata.errors import BadRange, UsageError
from marketdata.market import Market, market_from_spelling

Time = datetime | date | str
Fill = Literal["previous"] | None
_DATE_LENGTH = len("2025-06-01")


def spellings(market: str | Market) -> list[Market]:
    """What a text may mean, likeliest first.

    Raises:
        UsageError: it says no exchange or no symbol.
    """
    if isinstance(market, Market):
        return [market]
    exchange, colon, symbol = market.partition(":")
    meant = []
    if not colon or "/" in symbol or "-" in symbol:
        meant.append(Market.parse(market))
    with suppress(UsageError):
        meant.append(market_from_spelling(exchange, symbol))
    return meant or [Market.parse(market)]


def instant(value: Any, name: str) -> datetime:
    """The moment meant by what may stand for one, a Time; callers without types pass anything.

    Raises:
        BadRange: it is no time, or one without zone; names the argument ``name``.
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
        return value.astimezone(UTC)
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


def check_count(n: int) -> None:
    """Refuse what is no number of candles.

    Raises:
        UsageError: it is below 1.
    """
    if n < 1:
        msg = f"n = {n} is no number of candles."
        raise UsageError(msg, hint="Give 1 or more.")


def show(instant: datetime) -> str:
    """``2025-06-01T12:00:00Z``."""
    return instant.isoformat().replace("+00:00", "Z")
