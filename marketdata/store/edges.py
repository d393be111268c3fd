"""Where a market begins and ends in the store.

For "the first row" TimescaleDB makes a plan over all chunks of a table, which takes a hundred times as long
as the read. So it is looked for where it was the last time, then where the days say, then anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import Connection

from marketdata.interval import Interval
from marketdata.manifest import Status, day_window
from marketdata.reading import DataRange, known_from
from marketdata.store import queries

DAWN, _DUSK = datetime(2, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
_DAY, _INSTANT = timedelta(days=1), timedelta(microseconds=1)
_OLDEST_WIDER = Interval.parse("5m")
Row = tuple[Any, ...]
Span = tuple[datetime, datetime]


class Edges:
    """First and last times of markets. What it remembers says where to look first; nothing rests on it."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.known: dict[int, DataRange] = {}
        self._nothing: dict[tuple[int, str], Row] = {}
        self._none_before: set[Row] = set()
        self._wider: dict[tuple[int, datetime], Span | None] = {}

    def seen(self, market_id: int, open_time: datetime) -> None:
        """There is a candle at this time: look there the next time."""
        known = self.known[market_id]
        if known.candles is not None and open_time > known.candles[1]:
            self.known[market_id] = replace(known, candles=(known.candles[0], open_time))

    def held(self, connection: Connection, market_id: int) -> Span | None:
        """From when to when there is anything: a day that is known, a candle of any width, a trade."""
        first_day, last_day, dropped = one(connection, queries.COVERED_DAYS, {"market": market_id})
        spans = self._spans(connection, market_id, dropped)
        if first_day is not None:
            spans.append((day_window(first_day)[0], day_window(last_day)[0]))
        return (min(span[0] for span in spans), max(span[1] for span in spans)) if spans else None

    def begins(self, connection: Connection, market_id: int) -> datetime | None:
        """From when on the data is whole: as the days say, or what a stream wrote before them."""
        market = {"market": market_id}
        first_day, _, dropped = one(connection, queries.COVERED_DAYS, market)
        starts = [span[0] for span in self._spans(connection, market_id, dropped)]
        if first_day is None:
            return min(starts, default=None)
        day, status, first_time = next(
            iter(rows(connection, queries.FIRST_KNOWN, market)), (first_day, Status.COMPLETE, None)
        )
        before = [start for start in starts if start < day_window(day)[0]]
        known = known_from(day, status, first_time)
        return min(before, default=None if known is None else utc(known))

    def _spans(self, connection: Connection, market_id: int, dropped: datetime | None) -> list[Span]:
        """From when to when there are candles, trades, and wider candles whose minutes are removed."""
        found = self.range(connection, market_id)
        wider = None if dropped is None else self._dropped(connection, market_id, dropped)
        return [span for span in (found.candles, found.trades, wider) if span is not None]

    def _dropped(self, connection: Connection, market_id: int, dropped: datetime) -> Span | None:
        """First and last wider candle of the time of which retention has removed one-minute candles."""
        key = (market_id, dropped)
        if key not in self._wider:
            first, last = one(connection, queries.WIDER_BEFORE, {"market": market_id, "end": dropped})
            self._wider[key] = None if first is None else (utc(first), utc(last) + _OLDEST_WIDER.width)
        return self._wider[key]

    def range(self, connection: Connection, market_id: int) -> DataRange:
        """First and last trade and one-minute candle."""
        market = {"market": market_id}
        first_day, last_day, _ = one(connection, queries.COVERED_DAYS, market)
        opens = DAWN if first_day is None else day_window(first_day)[0]
        closes = _DUSK if first_day is None else opens + _DAY
        newest = DAWN if last_day is None else day_window(last_day)[0]
        anywhere = market | {"first_from": opens, "first_to": _DUSK, "last_from": DAWN}
        before = market | {"first_from": DAWN, "first_to": opens - _INSTANT, "last_from": _DUSK}
        known = self.known.get(market_id, DataRange(None, None))
        spans: dict[str, Span | None] = {"candle": known.candles, "trade": known.trades}
        for table, span in spans.items():
            statement, nothing = queries.EDGES[table], (market_id, table)
            first_to, last_from = (
                (closes, newest) if span is None else (max(closes, span[0]), max(newest, span[1]))
            )
            near = market | {"first_from": opens, "first_to": first_to, "last_from": last_from}
            first, last = one(connection, statement, near)
            if first is None or last is None:
                loaded = (*one(connection, queries.LOADED, market), first_day)
                if last is not None or self._nothing.get(nothing) != loaded:
                    first, last = one(connection, statement, anywhere)
                    if first is None:
                        self._nothing[nothing] = loaded
            # Rows from before the first day come from a stream alone, and only at the end: looked for once.
            if first_day is not None and (*nothing, first_day) not in self._none_before:
                older, _ = one(connection, statement, before)
                first, last = older or first, last or older
                if older is None:
                    self._none_before.add((*nothing, first_day))
            spans[table] = None if first is None or last is None else (utc(first), utc(last))
        found = DataRange(spans["trade"], spans["candle"])
        self.known[market_id] = found
        return found


def rows(connection: Connection, statement: str, asked: Mapping[str, object]) -> Sequence[Row]:
    """All rows of a statement."""
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(statement, asked, prepare=True).fetchall()


def one(connection: Connection, statement: str, asked: Mapping[str, object]) -> Row:
    """The only row of a statement that gives one, or nothing but nulls."""
    return rows(connection, statement, asked)[0]


def utc(time: datetime) -> datetime:
    """The same time, whatever object stands for the zone."""
    return time.astimezone(UTC)
