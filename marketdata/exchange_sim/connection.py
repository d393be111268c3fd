"""One socket of the local exchange: what waits to be sent, and the misbehaviour on the way."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from marketdata.exchange_sim.faults import FRAME_KINDS, FaultBook, Hit
from marketdata.exchange_sim.frames_protocol import frame
from marketdata.exchange_sim.spoil import spoil_frame

_STRAY = "CloudFlare WebSocket proxy restarting"
_HELD_S = 1.0
_LITTLE, _MOMENT_S = 1_000_000, 0.005
_ABORT: dict[str, Any] = {"type": "websocket.send", "abort": True}
Send = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Frames:
    """Payloads of one kind, with their bytes on the wire. ``target`` is how faults name the kind."""

    target: str
    payloads: list[bytes]
    wire: bytes

    @classmethod
    def of(cls, target: str, payloads: list[bytes]) -> "Frames":
        """Made once for all sockets."""
        return cls(target, payloads, b"".join(map(frame, payloads)))


class Socket:
    """The sending side of a connection. Used in the event loop's thread only."""

    def __init__(
        self, path: str, send: Send, faults: FaultBook, now_ns: Callable[[], int], limit: int
    ) -> None:
        """At most ``limit`` bytes wait for the reader."""
        self.path, self._send, self._faults, self._now_ns, self._limit = path, send, faults, now_ns, limit
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes] = []
        self._size = 0
        self._held: dict[str, list[bytes]] = {}
        self._wake = asyncio.Event()
        self._silent_until = 0.0
        self._lost = False
        self._cut, self._end = False, _ABORT
        self._slow: asyncio.Task[None] | None = None
        self.last_put = self._loop.time()
        self.frames = 0

    def say(self, payload: bytes) -> None:
        """Send an answer; faults of frames leave it alone."""
        self._queue(frame(payload))

    def put(self, frames: Frames) -> None:
        """Send frames of a channel, after what faults do to them."""
        if self._cut or not frames.payloads:
            return
        self.last_put = self._loop.time()
        self.frames += len(frames.payloads)
        if not self._faults.frames and not self._held:
            self._queue(frames.wire)
            return
        for payload in frames.payloads:
            if not self._queue(b"".join(map(frame, self._misbehave(frames.target, payload)))):
                return

    def cut(self, code: int | None = None) -> None:
        """End the connection: without a word, or with a close code."""
        if not self._cut:
            self._cut = True
            self._end = {"type": "websocket.close", "code": code} if code else _ABORT
            self._wake.set()

    async def room(self) -> None:
        """Wait until little is left to be sent; others have their turn in any case."""
        await asyncio.sleep(0)
        while self._size > _LITTLE and not self._cut:
            await asyncio.sleep(_MOMENT_S)

    async def write(self) -> None:
        """Send what waits until the connection ends."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if (silence := self._silent_until - self._loop.time()) > 0 and not self._cut:
                    await self._send({"type": "websocket.send", "mute": True})
                    # A cut ends the silence.
                    await _either(self._wake, silence)
                    self._wake.set()
                    if not self._cut and self._silent_until > self._loop.time():
                        continue
                    await self._send({"type": "websocket.send", "mute": False})
                    self._lost = False
                if self._waiting:
                    wire = b"".join(self._waiting)
                    self._waiting, self._size = [], 0
                    await self._send({"type": "websocket.send", "frames": wire})
                if self._waiting:  # it came while a slow reader was waited for
                    self._wake.set()
                elif self._cut:
                    await self._send(self._end)
                    return
        except OSError:  # the other side has gone
            return

    def _queue(self, wire: bytes) -> bool:
        """Whether the connection goes on."""
        never = self._lost and self._loop.time() < self._silent_until
        if wire and not never and not self._cut:
            self._waiting.append(wire)
            self._size += len(wire)
            self._wake.set()
        if self._size > self._limit and self._slow is None:
            self._cut = True
            # The writer may be waiting for this very reader.
            self._slow = self._loop.create_task(_abort(self._send))
        return not self._cut

    def _misbehave(self, target: str, payload: bytes) -> Iterable[bytes]:
        hits: dict[str, list[Hit]] = {}
        for hit in self._faults.hits(f"{self.path} {target}", FRAME_KINDS - {"ws_refuse"}):
            hits.setdefault(hit.fault.kind, []).append(hit)
        if "ws_cut" in hits:
            self.cut(hits["ws_cut"][0].fault.code)
            return
        if "ws_stall" in hits:
            fault = hits["ws_stall"][0].fault
            self._silent_until = self._loop.time() + fault.seconds
            self._lost = fault.lost
            if self._lost:
                self._waiting, self._size = [], 0
        if "ws_stray" in hits:
            body = hits["ws_stray"][0].fault.body
            yield (_STRAY if body is None else str(body)).encode()
        if "ws_drop" in hits:
            return
        payloads = [payload]
        if "ws_garbage" in hits:
            payloads = spoil_frame(f"{self.path} {target}", payload, hits["ws_garbage"], self._now_ns())
        if "ws_corrupt" in hits:
            payloads = [_corrupt(payload, hits["ws_corrupt"][0]) for payload in payloads]
        if "ws_repeat" in hits:
            payloads = payloads * 2
        if "ws_reorder" in hits:
            self._held.setdefault(target, []).extend(payloads)
            self._loop.call_later(_HELD_S, self._release, target)
            return
        yield from payloads
        yield from self._held.pop(target, ())

    def _release(self, target: str) -> None:
        for payload in self._held.pop(target, ()):
            self._queue(frame(payload))


def refusal(path: str, faults: FaultBook) -> int | None:
    """The status that a connection is refused with, if it is."""
    hits = faults.hits(f"{path} connect", {"ws_refuse"}) if faults.frames else []
    return next((fault.status if (fault := hit.fault).status >= 400 else 503 for hit in hits), None)


def matches(socket: Socket, pattern: str) -> bool:
    """Whether a control command for ``pattern`` means this socket."""
    return re.search(pattern, socket.path) is not None


def _corrupt(payload: bytes, hit: Hit) -> bytes:
    """The payload cut somewhere after its first byte."""
    return payload[: hit.chance.randrange(1, len(payload))]


async def _abort(send: Send) -> None:
    await send(_ABORT)


async def _either(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
