"""Reads of one store: candles of any interval, trades, what is held of a market."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial

import polars as pl
from psycopg import Connection

from marketdata import reading
from marketdata.errors import NoData
from marketdata.interval import Interval
from marketdata.manifest import Status
from marketdata.market import Market
from marketdata.reading import COVERAGE_SCHEMA, WORST, DataRange, Wanted
from marketdata.store import queries
from marketdata.store.edges import DAWN, Edges, Row, one, rows
from marketdata.store.pool import Pool
from marketdata.store.queries import PAGE, STORED

_FIRST_ID = -(1 << 63)
_MIXED = pl.lit("mixed")
_WIDER = Interval.parse("5m")


class StoreReader:
    """Reads one store through a pool. Safe to use from several threads."""

    kind = "store"

    def __init__(self, url: str) -> None:
        """Prepare; :meth:`open` connects."""
        self._pool = Pool(url)
        self._ids: dict[Market, int] = {}
        self._edges = Edges()
        # Intervals a candle, the last time: how far back the next read looks at first.
        self._stretch: dict[tuple[int, Interval], float] = {}

    @property
    def where(self) -> str:
        """Host and database, without user and password."""
        return self._pool.where

    def open(self) -> None:
        """Connect, and see that there is a store.

        Raises:
            TransientError: the server does not answer.
            UsageError: the database has no tables of a store.
        """
        self._pool.open()
        try:
            self.markets()
        except BaseException:
            self._pool.close()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    # -- markets and days ---------------------------------------------------------------------------

    def markets(self) -> list[Market]:
        """Every market that the store knows, by name."""
        found = self._pool.read(lambda connection: rows(connection, queries.MARKETS, {}))
        self._ids = {Market(exchange, symbol): market_id for market_id, exchange, symbol in found}
        return list(self._ids)

    def holds(self, market: Market) -> bool:
        """Whether the store knows the market."""
        return market in self._ids or market in self.markets()

    def coverage(self, market: Market | None, start: date | None, end: date | None) -> pl.DataFrame:
        """One row a day of ``[start, end)``, COVERAGE_SCHEMA."""
        asked = {"market": None if market is None else self._ids[market], "start": start, "end": end}
        found = self._pool.read(lambda connection: rows(connection, queries.COVERAGE, asked))
        return pl.DataFrame(found, schema=COVERAGE_SCHEMA, orient="row")

    def begins(self, market: Market) -> datetime | None:
        """From when on the market is held, as in a lake, or the first candle before its first day."""
        market_id = self._ids[market]
        return self._pool.read(lambda connection: self._edges.begins(connection, market_id))

    def data_range(self, market: Market) -> DataRange:
        """First and last time of trades and candles."""
        market_id = self._ids[market]
        return self._pool.read(lambda connection: self._edges.range(connection, market_id))

    # -- candles and trades -------------------------------------------------------------------------

    def candles(
        self, market: Market, wanted: Sequence[Wanted], *, fill: bool, details: bool
    ) -> list[pl.DataFrame]:
        """A frame for each of ``wanted``, all of one moment."""
        market_id = self._ids[market]

        def work(connection: Connection) -> list[pl.DataFrame]:
            if len(wanted) == 1 and not fill and _is_small(wanted[0]):
                row = one(connection, *_statement(market_id, wanted[0], details=details))
                if not queries.stale_ranges(row, wanted[0]):
                    _require_minutes(connection, market_id, wanted[0], row)
                    return [queries.candle_frame(row, details=details)]
            with connection.transaction():
                frames = [self._any(connection, market_id, each, details=details) for each in wanted]
                if fill:
                    pairs = zip(frames, wanted, strict=True)
                    frames = [_filled(connection, market_id, frame, each) for frame, each in pairs]
            return frames

        return self._pool.read(work)

    def last(
        self, market: Market, interval: Interval, count: int, until: datetime, *, details: bool
    ) -> pl.DataFrame:
        """The last ``count`` candles that open before ``until``, a point of the grid; oldest first."""
        market_id = self._ids[market]

        def work(connection: Connection) -> pl.DataFrame:
            def read(start: datetime, end: datetime) -> pl.DataFrame:
                asked = Wanted(interval, start, end)
                if interval < STORED:
                    return self._any(connection, market_id, asked, details=details)
                return _newest(connection, market_id, asked, count, details=details)

            # First where they were the last time: a market that trades is asked once.
            known, stretch = self._edges.known.get(market_id), self._stretch.get((market_id, interval), 2.0)
            if known is not None and known.candles is not None and interval >= STORED:
                newest = min(interval.floor(known.candles[1]) + interval.width, until)
                if count * stretch < (newest - DAWN) / interval.width:
                    found = read(interval.floor(newest - count * stretch * interval.width), until)
                    if len(found) >= count:
                        self._edges.seen(market_id, found["open_time"][-1])
                        return found.tail(count)
            held = self._edges.held(connection, market_id)
            if interval <= STORED:
                known = self._edges.known[market_id]
                held = known.trades if interval < STORED else known.candles
            if held is None:
                return read(until, until)
            begins = interval.floor(held[0])
            ends = max(begins, min(until, interval.floor(held[1]) + interval.width))
            found = reading.last_of(read, interval, count, ends, begins)
            if len(found):
                took = (ends - found["open_time"][0]) / interval.width / len(found)
                self._stretch[market_id, interval] = max(2.0, 1.5 * took)
            return found

        return self._pool.read(work)

    def trades(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        """Trades of ``[start, end)``, in order, all of one moment.

        Raises:
            NoData: the store holds candles of the beginning of the range, and no longer its trades.
        """
        market_id = self._ids[market]

        def work(connection: Connection) -> pl.DataFrame:
            with connection.transaction():
                found = _trades(connection, market_id, start, end)
                first = found["time"][0] if len(found) else None
                _require_trades(connection, market_id, start, end, first)
            return found

        return self._pool.read(work)

    def _any(self, connection: Connection, market_id: int, wanted: Wanted, *, details: bool) -> pl.DataFrame:
        """Any read of candles; narrower than a minute they are folded from trades."""
        cut = self._cut(connection, market_id, wanted)
        if wanted.interval >= STORED:
            return _pages(connection, market_id, cut, details=details)
        frame = reading.folded(partial(_trades, connection, market_id), cut.interval, cut.start, cut.end)
        first = frame["first_trade_time"][0] if len(frame) else None
        _require_trades(connection, market_id, wanted.start, wanted.end, first)
        if not details:
            return frame
        statuses = _statuses(connection, market_id, wanted.start, wanted.end)
        return reading.detailed(frame, wanted.interval, statuses)

    def _cut(self, connection: Connection, market_id: int, wanted: Wanted) -> Wanted:
        """A long range, which is read in many pieces, cut to where the market has anything."""
        interval = wanted.interval
        longest = max(reading.LONG, interval.width * PAGE) if interval >= STORED else reading.LONG
        if wanted.end - wanted.start <= longest:
            return wanted
        held = self._edges.held(connection, market_id)
        if held is None:
            return replace(wanted, end=wanted.start)
        first, last = interval.floor(held[0]), interval.floor(held[1]) + interval.width
        return replace(wanted, start=max(wanted.start, first), end=min(wanted.end, last))


def _is_small(wanted: Wanted) -> bool:
    """Whether one statement gives it all."""
    return wanted.interval >= STORED and (wanted.end - wanted.start) // wanted.interval.width <= PAGE


def _asked(market_id: int, wanted: Wanted) -> dict[str, object]:
    return {"market": market_id, "start": wanted.start, "end": wanted.end}


def _statement(market_id: int, wanted: Wanted, *, details: bool) -> tuple[str, dict[str, object]]:
    return queries.CANDLES[wanted.interval, details], _asked(market_id, wanted)


def _page(connection: Connection, market_id: int, wanted: Wanted, *, details: bool) -> pl.DataFrame:
    row = one(connection, *_statement(market_id, wanted, details=details))
    _require_minutes(connection, market_id, wanted, row)
    frame = queries.candle_frame(row, details=details)
    return _fresh(connection, market_id, wanted, row, frame, details=details)


def _newest(
    connection: Connection, market_id: int, wanted: Wanted, count: int, *, details: bool
) -> pl.DataFrame:
    """At least the last ``count`` candles of a range, oldest first."""
    statement = queries.LAST_CANDLES[wanted.interval, details]
    row = one(connection, statement, _asked(market_id, wanted) | {"count": count})
    frame = queries.candle_frame(row, details=details, newest_first=True)
    if len(frame) == count:
        wanted = replace(wanted, start=frame["open_time"][0])
    return _fresh(connection, market_id, wanted, row, frame, details=details)


def _fresh(
    connection: Connection, market_id: int, wanted: Wanted, row: Row, frame: pl.DataFrame, *, details: bool
) -> pl.DataFrame:
    """The frame, with those candles made anew of which a wider interval does not know yet."""
    stale = queries.stale_ranges(row, wanted)
    for each in stale:
        minutes = _pages(connection, market_id, replace(each, interval=STORED), details=details)
        wide = widened(minutes, wanted.interval)
        inside = pl.col("open_time").is_between(each.start, each.end, closed="left")
        frame = pl.concat([frame.filter(~inside), wide])
    return frame.sort("open_time") if stale else frame


def widened(minutes: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    """Wider candles by the rules of the store's own: a sum with an unknown part is unknown.

    Candles that an exchange served have nulls, which :func:`marketdata.fold.widen` does not take.
    """
    column = pl.col
    sums = ("volume", "quote_volume", "trade_count", "taker_buy_volume", "taker_buy_quote_volume")
    rules = {
        **{name: column(name).first() for name in ("open", "first_trade_id", "first_trade_time")},
        **{name: column(name).last() for name in ("close", "last_trade_id", "last_trade_time")},
        **{name: pl.when(column(name).null_count() == 0).then(column(name).sum()) for name in sums},
        "high": column("high").max(),
        "low": column("low").min(),
        "revision": column("revision").max(),
        "source": pl.when(column("source").n_unique() == 1).then(column("source").first()).otherwise(_MIXED),
        "coverage": column("coverage").replace_strict(WORST, range(len(WORST)), return_dtype=pl.Int8).max(),
    }
    present = [name for name in minutes.columns if name != "open_time"]
    wide = minutes.group_by(interval.floor_expr(column("open_time")), maintain_order=True).agg(
        [rules[name].alias(name) for name in present]
    )
    if "coverage" in present:
        word = column("coverage").replace_strict(range(len(WORST)), WORST, return_dtype=pl.String)
        wide = wide.with_columns(word)
    return wide


def _pages(connection: Connection, market_id: int, wanted: Wanted, *, details: bool) -> pl.DataFrame:
    """Candles of one minute or wider, a page at a time."""
    interval, start, end = wanted.interval, wanted.start, wanted.end
    frames: list[pl.DataFrame] = []
    while start < end or not frames:
        page = Wanted(interval, start, start + min(end - start, PAGE * interval.width))
        frames.append(_page(connection, market_id, page, details=details))
        start = page.end
    return frames[0] if len(frames) == 1 else pl.concat(frames)


def _trades(connection: Connection, market_id: int, start: datetime, end: datetime) -> pl.DataFrame:
    after, after_id = start, _FIRST_ID
    frames: list[pl.DataFrame] = []
    while True:
        asked = {"market": market_id, "after": after, "after_id": after_id, "end": end, "count": PAGE}
        frames.append(queries.trade_frame(one(connection, queries.TRADES, asked)))
        if len(frames[-1]) < PAGE:
            return frames[0] if len(frames) == 1 else pl.concat(frames)
        after, after_id = frames[-1]["time"][-1], frames[-1]["trade_id"][-1]


def _require_trades(
    connection: Connection, market_id: int, start: datetime, end: datetime, first: datetime | None
) -> None:
    """Refuse a range of whose beginning only candles are left, for then its trades would look like none."""
    asked = {"market": market_id, "start": STORED.ceil(start), "end": end}
    traded, dropped = one(connection, queries.FIRST_OF_CANDLES, asked)
    if traded is None or (first is not None and first <= traded):
        traded = _first_wider(connection, market_id, start, end if first is None else first, dropped)
        if traded is None:
            return
    since = "none" if first is None else f"those from {first.isoformat()} on"
    msg = f"The store holds candles from {traded.isoformat()} on; of trades it holds {since} in this range."
    raise NoData(msg, hint="Read candles of 1m or wider, or the trades of the lake: Provider(lake=...).")


def _require_minutes(connection: Connection, market_id: int, wanted: Wanted, row: Row) -> None:
    """Refuse one-minute candles of a time of which only wider ones are left."""
    if wanted.interval > STORED:
        return
    dropped = row[-1]
    first = _first_wider(connection, market_id, wanted.start, wanted.end, dropped)
    if first is not None:
        msg = (
            f"The store holds 1m candles from {dropped.isoformat()} on, and only wider ones from before:"
            f" the first of this range at {first.isoformat()}."
        )
        raise NoData(msg, hint="Read 5m or wider, or the candles of the lake: Provider(lake=...).")


def _first_wider(
    connection: Connection, market_id: int, start: datetime, end: datetime, dropped: datetime | None
) -> datetime | None:
    """The first wider candle, wholly inside a range, whose one-minute candles retention has removed."""
    if dropped is None or start >= dropped:
        return None
    asked = {"market": market_id, "start": _WIDER.ceil(start), "end": _WIDER.floor(min(end, dropped))}
    found = rows(connection, queries.FIRST_OF_WIDER, asked)
    return found[0][0] if found else None


def _statuses(connection: Connection, market_id: int, start: datetime, end: datetime) -> pl.DataFrame:
    asked = {"market": market_id, "first": start.date(), "last": end.date()}
    found = rows(connection, queries.STATUSES, asked)
    return pl.DataFrame(found, schema={"day": pl.Date(), "status": pl.String()}, orient="row")


def _filled(connection: Connection, market_id: int, frame: pl.DataFrame, wanted: Wanted) -> pl.DataFrame:
    """The same filling as the lake's, from what the store knows of its days."""
    earliest = max(wanted.start, DAWN) - timedelta(days=reading.LOOK_BACK_DAYS + 1)
    statuses = _statuses(connection, market_id, earliest, wanted.end)
    complete = set(statuses.filter(pl.col("status") == Status.COMPLETE)["day"])

    def close_before(edge: datetime) -> float | None:
        since = reading.closes_from(edge, complete)
        if since is None:
            return None
        minute = STORED.floor(edge)
        trades = _trades(connection, market_id, minute, edge)
        if len(trades):
            price: float = trades["price"][-1]
            return price
        for interval in (STORED, _WIDER):  # of the time before the first minute wider ones are left
            asked = Wanted(interval, since, interval.floor(minute))
            candles = _newest(connection, market_id, asked, 1, details=False)
            if len(candles):
                close: float = candles["close"][-1]
                return close
        return None

    return reading.filled(frame, wanted.interval, (wanted.start, wanted.end), complete, close_before)
