"""A webhook on loopback, as Slack's: a real server that keeps what it is sent."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T0000-B0000-XXXX"


class Webhook:
    """Takes posts, answers them with ``status``, and keeps what it has taken."""

    def __init__(self) -> None:
        self.status = 200
        self.refuse = ""
        self.seen: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append(body)
                refused = bool(outer.refuse) and outer.refuse in body["text"]
                self.send_response(400 if refused else outer.status)
                if outer.status == 302:
                    self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/{SECRET}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """End it; a second time is fine."""
        if not self._thread.is_alive():
            return
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    @property
    def texts(self) -> list[str]:
        """The texts it has seen, in order."""
        return [body["text"] for body in self.seen]
