"""The local exchange as a web application: ``/kraken``, ``/binance``, ``/archive`` and ``/control``."""

import asyncio
import ipaddress
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import parse_qsl

import orjson
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from marketdata.errors import UsageError
from marketdata.exchange_sim import archive, binance, kraken
from marketdata.exchange_sim.answer import Answer, json_answer
from marketdata.exchange_sim.config import SimConfig
from marketdata.exchange_sim.exchange import Exchange
from marketdata.exchange_sim.faults import REQUEST_KINDS, ROW_KINDS, Fault, FaultBook, Hit, parse_faults
from marketdata.exchange_sim.live import Live
from marketdata.exchange_sim.replay import Replay
from marketdata.exchange_sim.sockets import Endpoint
from marketdata.exchange_sim.spoil import spoil

_RATE_LIMITED = {
    "kraken": {"error": ["EAPI:Rate limit exceeded"]},
    "binance": {"code": -1003, "msg": "Too much request weight used; please use WebSocket Streams instead."},
}
_REPLIES = ("429", "418", "500", "502", "html", "reply")


def create_app(config: SimConfig | None = None) -> Starlette:
    """The application for one configuration.

    Raises:
        UsageError: the configuration names captures, markets or faults that cannot be.
    """
    return _Application(config or SimConfig()).starlette()


