"""A plain WebSocket client for tests of the local exchange."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from websockets.sync.client import ClientConnection, connect

# Longer than anything that should come takes.
PATIENCE_S = 60.0


class Client:
    """One connection; frames are read in order."""

    def __init__(self, connection: ClientConnection) -> None:
        """Take over an open connection."""
        self.connection = connection

    def send(self, message: Any) -> None:
        """Send JSON, or text as it is."""
        self.connection.send(message if isinstance(message, str) else orjson.dumps(message).decode())

    def text(self, timeout: float = PATIENCE_S) -> str:
        """The next frame as it is."""
        frame = self.connection.recv(timeout)
        assert isinstance(frame, str)
        return frame

    def next(self, timeout: float = PATIENCE_S) -> Any:
        """The next frame."""
        return orjson.loads(self.text(timeout))

    def until(self, enough: Callable[[Any], bool]) -> Any:
        """The first frame that is enough; those before it are skipped."""
        deadline = time.monotonic() + PATIENCE_S
        while not enough(frame := self.next(deadline - time.monotonic())):
            pass
        return frame

    def of(self, channel: str, kind: str = "update") -> Any:
        """The next frame of a Kraken channel."""
        return self.until(lambda frame: frame.get("channel") == channel and frame["type"] == kind)

    def all_until_id(self, last_id: int, *, field: str) -> list[Any]:
        """Rows of trades up to the one with that id."""
        rows: list[Any] = []
        while not rows or rows[-1][field] != last_id:
            frame = self.until(lambda frame: frame.get("channel") == "trade" or field in frame)
            rows += frame.get("data", [frame])
        return rows

    def is_quiet(self, seconds: float = 0.2) -> bool:
        """Whether nothing comes for a while."""
        try:
            self.text(seconds)
        except TimeoutError:
            return True
        return False


@contextmanager
def client(url: str) -> Iterator[Client]:
    """A connection to ``url``."""
    with connect(url, open_timeout=PATIENCE_S, close_timeout=1) as connection:
        yield Client(connection)


@contextmanager
def kraken(url: str, channel: str | None = None, symbol: str = "BTC/USD", **params: Any) -> Iterator[Client]:
    """A connection to Kraken that has read the status, and the answer to its subscription."""
    with client(url) as connection:
        assert connection.next()["channel"] == "status"
        if channel is not None:
            connection.send(
                {"method": "subscribe", "params": {"channel": channel, "symbol": [symbol]} | params}
            )
            assert connection.until(lambda frame: "method" in frame)["success"]
        yield connection


@contextmanager
def binance(url: str, *streams: str) -> Iterator[Client]:
    """A connection to Binance that has read the answer to its subscription."""
    with client(url) as connection:
        connection.send({"method": "SUBSCRIBE", "params": list(streams), "id": 1})
        assert connection.until(lambda frame: "id" in frame) == {"result": None, "id": 1}
        yield connection
