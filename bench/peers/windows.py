"""Candles with bytewax's fold_window; run with the Python of .venv-bench, never imported."""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import pandas as pd
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower
from bytewax.testing import TestingSink, TestingSource, run_main

Trade = tuple[datetime, float, float, bool]


class Candle:
    """What a window holds while it is open."""

    __slots__ = ("bought", "close", "count", "high", "low", "open", "quote", "volume")

    def __init__(self) -> None:
        self.open = self.close = self.volume = self.quote = self.bought = 0.0
        self.high, self.low, self.count = float("-inf"), float("inf"), 0


def add(candle: Candle, trade: Trade) -> Candle:
    _, price, amount, buy = trade
    if not candle.count:
        candle.open = price
    candle.high, candle.low = max(price, candle.high), min(price, candle.low)
    candle.close = price
    candle.volume += amount
    candle.quote += price * amount
    if buy:
        candle.bought += amount
    candle.count += 1
    return candle


def both(left: Candle, _right: Candle) -> Candle:
    return left


def main() -> None:
    """Read the trades once, then do the work for each line on standard input."""
    frame = pd.read_parquet(sys.argv[1])
    rows = zip(frame["time"].dt.to_pydatetime(), frame["price"], frame["amount"], frame["buy"], strict=True)
    trades: list[tuple[str, Trade]] = [("kraken:BTC/USD", row) for row in rows]
    align = datetime(2025, 1, 1, tzinfo=UTC)

    def work() -> int:
        found: list[list[Any]] = []
        flow = Dataflow("candles")
        stream = op.input("trades", flow, TestingSource(trades, batch_size=1_000))
        for seconds in (1, 10, 60):
            # The machine's clock stands still: otherwise trades replayed at leisure would count as late.
            clock = EventClock(
                lambda trade: trade[0], wait_for_system_duration=timedelta(0), now_getter=lambda: align
            )
            windower = TumblingWindower(length=timedelta(seconds=seconds), align_to=align)
            folded = win.fold_window(f"fold_{seconds}", stream, clock, windower, Candle, add, both)
            found.append([])
            op.output(f"out_{seconds}", folded.down, TestingSink(found[-1]))
        run_main(flow)
        assert sum(candle.count for _, (_, candle) in found[0]) == len(trades)
        return sum(map(len, found))

    work()
    print(json.dumps({"bytewax": version("bytewax")}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        work()
        print(time.perf_counter() - began, flush=True)


main()
