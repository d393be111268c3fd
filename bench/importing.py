"""Downloaded files into the lake: rows a second, size against the CSV, peak memory.

``python -m bench.importing [--rows 5000000] [--days 10]``. The files are made first, in a folder of their
own, and are what the exchanges publish in form; the numbers in them are drawn:

- Kraken's trades: whole seconds in bursts, a price that walks in ticks of 0.1, amounts of eight decimals of
  which three in four are log-normal (a new number almost every time) and one in four is a usual size. That is
  the hard case for size: an amount of eight random decimals costs 6.2 bytes as a float64, whatever the codec.
- Binance's aggTrades, zipped by day: ids in a row, milliseconds, amounts of five decimals.
- freqtrade's feather of the same aggTrades: batches of 65,536 rows, lz4, ids as text.

Then 1,000 zips of a day each, of ten markets, once, and once more when all are finished.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from pyarrow import feather

from bench.memory import peak_bytes
from bench.table import Row
from marketdata.importing import import_files
from marketdata.lake import Lake

_FIRST = date(2023, 1, 1)
_T0 = 1_672_531_200
_USUAL = np.array([0.001, 0.01, 0.05, 0.1, 1.0, 0.5, 0.002, 0.0005, 0.25, 2.0])


def kraken_csv(path: Path, rows: int, days: int) -> int:
    """Write a file of trades as Kraken ships it and return its size."""
    rng = np.random.default_rng(7)
    new_order = rng.random(rows) < 0.45
    gaps = np.where(new_order, rng.exponential(1.0, rows), 0.0)
    seconds = _T0 + np.cumsum(gaps) / gaps.sum() * (days * 86_400 - 1)
    ticks = 300_000 + np.cumsum(
        np.where(new_order, rng.integers(-6, 7, rows), rng.integers(0, 2, rows)) - 0.275
    )
    amounts = np.maximum(np.round(np.exp(rng.normal(-4.5, 2.2, rows)), 8), 1e-8)
    usual = rng.random(rows) < 0.25
    amounts[usual] = rng.choice(_USUAL, usual.sum())
    _write(path, [(seconds.astype(np.int64), 0), (np.maximum(ticks.round(), 1_000) / 10, 5), (amounts, 8)])
    return path.stat().st_size


def binance_zips(folder: Path, rows: int, days: int) -> int:
    """Write a zip of aggTrades for each day and return the size of the CSV in them."""
    rng = np.random.default_rng(8)
    size, first_id, first_fill = 0, 1_000_000, 2_000_000
    for number in range(days):
        count = rows // days
        gaps = rng.exponential(1.0, count)
        time_ms = ((_T0 + 86_400 * number) * 1000 + np.cumsum(gaps) / gaps.sum() * 86_399_999).astype(
            np.int64
        )
        moved = rng.random(count) < 0.3
        ticks = 3_000_000 + np.cumsum(np.where(moved, rng.integers(-40, 41, count), 0))
        amounts = np.maximum(np.round(np.exp(rng.normal(-5.5, 1.8, count)), 5), 1e-5)
        fills = rng.geometric(0.6, count)
        last = first_fill + np.cumsum(fills) - 1
        name = f"BTCUSDT-aggTrades-{_FIRST + timedelta(days=number)}"
        text = folder / f"{name}.csv"
        maker = np.where(rng.random(count) < 0.5, "True,True", "False,True")
        ids = np.arange(first_id, first_id + count)
        columns = [(ids, 0), (ticks / 100, 8), (amounts, 8), (last - fills + 1, 0), (last, 0), (time_ms, 0)]
        _write(text, columns, maker)
        size += text.stat().st_size
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.write(text, text.name)
        text.unlink()
        first_id, first_fill = first_id + count, int(last[-1]) + 1
    return size


def freqtrade_feather(path: Path, rows: int, days: int) -> int:
    """Write a file of trades as freqtrade keeps them and return what the same rows are as CSV."""
    rng = np.random.default_rng(8)
    gaps = rng.exponential(1.0, rows)
    time_ms = (_T0 * 1000 + np.cumsum(gaps) / gaps.sum() * (86_400_000 * days - 1)).astype(np.int64)
    ticks = 3_000_000 + np.cumsum(np.where(rng.random(rows) < 0.3, rng.integers(-40, 41, rows), 0))
    amounts = np.maximum(np.round(np.exp(rng.normal(-5.5, 1.8, rows)), 5), 1e-5)
    frame = pl.DataFrame(
        {
            "timestamp": time_ms,
            "id": pl.Series(np.arange(1_000_000, 1_000_000 + rows)).cast(pl.String),
            "type": pl.Series([None], dtype=pl.String).new_from_index(0, rows),
            "side": np.where(rng.random(rows) < 0.5, "buy", "sell"),
            "price": ticks / 100,
            "amount": amounts,
            "cost": ticks / 100 * amounts,
        }
    )
    feather.write_feather(frame.to_arrow(), path, compression="lz4", compression_level=9, chunksize=65_536)
    sample = frame.head(100_000).write_csv(include_header=False)
    return len(sample.encode()) * rows // min(rows, 100_000)


def many_zips(folder: Path, files: int) -> int:
    """Write zips of a day each, a thousand trades in each, of ten markets; return the size of the text."""
    bases = ["BTC", "ETH", "SOL", "XRP", "ADA", "DOGE", "LTC", "DOT", "LINK", "AVAX"]
    size = 0
    for number in range(files):
        day, base = divmod(number, len(bases))
        first = 1_000 * day
        ids = np.arange(first, first + 1_000)
        times = (_T0 + 86_400 * day) * 1000 + np.arange(1_000) * 86_000
        text = "".join(
            f"{i},{100 + i % 50}.25,0.{i % 997 + 1:05},{2 * i},{2 * i + 1},{t},True,True\n"
            for i, t in zip(ids.tolist(), times.tolist(), strict=True)
        )
        name = f"{bases[base]}USDT-aggTrades-{_FIRST + timedelta(days=day)}"
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(f"{name}.csv", text)
        size += len(text)
    return size


def _write(path: Path, columns: list[tuple[np.ndarray, int]], last: np.ndarray | None = None) -> None:
    texts = [
        pl.Series(f"{n}", values).cast(pl.String)
        if decimals == 0
        else pl.Series(f"{n}", values.round(decimals)).cast(pl.Decimal(30, decimals)).cast(pl.String)
        for n, (values, decimals) in enumerate(columns)
    ]
    if last is not None:
        texts.append(pl.Series("last", last))
    frame = pl.DataFrame(texts)
    line = pl.concat_str(pl.all(), separator=",")
    frame.select(line).write_csv(path, include_header=False, quote_style="never")


def _measure(folder: str, lake: str) -> None:
    """In a process of its own, so that its peak memory is the import's."""
    before = peak_bytes()
    began = time.perf_counter()
    report = import_files(Lake.open(lake), [folder], now=datetime.now(UTC))
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in Path(lake, "trades").rglob("*.parquet"))
    print(json.dumps([report.rows, seconds, size, peak_bytes() - before]))


