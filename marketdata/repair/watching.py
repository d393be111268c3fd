"""Looking for holes in the live tables of the store."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
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
# So many holes are looked at one by one; with more of them everything is looked at.
_FEW = 20


class Watch:
    """Looks for holes, at less cost the second time: what was whole an hour ago is looked at once an hour."""

    _AGAIN = timedelta(hours=1)
    _OVERLAP = timedelta(minutes=10)

    def __init__(self) -> None:
        """Nothing was looked at yet."""
        self._seen: dict[Market, _Seen] = {}

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
                    ids_count = live.market.exchange in counted
                    found += self._holes(connection, live, now, until, earliest, counted=ids_count)
            except psycopg.Error as error:
                raise engine.translate(error) from None
        return found

    def _holes(
        self,
        connection: Connection[Any],
        live: live_tables.Live,
        now: datetime,
        until: datetime,
        earliest: datetime,
        *,
        counted: bool,
    ) -> list[Hole]:
        before = self._seen.get(live.market)
        shown: dict[Hole, None] = {}
        if before is None or now - before.whole_look >= self._AGAIN or len(before.holes) > _FEW:
            whole_look, since = now, earliest
        else:
            whole_look = before.whole_look
            since = max(earliest, _MINUTE.floor(before.up_to - self._OVERLAP))
            for hole in before.holes:  # still there?
                start, end = hole.minutes
                shown |= dict.fromkeys(
                    _shown(connection, live, start - _EDGE, min(end + _EDGE, until), counted=counted)
                )
        shown |= dict.fromkeys(_shown(connection, live, since, until, counted=counted))
        # Behind the newest trade nothing was seen yet.
        self._seen[live.market] = _Seen(whole_look, min(until, live.newest), tuple(shown))
        return [*shown, *_silent(connection, live, since, until, counted=counted)]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What an earlier look has shown: when all was looked at, up to when, and the holes there were."""

    whole_look: datetime
    up_to: datetime
    holes: tuple[Hole, ...]


def _shown(
    connection: Connection[Any], live: live_tables.Live, since: datetime, until: datetime, *, counted: bool
) -> Iterator[Hole]:
    """Holes that the tables show by themselves."""
    number, market = live.number, live.market
    if counted:
        for first, last, start, end in live_tables.missing_ids(connection, number, since - _EDGE, until):
            if start >= since:
                yield Hole(market, Kind.IDS, start, end, first, last)
    yield from _stretches(market, live_tables.minutes_without_candle(connection, number, since, until))


def _silent(
    connection: Connection[Any], live: live_tables.Live, since: datetime, until: datetime, *, counted: bool
) -> Iterator[Hole]:
    """Silences far beyond the pace; where ids count up only the one that lasts."""
    count, first_time, last_time = live_tables.pace(connection, live.number, until - BACK, until)
    if count < 2 or first_time is None or last_time is None:
        return
    longest = max(SILENT, TIMES_THE_PACE * (last_time - first_time) / count)
    if not counted:
        for start, end in live_tables.silences(connection, live.number, since, until, longest):
            yield Hole(live.market, Kind.SILENCE, start, end)
    if until - live.newest > longest:
        yield Hole(live.market, Kind.SILENCE, live.newest, until)


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
