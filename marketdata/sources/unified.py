"""Any other exchange, through ccxt's unified ``fetch_trades`` and ``fetch_ohlcv``.

ccxt pages by ``since`` in milliseconds and promises little, so this promises less than the sources of their
own: it is lossless as far as the exchange answers ``since`` from the oldest trade on, and says so when not.

- The rows of a page's last millisecond are left for the next page, which starts with all of them: the
  cursor is that millisecond, and no row is lost or repeated. A page of one single millisecond may be cut by
  the exchange; it is kept, the cursor goes one on, and the evidence says when that happened.
- Some exchanges answer a window of time only, so an empty answer means "look an hour later".
- Some are asked for a window only, and of one with more trades than an answer holds they serve the newest. So
  the window is made smaller until the answer is not full.
- Some ignore ``since`` and serve their newest trades. Then the first page is part of the newest one and the
  history cannot be had, which is an error and not an empty day.
- Whether the ids are used is decided by the first page and kept in the cursor, so a day has one kind.
- A day is known to its end only when a trade after it was served.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import ExchangeRefused, MalformedResponse, UnknownName, UsageError
from marketdata.interval import INTERVALS, Interval, from_us, to_us
from marketdata.market import Market
from marketdata.sources import rows as read
from marketdata.sources.base import OnlyNewestServed, Page
from marketdata.sources.client import Client
from marketdata.sources.window import cut
from marketdata.trade import empty_rejects, empty_trades, validate

_HOUR_MS = 3_600_000
_OVERLAP_MS = 1_000
_NO_IDS = ":no-ids"
# How far behind the end a trade is looked for that shows that the day is over.
_LOOK_PAST_END = timedelta(days=1)
# Fewer rows may be all that a new market has.
_ENOUGH_TO_JUDGE = 50
# Those ccxt asks only for a window: rows of a full answer, and how much later than wanted the end is, in ms:
# Coinbase's windows are cut to seconds, MEXC's are shorter than an hour.
_WINDOWED = {"coinbase": (1_000, 2_000), "mexc": (1_000, -1)}
_FIRST_WINDOW_MS = 60_000
# Those that serve only their newest trades, and more of them to whoever says how many (100 to others).
_LARGEST = dict.fromkeys(("okx", "okxus", "myokx"), 500) | dict.fromkeys(("gate", "gateeu"), 1_000)
_SIDES = {"buy": "buy", "sell": "sell"}


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer, trades by time."""

    trades: pl.DataFrame
    rejects: pl.DataFrame
    ids: bool | None = None

    @property
    def count(self) -> int:
        return len(self.trades) + len(self.rejects)

    @property
    def newest_ms(self) -> int | None:
        """Time of the newest row, refused ones included where time is not what is wrong with them."""
        refused = self.rejects.filter(~pl.col("reason").str.starts_with("time"))
        newest = pl.concat([self.trades["time"], refused["time"]]).max()
        return to_us(newest) // 1000 if isinstance(newest, datetime) else None

    def since(self, at: int) -> "_Answer":
        """Only what is from that millisecond on; a reject without a time is not known to be older."""
        late = pl.col("time").is_null() | (pl.col("time") >= from_us(at * 1000))
        return _Answer(self.trades.filter(late), self.rejects.filter(late), self.ids)


