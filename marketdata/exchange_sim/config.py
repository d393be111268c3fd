"""What the local exchange is told at the start, and its clock."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from marketdata.errors import UsageError
from marketdata.exchange_sim.listing import LISTINGS, Listing, ns_of
from marketdata.exchange_sim.tape import FixedTape, IdRanges

DAY_ROWS_LIMIT = 1_000_000  # rows of computed days kept in memory, 66 bytes each
ARCHIVE_BYTES_LIMIT = 32_000_000
CANDLE_BYTES_LIMIT = 32_000_000
SOCKET_BYTES_LIMIT = 64_000_000
_FASTEST = 1_000_000


@dataclass(frozen=True, slots=True)
class SimConfig:
    """Settings of one local exchange.

    Attributes:
        seed: of the synthetic market.
        now: where the clock starts (aware); ``None`` for the wall clock.
        speed: seconds of the exchange in a second of the wall clock. ``None``: a clock that was given
            ``now`` stands, one that was not follows the wall clock.
        offset: added to the clock.
        latency_ms: pause before each answer.
        archive_delay: how long after the end of a day its archive files appear.
        listings: the markets that are listed.
        captures: folder of captured files (see :mod:`marketdata.exchange_sim.capture`) whose markets
            are served instead of computed ones.
        tapes: further markets with given rows.
        not_served: by market (``kraken:BTC/USD``) inclusive ranges of trade ids that no endpoint shows,
            while the exchange's own candles count them.
        faults: misbehaviour from the start on (see :mod:`marketdata.exchange_sim.faults`).
        load: trades a second of every computed market, evenly spaced from the running minute on, instead of
            the synthetic market's: for soak and latency tests. At most a million.
        heartbeat_s: pause without a frame after which Kraken's sockets send a heartbeat.
        frame_trades: trades in one frame of Kraken's ``trade`` at most.
        day_rows, archive_bytes, candle_bytes: what may stay in memory.
        socket_bytes: what may wait for a slow reader of a socket before it is cut off.
    """

    seed: int = 7
    now: datetime | None = None
    speed: float | None = None
    offset: timedelta = timedelta(0)
    latency_ms: float = 0.0
    archive_delay: timedelta = timedelta(hours=24)
    listings: tuple[Listing, ...] = LISTINGS
    captures: Path | None = None
    tapes: tuple[FixedTape, ...] = ()
    not_served: Mapping[str, IdRanges] = field(default_factory=dict)
    faults: tuple[Mapping[str, Any], ...] = ()
    load: float | None = None
    heartbeat_s: float = 1.0
    frame_trades: int = 100
    day_rows: int = DAY_ROWS_LIMIT
    archive_bytes: int = ARCHIVE_BYTES_LIMIT
    candle_bytes: int = CANDLE_BYTES_LIMIT
    socket_bytes: int = SOCKET_BYTES_LIMIT


class Clock:
    """The exchange's clock: it follows the wall clock, runs faster or slower, or stands; it can be moved."""

    def __init__(self, now: datetime | None, offset: timedelta, speed: float | None = None) -> None:
        """``now`` makes it start there; without a ``speed`` it then stands."""
        self._lock = threading.Lock()
        self._watchers: list[Callable[[], None]] = []
        # How often it was moved by hand.
        self.moves = 0
        self.set(now, offset, speed)

    def set(self, now: datetime | None, offset: timedelta = timedelta(0), speed: float | None = None) -> None:
        """Start at ``now`` (or follow the wall clock when it is ``None``), plus ``offset``.

        Raises:
            UsageError: ``speed`` is negative.
        """
        if speed is not None and not 0 <= speed <= _FASTEST:
            msg = f"The clock cannot run at {speed!r} times the wall clock's speed."
            raise UsageError(msg, hint=f"0 lets it stand, at most {_FASTEST:,}.")
        with self._lock:
            self._speed = (1.0 if now is None else 0.0) if speed is None else speed
            self._since = time.time_ns()
            # A clock at the wall's speed has no start of its own, so that it follows when that is adjusted.
            wall = now is None and self._speed == 1.0
            self._start = None if wall else self._since if now is None else ns_of(now)
            self._offset = offset // timedelta(microseconds=1) * 1_000
        self._tell()

    def advance(self, by: timedelta) -> None:
        """Move forward (or back)."""
        with self._lock:
            self._offset += by // timedelta(microseconds=1) * 1_000
        self._tell()

    @property
    def speed(self) -> float:
        """Seconds of the exchange in a second of the wall clock."""
        return self._speed

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        with self._lock:
            if self._start is None:
                return time.time_ns() + self._offset
            passed = int((time.time_ns() - self._since) * self._speed) if self._speed else 0
            return self._start + passed + self._offset

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` whenever the clock was moved, in the thread that moved it."""
        self._watchers.append(watcher)

    def _tell(self) -> None:
        self.moves += 1
        for watcher in self._watchers:
            watcher()
