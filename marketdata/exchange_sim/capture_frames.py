"""Captured frames of sockets: their trades as tapes, and the frames themselves to be sent again.

A file is one of these if its name or its folder's begins with ``ws_``, or its name holds ``.ws.``, below a
folder that names the exchange. Lines are ``<ns> <frame>``, ``<seconds>: <frame>`` or the frame alone.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from marketdata.errors import UsageError
from marketdata.exchange_sim.capture import binance_tape, captured_listing, read_captures
from marketdata.exchange_sim.market import Columns
from marketdata.exchange_sim.tape import FixedTape
from marketdata.market import market_from_spelling

_NS = re.compile(r"(\d{19}) ")
_SECONDS = re.compile(r"(\d{9,10}\.\d+): ")
_SENT = re.compile(r"wss?://\S+ <-")
_TRADES = ('"trade"', '"aggTrade"')


def captured_tapes(folder: Path) -> list[FixedTape]:
    """Tapes of every captured market below ``folder``; answers of REST come before frames.

    Raises:
        UsageError: there is none, or a file is not what its name says.
    """
    tapes = {tape.listing.market: tape for tape in frame_tapes(folder) + read_captures(folder)}
    if not tapes:
        msg = f"No captured market is below {str(folder)!r}."
        raise UsageError(
            msg,
            hint="Expected page1_since_<cursor>.json(.gz), binance/…trades.json(.gz) or ws_… frames.",
        )
    return list(tapes.values())


def frame_files(folder: Path) -> list[Path]:
    """The files of captured frames below ``folder``."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and (".ws." in path.name or path.name.startswith("ws_") or path.parent.name.startswith("ws_"))
    )


def read_frames(path: Path) -> Iterator[tuple[int | None, str]]:
    """The frames of a file as they were, with the nanosecond of their arrival where it is known.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            for line in lines:
                text = line.rstrip("\n")
                if match := _NS.match(text):
                    yield int(match[1]), text[match.end() :]
                elif match := _SECONDS.match(text):
                    yield round(float(match[1]) * 1e6) * 1_000, text[match.end() :]
                elif text and not _SENT.match(text):
                    yield None, text
    except (OSError, EOFError, UnicodeDecodeError) as error:
        msg = f"The capture {str(path)!r} cannot be read: {error}."
        raise UsageError(msg) from error


def frame_tapes(folder: Path) -> list[FixedTape]:
    """Tapes of the markets whose trades captured frames below ``folder`` hold."""
    kraken: dict[str, dict[Any, tuple[Any, ...]]] = {}
    binance: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for path in frame_files(folder):
        exchange = "binance" if "binance" in str(path).lower() else "kraken"
        for frame in _decoded(path, exchange):
            if exchange == "kraken":
                for symbol, row in _kraken_rows(frame):
                    rows = kraken.setdefault(symbol, {})
                    # Version 1 has no ids: each row is one more.
                    rows[len(rows) if row[0] is None else row[0]] = row
            elif isinstance(frame, dict) and (event := frame.get("data", frame)).get("e") in {
                "trade",
                "aggTrade",
            }:
                agg = _agg_row(event)
                binance.setdefault((agg["symbol"], event["e"]), {})[agg["a"]] = agg
    tapes = [_kraken_tape(symbol, list(rows.values())) for symbol, rows in kraken.items()]
    # Both streams of a market hold the same trades; the longer capture of the two is served.
    fullest = {symbol: rows for (symbol, _), rows in sorted(binance.items(), key=lambda item: len(item[1]))}
    return tapes + [binance_tape([rows[at] for at in sorted(rows)]) for rows in fullest.values()]


def _decoded(path: Path, exchange: str) -> Iterator[Any]:
    """Frames that may hold trades, with numbers as they are printed."""
    # Binance prints prices as text, and its captures are long.
    load = orjson.loads if exchange == "binance" else partial(json.loads, parse_float=str)
    for _, text in read_frames(path):
        if any(word in text for word in _TRADES):
            try:
                yield load(text)
            except json.JSONDecodeError:
                continue  # sent again as it is, but of no market


def _kraken_rows(frame: Any) -> Iterable[tuple[str, tuple[Any, ...]]]:
    """Symbol, and id, price, amount, time in microseconds, whether bought, whether a limit order."""
    if isinstance(frame, list) and frame[-2] == "trade":
        symbol = _symbol("kraken", frame[-1])
        for price, amount, time, side, kind, *_ in frame[1]:
            yield symbol, (None, price, amount, round(float(time) * 1e6), side == "b", kind == "l")
    elif isinstance(frame, dict) and frame.get("channel") == "trade":
        for row in frame["data"]:
            us = round(datetime.fromisoformat(row["timestamp"]).timestamp() * 1e6)
            known = (row["trade_id"], str(row["price"]), str(row["qty"]), us)
            yield row["symbol"], (*known, row["side"] == "buy", row["ord_type"] == "limit")


@lru_cache(maxsize=1_000)
def _symbol(exchange: str, text: str) -> str:
    return market_from_spelling(exchange, text).symbol


def _agg_row(event: dict[str, Any]) -> dict[str, Any]:
    symbol = _symbol("binance", event["s"])
    row = {name: event[name] for name in ("p", "q", "T", "m")} | {"symbol": symbol}
    if event["e"] == "aggTrade":
        return row | {name: event[name] for name in ("a", "f", "l")}
    return row | dict.fromkeys(("a", "f", "l"), event["t"])


def _kraken_tape(symbol: str, rows: Sequence[tuple[Any, ...]]) -> FixedTape:
    rows = sorted(rows, key=lambda row: (row[3], row[0] or 0))
    ids, prices, amounts, times, buys, limits = zip(*rows, strict=True)
    listing, ticks, lots = captured_listing("kraken", symbol, prices, amounts)
    number = np.arange(len(rows), dtype=np.int64)
    has_ids = ids[0] is not None
    shown = np.array(times, dtype=np.int64) * 10
    # The exchange's own clock tells rows of one time apart.
    time_ns = np.maximum.accumulate(shown * 100 - number) + number
    row_ids = np.array(ids, dtype=np.int64) if has_ids else number
    columns = Columns(
        id=row_ids,
        time_ns=time_ns,
        shown=shown,
        ticks=ticks,
        lots=lots,
        taker_buys=np.array(buys),
        limit=np.array(limits),
        fills=np.ones(len(rows), dtype=np.int64),
        first_fill=row_ids,
    )
    return FixedTape(listing, columns, shows_ids=has_ids)


def captured_file(folder: Path | None, name: str) -> Path | None:
    """The file of frames of that name below ``folder``; nothing outside it."""
    if folder is None:
        return None
    path = (folder / name).resolve()
    return path if path.is_file() and path.is_relative_to(folder.resolve()) else None
