"""Binance spot REST: ``aggTrades`` by id and ``klines``.

What the paging rests on:

- Rows are numbered without a break, so the id is the cursor. Only the first id of a window is looked for by
  time, hour by hour: an hour without trades is not the end, and Binance takes no longer window.
- The first page starts one id earlier. Its first row, before the start, proves that nothing was skipped.
- One row with a wrong time is not the end of the day, nor is an empty answer: a fetch ends behind several
  rows at or after the end, or behind a row that is served and that nothing follows.
- Void rows (price and amount 0) have ids of their own; they are refused, with their id, and are no gap.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import MalformedResponse, UnknownName, UsageError
from marketdata.interval import INTERVALS, Interval, from_us, to_us
from marketdata.market import Market
from marketdata.sources import rows as read
from marketdata.sources.base import Page
from marketdata.sources.client import Client
from marketdata.sources.window import cut
from marketdata.trade import empty_rejects, empty_trades, validate

PAGE_ROWS = 1000
# A probe takes several rows, so that one that cannot be read does not look like a quiet hour.
_PROBE_ROWS = 10
# So many rows in a row at or after the end show that it has come.
_ROWS_PAST_END = 3
_TRIES_BEHIND = 3
_HOUR_MS = 3_600_000
# Whether the buyer was the maker tells the taker's side.
_SIDES = {True: "sell", False: "buy"}
_KEYS = ("a", "T", "p", "q", "f", "l", "m")


@dataclass(frozen=True, slots=True)
class _Answer:
    """Rows of one answer by id. ``next_id`` follows the largest one, refused rows included."""

    trades: pl.DataFrame
    rejects: pl.DataFrame
    next_id: int
    count: int


class BinanceTrades:
    """Aggregate trades of Binance's REST API; the cursor is the next id."""

    name = "binance-rest"
    exchange = "binance"
    sequential_ids = True

    def __init__(self, client: Client) -> None:
        """Ask through ``client``."""
        self._client = client

    def pages(
        self, market: Market, start: datetime, end: datetime, cursor: str | None = None
    ) -> Iterator[Page]:
        """See :meth:`marketdata.sources.base.TradeSource.pages`."""
        symbol = self._client.market_id(market)
        reached, begun = start, False
        at = self._first(symbol, start, end) if cursor is None else _parse(cursor)
        while at is not None:
            answer = self._from_id(symbol, at)
            if answer.count == 0:
                answer = self._behind(symbol, at)
            page = cut(answer.trades, answer.rejects, to_us(start), to_us(end))
            past = _ids_past(answer.trades, end)
            done = answer.count == 0 or len(past) >= min(_ROWS_PAST_END, max(1, len(answer.trades)))
            rejects = page.rejects
            if done or not past:
                at = answer.next_id
            else:  # the rows past the end come again, with more behind them
                at = past[0]
                rejects = rejects.filter((pl.col("trade_id") < at).fill_null(value=True))
            if page.newest is not None:
                reached = max(reached, from_us(page.newest))
            yield Page(
                trades=page.inside,
                next_cursor=None if done else str(at),
                reached=end if done else reached,
                rejects=rejects,
                previous_id=None if begun else _below(page.previous_id, page.inside),
                following_id=page.following_id if done else None,
            )
            if done:
                return
            begun = begun or len(page.inside) > 0
        yield Page(empty_trades(), None, end)

    def refetch(
        self,
        market: Market,
        first_id: int,
        last_id: int,
        around: tuple[datetime, datetime],  # noqa: ARG002
    ) -> pl.DataFrame:
        """See :meth:`marketdata.sources.base.TradeSource.refetch`; ids alone say where to look."""
        symbol = self._client.market_id(market)
        found = [empty_trades()]
        at = first_id
        while at <= last_id:
            answer = self._from_id(symbol, at, min(PAGE_ROWS, max(_PROBE_ROWS, last_id - at + 1)))
            if answer.count == 0:
                break
            found.append(answer.trades.filter(pl.col("trade_id").is_between(first_id, last_id)))
            at = answer.next_id
        return pl.concat(found)

    def _first(self, symbol: str, start: datetime, end: datetime) -> int | None:
        """Id at which the first page starts; ``None`` when there is no trade in the window."""
        start_ms, end_ms = to_us(start) // 1000, -(-to_us(end) // 1000)
        for low in range(start_ms, end_ms, _HOUR_MS):
            found = self._between(symbol, low, min(low + _HOUR_MS, end_ms) - 1)
            if found is not None:
                return self._step_back(symbol, found, start)
        return None

    def _step_back(self, symbol: str, found: int, start: datetime) -> int:
        """An id no later than the first of the window: one before it, unless it is the market's first.

        Ids before the window may not be served; then it is looked for further and further back.
        """
        at, step = max(0, found - 1), PAGE_ROWS
        while at > 0:
            earliest = self._from_id(symbol, at, _PROBE_ROWS).trades.head(1)
            if earliest.is_empty() or earliest["time"].item() < start:
                break
            if earliest["trade_id"].item() > at:
                step *= 2
            at = max(0, at - step)
        return at

    def _behind(self, symbol: str, at: int) -> _Answer:
        """What an empty answer should have held: the row before tells a true end from a wrong answer."""
        for _ in range(_TRIES_BEHIND):
            answer = self._from_id(symbol, max(0, at - 1))
            if answer.count:
                break
        fresh = pl.col("trade_id") >= at
        trades = answer.trades.filter(fresh)
        rejects = answer.rejects.filter(fresh.fill_null(value=True))
        return _Answer(trades, rejects, max(at, answer.next_id), len(trades) + len(rejects))

    def _between(self, symbol: str, start_ms: int, last_ms: int) -> int | None:
        """Smallest id with ``start_ms <= T <= last_ms``."""
        params = {"symbol": symbol, "startTime": start_ms, "endTime": last_ms, "limit": _PROBE_ROWS}

        def first_id(body: Any) -> int | None:
            answer = self._read(body, symbol, 0)
            if answer.count == 0:
                return None
            times = answer.trades["time"].to_physical() // 1000
            if times.is_empty() or not times.is_between(start_ms, last_ms).all():
                msg = f"Binance's aggTrades of {symbol} answer another window than {start_ms} to {last_ms}."
                raise MalformedResponse(msg)
            return int(answer.trades["trade_id"].min())  # type: ignore[arg-type]

        return self._client.get("publicGetAggTrades", params, first_id)

    def _from_id(self, symbol: str, first: int, limit: int | None = None) -> _Answer:
        params = {"symbol": symbol, "fromId": first, "limit": limit or PAGE_ROWS}
        return self._client.get("publicGetAggTrades", params, lambda body: self._read(body, symbol, first))

    def _read(self, body: Any, symbol: str, first: int) -> _Answer:
        """Check that an answer is one, and that it starts at ``first`` or later."""
        rows = _rows(body, f"Binance's aggTrades of {symbol}")
        if not rows:
            return _Answer(empty_trades(), empty_rejects(), first, 0)
        valid = validate(_columns(rows), now=self._client.clock.now(), raw=rows, sides=True)
        trades = valid.accepted
        if not trades["trade_id"].is_sorted():
            trades = trades.sort("trade_id")
        lowest, highest = trades["trade_id"].min(), trades["trade_id"].max()
        if not isinstance(lowest, int) or not isinstance(highest, int):
            lowest = highest = _edge(valid.rejected["trade_id"].min())
        if lowest is None or highest is None or lowest < first:
            msg = f"Binance's page of {symbol} does not continue fromId={first}: it starts at {lowest}."
            raise MalformedResponse(msg)
        # A refused row's id counts where it is near those of the others: it may be what is wrong with it.
        refused = [
            each for each in valid.rejected["trade_id"] if each is not None and each <= highest + len(rows)
        ]
        return _Answer(trades, valid.rejected, max([highest, *refused]) + 1, len(rows))


