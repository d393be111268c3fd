"""``/capture/<file>``: the frames of a captured file, byte for byte, at the pace they came or any other."""

import asyncio
from math import isfinite
from pathlib import Path
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from marketdata.exchange_sim.capture_frames import captured_file, read_frames
from marketdata.exchange_sim.connection import Frames, Socket
from marketdata.exchange_sim.faults import FaultBook
from marketdata.exchange_sim.live import Live

_NORMAL = 1000
# So many frames are sent before others have their turn.
_AT_ONCE = 100


class Replay:
    """An ASGI application for sockets. ``?speed=10``: ten times as fast; 0: without a pause."""

    def __init__(self, live: Live, faults: FaultBook) -> None:
        """Files are those below the folder of captures."""
        self._live, self._faults = live, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a file to one who connects, then close."""
        await receive()
        config = self._live.exchange.config
        path = captured_file(config.captures, scope["path_params"]["path"])
        speed = _speed(scope)
        if path is None or speed is None:
            status = 404 if path is None else 400
            await send({"type": "websocket.http.response.start", "status": status, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b""})
            return
        await send({"type": "websocket.accept"})
        clock = self._live.exchange.clock
        socket = Socket("/capture", send, self._faults, clock.now_ns, config.socket_bytes)
        self._live.sockets.add(socket)
        beside = [asyncio.create_task(socket.write()), asyncio.create_task(_play(path, speed, socket))]
        try:
            while (await receive())["type"] == "websocket.receive":
                continue
        finally:
            self._live.ended(socket)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)


async def _play(path: Path, speed: float, socket: Socket) -> None:
    loop = asyncio.get_running_loop()
    begun, first = loop.time(), None
    for number, (received_ns, text) in enumerate(read_frames(path)):
        if received_ns is not None and speed:
            first = received_ns if first is None else first
            if (wait := begun + (received_ns - first) / 1e9 / speed - loop.time()) > 0:
                await asyncio.sleep(wait)
        if number % _AT_ONCE == 0:
            await socket.room()
        socket.put(Frames.of("frame", [text.encode()]))
    socket.cut(_NORMAL)


def _speed(scope: Scope) -> float | None:
    text = parse_qs(scope["query_string"].decode("latin-1")).get("speed", ["1"])[0]
    try:
        speed = float(text)
    except ValueError:
        return None
    return speed if isfinite(speed) and speed >= 0 else None
