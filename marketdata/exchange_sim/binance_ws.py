"""Binance's WebSocket streams: ``<symbol>@trade``, ``@aggTrade`` and ``@kline_<interval>``."""

import asyncio
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
from anyio import to_thread

from marketdata.exchange_sim.binance import INTERVALS, MONDAY_NS, kline_rows, raw_fills
from marketdata.exchange_sim.candles import Candles, Grid, merged, no_candles, of_rows
from marketdata.exchange_sim.connection import Frames, Socket
from marketdata.exchange_sim.exchange import Exchange
from marketdata.exchange_sim.live import Channel, Live
from marketdata.exchange_sim.market import Columns
from marketdata.exchange_sim.tape import Reader

_MS = 1_000_000
_SECOND_NS = 1_000_000_000
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "SET_PROPERTY", "GET_PROPERTY", "LIST_SUBSCRIPTIONS")
_STREAM = re.compile(r"([a-z0-9]+)@(trade|aggTrade|kline_(\w+))")


class _Framing:
    """What all streams of one name have in common: the name faults know, and the wrap of combined streams."""

    def __init__(self, stream: str, target: str, *, combined: bool) -> None:
        self.target = target
        self._head, self._tail = (f'{{"stream":"{stream}","data":', "}") if combined else ("", "")

    def frames(self, events: Iterable[str]) -> Frames:
        head, tail = self._head, self._tail
        return Frames.of(self.target, [f"{head}{event}{tail}".encode() for event in events])


