"""Wider candles that learn of what has changed below them.

On plain PostgreSQL a trigger keeps them exact, and there is nothing to do here. On TimescaleDB the
transaction that changes one-minute candles marks their range in ``candle_stale``; :func:`refresh` makes the
wider candles of that range anew and removes the mark. What a crash leaves marked, the next call deals with.

Only intervals that have ended, by the lag of ``store_state``, are materialised: what is younger real-time
aggregation folds when it is read. What retention has removed is not asked for again: its wider candles stay.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import psycopg
from psycopg import Connection

from marketdata.errors import UsageError
from marketdata.interval import INTERVALS, Interval, from_us, to_us
from marketdata.store.engine import connect, translate

# Every interval that is a continuous aggregate or a table, narrow before wide: those after 1h are made of it.
WIDER: tuple[Interval, ...] = tuple(i for i in INTERVALS if i > Interval.parse("1m"))
_OF_MINUTES = Interval.parse("1h")
# Held by the one who refreshes.
LOCK = 0x77696465
# One statement materialises at most this much: a year of many markets is not one transaction.
_LONGEST_US = 12 * Interval.parse("1w").us

Range = tuple[datetime, datetime]


def table_of(interval: Interval) -> str:
    """``candle_1h``."""
    return f"candle_{interval.name}"


def is_timescale(connection: Connection[Any]) -> bool:
    """Whether the wider candles of this database are continuous aggregates."""
    row = connection.execute(
        "SELECT relkind = 'v' FROM pg_class WHERE oid = to_regclass('candle_5m')"
    ).fetchone()
    return row is not None and bool(row[0])


def refresh(target: Connection[Any] | str, ranges: Iterable[Range] = (), *, wait: bool = True) -> int:
    """Make the wider candles of every marked range anew, and of ``ranges``.

    Args:
        target: URL, or a connection in autocommit mode: a refresh cannot be a part of a transaction.
        ranges: more of them, half-open.
        wait: until another refresh has ended; otherwise leave the marks to that one and return at once.

    Returns:
        How many marks were dealt with.

    Raises:
        UsageError: the connection is inside a transaction.
        psycopg.Error: the server refuses; the marks stay. With a URL, translated.
    """
    if isinstance(target, str):
        with connect(target, autocommit=True) as connection:
            try:
                return refresh(connection, ranges, wait=wait)
            except psycopg.Error as error:
                raise translate(error) from None
    if not target.autocommit or target.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        msg = "Wider candles cannot be refreshed inside a transaction."
        raise UsageError(msg, hint="Commit first, and give a connection in autocommit mode.")
    asked, done = list(ranges), 0
    while asked or _marks(target):
        if not _locked(target, wait=wait):
            break
        try:
            marks = _marks(target)
            _materialise(target, [*asked, *((start, end) for _, start, end in marks)])
            target.execute(
                "DELETE FROM candle_stale WHERE stale_id = ANY(%s)", ([mark[0] for mark in marks],)
            )
        finally:
            _unlock(target)
        asked, done = [], done + len(marks)
    return done


def _marks(connection: Connection[Any]) -> list[tuple[int, datetime, datetime]]:
    return connection.execute("SELECT stale_id, start_time, end_time FROM candle_stale ORDER BY 1").fetchall()


def _locked(connection: Connection[Any], *, wait: bool) -> bool:
    if wait:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        return True
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,)).fetchone()
    return row is not None and bool(row[0])


def _unlock(connection: Connection[Any]) -> None:
    # A lost connection has given it back already, and has an error of its own to report.
    if not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
        connection.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))


def _materialise(connection: Connection[Any], ranges: list[Range]) -> None:
    if not is_timescale(connection):
        return
    row = connection.execute(
        "SELECT clock_timestamp() - refresh_lag, candles_dropped_before FROM store_state"
    ).fetchone()
    assert row is not None  # noqa: S101 - the step that makes the table puts the row in
    settled, dropped = to_us(row[0]), None if row[1] is None else to_us(row[1])
    wanted = [(to_us(start), to_us(end)) for start, end in ranges]
    if dropped is not None:
        wanted = [(max(start, dropped), end) for start, end in wanted]
    for interval in WIDER:
        for start, end in windows(interval, wanted, settled, dropped if interval <= _OF_MINUTES else None):
            connection.execute(
                "CALL refresh_continuous_aggregate(%s::regclass, %s::timestamptz, %s::timestamptz)",
                (table_of(interval), from_us(start), from_us(end)),
            )


def windows(
    interval: Interval, ranges: Iterable[tuple[int, int]], settled: int, dropped: int | None
) -> Iterator[tuple[int, int]]:
    """What to materialise of an interval: whole ones that touch ``ranges``, apart, in order; microseconds.

    Args:
        ranges: half-open.
        settled: intervals that end later are left out.
        dropped: intervals that begin before it are left out.
    """
    last = interval.floor_us(settled)
    earliest = None if dropped is None else interval.ceil_us(dropped)
    joined: list[list[int]] = []
    for start, end in sorted(
        (interval.floor_us(start), interval.ceil_us(end)) for start, end in ranges if start < end
    ):
        first, stop = start if earliest is None else max(start, earliest), min(end, last)
        if first >= stop:
            continue
        if joined and first <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], stop)
        else:
            joined.append([first, stop])
    for first, stop in joined:
        for begin in range(first, stop, _LONGEST_US):
            yield begin, min(begin + _LONGEST_US, stop)
