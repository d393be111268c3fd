"""What the local exchange is told at the start, and its clock."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from marketdata.exchange_sim.listing import LISTINGS, Listing, ns_of
from marketdata.exchange_sim.tape import FixedTape, IdRanges

DAY_ROWS_LIMIT = 1_000_000  # rows of computed days kept in memory, 66 bytes each
ARCHIVE_BYTES_LIMIT = 32_000_000
CANDLE_BYTES_LIMIT = 32_000_000


@dataclass(frozen=True, slots=True)
class SimConfig:
    """Settings of one local exchange.

    Attributes:
        seed: of the synthetic market.
        now: a fixed time (aware); ``None`` for the wall clock.
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
        day_rows, archive_bytes, candle_bytes: what may stay in memory.
    """

    seed: int = 7
    now: datetime | None = None
    offset: timedelta = timedelta(0)
    latency_ms: float = 0.0
    archive_delay: timedelta = timedelta(hours=24)
    listings: tuple[Listing, ...] = LISTINGS
    captures: Path | None = None
    tapes: tuple[FixedTape, ...] = ()
    not_served: Mapping[str, IdRanges] = field(default_factory=dict)
    faults: tuple[Mapping[str, Any], ...] = ()
    day_rows: int = DAY_ROWS_LIMIT
    archive_bytes: int = ARCHIVE_BYTES_LIMIT
    candle_bytes: int = CANDLE_BYTES_LIMIT


class Clock:
    """The exchange's clock: the wall clock or one that stands, plus an offset. It can be moved."""

    def __init__(self, now: datetime | None, offset: timedelta) -> None:
        """``now`` makes it stand."""
        self._lock = threading.Lock()
        self.set(now, offset)

    def set(self, now: datetime | None, offset: timedelta = timedelta(0)) -> None:
        """Stand at ``now`` (or follow the wall clock when it is ``None``), plus ``offset``."""
        with self._lock:
            self._fixed = None if now is None else ns_of(now)
            self._offset = offset // timedelta(microseconds=1) * 1_000

    def advance(self, by: timedelta) -> None:
        """Move forward (or back)."""
        with self._lock:
            self._offset += by // timedelta(microseconds=1) * 1_000

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        with self._lock:
            return (time.time_ns() if self._fixed is None else self._fixed) + self._offset
