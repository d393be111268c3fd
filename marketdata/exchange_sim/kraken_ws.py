"""Kraken's WebSocket protocol, version 2: status, heartbeat, trade and ohlc."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
from anyio import to_thread

from marketdata.exchange_sim.candles import Candles, Grid, merged, of_rows
from marketdata.exchange_sim.connection import Frames, Socket
from marketdata.exchange_sim.exchange import Exchange
from marketdata.exchange_sim.live import Live
from marketdata.exchange_sim.market import Columns
from marketdata.exchange_sim.tape import Reader

_SNAPSHOT_TRADES, _SNAPSHOT_CANDLES = 50, 10
_MINUTE_NS = 60_000_000_000
_SECOND_NS = 1_000_000_000
_INTERVALS = (1, 5, 15, 30, 60, 240, 1_440, 10_080, 21_600)
_DEPRECATED = "timestamp is deprecated, use interval_begin"


class Trades:
    """The ``trade`` channel of a market: at most ``most`` trades a frame."""

    timed = False

    def __init__(self, reader: Reader, most: int) -> None:
        """Rows that the exchange does not serve are not pushed either."""
        self._reader, self._most = reader, most

    def begin(self, now_ns: int) -> None:
        """Trades know no before."""

    def frames(self, rows: Columns, _now_ns: int) -> Iterable[Frames]:
        """Updates of these trades."""
        rows = self._reader.served(rows)
        payloads = [
            self._payload("update", rows.take(slice(at, at + self._most)))
            for at in range(0, len(rows), self._most)
        ]
        if payloads:
            yield Frames.of(f"trade update {self._reader.listing.symbol}", payloads)

    def snapshot(self, now_ns: int) -> Frames:
        """The last trades until the seam."""
        rows = self._reader.newest(_SNAPSHOT_TRADES, self._reader.tape.after(now_ns))
        return Frames.of(f"trade snapshot {self._reader.listing.symbol}", [self._payload("snapshot", rows)])

    def _payload(self, kind: str, rows: Columns) -> bytes:
        listing = self._reader.listing
        row = (
            f'{{"symbol":"{listing.symbol}","side":"%s","price":%.{listing.tick}f,"qty":%.{listing.lot}f,'
            '"ord_type":"%s","trade_id":%d,"timestamp":"%s.%06dZ"}'
        )
        tick, lot = 10**listing.tick, 10**listing.lot
        # Cut to the microsecond as times of REST are when they are read.
        seconds, micros = divmod_list(rows.shown // 10, 1_000_000)
        text = {second: f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}" for second in set(seconds)}
        data = ",".join(
            [
                row
                % (
                    "buy" if buys else "sell",
                    ticks / tick,
                    lots / lot,
                    "limit" if limit else "market",
                    row_id,
                    text[second],
                    micro,
                )
                for buys, ticks, lots, limit, row_id, second, micro in zip(
                    rows.taker_buys.tolist(),
                    rows.ticks.tolist(),
                    rows.lots.tolist(),
                    rows.limit.tolist(),
                    rows.id.tolist(),
                    seconds,
                    micros,
                    strict=True,
                )
            ]
        )
        return f'{{"channel":"trade","type":"{kind}","data":[{data}]}}'.encode()


class Ohlc:
    """The ``ohlc`` channel of a market: a candle each time a trade changes it."""

    timed = False

    def __init__(self, exchange: Exchange, reader: Reader, minutes: int, now_ns: int) -> None:
        """From the seam on."""
        self._exchange, self._reader, self._minutes = exchange, reader, minutes
        self._grid = Grid(minutes * _MINUTE_NS)
        self.begin(now_ns)

    def begin(self, now_ns: int) -> None:
        """Count the running candle from history."""
        width = self._grid.width_ns
        opened = now_ns // width * width
        self._running = self._exchange.candles.between(
            self._reader.tape, self._grid, opened, opened + width, now_ns=now_ns
        )

    def frames(self, rows: Columns, now_ns: int) -> Iterable[Frames]:
        """An update of every candle that these trades changed."""
        candles = merged([self._running, of_rows(rows, self._grid)], self._grid)
        self._running = candles.take(candles.open_ns == candles.open_ns[-1:])
        payloads = [
            self._payload("update", now_ns, [candle]) for candle in self._candles(candles) if len(rows)
        ]
        yield Frames.of(f"ohlc update {self._reader.listing.symbol}", payloads)

    def snapshot(self, now_ns: int) -> Frames:
        """The last candles, the running one included."""
        width = self._grid.width_ns
        end = now_ns // width * width + width
        # Minutes without a trade have no candle.
        wider = 6 if width <= 60 * _MINUTE_NS else 1
        candles = self._exchange.candles.between(
            self._reader.tape, self._grid, end - wider * _SNAPSHOT_CANDLES * width, end, now_ns=now_ns
        )
        payload = self._payload("snapshot", now_ns, self._candles(candles)[-_SNAPSHOT_CANDLES:])
        return Frames.of(f"ohlc snapshot {self._reader.listing.symbol}", [payload])

    def _payload(self, kind: str, now_ns: int, candles: list[str]) -> bytes:
        head = f'{{"channel":"ohlc","type":"{kind}","timestamp":"{_iso(now_ns, 9)}","data":['
        return f"{head}{','.join(candles)}]}}".encode()

    def _candles(self, candles: Candles) -> list[str]:
        listing = self._reader.listing
        price = f"%.{listing.tick}f"
        tick, lot = 10**listing.tick, 10**listing.lot
        row = (
            f'{{"symbol":"{listing.symbol}","open":{price},"high":{price},"low":{price},"close":{price},'
            f'"trades":%d,"volume":%.{listing.lot}f,"vwap":{price},"interval_begin":"%s",'
            f'"interval":{self._minutes},"timestamp":"%s"}}'
        )
        return [
            row
            % (
                *(ticks / tick for ticks in ohlc),
                count,
                lots / lot,
                quote / lots / tick,
                _iso(opened, 9),
                _iso(opened + self._grid.width_ns, 6),
            )
            for opened, *ohlc, lots, quote, count in zip(
                candles.open_ns.tolist(),
                candles.open.tolist(),
                candles.high.tolist(),
                candles.low.tolist(),
                candles.close.tolist(),
                candles.lots.tolist(),
                candles.quote.tolist(),
                candles.count.tolist(),
                strict=True,
            )
        ]


class Session:
    """One client of ``/kraken/v2``."""

    def __init__(self, live: Live, socket: Socket, number: int) -> None:
        """``number`` tells connections apart."""
        self._live, self._socket, self._number = live, socket, number
        self._exchange = live.exchange
        self._subscribed = 0

    async def opened(self) -> None:
        """Say that the exchange is online."""
        data = {"api_version": "v2", "connection_id": self._number, "system": "online", "version": "2.0.10"}
        self._say({"channel": "status", "data": [data], "type": "update"})

    async def beat(self) -> None:
        """A heartbeat whenever nothing was sent for a while to one who subscribed to something."""
        every = self._exchange.config.heartbeat_s
        frames = Frames.of("heartbeat", [b'{"channel":"heartbeat"}'])
        loop = asyncio.get_running_loop()
        while True:
            quiet = loop.time() - self._socket.last_put
            if quiet < every:
                await asyncio.sleep(every - quiet)
            elif self._subscribed:
                self._socket.put(frames)
            else:
                await asyncio.sleep(every)

    async def said(self, text: str) -> None:
        """Answer a request."""
        received = self._now()
        try:
            request = orjson.loads(text)
            method, params = request["method"], request.get("params") or {}
            if method not in {"ping", "subscribe", "unsubscribe"}:
                self._refuse(request, received, f"Method not found: {method!r}")
            elif method == "ping":
                self._answer(request, received, "pong")
            else:
                await self._change(request, params, received)
        except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
            self._refuse({"method": "error"}, received, "Malformed request")

    async def _change(self, request: dict[str, Any], params: dict[str, Any], received: str) -> None:
        channel, minutes = params["channel"], params.get("interval", 1)
        symbols = params["symbol"]
        if channel not in {"trade", "ohlc"}:
            self._refuse(request, received, f"Channel not supported: {channel}")
        elif channel == "ohlc" and minutes not in _INTERVALS:
            self._refuse(request, received, "Subscription ohlc interval not supported")
        else:
            for symbol in symbols:
                reader = self._exchange.reader("kraken", symbol)
                if reader is None or reader.listing.symbol != symbol:
                    self._refuse(request, received, f"Currency pair not supported {symbol}", symbol)
                elif request["method"] == "unsubscribe":
                    self._leave(reader, request, channel, minutes, received)
                else:
                    await self._join(reader, request, channel, minutes, received)

    async def _join(
        self, reader: Reader, request: dict[str, Any], channel: str, minutes: int, received: str
    ) -> None:
        snapshot = bool(request["params"].get("snapshot", channel == "ohlc"))
        result: dict[str, Any] = {"channel": channel, "snapshot": snapshot, "symbol": reader.listing.symbol}
        async with self._live.seam(reader) as now:
            key, made = _key(channel, minutes), self._make(reader, channel, minutes, now)
            if channel == "ohlc":
                result |= {"interval": minutes, "warnings": [_DEPRECATED]}
            # Wide candles are counted from many days.
            maker = await to_thread.run_sync(made)
            first = await to_thread.run_sync(maker.snapshot, now) if snapshot else None
            if not self._live.join(reader, key, maker, self._socket):
                self._refuse(request, received, "Already subscribed", reader.listing.symbol)
                return
            self._subscribed += 1
            self._answer(request, received, "subscribe", {"result": result, "success": True})
            if first is not None:
                self._socket.put(first)

    def _make(self, reader: Reader, channel: str, minutes: int, now_ns: int) -> Callable[[], Trades | Ohlc]:
        if channel == "trade":
            return partial(Trades, reader, self._exchange.config.frame_trades)
        return partial(Ohlc, self._exchange, reader, minutes, now_ns)

    def _leave(
        self, reader: Reader, request: dict[str, Any], channel: str, minutes: int, received: str
    ) -> None:
        listing = reader.listing
        if not self._live.leave(self._socket, listing.market, _key(channel, minutes)):
            self._refuse(request, received, "Subscription Not Found", listing.symbol)
            return
        self._subscribed -= 1
        result = {"channel": channel, "symbol": listing.symbol}
        self._answer(request, received, "unsubscribe", {"result": result, "success": True})

    def _answer(
        self, request: dict[str, Any], received: str, method: str, more: dict[str, Any] | None = None
    ) -> None:
        told = {"req_id": request["req_id"]} if "req_id" in request else {}
        times = {"time_in": received, "time_out": self._now()}
        self._say({"method": method} | told | (more or {}) | times)

    def _refuse(self, request: dict[str, Any], received: str, error: str, symbol: str | None = None) -> None:
        about = {} if symbol is None else {"symbol": symbol}
        self._answer(request, received, str(request["method"]), {"error": error, "success": False} | about)

    def _say(self, message: dict[str, Any]) -> None:
        # Kraken writes the fields of an answer in the order of the alphabet.
        self._socket.say(orjson.dumps(message, option=orjson.OPT_SORT_KEYS))

    def _now(self) -> str:
        return _iso(self._exchange.clock.now_ns(), 6)


def _key(channel: str, minutes: int) -> tuple[Any, ...]:
    return ("kraken", channel) if channel == "trade" else ("kraken", channel, minutes)


def divmod_list(values: Any, by: int) -> tuple[list[int], list[int]]:
    """Quotients and remainders."""
    return (values // by).tolist(), (values % by).tolist()


def _iso(time_ns: int, digits: int) -> str:
    seconds, rest = divmod(time_ns, _SECOND_NS)
    fraction = f"{rest:09d}"[:digits]
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction}Z"