class BinanceCandles:
    """Candles of Binance's REST API, all columns, as far back as the market goes."""

    name = "binance-rest"
    exchange = "binance"
    intervals = tuple(interval for interval in INTERVALS if interval.name != "10s")

    def __init__(self, client: Client) -> None:
        """Ask through ``client``."""
        self._client = client

    def candles(self, market: Market, interval: Interval, start: datetime, end: datetime) -> pl.DataFrame:
        """See :meth:`marketdata.sources.base.CandleSource.candles`.

        Raises:
            UnknownName: Binance has no candles of this width.
        """
        if interval not in self.intervals:
            known = [each.name for each in self.intervals]
            raise UnknownName(interval.name, kind="interval of Binance's candles", known=known)
        symbol = self._client.market_id(market)
        at, stop = to_us(start) // 1000, -(-to_us(end) // 1000)
        found = [EXCHANGE_CANDLE_SCHEMA.to_frame()]
        while at < stop:
            params = {
                "symbol": symbol,
                "interval": interval.name,
                "startTime": at,
                "endTime": stop - 1,
                "limit": PAGE_ROWS,
            }
            page = self._client.get("publicGetKlines", params, _klines_reader(symbol, at))
            if page.is_empty():
                break
            found.append(page)
            at = to_us(page["open_time"].max()) // 1000 + interval.us // 1000  # type: ignore[arg-type]
        now = self._client.clock.now()
        return pl.concat(found).filter(
            pl.col("open_time").is_between(start, end, closed="left")
            & (pl.col("open_time") + interval.width <= now)
            & (pl.col("trade_count") > 0)
        )

    def candles_from(self, interval: Interval, now: datetime) -> datetime | None:  # noqa: ARG002
        """See :meth:`marketdata.sources.base.CandleSource.candles_from`: no limit."""
        return None


