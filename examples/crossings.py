"""One strategy on history and live: where the fast mean of closes crosses the slow one.

::

    python examples/crossings.py kraken:BTC/USD 1h --start 2025-06-01 --end 2025-07-01
    python examples/crossings.py kraken:BTC/USD 1m --live
"""

import argparse
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime

import polars as pl

from marketdata import Provider


def crossings(
    frames: Iterable[pl.DataFrame], fast: int = 10, slow: int = 30
) -> Iterator[tuple[datetime, str, float]]:
    """When the means crossed, which way, and at what close.

    Args:
        frames: candles that are over, of one market and one interval: a list of one frame of
            ``provider.candles``, or ``provider.live``.
    """
    closes: deque[float] = deque(maxlen=slow)
    newest: datetime | None = None
    side = ""
    for candles in frames:
        for opened, close in candles.select("open_time", "close").iter_rows():
            if newest is not None and opened <= newest:
                continue  # a correction of the past: what was decided then stays decided
            newest = opened
            closes.append(close)
            if len(closes) < slow:
                continue
            now = "up" if sum(list(closes)[-fast:]) / fast > sum(closes) / slow else "down"
            if side and now != side:
                yield opened, now, close
            side = now


def main() -> None:
    """Print the crossings of history, or of history and then live without end."""
    parser = argparse.ArgumentParser(description="Crossings of two means of closes.")
    parser.add_argument("market")
    parser.add_argument("interval", nargs="?", default="1m")
    parser.add_argument("--start", default="2025-06-01")
    parser.add_argument("--end", default="2025-07-01")
    parser.add_argument("--live", action="store_true")
    asked = parser.parse_args()
    with Provider() as provider:
        if asked.live:
            with provider.live(asked.market, asked.interval) as live:
                show(crossings(live))
        else:
            show(crossings([provider.candles(asked.market, asked.interval, asked.start, asked.end)]))


def show(found: Iterable[tuple[datetime, str, float]]) -> None:
    """Print them as they come."""
    for opened, way, close in found:
        print(f"{opened:%Y-%m-%d %H:%M:%S} {way:4} {close}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