class AggTrades:
    """``<symbol>@aggTrade``: a frame for each row."""

    timed = False

    def __init__(self, reader: Reader, framing: _Framing, unit_ns: int) -> None:
        """Times are in units of ``unit_ns``."""
        self._reader, self._framing, self._unit = reader, framing, unit_ns

    def begin(self, now_ns: int) -> None:
        """Trades know no before."""

    def frames(self, rows: Columns, now_ns: int) -> Iterable[Frames]:
        """A frame for each of these."""
        rows, listing = self._reader.served(rows), self._reader.listing
        event = (
            f'{{"e":"aggTrade","E":{now_ns // self._unit},"s":"{listing.id}","a":%d,'
            f'"p":"%.{listing.price_text}f","q":"%.{listing.amount_text}f","f":%d,"l":%d,"T":%d,"m":%s,"M":true}}'
        )
        tick, lot = 10**listing.tick, 10**listing.lot
        yield self._framing.frames(
            event % (row_id, ticks / tick, lots / lot, first, first + fills - 1, time, _FALSE[buys])
            for row_id, ticks, lots, first, fills, time, buys in zip(
                rows.id.tolist(),
                rows.ticks.tolist(),
                rows.lots.tolist(),
                rows.first_fill.tolist(),
                rows.fills.tolist(),
                (rows.time_ns // self._unit).tolist(),
                rows.taker_buys.tolist(),
                strict=True,
            )
        )


class RawTrades:
    """``<symbol>@trade``: a frame for each raw trade in a row."""

    timed = False

    def __init__(self, reader: Reader, framing: _Framing, unit_ns: int) -> None:
        """Times are in units of ``unit_ns``."""
        self._reader, self._framing, self._unit = reader, framing, unit_ns

    def begin(self, now_ns: int) -> None:
        """Trades know no before."""

    def frames(self, rows: Columns, now_ns: int) -> Iterable[Frames]:
        """A frame for each raw trade of these."""
        listing = self._reader.listing
        ids, lots, at, rows = raw_fills(self._reader.served(rows))
        event = (
            f'{{"e":"trade","E":{now_ns // self._unit},"s":"{listing.id}","t":%d,'
            f'"p":"%.{listing.price_text}f","q":"%.8f","T":%d,"m":%s,"M":true}}'
        )
        tick, lot = 10**listing.tick, 10**listing.lot
        yield self._framing.frames(
            event % (fill, ticks / tick, amount / lot, time, _FALSE[buys])
            for fill, ticks, amount, time, buys in zip(
                ids.tolist(),
                rows.ticks[at].tolist(),
                lots.tolist(),
                (rows.time_ns[at] // self._unit).tolist(),
                rows.taker_buys[at].tolist(),
                strict=True,
            )
        )


class Klines:
    """``<symbol>@kline_<interval>``: a running candle at most each two seconds, a closed one once."""

    timed = True

    def __init__(
        self,
        exchange: Exchange,
        reader: Reader,
        interval: str,
        framing: _Framing,
        *,
        unit_ns: int,
        now_ns: int,
    ) -> None:
        """From the seam on."""
        self._exchange, self._reader, self._interval = exchange, reader, interval
        self._framing, self._unit = framing, unit_ns
        self._grid = Grid(INTERVALS[interval], MONDAY_NS if interval == "1w" else 0)
        # Exchange time between two updates of a running candle.
        self._every = (1 if interval == "1s" else 2) * _SECOND_NS
        self.begin(now_ns)

    def begin(self, now_ns: int) -> None:
        """Count the running candle from history."""
        tape, width = self._reader.tape, self._grid.width_ns
        self._opened = (now_ns - self._grid.offset_ns) // width * width + self._grid.offset_ns
        running = self._exchange.candles.regular(
            tape, self._grid, self._opened, self._opened + width, now_ns=now_ns
        )
        self._close = int(running.close[-1]) if len(running) else 0
        self._running = running.take(running.count > 0)
        self._first, self._last = -1, -1
        if len(self._running):
            start, stop = tape.after(self._opened - 1), tape.after(now_ns)
            self._first = int(tape.rows(start, start + 1).first_fill[0])
            self._last = _last_fill(tape.rows(stop - 1, stop))
        self._told_ns, self._changed = now_ns, False

    def frames(self, rows: Columns, now_ns: int) -> Iterable[Frames]:
        """Candles that closed, then the running one if it is time for it."""
        candles = merged([self._running, of_rows(rows, self._grid)], self._grid)
        by_open = {opened: place for place, opened in enumerate(candles.open_ns.tolist())}
        ids = self._fill_ids(rows)
        self._changed |= bool(len(rows))
        events = []
        width = self._grid.width_ns
        # Rows in hand may be older than now: a candle closes when all its rows have been seen.
        seen_ns = int(rows.time_ns[-1]) if len(rows) else now_ns
        while self._opened + width <= seen_ns:
            events.append(self._event(candles, by_open, ids, now_ns, closed=True))
            self._opened += width
            self._changed = self._opened in by_open
        self._running = candles.take(candles.open_ns == self._opened)
        self._first, self._last = ids.get(self._opened, (-1, -1))
        if not len(rows) and self._changed and now_ns - self._told_ns >= self._every:
            events.append(self._event(candles, by_open, ids, now_ns, closed=False))
            self._told_ns, self._changed = now_ns, False
        yield self._framing.frames(event for event in events if event)

    def _fill_ids(self, rows: Columns) -> dict[int, tuple[int, int]]:
        """First and last raw trade by interval."""
        ids = {self._opened: (self._first, self._last)} if self._first >= 0 else {}
        if len(rows):
            opened = self._grid.open_ns(self._grid.number(rows.shown * 100))
            starts = np.flatnonzero(np.diff(opened, prepend=-1))
            for start, stop in zip(starts, np.append(starts[1:], len(rows)), strict=True):
                known = ids.get(int(opened[start]))
                first = int(rows.first_fill[start]) if known is None else known[0]
                ids[int(opened[start])] = (first, _last_fill(rows.take(slice(stop - 1, stop))))
        return ids

    def _event(
        self,
        candles: Candles,
        by_open: dict[int, int],
        ids: dict[int, tuple[int, int]],
        now_ns: int,
        *,
        closed: bool,
    ) -> str:
        place = by_open.get(self._opened)
        if place is not None:
            candle = candles.take(candles.open_ns == self._opened)
            self._close = int(candle.close[-1])
        elif self._close:
            candle = _flat(self._opened, self._close)
        else:
            return ""  # the market has not begun
        name, unit = self._reader.listing.id, self._unit
        row = kline_rows(candle, self._reader.listing, self._grid.width_ns, unit)[0]
        first, last = ids.get(self._opened, (-1, -1))
        kline = {"t": row[0], "T": row[6], "s": name, "i": self._interval, "f": first, "L": last}
        kline |= {"o": row[1], "c": row[4], "h": row[2], "l": row[3], "v": row[5], "n": row[8], "x": closed}
        kline |= {"q": row[7], "V": row[9], "Q": row[10], "B": "0"}
        return orjson.dumps({"e": "kline", "E": now_ns // unit, "s": name, "k": kline}).decode()


class Session:
    """One client of ``/binance/ws`` or ``/binance/stream``."""

    def __init__(
        self, live: Live, socket: Socket, streams: list[str], *, combined: bool, unit_ns: int
    ) -> None:
        """``streams`` are those its address names."""
        self._live, self._socket, self._asked = live, socket, streams
        self._combined, self._unit = combined, unit_ns
        self._streams: dict[str, tuple[str, Any]] = {}

    async def opened(self) -> None:
        """Send what the address asks for; a name that is no stream is ignored, as on the real one."""
        await self._subscribe(self._asked)

    async def beat(self) -> None:
        """Binance sends no heartbeat but pings, which the server does."""
        await asyncio.Event().wait()

    async def said(self, text: str) -> None:
        """Answer a request."""
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            where = f"line {error.lineno} column {error.colno}"
            self._refuse(3, f"Invalid JSON: expected value at {where}", None)
            return
        method = request.get("method") if isinstance(request, dict) else None
        if method not in _METHODS:
            what = "missing field `method`" if method is None else f"unknown variant `{method}`"
            self._refuse(2, f"Invalid request: {what}, expected one of {', '.join(_METHODS)}", request)
            return
        params = request.get("params") or []
        if not isinstance(params, list):
            self._refuse(2, "Invalid request: params must be an array", request)
            return
        number = request.get("id")
        result: Any = None
        if method in {"SUBSCRIBE", "UNSUBSCRIBE"}:
            if not all(isinstance(name, str) for name in params):
                self._refuse(2, "Invalid request: invalid stream", request)
                return
            await (self._subscribe(params) if method == "SUBSCRIBE" else self._unsubscribe(params))
        elif method == "LIST_SUBSCRIPTIONS":
            result = list(self._streams)
        elif method == "SET_PROPERTY":
            if len(params) != 2 or params[0] != "combined" or not isinstance(params[1], bool):
                self._refuse(0, "Unknown property", request)
                return
            await self._combine(combined=params[1])
        else:
            result = self._combined
        self._say({"result": result, "id": number})

    async def _subscribe(self, names: Iterable[str]) -> None:
        for name in names:
            match = _STREAM.fullmatch(name)
            reader = self._live.exchange.reader("binance", match[1].upper()) if match else None
            if match is None or reader is None or (match[3] and match[3] not in INTERVALS):
                continue
            key = ("binance", name, self._unit, self._combined)
            async with self._live.seam(reader) as now:
                channel = await to_thread.run_sync(self._channel, reader, match, now)
                self._live.join(reader, key, channel, self._socket)
                self._streams[name] = (reader.listing.market, key)

    async def _unsubscribe(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._streams:
                self._live.leave(self._socket, *self._streams.pop(name))

    async def _combine(self, *, combined: bool) -> None:
        names = list(self._streams)
        await self._unsubscribe(names)
        self._combined = combined
        await self._subscribe(names)

    def _channel(self, reader: Reader, match: "re.Match[str]", now_ns: int) -> Channel:
        kind = match[2].partition("_")[0]
        framing = _Framing(match[0], f"{kind} update {reader.listing.id}", combined=self._combined)
        if kind == "aggTrade":
            return AggTrades(reader, framing, self._unit)
        if kind == "trade":
            return RawTrades(reader, framing, self._unit)
        return Klines(self._live.exchange, reader, match[3], framing, unit_ns=self._unit, now_ns=now_ns)

    def _refuse(self, code: int, text: str, request: Any) -> None:
        number = request.get("id") if isinstance(request, dict) else None
        self._say({"error": {"code": code, "msg": text}, "id": number})

    def _say(self, message: dict[str, Any]) -> None:
        self._socket.say(orjson.dumps(message))


# Whether the buyer was the maker, as JSON, by whether the taker bought.
_FALSE = {True: "false", False: "true"}


def _last_fill(row: Columns) -> int:
    return int(row.first_fill[-1] + row.fills[-1] - 1)


def _flat(opened: int, close: int) -> Candles:
    """An interval without trades."""
    none = no_candles()
    values = {name: np.zeros(1, np.int64) for name in none.__slots__}
    values |= {name: np.array([close]) for name in ("open", "high", "low", "close")}
    return Candles(**values | {"open_ns": np.array([opened])})
