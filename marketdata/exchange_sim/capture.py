"""Captured files as tapes: the rows an exchange once served, served again at their own cursors.

Known by name, in any folder below the one given:

- ``kraken/**/page<N>_since_<cursor>.json[.gz]``: consecutive answers of ``/0/public/Trades``;
- ``binance/**/*trades*.json[.gz]``: a list of aggTrades, as served or as ccxt's unified trades whose
  ``info`` is the served row. Each row carries ``symbol`` (``XRP/ETH``);
- captured frames of sockets, see :mod:`marketdata.exchange_sim.capture_frames`.
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
from marketdata.exchange_sim.market import Columns, Ints
from marketdata.exchange_sim.tape import FixedTape
from marketdata.market import Market, spelling

_KRAKEN_PAGE = "an answer of Kraken's Trades"
_AGG_TRADES = "a list of Binance aggTrades"
_QUOTES = ("USDT", "USDC", "USD", "EUR", "ETH", "BTC")
_PAGE = re.compile(r"page(\d+)_since_(\d+)\.json(\.gz)?")


def read_captures(folder: Path) -> list[FixedTape]:
    """Tapes of the markets below ``folder`` whose answers of REST were captured.

    Raises:
        UsageError: a file is not what its name says.
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
    return tapes


def kraken_tape(pages: Sequence[Any]) -> FixedTape:
    """A tape of consecutive answers of Kraken's ``Trades``, that serves the same pages at their cursors.

    Rows show their time rounded; the last row of a page gets the clock that its ``last`` tells, so that
    the page ends where it ended.
    """
    try:
        key = next(name for name in pages[0]["result"] if name != "last")
        rows = [row for page in pages for row in page["result"][key]]
        sizes = [len(page["result"][key]) for page in pages]
        shown = _whole([_tenths_of_us(row[2]) for row in rows])
        time_ns = _clock(shown * 100, sizes, [int(page["result"]["last"]) for page in pages])
        ids = [row[6] if len(row) > 6 else n for n, row in enumerate(rows)]
        listing, ticks, lots = captured_listing(
            "kraken", key, [row[0] for row in rows], [row[1] for row in rows]
        )
        columns = Columns(
            id=_whole(ids),
            time_ns=time_ns,
            shown=shown,
            ticks=ticks,
            lots=lots,
            taker_buys=np.array([row[3] == "b" for row in rows]),
            limit=np.array([row[4] == "l" for row in rows]),
            fills=np.ones(len(rows), dtype=np.int64),
            first_fill=_whole(ids),
        )
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise _not_a_capture(_KRAKEN_PAGE, error) from error
    return FixedTape(listing, columns, shows_ids=len(rows[0]) > 6)


def _clock(shown_ns: Ints, sizes: Sequence[int], lasts: Sequence[int]) -> Ints:
    """The clock of rows that show theirs rounded: ascending, and each page ends at its ``last``."""
    pages = []
    before, start = 0, 0
    for size, last in zip(sizes, lasts, strict=True):
        place = np.arange(size)
        page = np.maximum(shown_ns[start : start + size], before + 1) - place
        page = np.maximum.accumulate(page)
        page[-1:] = last - place[-1:]
        pages.append(np.minimum.accumulate(page[::-1])[::-1] + place)
        before, start = last, start + size
    return np.concatenate(pages)


def binance_tape(rows: Sequence[Any]) -> FixedTape:
    """A tape of Binance aggTrades, as served or inside ccxt's unified trades."""
    try:
        symbol = rows[0].get("symbol", "")
        served = [row.get("info", row) for row in rows]
        listing, ticks, lots = captured_listing(
            "binance", symbol, [row["p"] for row in served], [row["q"] for row in served]
        )
        time_ns = _whole([row["T"] for row in served]) * 1_000_000
        first_fill = _whole([row["f"] for row in served])
        buys = np.array([not row["m"] for row in served])
        columns = Columns(
            id=_whole([row["a"] for row in served]),
            time_ns=time_ns,
            shown=time_ns // 100,
            ticks=ticks,
            lots=lots,
            taker_buys=buys,
            limit=buys,
            fills=_whole([row["l"] for row in served]) - first_fill + 1,
            first_fill=first_fill,
        )
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise _not_a_capture(_AGG_TRADES, error) from error
    return FixedTape(listing, columns)


def captured_listing(
    exchange: str, name: str, prices: Sequence[str], amounts: Sequence[str]
) -> tuple[Listing, Ints, Ints]:
    """The listing of a captured market, and its prices and amounts in units of their last printed digit."""
    tick, lot = (max(_places(text) for text in texts) for texts in (prices, amounts))
    if "/" in name:
        base, quote = (asset(code) for code in name.split("/"))
        key, symbol = spelling(Market(exchange, name), "rest"), name
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


def _scaled(texts: Iterable[str], places: int) -> Ints:
    return _whole([int(Decimal(text).scaleb(places)) for text in texts])


def _whole(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)


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
