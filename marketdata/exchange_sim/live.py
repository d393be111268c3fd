"""What is pushed: each trade when the exchange's clock passes it, to all sockets that asked for it.

A market's position counts the trades that have been pushed. It starts at the end of what REST shows at that
moment, and both follow one clock: no trade is in neither, none is pushed and hidden from REST.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import numpy as np
from anyio import to_thread

from marketdata.exchange_sim.connection import Frames, Socket, matches
from marketdata.exchange_sim.exchange import Exchange
from marketdata.exchange_sim.market import Columns, concat
from marketdata.exchange_sim.tape import Reader

_AHEAD_ROWS = 8_192
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.05


class Channel(Protocol):
    """One stream of a market, as one protocol frames it."""

    # Whether time that passes without a trade makes frames too.
    timed: bool

    def begin(self, now_ns: int) -> None:
        """Forget what was pushed: the clock was put back to now."""
        ...

    def frames(self, rows: Columns, now_ns: int, /) -> Iterable[Frames]:
        """What new rows, the last of which is not after now, bring to those who listen.

        A timed channel is asked once more without rows when all until now have been pushed.
        """
        ...


class _MarketStream:
    """A market's trades from where REST ends, and its channels."""

    def __init__(self, reader: Reader, position: int) -> None:
        self.reader, self.position = reader, position
        self.channels: dict[Any, tuple[Channel, set[Socket]]] = {}
        self._ahead, self._at = concat([]), 0

    def move(self, position: int) -> None:
        """Go on from another position."""
        self.position = position
        self._ahead, self._at = concat([]), 0

    async def upto(self, now_ns: int) -> AsyncIterator[Columns]:
        """The rows from the position until now, which moves with them."""
        while True:
            if self._at == len(self._ahead):
                tape, start = self.reader.tape, self.position
                if tape.computed:
                    self._ahead = await to_thread.run_sync(tape.rows, start, start + _AHEAD_ROWS)
                else:
                    self._ahead = tape.rows(start, start + _AHEAD_ROWS)
                self._at = 0
                if not len(self._ahead):
                    return
            stop = int(np.searchsorted(self._ahead.time_ns, now_ns, side="right"))
            if stop > self._at:
                rows = self._ahead.take(slice(self._at, stop))
                self.position += stop - self._at
                self._at = stop
                yield rows
                # After a long jump of the clock others have their turn too.
                await asyncio.sleep(0)
            if stop < len(self._ahead):
                return

    def next_ns(self) -> int | None:
        """When the next trade happens, as far as it is known."""
        return int(self._ahead.time_ns[self._at]) if self._at < len(self._ahead) else None


