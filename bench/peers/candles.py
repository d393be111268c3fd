"""Trades to 1m candles with freqtrade and ArcticDB; run with the Python of .venv-bench, never imported."""

import json
import sys
import tempfile
import time

import arcticdb
import freqtrade
import pandas as pd
from freqtrade.data.converter import trades_to_ohlcv


def main() -> None:
    """Read the trades once, then do what each line on standard input names."""
    trades = pd.read_parquet(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        library = arcticdb.Arctic(f"lmdb://{folder}?map_size=4GB").create_library("bench")
        stored = trades.set_index("time").tz_localize(None)
        library.write("trades", stored)
        del stored
        frame = trades.rename(columns={"time": "date"})[["date", "price", "amount"]]

        def of_freqtrade() -> int:
            return len(trades_to_ohlcv(frame, "1m"))

        def of_arcticdb() -> int:
            query = arcticdb.QueryBuilder().resample("1min")
            query = query.agg(
                {
                    "open": ("price", "first"),
                    "high": ("price", "max"),
                    "low": ("price", "min"),
                    "close": ("price", "last"),
                    "volume": ("amount", "sum"),
                    "quote_volume": ("quote", "sum"),
                    "trade_count": ("fills", "sum"),
                    "taker_buy_volume": ("bought", "sum"),
                    "taker_buy_quote_volume": ("bought_quote", "sum"),
                    "first_trade_id": ("trade_id", "first"),
                    "last_trade_id": ("trade_id", "last"),
                }
            )
            return len(library.read("trades", query_builder=query).data)

        work = {"freqtrade": of_freqtrade, "ArcticDB": of_arcticdb}
        rows = {name: of() for name, of in work.items()}
        assert len(set(rows.values())) == 1, rows
        print(json.dumps({"freqtrade": freqtrade.__version__, "ArcticDB": arcticdb.__version__}), flush=True)
        for line in sys.stdin:
            began = time.perf_counter()
            work[line.strip()]()
            print(time.perf_counter() - began, flush=True)


main()