class _Application:
    def __init__(self, config: SimConfig) -> None:
        self.exchange = Exchange(config)
        self.faults = FaultBook(parse_faults(config.faults))
        self._latency = config.latency_ms / 1_000
        # Enough that a page need not wait for the candles of years.
        self._threads: CapacityLimiter | None = None
        self._served: dict[str, bytes] = {}
        self._weight = _Weight()
        self.live = Live(self.exchange)

    def starlette(self) -> Starlette:
        app = Starlette(
            routes=[
                Route("/kraken/0/public/{name}", self.kraken, methods=["GET", "POST"]),
                Route("/binance/api/v3/{name}", self.binance, methods=["GET"]),
                Route("/archive/{path:path}", self.archive, methods=["GET"]),
                Route("/control/faults", self.control_faults, methods=["GET", "POST", "DELETE"]),
                Route("/control/clock", self.control_clock, methods=["GET", "POST"]),
                Route("/control/not_served", self.control_not_served, methods=["POST"]),
                Route("/control/sockets", self.control_sockets, methods=["GET", "DELETE"]),
                WebSocketRoute("/kraken/v2", self._sockets("/kraken/v2")),
                WebSocketRoute("/binance/ws", self._sockets("/binance/ws")),
                WebSocketRoute("/binance/ws/{streams:path}", self._sockets("/binance/ws")),
                WebSocketRoute("/binance/stream", self._sockets("/binance/stream")),
                WebSocketRoute("/capture/{path:path}", Replay(self.live, self.faults)),
            ]
        )
        app.state.exchange, app.state.faults, app.state.live = self.exchange, self.faults, self.live
        return app

    def _sockets(self, path: str) -> Endpoint:
        return Endpoint(self.live, self.faults, path)

    async def kraken(self, request: Request) -> Response:
        """``/kraken/0/public/<name>``, parameters in the query or in a form."""
        parameters = dict(request.query_params)
        if request.method == "POST":
            parameters |= parse_qsl((await request.body()).decode("utf-8", "replace"))
        endpoint = kraken.ENDPOINTS.get(request.path_params["name"])
        if endpoint is None:
            return await self._respond(
                request, parameters, lambda: json_answer({"error": ["EGeneral:Unknown method"]})
            )
        return await self._respond(request, parameters, partial(endpoint, self.exchange, parameters))

    async def binance(self, request: Request) -> Response:
        """``/binance/api/v3/<name>``; every answer says how much request weight the minute has used."""
        parameters = dict(request.query_params)
        if unit := request.headers.get(binance.TIME_UNIT):
            parameters[binance.TIME_UNIT] = unit
        name = request.path_params["name"]
        endpoint = binance.ENDPOINTS.get(name)
        if endpoint is None:
            return Response(b"<html><body><h2>404 Not found</h2></body></html>", 404, media_type="text/html")
        response = await self._respond(request, parameters, partial(endpoint, self.exchange, parameters))
        used = str(self._weight.use(binance.WEIGHTS[name]))
        response.headers["X-MBX-USED-WEIGHT"] = response.headers["X-MBX-USED-WEIGHT-1M"] = used
        return response

    async def archive(self, request: Request) -> Response:
        """``/archive/data/spot/daily/...``."""
        return await self._respond(request, {}, partial(self._archive_file, request.path_params["path"]))

    def _archive_file(self, path: str) -> Answer:
        """A file; one spoiled by row faults comes with the checksum of the spoiled bytes."""
        zip_path = path.removesuffix(".CHECKSUM")
        hits = self.faults.standing(f"/archive/{zip_path}") if self.faults else []
        if not hits:
            return archive.file(self.exchange, path)
        answer = archive.file(self.exchange, zip_path)
        if answer.status != 200:
            return answer
        body = spoil(f"/archive/{zip_path}", answer.body, hits, self.exchange.clock.now_ns())
        if zip_path == path:
            return Answer(body, media_type=answer.media_type)
        return archive.checksum(body, zip_path)

    async def _respond(
        self, request: Request, parameters: dict[str, str], make: Callable[[], Answer]
    ) -> Response:
        if self._latency:
            await asyncio.sleep(self._latency)
        path = request.url.path
        if not self.faults:
            self._served.clear()
            return _response(await self._run(make))
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        target = f"{path}?{query}" if query else path
        return await self._misbehave(path, target, make)

    async def _run(self, make: Callable[[], Answer]) -> Answer:
        if self._threads is None:
            self._threads = CapacityLimiter(8)
        return await to_thread.run_sync(make, limiter=self._threads)

    async def _misbehave(self, path: str, target: str, make: Callable[[], Answer]) -> Response:
        of_archive = path.startswith("/archive/")
        hits = self.faults.hits(target, REQUEST_KINDS - ROW_KINDS if of_archive else REQUEST_KINDS)
        by_kind: dict[str, Hit] = {hit.fault.kind: hit for hit in reversed(hits)}
        if hit := by_kind.get("latency"):
            await asyncio.sleep(hit.fault.seconds)
        if hit := by_kind.get("timeout"):
            await asyncio.sleep(hit.fault.seconds)
            return Response(_html("504 Gateway Time-out"), 504, media_type="text/html")
        for kind in _REPLIES:
            if hit := by_kind.get(kind):
                return _reply(kind, hit.fault, path)
        answer = await self._run(make)
        body = answer.body
        if answer.status == 200:
            body = spoil(
                path, body, [hit for hit in hits if hit.fault.kind in ROW_KINDS], self.exchange.clock.now_ns()
            )
            body = self._repeat(path, target, body, again="repeat" in by_kind)
            if "checksum" in by_kind and path.endswith(".CHECKSUM"):
                body = (b"1" if body[:1] == b"0" else b"0") + body[1:]
        if "cut" in by_kind:
            return _CutResponse(body, status_code=answer.status, media_type=answer.media_type)
        return _response(Answer(body, answer.status, answer.headers, answer.media_type))

    def _repeat(self, path: str, target: str, body: bytes, *, again: bool) -> bytes:
        """Serve the page before this one again; pages are kept only while a fault may want them."""
        if not self.faults.watches("repeat", target):
            return body
        query = target.partition("?")[2].split("&")
        key = f"{path}?{[part for part in query if part.startswith(('pair=', 'symbol='))]}"
        if again and key in self._served:
            return self._served[key]
        self._served[key] = body
        return body

    async def control_faults(self, request: Request) -> Response:
        """Read, add or clear faults."""
        if refused := _only_from_here(request):
            return refused
        if request.method == "DELETE":
            self.faults.clear()
        elif request.method == "POST":
            try:
                specs = orjson.loads(await request.body())
                self.faults.add(parse_faults(specs if isinstance(specs, list) else [specs]))
            except (orjson.JSONDecodeError, UsageError) as error:
                return _usage(error)
        return JSONResponse(self.faults.counts())

    async def control_clock(self, request: Request) -> Response:
        """Read or move the clock.

        Takes ``{"now": iso or null, "offset_s": n, "speed": x}`` or ``{"advance_s": n}``.
        """
        if refused := _only_from_here(request):
            return refused
        if request.method == "POST":
            try:
                body = orjson.loads(await request.body())
                if "advance_s" in body:
                    self.exchange.clock.advance(timedelta(seconds=float(body["advance_s"])))
                else:
                    now, speed = body.get("now"), body.get("speed")
                    self.exchange.clock.set(
                        None if now is None else _utc(now),
                        timedelta(seconds=float(body.get("offset_s", 0))),
                        None if speed is None else float(speed),
                    )
            except (AttributeError, TypeError, ValueError, OverflowError, UsageError) as error:
                return _usage(error)
        now_us = self.exchange.clock.now_ns() // 1_000
        at = datetime.fromtimestamp(now_us // 1_000_000, UTC).replace(microsecond=now_us % 1_000_000)
        return JSONResponse({"now": at.isoformat()})

    async def control_sockets(self, request: Request) -> Response:
        """Read what sockets were sent, or cut those whose path ``match`` finds (all when absent)."""
        if refused := _only_from_here(request):
            return refused
        if request.method == "DELETE":
            try:
                return JSONResponse({"cut": self.live.cut(request.query_params.get("match", ""))})
            except re.error as error:
                return _usage(error)
        return JSONResponse(self.live.counts())

    async def control_not_served(self, request: Request) -> Response:
        """Stop serving ids: ``{"kraken:BTC/USD": [[first, last], ...]}``; an empty list serves them again."""
        if refused := _only_from_here(request):
            return refused
        try:
            for market, ranges in orjson.loads(await request.body()).items():
                self.exchange.hide(market, tuple((int(first), int(last)) for first, last in ranges))
        except (AttributeError, TypeError, ValueError, UsageError) as error:
            return _usage(error)
        return JSONResponse({})


class _CutResponse(Response):
    """Announces its whole body, sends the first half of it and closes the connection."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = self.body[: len(self.body) // 2]
        # An answer that stops before its end makes the server drop the connection.
        await send({"type": "http.response.body", "body": half, "more_body": True})


class _Weight:
    """Request weight used in the current minute of the wall clock."""

    def __init__(self) -> None:
        self._minute, self._used = 0, 0

    def use(self, weight: int) -> int:
        minute = int(time.time() // 60)
        if minute != self._minute:
            self._minute, self._used = minute, 0
        self._used += weight
        return self._used


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers), answer.media_type)


def _reply(kind: str, fault: Fault, path: str) -> Response:
    if kind in {"429", "418"}:
        body = orjson.dumps(_RATE_LIMITED.get(path.split("/")[1], {}))
        headers = {"Retry-After": f"{fault.retry_after:g}"}
        return Response(body, int(kind), headers, media_type="application/json")
    if kind == "500":
        return Response(b"Internal Server Error", 500, media_type="text/plain")
    if kind == "reply":
        if isinstance(fault.body, str):
            return Response(fault.body, fault.status, media_type="text/plain")
        return Response(orjson.dumps(fault.body), fault.status, media_type="application/json")
    return Response(_html("502 Bad Gateway"), 502 if kind == "502" else 200, media_type="text/html")


def _html(title: str) -> bytes:
    """What a proxy in front of an exchange answers."""
    return f"<html>\r\n<head><title>{title}</title></head>\r\n<body></body>\r\n</html>\r\n".encode()


def _only_from_here(request: Request) -> Response | None:
    """Refuse control from another machine."""
    host = request.client.host if request.client else "127.0.0.1"
    if ipaddress.ip_address(host).is_loopback:
        return None
    return JSONResponse({"error": "control is for this machine only"}, 403)


def _usage(error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _utc(text: str) -> datetime:
    """An aware time from ISO text; one without an offset is UTC."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
