"""Looking for holes in the live tables of the store."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import Connection

from marketdata.interval import Interval
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.repair.live import BACK, SILENT, TIMES_THE_PACE, Hole, Kind, closed
from marketdata.settings import Settings
from marketdata.store import engine, live_tables

_MINUTE = Interval.parse("1m")
# Neighbours by id differ by a few trades from neighbours by time; so much at the edge of a look is no hole.
_EDGE = timedelta(minutes=1)


class Watch:
    """Looks for holes, at less cost the second time: what was whole an hour ago is looked at once an hour."""

    _AGAIN = timedelta(hours=1)
    _OVERLAP = timedelta(minutes=10)

    def __init__(self) -> None:
        """Nothing was looked at yet."""
        self._whole: dict[Market, tuple[datetime, datetime]] = {}  # all was looked at when, whole up to

    def holes(
        self, settings: Settings, markets: Iterable[Market], now: datetime, *, ids: Iterable[str]
    ) -> list[Hole]:
        """Holes of these markets, by market and time.

        Args:
            ids: exchanges whose ids count up by one.

        Raises:
            TransientError, UsageError: the store cannot be asked.
        """
        wanted, counted, until = set(markets), set(ids), closed(now)
        earliest = _MINUTE.floor(now - BACK)
        found: list[Hole] = []
        with engine.connect(settings, autocommit=True) as connection:
            try:
                connection.execute("SET jit = off")
                for live in live_tables.markets(connection, earliest):
                    if live.market not in wanted:
                        continue
                    if live.loaded is not None and live.newest < day_window(live.loaded)[1]:
                        continue  # all there is came with a whole day
                    since = self._since(live.market, now, earliest)
                    holes = list(
                        _look(connection, live, since, until, counted=live.market.exchange in counted)
                    )
                    if not holes:
                        full = now if since == earliest else self._whole[live.market][0]
                        self._whole[live.market] = (full, until)
                    found += holes
            except psycopg.Error as error:
                raise engine.translate(error) from None
        return found

    def _since(self, market: Market, now: datetime, earliest: datetime) -> datetime:
        full, whole = self._whole.get(market, (earliest, earliest))
        return earliest if now - full >= self._AGAIN else max(earliest, whole - self._OVERLAP)


def _look(
    connection: Connection[Any], live: live_tables.Live, since: datetime, until: datetime, *, counted: bool
) -> Iterator[Hole]:
    number, market = live.number, live.market
    if counted:
        for first, last, start, end in live_tables.missing_ids(connection, number, since - _EDGE, until):
            if start >= since:
                yield Hole(market, Kind.IDS, start, end, first, last)
    lonely = live_tables.minutes_without_candle(connection, number, since, until)
    yield from _stretches(market, lonely)
    count, first_time, last_time = live_tables.pace(connection, number, until - BACK, until)
    if count < 2 or first_time is None or last_time is None:
        return
    longest = max(SILENT, TIMES_THE_PACE * (last_time - first_time) / count)
    if not counted:
        for start, end in live_tables.silences(connection, number, since, until, longest):
            yield Hole(market, Kind.SILENCE, start, end)
    if until - live.newest > longest:
        yield Hole(market, Kind.SILENCE, live.newest, until)


def _stretches(market: Market, minutes: list[datetime]) -> Iterator[Hole]:
    at: Hole | None = None
    for minute in minutes:
        if at is not None and at.end == minute:
            at = replace(at, end=minute + _MINUTE.width)
            continue
        if at is not None:
            yield at
        at = Hole(market, Kind.CANDLES, minute, minute + _MINUTE.width)
    if at is not None:
        yield at
