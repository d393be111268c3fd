"""What ccxt makes of exchanges' frames -> trades (pure).

Kraken's and Binance's rows are read from ``info``, the row as it was sent: ccxt cuts times to milliseconds.
They are the same rows, read in the same way, as :mod:`marketdata.sources` reads of REST. For all other
exchanges both ways take what ccxt unifies.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import polars as pl

from marketdata.sources import rows as read
from marketdata.trade import Validated, empty_rejects, validate
from realtime.feeds import plain
from realtime.frames import binance_trades, kraken_v2_trades

# A trade has one id by the socket and another, or none, by REST.
OTHER_IDS_BY_REST = frozenset({"htx", "kucoin"})
_SIDES = {"buy": "buy", "sell": "sell"}
_OWN = {"kraken": (plain.kraken_v2, kraken_v2_trades), "binance": (plain.binance_agg, binance_trades)}


def trades_of(
    exchange: str, rows: Sequence[dict[str, Any]], *, now: datetime, ids: bool | None = None
) -> Validated:
    """Trades of one market, as ccxt's ``watch_trades`` gives them.

    Args:
        now: decides what is in the future.
        ids: whether the exchange numbers its trades with whole numbers; ``None``: what most rows say. Where
            it does not, ``trade_id`` is null.
    """
    if exchange in _OWN:
        plainly, fully = _OWN[exchange]
        sent = [_sent(row) for row in rows]
        found = plainly(sent, now=now) if len(sent) <= plain.MOST else None
        return fully(sent, now=now) if found is None else Validated(found, empty_rejects())
    served = read.integers("trade_id", [row.get("id") for row in rows])
    known = 2 * served.null_count() < len(rows) if ids is None else ids
    columns = pl.DataFrame(
        {
            "trade_id": served if known else pl.Series("trade_id", [None] * len(rows), dtype=pl.Int64),
            "time": read.times_from_ticks("time", [row.get("timestamp") for row in rows]),
            "price": read.floats("price", [row.get("price") for row in rows]),
            "amount": read.floats("amount", [row.get("amount") for row in rows]),
            "side": read.sides("side", [row.get("side") for row in rows], _SIDES),
            "fills": read.ones("fills", len(rows)),
        }
    )
    return validate(columns, now=now, raw=[row.get("info", row) for row in rows], ids=known)


def _sent(row: dict[str, Any]) -> dict[str, Any]:
    """The row as it was sent."""
    info = row.get("info")
    return info if isinstance(info, dict) else {}