class UnifiedTrades:
    """Trades of any exchange of ccxt; the cursor is the next millisecond, or ``<millisecond>:no-ids``.

    Ids are the exchange's where they are integers and each its own, else null (fingerprints are given to the
    whole day). They are not taken for sequential, whatever they look like.
    """

    sequential_ids = False

    def __init__(self, client: Client) -> None:
        """Ask through ``client``."""
        self._client = client
        self.exchange = client.exchange
        self.name = f"{client.exchange}-ccxt"
        self._window_ms = _FIRST_WINDOW_MS

    def pages(
        self, market: Market, start: datetime, end: datetime, cursor: str | None = None
    ) -> Iterator[Page]:
        """See :meth:`marketdata.sources.base.TradeSource.pages`."""
        self._check(market)
        start_ms, end_ms = to_us(start) // 1000, -(-to_us(end) // 1000)
        last_ms = to_us(min(end + _LOOK_PAST_END, self._client.clock.now())) // 1000
        at, ids = (start_ms, None) if cursor is None else _parse(cursor)
        reached, checked = from_us(max(at, start_ms) * 1000), cursor is not None
        while True:
            answer = self._from(market, at, ids)
            newest = answer.newest_ms
            if newest is None:
                at += _HOUR_MS
                if at <= last_ms:
                    continue
                # Nothing behind the last trade shows that there was none: `reached` stays.
                yield Page(empty_trades(), None, reached, evidence={"end": "no trade was served behind it"})
                return
            ids = answer.ids
            if not checked:
                self._check_history(market, at, answer)
                checked = True
            trades, rejects, evidence = answer.trades, answer.rejects, {}
            done = newest >= end_ms
            if newest > at and not done:
                whole = pl.col("time").is_null() | (pl.col("time") < from_us(newest * 1000))
                trades, rejects, at = trades.filter(whole), rejects.filter(whole), newest
            elif not done:
                at += 1
                if answer.count >= _ENOUGH_TO_JUDGE:
                    evidence = {"full_millisecond": from_us((at - 1) * 1000).isoformat()}
            page = cut(trades, rejects, to_us(start), to_us(end))
            reached = end if done else max(reached, from_us(min(at, end_ms) * 1000))
            yield Page(
                trades=page.inside,
                next_cursor=None if done else f"{at}" if ids else f"{at}{_NO_IDS}",
                reached=reached,
                rejects=page.rejects,
                following_id=page.following_id,
                evidence=evidence,
            )
            if done:
                return

    def refetch(
        self,
        market: Market,  # noqa: ARG002
        first_id: int,  # noqa: ARG002
        last_id: int,  # noqa: ARG002
        around: tuple[datetime, datetime],  # noqa: ARG002
    ) -> pl.DataFrame:
        """See :meth:`marketdata.sources.base.TradeSource.refetch`: these ids prove no hole."""
        return empty_trades()

    def _check(self, market: Market) -> None:
        self._client.market_id(market)
        entry = self._client.markets()[market.symbol]
        if entry.get("contract"):
            msg = f"{market} is a contract; its amounts are not in {market.base}."
            raise UsageError(msg, hint="Only spot markets can be collected from this exchange.")

    def _check_history(self, market: Market, at: int, first: _Answer) -> None:
        """Refuse an exchange that answers any ``since`` with its newest trades."""
        newest = self._ask(market, None, first.ids)
        if newest.count < _ENOUGH_TO_JUDGE or newest.trades.is_empty() or first.trades.is_empty():
            return
        oldest, latest = (to_us(time) // 1000 for time in newest.trades["time"].sort()[[0, -1]])
        part = first.trades.join(newest.trades, on=["time", "price", "amount"], how="anti").is_empty()
        near = first.newest_ms is not None and 2 * first.newest_ms >= oldest + latest
        if oldest > at and part and near:
            msg = f"{self.exchange} serves only its newest {newest.count} trades of {market.symbol}."
            hint = "Its history can only be imported from files."
            raise OnlyNewestServed(msg, newest=newest.trades, hint=hint)

    def _from(self, market: Market, at: int, ids: bool | None) -> _Answer:
        """Rows from a millisecond on. Asked for a second earlier: some exchanges cut ``since`` to seconds,
        or leave out the trade at that very time."""
        wide = self._ask(market, at - _OVERLAP_MS, ids).since(at)
        if wide.newest_ms is not None and wide.newest_ms > at:
            return wide
        # That page may have been full before it came to the end of this millisecond.
        exact = self._ask(market, at, ids).since(at)
        return exact if exact.count >= wide.count else wide

    def _ask(self, market: Market, since: int | None, ids: bool | None) -> _Answer:
        if self.exchange in _WINDOWED:
            return self._ask_window(market, since, ids)
        most = _LARGEST.get(self.exchange)
        return self._client.ask(
            lambda exchange: exchange.fetch_trades(market.symbol, since, most),
            lambda rows: self._read(rows, market, since, ids),
        )

    def _ask_window(self, market: Market, since: int | None, ids: bool | None) -> _Answer:
        """All from ``since`` on to the end of a window of the right size; empty: none in an hour."""
        most, over = _WINDOWED[self.exchange]
        # So long a window is known to have no trade, and so long a one too many.
        empty, full = 0, 0
        width = self._window_ms
        while True:
            params = {} if since is None else {"until": since + width + over}
            fetch = partial(_fetch, symbol=market.symbol, since=since, limit=most, params=params)
            answer = self._client.ask(fetch, lambda rows: self._read(rows, market, since, ids))
            if since is None:
                return answer
            if answer.count >= most and width > empty + 1:
                full = width
            elif not answer.count and width < _HOUR_MS:
                empty = width
            else:
                self._window_ms = min(4 * width, _HOUR_MS) if 4 * answer.count < most else width
                return answer
            width = (empty + full + 1) // 2 if full else min(4 * empty, _HOUR_MS)

    def _read(self, rows: Any, market: Market, since: int | None, ids: bool | None) -> _Answer:
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            msg = f"ccxt gave no list of trades for {market}."
            raise MalformedResponse(msg)
        if not rows:
            return _Answer(empty_trades(), empty_rejects())
        served = read.integers("trade_id", [row.get("id") for row in rows])
        if ids is None:
            ids = 2 * (len(rows) - served.null_count()) > len(rows) and served.drop_nulls().is_unique().all()
        columns = pl.DataFrame(
            {
                "trade_id": served if ids else pl.Series("trade_id", [None] * len(rows), dtype=pl.Int64),
                "time": read.times_from_ticks("time", [row.get("timestamp") for row in rows]),
                "price": read.floats("price", [row.get("price") for row in rows]),
                "amount": read.floats("amount", [row.get("amount") for row in rows]),
                "side": read.sides("side", [row.get("side") for row in rows], _SIDES),
                "fills": read.ones("fills", len(rows)),
            }
        )
        raw = [row.get("info", row) for row in rows]
        valid = validate(columns, now=self._client.clock.now(), raw=raw, ids=ids)
        trades = valid.accepted.sort("time", maintain_order=True)
        if since is not None and len(trades) and trades["time"][0] < from_us(since * 1000):
            msg = f"{self.exchange}'s trades of {market.symbol} start before since={since}."
            raise MalformedResponse(msg)
        return _Answer(trades, valid.rejected, ids)


class UnifiedCandles:
    """Candles of any exchange of ccxt: open, high, low, close and volume."""

    def __init__(self, client: Client) -> None:
        """Ask through ``client``."""
        self._client = client
        self.exchange = client.exchange
        self.name = f"{client.exchange}-ccxt"
        served = client.timeframes()
        self.intervals = tuple(interval for interval in INTERVALS if interval.name in served)

    def candles(self, market: Market, interval: Interval, start: datetime, end: datetime) -> pl.DataFrame:
        """See :meth:`marketdata.sources.base.CandleSource.candles`.

        Raises:
            UnknownName: the exchange has no candles of this width.
            ExchangeRefused: its candles of this width start on another grid than ours.
        """
        if interval not in self.intervals:
            known = [each.name for each in self.intervals]
            raise UnknownName(interval.name, kind=f"interval of {self.exchange}'s candles", known=known)
        self._client.market_id(market)
        at = to_us(start) // 1000
        found = [EXCHANGE_CANDLE_SCHEMA.to_frame()]
        while at * 1000 < to_us(end):
            page = self._ask(market, interval, at)
            if page.is_empty():
                break
            found.append(page)
            at = (to_us(page["open_time"].max()) + interval.us) // 1000  # type: ignore[arg-type]
        candles = pl.concat(found).filter(
            pl.col("open_time").is_between(start, end, closed="left")
            & (pl.col("open_time") + interval.width <= self._client.clock.now())
            & (pl.col("volume") > 0)
        )
        if not candles.select((interval.floor_expr(pl.col("open_time")) == pl.col("open_time")).all()).item():
            msg = f"{self.exchange}'s {interval} candles of {market.symbol} are not on our grid."
            raise ExchangeRefused(msg)
        return candles

    def candles_from(self, interval: Interval, now: datetime) -> datetime | None:  # noqa: ARG002
        """See :meth:`marketdata.sources.base.CandleSource.candles_from`: no limit is known."""
        return None

    def _ask(self, market: Market, interval: Interval, since: int) -> pl.DataFrame:
        def rows(body: Any) -> pl.DataFrame:
            if not isinstance(body, list) or not all(isinstance(row, list) and len(row) >= 6 for row in body):
                msg = f"ccxt gave no list of candles for {market}."
                raise MalformedResponse(msg)
            times = read.times_from_ticks("open_time", [row[0] for row in body])
            names = ("open", "high", "low", "close", "volume")
            values = [read.floats(name, [row[at] for row in body]) for at, name in enumerate(names, start=1)]
            frame = pl.DataFrame([times, *values])
            if sum(frame.null_count().row(0)):
                msg = f"{self.exchange}'s candles of {market.symbol} have values that are no numbers."
                raise MalformedResponse(msg)
            return read.exchange_candles(frame.filter(pl.col("open_time") >= from_us(since * 1000)))

        return self._client.ask(
            lambda exchange: exchange.fetch_ohlcv(market.symbol, interval.name, since), rows
        )


def _fetch(exchange: Any, symbol: str, since: int | None, limit: int, params: dict[str, int]) -> Any:
    return exchange.fetch_trades(symbol, since, limit, params)


def _parse(cursor: str) -> tuple[int, bool]:
    ms = cursor.removesuffix(_NO_IDS)
    if not ms.isdecimal():
        msg = f"{cursor!r} is no cursor of ccxt's trades."
        raise UsageError(msg, hint="Discard the staged pages of this day and fetch it again.")
    return int(ms), ms == cursor
