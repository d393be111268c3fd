"""Kraken REST: ``Trades`` by its nanosecond cursor and ``OHLC``.

What the paging rests on:

- ``since`` is exclusive and in nanoseconds; ``last`` is the nanosecond time of the last row served. Row times
  are the same instants, rounded (to 0.1 us today, to 100 us in 2021), so a row's time may lie on the other
  side of midnight than its cursor. A day is therefore asked for from a minute before its start, and what
  belongs to it is decided by row times alone. The minute also shows the trade before the day.
- A page ends after 1000 rows, even inside a group of rows of one instant, of which ``since = last`` would
  skip the rest. The next request therefore starts one nanosecond earlier, and rows up to the last id seen
  are dropped. Rows of old answers without ids are paged by ``last`` alone, as Kraken documents it.
- A short page means nothing. Only a row at or after the end, or two answers without a new row, end a fetch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from marketdata.errors import MalformedResponse, UnknownName, UsageError
from marketdata.interval import INTERVALS, Interval, from_us, to_us
from marketdata.market import Market
from marketdata.sources import rows as read
from marketdata.sources.base import Page
from marketdata.sources.client import Client
from marketdata.sources.window import cut
from marketdata.trade import empty_rejects, empty_trades, validate

PAGE_ROWS = 1000
CANDLES_SERVED = 720  # the running one included
# So many of the oldest are not promised: between the promise and the answer the rate limit may take minutes.
_MARGIN = 5

_LEAD_US = 60_000_000
# Row times are rounded by at most 50 us against the cursor.
_ROUNDING_US = 100
_SIDES = {"b": "buy", "s": "sell"}
# In minutes. Its weeks start on Thursday (they are counted from 1970), so 1w is not among them.
_MINUTES = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1440}


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where a page starts: Kraken's ``last`` and, once one is known, the last id seen (``last:id``)."""

    ns: int
    last_id: int | None = None

    @classmethod
    def parse(cls, text: str) -> "_Cursor":
        ns, _, last_id = text.partition(":")
        try:
            return cls(int(ns), int(last_id) if last_id else None)
        except ValueError:
            msg = f"{text!r} is no cursor of Kraken's trades."
            raise UsageError(msg, hint="Discard the staged pages of this day and fetch it again.") from None

    def __str__(self) -> str:
        return str(self.ns) if self.last_id is None else f"{self.ns}:{self.last_id}"


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer of ``Trades``: rows as served, ``last``, and how many rows there were."""

    trades: pl.DataFrame
    rejects: pl.DataFrame
    last: int
    count: int


class KrakenTrades:
    """Trades of Kraken's REST API; the cursor is ``last``, or ``last:id``."""

    name = "kraken-rest"
    exchange = "kraken"
    sequential_ids = True

    def __init__(self, client: Client) -> None:
        """Ask through ``client``."""
        self._client = client

    def pages(
        self, market: Market, start: datetime, end: datetime, cursor: str | None = None
    ) -> Iterator[Page]:
        """See :meth:`marketdata.sources.base.TradeSource.pages`."""
        first, stop = to_us(start), to_us(end)
        pair = self._client.market_id(market)
        at = _Cursor((first - _LEAD_US) * 1000 - 1) if cursor is None else _Cursor.parse(cursor)
        seen_rejects: set[str] = set()
        while True:
            answer = self._after(pair, at)
            trades, rejects = _unseen(answer, at, seen_rejects)
            page = cut(trades, rejects, first, stop)
            at = _Cursor(max(at.ns, answer.last), _last_id(answer, at))
            done = answer.count == 0 or page.ended or answer.last >= (stop + _ROUNDING_US) * 1000
            yield Page(
                trades=page.inside,
                next_cursor=None if done else str(at),
                reached=end if done else from_us(min(max(at.ns // 1000, first), stop)),
                rejects=page.rejects,
                previous_id=page.previous_id,
                following_id=page.following_id,
            )
            if done:
                return
            seen_rejects = set(answer.rejects["raw"]) if len(answer.rejects) else set()

    def refetch(
        self, market: Market, first_id: int, last_id: int, around: tuple[datetime, datetime]
    ) -> pl.DataFrame:
        """See :meth:`marketdata.sources.base.TradeSource.refetch`."""
        start, end = to_us(around[0]), to_us(around[1])
        pair = self._client.market_id(market)
        at = _Cursor((start - _ROUNDING_US) * 1000 - 1)
        found = [empty_trades()]
        while True:
            answer = self._after(pair, at)
            found.append(answer.trades.filter(pl.col("trade_id").is_between(first_id, last_id)))
            newest = answer.trades["trade_id"].max()
            past = isinstance(newest, int) and newest >= last_id
            if answer.count == 0 or past or answer.last > (end + _ROUNDING_US) * 1000:
                return pl.concat(found).unique("trade_id", keep="first", maintain_order=True)
            at = _Cursor(answer.last, _last_id(answer, at))

    def _after(self, pair: str, at: _Cursor) -> _Answer:
        """The next answer after a cursor; ``count`` is 0 only when Kraken has no further row."""
        answer = self._ask(pair, at.ns if at.last_id is None else at.ns - 1)
        if answer.count and (answer.last > at.ns or _has_new(answer, at)):
            return answer
        # Nothing new is the end when it is said twice; or it is more than a page of rows of one instant.
        return self._ask(pair, at.ns)

    def _ask(self, pair: str, since: int) -> _Answer:
        params = {"pair": pair, "since": since, "count": PAGE_ROWS}
        return self._client.get("publicGetTrades", params, lambda body: self._read(body, pair, since))

    def _read(self, body: Any, pair: str, since: int) -> _Answer:
        """Check that an answer is one, and that it continues the cursor."""
        rows, last = _result(body, pair, "Trades")
        if not rows:
            return _Answer(empty_trades(), empty_rejects(), since, 0)
        if not (isinstance(last, str | int) and str(last).isdecimal()):
            msg = f"Kraken's Trades of {pair} say last = {last!r} instead of nanoseconds."
            raise MalformedResponse(msg)
        columns, ids = _columns(rows)
        valid = validate(columns, now=self._client.clock.now(), raw=rows, ids=ids, sides=True)
        trades, cursor = valid.accepted, int(last)
        times = trades["time"].cast(pl.Int64)
        oldest, newest = times.min(), times.max()
        if (
            cursor <= since
            or (isinstance(oldest, int) and oldest < since // 1000 - _ROUNDING_US)
            or (isinstance(newest, int) and newest > cursor // 1000 + _ROUNDING_US)
        ):
            msg = f"Kraken's page of {pair} does not continue since={since}: it ends at last={cursor}."
            raise MalformedResponse(msg)
        return _Answer(trades, valid.rejected, cursor, len(rows))


class KrakenCandles:
    """Candles of Kraken's REST API: the last 720 of each width, the running one among them."""

    name = "kraken-rest"
    exchange = "kraken"
    intervals = tuple(interval for interval in INTERVALS if interval.name in _MINUTES)

    def __init__(self, client: Client) -> None:
        """Ask through ``client``."""
        self._client = client

    def candles(self, market: Market, interval: Interval, start: datetime, end: datetime) -> pl.DataFrame:
        """See :meth:`marketdata.sources.base.CandleSource.candles`.

        Quote volume is null: Kraken serves a vwap, but rounded to the digits of the price.

        Raises:
            UnknownName: Kraken has no candles of this width on our grid.
        """
        if interval.name not in _MINUTES:
            raise UnknownName(interval.name, kind="interval of Kraken's candles", known=_MINUTES)
        pair = self._client.market_id(market)
        since = (to_us(start) - interval.us) // 1_000_000
        params = {"pair": pair, "interval": _MINUTES[interval.name], "since": max(0, since)}
        served = self._client.get("publicGetOHLC", params, lambda body: _read_candles(body, pair))
        # The last row is the interval that is still running, whatever was asked for.
        final = served.filter(pl.col("open_time") < pl.col("open_time").max())
        return final.filter(
            pl.col("open_time").is_between(start, end, closed="left") & (pl.col("trade_count") > 0)
        )

    def candles_from(self, interval: Interval, now: datetime) -> datetime | None:
        """See :meth:`marketdata.sources.base.CandleSource.candles_from`; five intervals on the safe side."""
        return interval.floor(now) - (CANDLES_SERVED - 1 - _MARGIN) * interval.width


def _result(body: Any, pair: str, endpoint: str) -> tuple[list[Any], Any]:
    """Rows and ``last`` of an answer.

    Raises:
        MalformedResponse: it is none.
    """
    result = body.get("result") if isinstance(body, dict) else None
    rows = result.get(pair) if isinstance(result, dict) else None
    if not isinstance(result, dict) or not isinstance(rows, list):
        shown = " ".join(str(body).split())[:80]
        msg = f"Kraken's {endpoint} of {pair} is not a result with rows: {shown!r}."
        raise MalformedResponse(msg)
    return rows, result.get("last")


def _columns(rows: list[Any]) -> tuple[pl.DataFrame, bool]:
    """Rows ``[price, volume, time, b|s, l|m, misc, id]`` as columns, and whether they have ids."""
    widths = [len(row) if isinstance(row, list) else 0 for row in rows]
    ids = 2 * sum(width >= 7 for width in widths) > len(rows)
    wanted = 7 if ids else 6
    if min(widths) < wanted:
        rows = [
            [*row, *[None] * (wanted - len(row))] if isinstance(row, list) else [None] * wanted
            for row in rows
        ]
    prices, amounts, times, sides, *_ = zip(*rows, strict=False)
    trade_ids = [row[6] for row in rows] if ids else [None] * len(rows)
    columns = {
        "trade_id": read.integers("trade_id", trade_ids),
        "time": read.times_from_seconds("time", times),
        "price": read.floats("price", prices),
        "amount": read.floats("amount", amounts),
        "side": read.sides("side", sides, _SIDES),
        "fills": read.ones("fills", len(rows)),
    }
    return pl.DataFrame(columns), ids


def _has_new(answer: _Answer, at: _Cursor) -> bool:
    """Whether an answer has a trade that was not yet seen at the cursor."""
    newest = answer.trades["trade_id"].max()
    return at.last_id is None or not isinstance(newest, int) or newest > at.last_id


def _unseen(answer: _Answer, at: _Cursor, seen_rejects: set[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Trades and rejects of an answer without those that the page before has shown."""
    trades, rejects = answer.trades, answer.rejects
    if at.last_id is None:
        return trades, rejects
    if not trades["trade_id"].null_count():
        seen = trades["trade_id"].to_numpy() <= at.last_id
        count = int(seen.sum())
        trades = trades.slice(count) if seen[:count].all() else trades.filter(pl.Series(~seen))
    if len(rejects):
        fresh = pl.col("trade_id").is_null() | (pl.col("trade_id") > at.last_id)
        rejects = rejects.filter(fresh & ~pl.col("raw").is_in(list(seen_rejects)))
    return trades, rejects


def _last_id(answer: _Answer, at: _Cursor) -> int | None:
    """The largest id seen; of refused rows only where it is near those of the others."""
    newest = answer.trades["trade_id"].max()
    if not isinstance(newest, int):
        return at.last_id
    if at.last_id is not None:
        newest = max(newest, at.last_id)
    if answer.rejects.is_empty():
        return newest
    refused = answer.rejects["trade_id"].filter(answer.rejects["trade_id"] <= newest + answer.count).max()
    return max(newest, refused) if isinstance(refused, int) else newest


def _read_candles(body: Any, pair: str) -> pl.DataFrame:
    """``[time, open, high, low, close, vwap, volume, count]`` rows, EXCHANGE_CANDLE_SCHEMA, all of them."""
    rows, _ = _result(body, pair, "OHLC")
    if not all(isinstance(row, list) and len(row) >= 8 for row in rows):
        msg = f"Kraken's OHLC of {pair} has rows that are no candles."
        raise MalformedResponse(msg)
    columns: dict[str, pl.Series] = {
        "open_time": read.times_from_seconds("open_time", [row[0] for row in rows])
    }
    for position, name in ((1, "open"), (2, "high"), (3, "low"), (4, "close"), (6, "volume")):
        columns[name] = read.floats(name, [row[position] for row in rows])
    columns["trade_count"] = read.integers("trade_count", [row[7] for row in rows])
    frame = pl.DataFrame(columns)
    if sum(frame.null_count().row(0)):
        msg = f"Kraken's OHLC of {pair} has values that are no numbers."
        raise MalformedResponse(msg)
    return read.exchange_candles(frame)
