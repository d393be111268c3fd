"""``/metrics``, ``/healthz`` and ``/readyz`` of a service, on loopback.

Healthy: its loop has gone round lately; what is not should be started again. Ready: it does its work now.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

from marketdata.errors import UsageError
from realtime.metrics import Metrics

HOST = "127.0.0.1"
# A transaction that waits for a broker that is starting takes longer than a turn of the loop should.
_SILENT_S = 60.0


class Health:
    """What a service says of itself. Safe to use from several threads."""

    def __init__(self, *, silent_s: float = _SILENT_S, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin: alive, not ready."""
        self._clock, self._silent_s = clock, silent_s
        self._beaten, self._why = clock(), "it is starting"

    def beat(self) -> None:
        """The loop has gone round."""
        self._beaten = self._clock()

    def ready(self) -> None:
        """It does its work now."""
        self._why = ""

    def not_ready(self, why: str) -> None:
        """It does not; say why in a few words."""
        self._why = why

    def state(self) -> dict[str, object]:
        """``healthy``, ``ready``, and why not."""
        silent = self._clock() - self._beaten
        healthy = silent < self._silent_s
        why = self._why or ("" if healthy else f"its loop has been silent for {silent:.0f} s")
        return {"healthy": healthy, "ready": healthy and not self._why, "why": why}


@contextmanager
def served(metrics: Metrics, health: Health, port: int | None, host: str = HOST) -> Iterator[int | None]:
    """Answer on a port of ``host`` while the block runs; 0 takes a free one, ``None`` none.

    Yields:
        The port.

    Raises:
        UsageError: the port is taken.
    """
    if port is None:
        yield None
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics.text())
            elif path in ("/healthz", "/readyz"):
                state = health.state()
                good = state["healthy" if path == "/healthz" else "ready"]
                self._answer(200 if good else 503, "application/json", orjson.dumps(state))
            else:
                self._answer(404, "text/plain", b"/metrics /healthz /readyz\n")

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """A probe every few seconds is no news."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        msg = f"Port {port} of {host} cannot be listened on: {error.strerror}."
        raise UsageError(msg, hint="Choose another --port; 0 takes a free one.") from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="health", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