@dataclass(frozen=True, slots=True)
class Import:
    """What one import took."""

    label: str
    rows: int
    seconds: float
    csv_bytes: int
    lake_bytes: int
    peak_bytes: int  # above the memory of the imported modules


def imports(rows: int = 5_000_000, days: int = 10, runs: int = 1) -> list[Import]:
    """Make the files and import each kind into a lake of its own; of several runs the one of median time."""
    done = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for label in ("Kraken CSV", "Binance zips", "freqtrade feather"):
            folder = Path(name) / label.split()[0] / "binance"
            folder.mkdir(parents=True)
            if label == "Kraken CSV":
                csv_bytes = kraken_csv(folder / "XBTUSD.csv", rows, days)
            elif label == "Binance zips":
                csv_bytes = binance_zips(folder, rows, days)
            else:
                csv_bytes = freqtrade_feather(folder / "BTC_USDT-trades.feather", rows, days)
            measured = []
            for run in range(runs):
                lake = f"{folder}-lake-{run}"
                measured.append(_import(label, folder, lake, csv_bytes))
            done.append(sorted(measured, key=lambda one: one.seconds)[runs // 2])
    return done


def _import(label: str, folder: Path, lake: str, csv_bytes: int) -> Import:
    command = [sys.executable, "-m", "bench.importing", "--measure", str(folder), lake]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    count, seconds, size, peak = json.loads(answer)
    return Import(label, count, seconds, csv_bytes, size, peak)


def many(files: int = 1_000) -> list[Row]:
    """Many small files at once, and the same call again."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, lake = Path(name) / "in", str(Path(name) / "lake")
        folder.mkdir()
        size = many_zips(folder, files)
        first = _import("first", folder, lake, size)
        second = _import("second", folder, lake, size)
    held = f"{files:,} zips of a day, {first.rows:,} rows, ten markets"
    return [
        Row("many small files into the lake", files / first.seconds, "files/s", note=held),
        Row("many small files, peak memory", first.peak_bytes / 1e6, "MB", note="above the imported modules"),
        Row("many small files, when all are finished", second.seconds, "s", note="the same call again"),
    ]


def run() -> list[Row]:
    """The rows of the benchmark table."""
    rows = []
    for done in imports(runs=3):
        kraken = done.label == "Kraken CSV"
        drawn = f"{done.rows:,} drawn rows"
        each = (
            f"{done.csv_bytes / done.rows:.1f} B/row of text, {done.lake_bytes / done.rows:.2f} in the lake"
        )
        hard = ", three in four amounts of eight random decimals" if kraken else ""
        rate = done.rows / done.seconds / 1e6
        rows += [
            Row(f"{done.label} into the lake", rate, "million rows/s", ">= 1" if kraken else "", note=drawn),
            Row(
                f"{done.label}, size of the lake",
                done.lake_bytes / done.csv_bytes,
                "of the text",
                "" if done.label == "freqtrade feather" else "<= 0.1667",
                note=each + hard,
            ),
            Row(f"{done.label}, peak memory", done.peak_bytes / 1e6, "MB", note="above the imported modules"),
        ]
    return rows + many() + captured()


def captured() -> list[Row]:
    """The size of a day of captured trades of a busy market, in the form of Kraken's CSV and in the lake."""
    folder = Path(os.environ.get("MARKETDATA_FIXTURES", "../shared/data")) / "binance" / "ws_spot_btcusdt"
    files = sorted(folder.glob("*.gz"))
    if not files:
        return []
    lines = []
    for file in files:
        for line in gzip.decompress(file.read_bytes()).decode().splitlines():
            _, _, text = line.partition(" ")
            if '"e":"trade"' in text:
                trade = json.loads(text)["data"]
                price, amount = trade["p"].rstrip("0").rstrip("."), trade["q"]
                lines.append(f"{trade['T'] // 1000},{price},{amount}\n")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        path, lake = Path(name) / "XBTUSD.csv", Path(name) / "lake"
        path.write_text("".join(lines), "ascii")
        import_files(Lake.open(str(lake)), [str(path)], now=datetime.now(UTC))
        size = sum(file.stat().st_size for file in (lake / "trades").rglob("*.parquet"))
        text_size = path.stat().st_size
    note = f"{len(lines):,} trades of BTC/USDT in ten minutes, {size / len(lines):.2f} B/row in the lake"
    return [
        Row(
            "captured trades as Kraken CSV, size of the lake",
            size / text_size,
            "of the text",
            "<= 0.1667",
            note=note,
        )
    ]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.importing", description=main.__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "LAKE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        _measure(*options.measure)
        return
    for done in imports(options.rows, options.days):
        ratio = done.csv_bytes / done.lake_bytes
        print(
            f"{done.label:13} {done.rows:>10,} rows  {done.rows / done.seconds / 1e6:5.2f} million rows/s  "
            f"CSV {done.csv_bytes / done.rows:5.1f} B/row  lake {done.lake_bytes / done.rows:5.2f} B/row "
            f"(1/{ratio:.1f})  peak +{done.peak_bytes / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
