"""Ranges of time as they are typed: half-open, UTC. The clock is an argument (pure)."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from marketdata.errors import BadRange, UsageError

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FORMS = "Write it as 2025-06-01 or 2025-06-01T12:00, with Z or an offset when it is not UTC."


def parse_time(text: str, option: str) -> datetime:
    """Return the instant a person wrote; without an offset it is UTC.

    Raises:
        BadRange: it is no date or time; names ``option``.
    """
    try:
        found = datetime.fromisoformat(text.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        msg = f"{option} {text!r} is not a date or a time."
        raise BadRange(msg, hint=_FORMS) from None


def parse_last(text: str) -> timedelta:
    """Return the length of ``7d``, ``24h``, ``90m`` or ``2w``.

    Raises:
        BadRange: it is none of these, or nothing.
    """
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    if found is None or int(found[1]) == 0:
        msg = f"--last {text!r} is not a length of time."
        raise BadRange(msg, hint="Write a number and m, h, d or w: 90m, 24h, 7d, 2w.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def show(instant: datetime) -> str:
    """Return an instant as it can be typed: a date at midnight, otherwise ``2025-06-01T12:00:00Z``."""
    if instant.time() == time(0):
        return instant.date().isoformat()
    return instant.isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Asked:
    """A range as it was typed: ``--start``, ``--end`` and ``--last``, which counts back from the end."""

    start: str | None = None
    end: str | None = None
    last: str | None = None

    def __bool__(self) -> bool:
        """Whether anything was typed."""
        return any(text is not None for text in (self.start, self.end, self.last))


def time_range(asked: Asked, now: datetime) -> tuple[datetime, datetime]:
    """Return ``[start, end)`` for reading. Without an end it is ``now``.

    Raises:
        BadRange: reversed, empty, or ending after the running day.
        UsageError: neither a start nor a length, or both.
    """
    finish = now if asked.end is None else parse_time(asked.end, "--end")
    begin = _begin(asked, finish)
    _check(begin, finish)
    tomorrow = _midnight(now) + timedelta(days=1)
    if finish > tomorrow:
        msg = f"--end {show(finish)} is in the future."
        raise BadRange(msg, hint=f"The running UTC day ends at {show(tomorrow)}.")
    return begin, finish


def day_range(asked: Asked, now: datetime) -> tuple[date, date]:
    """Return the UTC days ``[start, end)``, which end before the running day.

    Raises:
        BadRange: reversed, empty, not whole days, or reaching into the running day or the future.
        UsageError: neither a start nor a length, or both.
    """
    today = _midnight(now)
    finish = today if asked.end is None else parse_time(asked.end, "--end")
    begin = _begin(asked, finish)
    for option, instant in (("--start", begin), ("--end", finish)):
        if instant != _midnight(instant):
            if option == "--start" and asked.last is not None:
                msg = f"--last {asked.last!r} is not a whole number of days."
                raise BadRange(msg, hint="Write it in days or weeks: 7d, 2w.")
            msg = f"{option} {show(instant)} is not the start of a UTC day."
            raise BadRange(msg, hint=f"Write {instant.date()} or {instant.date() + timedelta(days=1)}.")
    _check(begin, finish)
    if finish > today:
        what = "lies in the future" if begin >= today else "reaches into the running day"
        msg = f"The range {show(begin)} to {show(finish)} {what}: today is {today.date()} (UTC)."
        raise BadRange(msg, hint=f"A running day is never complete; the latest --end is {today.date()}.")
    return begin.date(), finish.date()


def days_between(start: date, end: date) -> list[date]:
    """Return the days of ``[start, end)``."""
    return [start + timedelta(days=n) for n in range((end - start).days)]


def _begin(asked: Asked, finish: datetime) -> datetime:
    if asked.start is not None and asked.last is not None:
        msg = f"--start {asked.start} and --last {asked.last} both say where the range starts."
        raise UsageError(msg, hint="Leave one of them out.")
    if asked.start is not None:
        return parse_time(asked.start, "--start")
    if asked.last is None:
        msg = "No range of time is given."
        raise UsageError(msg, hint="Add --last 7d, or --start 2025-06-01 and --end 2025-06-08.")
    try:
        return finish - parse_last(asked.last)
    except OverflowError:
        msg = f"--last {asked.last!r} starts before the first year."
        raise BadRange(msg, hint="Write a shorter one.") from None


def _check(begin: datetime, finish: datetime) -> None:
    if begin > finish:
        msg = f"The range is reversed: it starts at {show(begin)} and ends at {show(finish)}."
        raise BadRange(msg, hint="The end has to be later than the start.")
    if begin == finish:
        msg = f"The range is empty: it starts and ends at {show(begin)}."
        raise BadRange(msg, hint="The end itself is not part of the range; move it on.")


def _midnight(instant: datetime) -> datetime:
    return datetime.combine(instant.date(), time(0), tzinfo=UTC)
