"""Small frames of trades for tests of the pure rooms."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import reduce

import polars as pl

from marketdata.interval import to_us
from marketdata.pieces import Piece, merge_pieces
from marketdata.trade import TRADE_SCHEMA, empty_trades

MIDNIGHT = datetime(2025, 6, 9, tzinfo=UTC)  # a Monday

# trade_id, seconds after MIDNIGHT, price, amount, side, fills
Row = tuple[int | None, float, float, float, str | None, int]


def trades_of(rows: Iterable[Row]) -> pl.DataFrame:
    """Trades at seconds after midnight of Monday, 2025-06-09."""
    table = [(trade_id, to_us(MIDNIGHT) + round(at * 1e6), *rest) for trade_id, at, *rest in rows]
    schema = {**TRADE_SCHEMA, "time": pl.Int64}
    return pl.DataFrame(table, schema=schema, orient="row").cast(TRADE_SCHEMA)  # type: ignore[arg-type]


def simple(*rows: tuple[int, float, float, float]) -> pl.DataFrame:
    """Buys of one fill: id, seconds after midnight, price, amount."""
    return trades_of((trade_id, at, price, amount, "buy", 1) for trade_id, at, price, amount in rows)


def united(*files: pl.DataFrame) -> pl.DataFrame:
    """What files without ids, each one frame, come to when they are imported one after the other."""
    return reduce(merge_pieces, map(Piece.of_file, files), Piece(empty_trades())).trades