def _ids_past(trades: pl.DataFrame, end: datetime) -> list[int]:
    """Ids of the rows at or after the end that no earlier row follows; ``trades`` by id."""
    before = (trades["time"] < end).arg_true()
    return trades["trade_id"][0 if before.is_empty() else before[-1] + 1 :].to_list()


def _below(previous: int | None, inside: pl.DataFrame) -> int | None:
    """The id before the window, unless it stands among those inside: then its time is wrong."""
    first = inside["trade_id"].min()
    return None if previous is not None and isinstance(first, int) and previous > first else previous


def _parse(cursor: str) -> int:
    if not cursor.isdecimal():
        msg = f"{cursor!r} is no cursor of Binance's trades."
        raise UsageError(msg, hint="Discard the staged pages of this day and fetch it again.")
    return int(cursor)


def _edge(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _rows(body: Any, what: str) -> list[Any]:
    if isinstance(body, list):
        return body
    shown = " ".join(str(body).split())[:80]
    msg = f"{what} are not a list: {shown!r}."
    raise MalformedResponse(msg)


def _columns(rows: list[Any]) -> pl.DataFrame:
    """Rows ``{a, p, q, f, l, T, m}`` as columns."""
    try:
        values = {key: [row[key] for row in rows] for key in _KEYS}
    except (KeyError, TypeError, IndexError):
        values = {key: [row.get(key) if isinstance(row, dict) else None for row in rows] for key in _KEYS}
    first, last = read.integers("first", values["f"]), read.integers("last", values["l"])
    fills = (last - first + 1).cast(pl.Int32, strict=False)
    return pl.DataFrame(
        {
            "trade_id": read.integers("trade_id", values["a"]),
            "time": read.times_from_ticks("time", values["T"]),
            "price": read.floats("price", values["p"]),
            "amount": read.floats("amount", values["q"]),
            "side": read.sides("side", values["m"], _SIDES),
            "fills": fills,
        }
    )


def _klines_reader(symbol: str, start_ms: int) -> Callable[[Any], pl.DataFrame]:
    def klines(body: Any) -> pl.DataFrame:
        what = f"Binance's klines of {symbol}"
        rows = _rows(body, what)
        if not rows:
            return EXCHANGE_CANDLE_SCHEMA.to_frame()
        if not all(isinstance(row, list) and len(row) >= 11 for row in rows):
            msg = f"{what} have rows that are no candles."
            raise MalformedResponse(msg)
        columns = {"open_time": read.times_from_ticks("open_time", [row[0] for row in rows])}
        for position, name in _KLINE.items():
            columns[name] = read.floats(name, [row[position] for row in rows])
        columns["trade_count"] = read.integers("trade_count", [row[8] for row in rows])
        frame = pl.DataFrame(columns)
        if sum(frame.null_count().row(0)) or to_us(frame["open_time"].min()) < start_ms * 1000:  # type: ignore[arg-type]
            msg = f"{what} do not continue startTime={start_ms}."
            raise MalformedResponse(msg)
        return read.exchange_candles(frame)

    return klines


_KLINE = {
    1: "open",
    2: "high",
    3: "low",
    4: "close",
    5: "volume",
    7: "quote_volume",
    9: "taker_buy_volume",
    10: "taker_buy_quote_volume",
}
