"""The WebSocket endpoints: who connects, and until when."""

import asyncio
from itertools import count
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from marketdata.exchange_sim import binance_ws, kraken_ws
from marketdata.exchange_sim.connection import Socket, refusal
from marketdata.exchange_sim.faults import FaultBook
from marketdata.exchange_sim.live import Live

_MS_NS, _US_NS = 1_000_000, 1_000


class Endpoint:
    """An ASGI application for the sockets of one protocol."""

    def __init__(self, live: Live, faults: FaultBook, path: str) -> None:
        """``path`` is what faults call it."""
        self._live, self._faults, self._path = live, faults, path
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection to its end."""
        await receive()
        if (status := refusal(self._path, self._faults)) is not None:
            await send({"type": "websocket.http.response.start", "status": status, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b""})
            return
        await send({"type": "websocket.accept"})
        exchange = self._live.exchange
        socket = Socket(self._path, send, self._faults, exchange.clock.now_ns, exchange.config.socket_bytes)
        session = self._session(scope, socket)
        self._live.sockets.add(socket)
        beside = [asyncio.create_task(socket.write()), asyncio.create_task(session.beat())]
        try:
            await session.opened()
            while (message := await receive())["type"] == "websocket.receive":
                text = message.get("text")
                await session.said(text if text is not None else message["bytes"].decode("utf-8", "replace"))
        finally:
            self._live.ended(socket)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    def _session(self, scope: Scope, socket: Socket) -> kraken_ws.Session | binance_ws.Session:
        if self._path.startswith("/kraken"):
            return kraken_ws.Session(self._live, socket, next(self._numbers))
        query = parse_qs(scope["query_string"].decode("latin-1"))
        in_path = scope["path_params"].get("streams", "")
        streams = [name for name in (in_path or query.get("streams", [""])[0]).split("/") if name]
        unit = _US_NS if query.get("timeUnit", [""])[0].upper() == "MICROSECOND" else _MS_NS
        combined = self._path.endswith("/stream")
        return binance_ws.Session(self._live, socket, streams, combined=combined, unit_ns=unit)
