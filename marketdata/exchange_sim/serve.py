"""Running the local exchange: until a signal, or in a thread of a test."""

import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn

from marketdata.errors import UsageError
from marketdata.exchange_sim.app import create_app
from marketdata.exchange_sim.config import SimConfig
from marketdata.exchange_sim.faults import FaultBook, parse_faults
from marketdata.exchange_sim.frames_protocol import FramesProtocol
from marketdata.exchange_sim.live import Live

_GRACE_S = 1  # requests still running after this are cut off
_PATIENCE_S = 120.0  # a busy machine may stand still for seconds


class Urls(str):
    """The base URL of a running exchange, ``http://HOST:PORT``, and those of its parts."""

    __slots__ = ()

    @property
    def kraken(self) -> str:
        """For MARKETDATA_KRAKEN_URL."""
        return f"{self}/kraken"

    @property
    def binance(self) -> str:
        """For MARKETDATA_BINANCE_URL."""
        return f"{self}/binance"

    @property
    def archive(self) -> str:
        """For MARKETDATA_BINANCE_ARCHIVE_URL."""
        return f"{self}/archive"

    @property
    def kraken_ws(self) -> str:
        """For MARKETDATA_KRAKEN_WS_URL: Kraken's protocol, version 2."""
        return f"ws{self.removeprefix('http')}/kraken/v2"

    @property
    def binance_ws(self) -> str:
        """For MARKETDATA_BINANCE_WS_URL; ``/stream`` instead of ``/ws`` for combined streams."""
        return f"ws{self.removeprefix('http')}/binance/ws"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point ``marketdata`` at it."""
        return {
            "MARKETDATA_KRAKEN_URL": self.kraken,
            "MARKETDATA_BINANCE_URL": self.binance,
            "MARKETDATA_BINANCE_ARCHIVE_URL": self.archive,
            "MARKETDATA_KRAKEN_WS_URL": self.kraken_ws,
            "MARKETDATA_BINANCE_WS_URL": self.binance_ws,
        }


def serve(
    config: SimConfig | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    on_ready: Callable[[Urls], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; call from the main thread. Port 0 takes a free one.

    Raises:
        UsageError: the address cannot be bound, or the configuration cannot be.
    """
    app = create_app(config)
    with _bind(host, port) as listener:
        urls = _urls(listener)
        server = _Server(_settings(app), lambda: on_ready(urls) if on_ready else None)
        server.run(sockets=[listener])


class RunningExchange:
    """A local exchange in a thread of this process; a context manager."""

    def __init__(self, config: SimConfig | None = None) -> None:
        """Listen on a free port of the loopback interface; serving starts with ``start``."""
        app = create_app(config)
        self._faults: FaultBook = app.state.faults
        self._exchange = app.state.exchange
        self._live: Live = app.state.live
        self._listener = _bind("127.0.0.1", 0)
        self._urls = _urls(self._listener)
        ready = threading.Event()
        self._ready = ready
        self._server = _Server(_settings(app), ready.set)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="local exchange", daemon=True
        )

    @property
    def url(self) -> Urls:
        """``http://127.0.0.1:PORT``."""
        return self._urls

    @property
    def kraken(self) -> str:
        """For MARKETDATA_KRAKEN_URL."""
        return self._urls.kraken

    @property
    def binance(self) -> str:
        """For MARKETDATA_BINANCE_URL."""
        return self._urls.binance

    @property
    def archive(self) -> str:
        """For MARKETDATA_BINANCE_ARCHIVE_URL."""
        return self._urls.archive

    @property
    def kraken_ws(self) -> str:
        """For MARKETDATA_KRAKEN_WS_URL."""
        return self._urls.kraken_ws

    @property
    def binance_ws(self) -> str:
        """For MARKETDATA_BINANCE_WS_URL."""
        return self._urls.binance_ws

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point ``marketdata`` at it."""
        return self._urls.environment

    def faults(self, faults: Iterable[Mapping[str, Any]]) -> None:
        """Replace the faults in force (see :mod:`marketdata.exchange_sim.faults`); an empty list clears."""
        parsed = parse_faults(faults)
        self._faults.clear()
        self._faults.add(parsed)

    def fault_counts(self) -> list[dict[str, Any]]:
        """Each fault with how many requests it ``matched`` and was ``applied`` to."""
        return self._faults.counts()

    def set_clock(
        self, now: datetime | None, offset: timedelta = timedelta(0), speed: float | None = None
    ) -> None:
        """Let the exchange's clock stand at ``now``, or run from there with a ``speed``.

        It follows the wall clock when ``now`` is ``None``. Trades that it passes are pushed to sockets.
        """
        self._exchange.clock.set(now, offset, speed)

    def advance_clock(self, by: timedelta) -> None:
        """Move the clock forward (or back)."""
        self._exchange.clock.advance(by)

    def push(self, timeout_s: float = _PATIENCE_S) -> None:
        """Wait until every trade up to the clock's now was handed to the sockets.

        Two moves of the clock without it in between may be one to those who listen.
        """
        self._live.push_now(timeout_s)

    def sockets(self) -> dict[str, Any]:
        """Connections, frames put to sockets, and by market the trades pushed and the last id of them."""
        return dict(self._live.counts())

    def cut_sockets(self, match: str = "") -> None:
        """End the connections whose path (``/kraken/v2``) matches, without a word."""
        self._live.cut_soon(match)

    def hide(self, market: str, ranges: Iterable[tuple[int, int]]) -> None:
        """Serve these trade ids (inclusive ranges) no more."""
        self._exchange.hide(market, tuple(ranges))

    def start(self) -> "RunningExchange":
        """Serve; returns when requests are answered."""
        self._thread.start()
        if not self._ready.wait(timeout=_PATIENCE_S):
            msg = f"The local exchange did not start within {_PATIENCE_S:.0f} s."
            raise UsageError(msg)
        return self

    def stop(self) -> None:
        """Stop and wait for the end."""
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._listener.close()

    def __enter__(self) -> "RunningExchange":
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def write_port_file(path: Path, urls: Urls) -> None:
    """Write the port to ``path``, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(urls.rpartition(":")[2] + "\n", encoding="ascii")
    part.replace(path)


class _Server(uvicorn.Server):
    def __init__(self, settings: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(settings)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def _settings(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        ws=FramesProtocol,
        # A frame is made once for all sockets.
        ws_per_message_deflate=False,
        ws_ping_timeout=40.0,
        access_log=False,
        # Cut answers and stalled requests are meant; uvicorn would report each as an error.
        log_level="critical",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        # Longer than a client's pause between two requests on one connection.
        timeout_keep_alive=75,
    )


def _bind(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        msg = f"The local exchange cannot listen on {host}:{port}: {error.strerror}."
        raise UsageError(msg, hint="Choose another --port; 0 takes a free one.") from error


def _urls(listener: socket.socket) -> Urls:
    host, port = listener.getsockname()[:2]
    return Urls(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