class Live:
    """The streams of both venues. Lives in the event loop of the server."""

    def __init__(self, exchange: Exchange) -> None:
        """Nothing runs before the first subscription."""
        self.exchange = exchange
        self.sockets: set[Socket] = set()
        self._streams: dict[str, _MarketStream] = {}
        self._lock = asyncio.Lock()
        self._moved = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pump: asyncio.Task[None] | None = None
        self._now_ns, self._moves = 0, exchange.clock.moves
        self._frames_of_ended = 0
        self._pushed: dict[str, tuple[int, int]] = {}
        exchange.clock.watch(self._clock_moved)

    @asynccontextmanager
    async def seam(self, reader: Reader) -> AsyncIterator[int]:
        """The moment between history and stream, to join in: all until now has been pushed."""
        self._loop = asyncio.get_running_loop()
        async with self._lock:
            market = reader.listing.market
            now = await self._push()
            if market not in self._streams:
                self._streams[market] = _MarketStream(reader, await self._position(reader, now))
            yield now
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        self._moved.set()

    def join(self, reader: Reader, key: Any, channel: Channel, socket: Socket) -> bool:
        """Listen from the seam on; whether the socket did not already. Only inside :meth:`seam`.

        One who joins others gets the channel that they have.
        """
        _, listeners = self._streams[reader.listing.market].channels.setdefault(key, (channel, set()))
        new = socket not in listeners
        listeners.add(socket)
        return new

    def leave(self, socket: Socket, market: str | None = None, key: Any = None) -> bool:
        """Listen no more to one channel, or to none; whether the socket did."""
        left = False
        for name, stream in list(self._streams.items()):
            for name_of, (_, listeners) in list(stream.channels.items()):
                if market is None or (name, name_of) == (market, key):
                    left |= socket in listeners
                    listeners.discard(socket)
                    if not listeners:
                        del stream.channels[name_of]
        return left

    def ended(self, socket: Socket) -> None:
        """A connection has ended."""
        self.leave(socket)
        self.sockets.discard(socket)
        self._frames_of_ended += socket.frames

    def cut(self, pattern: str = "") -> int:
        """End the connections whose path matches; how many."""
        hit = [socket for socket in self.sockets if matches(socket, pattern)]
        for socket in hit:
            socket.cut()
        return len(hit)

    def push_now(self, timeout_s: float) -> None:
        """From another thread: wait until all that happened until now was handed to the sockets."""
        if self._loop is not None and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._push_alone(), self._loop).result(timeout_s)

    async def _push_alone(self) -> None:
        async with self._lock:
            await self._push()

    def cut_soon(self, pattern: str = "") -> None:
        """The same from another thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.cut, pattern)

    def counts(self) -> dict[str, Any]:
        """Connections, subscriptions, frames put to sockets, and by market what was pushed."""
        streams = [stream for stream in list(self._streams.values()) if stream.channels]
        return {
            "connections": len(self.sockets),
            "listening": sum(
                len(listeners) for stream in streams for _, listeners in list(stream.channels.values())
            ),
            "frames": self._frames_of_ended + sum(socket.frames for socket in list(self.sockets)),
            "markets": {
                market: {"pushed": pushed, "last_id": last_id}
                for market, (pushed, last_id) in sorted(self._pushed.items())
            },
        }

    async def _position(self, reader: Reader, now_ns: int) -> int:
        if reader.tape.computed:
            return await to_thread.run_sync(reader.tape.after, now_ns)
        return reader.tape.after(now_ns)

    async def _push(self) -> int:
        """Push what has happened; the time until which that is."""
        now, moves = self.exchange.clock.now_ns(), self.exchange.clock.moves
        if moves == self._moves:
            # The machine's clock was adjusted: no reason to push anything twice.
            now = max(now, self._now_ns)
        back = now < self._now_ns
        self._now_ns, self._moves = now, moves
        for market, stream in list(self._streams.items()):
            if not stream.channels:
                # Whoever comes next begins at the seam again.
                del self._streams[market]
                continue
            if back:
                stream.move(await self._position(stream.reader, now))
                for channel, _ in stream.channels.values():
                    await to_thread.run_sync(channel.begin, now)
            async for rows in stream.upto(now):
                before = self._pushed.get(market, (0, 0))[0]
                self._pushed[market] = (before + len(rows), int(rows.id[-1]))
                _publish(stream, rows, now)
            _publish(stream, concat([]), now)
        return now

    async def _run(self) -> None:
        while self._streams:
            async with self._lock:
                self._moved.clear()
                now = await self._push()
            pause = self._pause(now)
            try:
                await asyncio.wait_for(self._moved.wait(), pause)
            except TimeoutError:
                continue

    def _pause(self, now_ns: int) -> float | None:
        speed = self.exchange.clock.speed
        if not speed:
            return None
        coming = [at for stream in self._streams.values() if (at := stream.next_ns()) is not None]
        until = (min(coming) - now_ns) / 1e9 / speed if coming else _LONGEST_PAUSE_S
        return min(max(until, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)

    def _clock_moved(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._moved.set)


def _publish(stream: _MarketStream, rows: Columns, now_ns: int) -> None:
    for channel, listeners in list(stream.channels.values()):
        if len(rows) or channel.timed:
            for frames in channel.frames(rows, now_ns):
                for socket in listeners:
                    socket.put(frames)
