"""Captured files as tapes: the rows an exchange once served, served again at their own cursors.

Known by name, in any folder below the one given:

- ``kraken/**/page<N>_since_<cursor>.json[.gz]``: consecutive answers of ``/0/public/Trades``;
- ``binance/**/*trades*.json[.gz]``: a list of aggTrades, as served or as ccxt's unified trades whose
  ``info`` is the served row. Each row carries ``symbol`` (``XRP/ETH``).
"""

import gzip
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from marketdata.errors import UsageError
from marketdata.exchange_sim.listing import Listing, asset
from marketdata.exchange_sim.market import Columns
from marketdata.exchange_sim.tape import FixedTape

_QUOTES = ("USDT", "USDC", "USD", "EUR", "ETH", "BTC")
_PAGE = re.compile(r"page(\d+)_since_(\d+)\.json(\.gz)?")


def read_captures(folder: Path) -> list[FixedTape]:
    """Tapes of every captured market below ``folder``.

    Raises:
        UsageError: there is none, or a file is not what its name says.
    """
    pages: dict[Path, list[tuple[int, Path]]] = {}
    for path in sorted(folder.rglob("page*_since_*.json*")):
        if match := _PAGE.fullmatch(path.name):
            pages.setdefault(path.parent, []).append((int(match[1]), path))
    tapes = [kraken_tape([_read(path) for _, path in sorted(numbered)]) for numbered in pages.values()]
    for path in sorted(folder.rglob("*trades.json*")):
        if path.suffix in {".json", ".gz"} and "binance" in path.parts:
            rows = _read(path)
            if isinstance(rows, list) and rows and isinstance(rows[0], dict) and "symbol" in rows[0]:
                tapes.append(binance_tape(rows))
    if not tapes:
        msg = f"No captured market is below {str(folder)!r}."
        raise UsageError(msg, hint="Expected page1_since_<cursor>.json(.gz) or binance/…trades.json(.gz).")
    return tapes


def kraken_tape(pages: Sequence[Any]) -> FixedTape:
    """A tape of consecutive answers of Kraken's ``Trades``, that serves the same pages at their cursors.

    Rows show their time rounded; the last row of a page gets the clock that its ``last`` tells, so that
    the page ends where it ended.
    """
    try:
        key = next(name for name in pages[0]["result"] if name != "last")
        rows = [row for page in pages for row in page["result"][key]]
        ends = np.cumsum([len(page["result"][key]) for page in pages]) - 1
        lasts = [int(page["result"]["last"]) for page in pages]
        shown = np.array([_tenths_of_us(row[2]) for row in rows], dtype=np.int64)
        time_ns = shown * 100
        time_ns[ends] = lasts
        time_ns = np.maximum.accumulate(time_ns)
        ids = [row[6] if len(row) > 6 else n for n, row in enumerate(rows)]
        listing, ticks, lots = _grid("kraken", key, [row[0] for row in rows], [row[1] for row in rows])
        columns = _columns(
            ids, time_ns, shown, ticks, lots, [row[3] == "b" for row in rows], [row[4] == "l" for row in rows]
        )
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise _not_a_capture("an answer of Kraken's Trades", error) from error
    return FixedTape(listing, columns, shows_ids=len(rows[0]) > 6)


def binance_tape(rows: Sequence[Any]) -> FixedTape:
    """A tape of Binance aggTrades, as served or inside ccxt's unified trades."""
    try:
        symbol = rows[0].get("symbol", "")
        served = [row.get("info", row) for row in rows]
        listing, ticks, lots = _grid(
            "binance", symbol, [row["p"] for row in served], [row["q"] for row in served]
        )
        time_ns = np.array([int(row["T"]) for row in served], dtype=np.int64) * 1_000_000
        first = [int(row["f"]) for row in served]
        fills = [int(row["l"]) - int(row["f"]) + 1 for row in served]
        ids = [int(row["a"]) for row in served]
        buys = [not row["m"] for row in served]
        columns = _columns(ids, time_ns, time_ns // 100, ticks, lots, buys, buys, fills, first)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise _not_a_capture("a list of Binance aggTrades", error) from error
    return FixedTape(listing, columns)


def _columns(
    ids: Sequence[int],
    time_ns: "np.ndarray[Any, np.dtype[np.int64]]",
    shown: "np.ndarray[Any, np.dtype[np.int64]]",
    ticks: Sequence[int],
    lots: Sequence[int],
    buys: Sequence[bool],
    limit: Sequence[bool],
    fills: Sequence[int] | None = None,
    first_fill: Sequence[int] | None = None,
) -> Columns:
    return Columns(
        id=np.array(ids, dtype=np.int64),
        time_ns=time_ns,
        shown=shown,
        ticks=np.array(ticks, dtype=np.int64),
        lots=np.array(lots, dtype=np.int64),
        taker_buys=np.array(buys, dtype=bool),
        limit=np.array(limit, dtype=bool),
        fills=np.array(fills if fills is not None else [1] * len(ids), dtype=np.int64),
        first_fill=np.array(first_fill if first_fill is not None else ids, dtype=np.int64),
    )


def _grid(
    exchange: str, name: str, prices: Sequence[str], amounts: Sequence[str]
) -> tuple[Listing, list[int], list[int]]:
    """The listing of a captured market, and its prices and amounts in units of their last printed digit."""
    tick, lot = (max(_places(text) for text in texts) for texts in (prices, amounts))
    if "/" in name:
        base, quote = (asset(code) for code in name.split("/"))
        key, symbol = base.code + quote.code, name
    else:
        code = next((code for code in _QUOTES if name.endswith(code)), None)
        if code is None:
            msg = f"no quote currency is known at the end of {name!r}"
            raise ValueError(msg)
        base, quote, key = asset(name.removesuffix(code)), asset(code), name
        symbol = f"{base.code}/{quote.code}"
    names = tuple(dict.fromkeys((key, symbol)))
    listing = Listing(exchange, symbol, names, base, quote, tick, lot, tick, amount_text=lot)
    return listing, _scaled(prices, tick), _scaled(amounts, lot)


def _places(text: str) -> int:
    return len(text.partition(".")[2])


def _scaled(texts: Iterable[str], places: int) -> list[int]:
    return [int(Decimal(text).scaleb(places)) for text in texts]


def _tenths_of_us(number: float) -> int:
    """The shown time in units of 100 ns, from the number's shortest text."""
    return int(Decimal(repr(number)).scaleb(7).to_integral_value())


def _read(path: Path) -> Any:
    try:
        body = path.read_bytes()
        return orjson.loads(gzip.decompress(body) if path.suffix == ".gz" else body)
    except (OSError, EOFError, orjson.JSONDecodeError) as error:
        msg = f"The capture {str(path)!r} cannot be read: {error}."
        raise UsageError(msg) from error


def _not_a_capture(what: str, error: Exception) -> UsageError:
    msg = f"A capture is not {what}: {error!r}."
    return UsageError(msg, hint="Give the rows as the exchange served them.")
