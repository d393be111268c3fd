"""Rows that are plainly trades, read fast (pure).

Live trades come one by one, and the checks of :func:`marketdata.trade.validate` cost a millisecond however
few rows there are. So a few rows are looked at in Python first, more strictly: each value of the type and in
the form that the exchange writes. If all are plain they become a frame at once; if any is not, none is taken,
and the full reader decides and says why.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from marketdata.interval import to_us
from marketdata.trade import FUTURE_TOLERANCE, TRADE_SCHEMA

# From so many rows on the full reader is as fast.
MOST = 200
# 2009-01-03, and a bound that keeps the product of price and amount finite.
_FIRST_US, _HUGE = 1_230_940_800_000_000, 1e100
_LARGEST_ID = 2**63
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_ISO_LENGTH = len("2025-05-27T11:24:03.847761Z")
_MS_BELOW = 100_000_000_000_000


def kraken_v2(rows: Sequence[dict[str, Any]], *, now: datetime) -> pl.DataFrame | None:
    """Rows of Kraken's ``trade`` channel as TRADE_SCHEMA; ``None``: one is not plain."""
    last_us = to_us(now + FUTURE_TOLERANCE)
    ids, times, prices, amounts, sides = [], [], [], [], []
    for row in rows:
        trade_id, text, side = row.get("trade_id"), row.get("timestamp"), row.get("side")
        price, amount = row.get("price"), row.get("qty")
        if (
            type(trade_id) is not int
            or not 0 <= trade_id < _LARGEST_ID
            or type(price) is not float
            or not 0 < price < _HUGE
            or type(amount) is not float
            or not 0 < amount < _HUGE
            or (side != "buy" and side != "sell")  # noqa: PLR1714 - it may be of a type that has no hash
            or type(text) is not str
            or len(text) != _ISO_LENGTH
            or text[4] + text[7] + text[10] + text[13] + text[16] + text[19] + text[26] != "--T::.Z"
        ):
            return None
        try:
            us = (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
        except ValueError:
            return None
        if not _FIRST_US <= us <= last_us:
            return None
        ids.append(trade_id)
        times.append(us)
        prices.append(price)
        amounts.append(amount)
        sides.append(side)
    return _frame(ids, times, prices, amounts, sides, [1] * len(ids))


def binance_agg(rows: Sequence[dict[str, Any]], *, now: datetime) -> pl.DataFrame | None:
    """Events of Binance's ``aggTrade`` as TRADE_SCHEMA; ``None``: one is not plain."""
    last_us = to_us(now + FUTURE_TOLERANCE)
    ids, times, prices, amounts, sides, fills = [], [], [], [], [], []
    for row in rows:
        trade_id, first, last, ticks = row.get("a"), row.get("f"), row.get("l"), row.get("T")
        maker = row.get("m")
        price, amount = _decimal(row.get("p")), _decimal(row.get("q"))
        if (
            type(trade_id) is not int
            or not 0 <= trade_id < _LARGEST_ID
            or type(first) is not int
            or type(last) is not int
            or not 0 <= last - first < 2**31 - 1
            or not 0 <= first < _LARGEST_ID
            or type(ticks) is not int
            or type(maker) is not bool
            or not 0 < price < _HUGE
            or not 0 < amount < _HUGE
        ):
            return None
        us = ticks * 1_000 if ticks < _MS_BELOW else ticks
        if not _FIRST_US <= us <= last_us or last >= _LARGEST_ID:
            return None
        ids.append(trade_id)
        times.append(us)
        prices.append(price)
        amounts.append(amount)
        sides.append("sell" if maker else "buy")
        fills.append(last - first + 1)
    return _frame(ids, times, prices, amounts, sides, fills)


def _decimal(text: Any) -> float:
    """The number of plain decimal text; 0 for anything else."""
    if type(text) is str and text.isascii() and text.replace(".", "", 1).isdigit() and text[0] != ".":
        return float(text)
    return 0.0


def _frame(*columns: list[Any]) -> pl.DataFrame:
    """Values of each column of TRADE_SCHEMA; of the schema's types, so nothing is looked at again."""
    named = zip(TRADE_SCHEMA.items(), columns, strict=True)
    return pl.DataFrame([pl.Series(name, values, dtype=dtype) for (name, dtype), values in named])
