"""Files as exchanges and freqtrade write them, and what an import has made of them."""

import gzip
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from pyarrow import feather

from marketdata.lake import Lake

T0 = 1672531200  # 2023-01-01
HOUR, DAY = 3600, 86_400


def kraken_csv(folder: Path, rows: Iterable[tuple[float, float, float]], name: str = "XBTUSD.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{time},{price:.5f},{amount:.8f}\n" for time, price, amount in rows))
    return path


def agg_trades_zip(folder: Path, day: int, ids: Iterable[int], pair: str = "BTCUSDT") -> Path:
    """A day's zip, ``day`` counted from 2023-01-01; one trade every ten minutes."""
    ids = list(ids)
    name = f"{pair}-aggTrades-2023-01-{day + 1:02}"
    times = [(T0 + DAY * day + 600 * n) * 1000 for n in range(len(ids))]
    lines = (
        f"{n},100.5,0.25,{2 * n},{2 * n + 1},{time},True,True\n" for n, time in zip(ids, times, strict=True)
    )
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as file:
        file.writestr(f"{name}.csv", "".join(lines))
    return folder / f"{name}.zip"


def freqtrade_trades(path: Path, rows: Sequence[tuple[int, str | None, str, float, float]]) -> Path:
    """Rows ``time in ms, id, side, price, amount`` in the form that the ending of ``path`` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    full = [
        [time, number, None, side, price, amount, price * amount]
        for time, number, side, price, amount in rows
    ]
    names = ("timestamp", "id", "type", "side", "price", "amount", "cost")
    return _freqtrade(path, full, names)


def freqtrade_candles(path: Path, rows: Sequence[Sequence[float]]) -> Path:
    """Rows ``time in ms, open, high, low, close, volume``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _freqtrade(path, [list(row) for row in rows], ("date", "open", "high", "low", "close", "volume"))


def _freqtrade(path: Path, rows: list[list[Any]], names: Sequence[str]) -> Path:
    if path.name.endswith((".json", ".json.gz")):
        text = json.dumps(rows, separators=(",", ":")).encode()
        path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
        return path
    frame = pl.DataFrame(rows, schema=list(names), orient="row", infer_schema_length=None)
    if "date" in names:
        frame = frame.with_columns(pl.col("date").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"))
    if path.suffix == ".feather":
        feather.write_feather(_plain(frame), path, compression="lz4")
    else:
        frame.write_parquet(path)
    return path


def _plain(frame: pl.DataFrame) -> pa.Table:
    """Text as pandas writes it."""
    table = frame.to_arrow()
    fields = [
        pa.field(field.name, pa.string() if pa.types.is_large_string(field.type) else field.type)
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def stored(lake: Lake) -> dict[str, bytes]:
    """The data of the lake, file by file."""
    root = Path(lake.url)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.parquet"))}
