"""Binance's public archive: a zip of one CSV for each day, and its checksum.

Spot files have no header row; their times are in milliseconds until 2024 and in microseconds from
2025-01-01 on.
"""

import hashlib
import html
import io
import re
import zipfile
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from marketdata.exchange_sim.answer import Answer
from marketdata.exchange_sim.binance import raw_fills
from marketdata.exchange_sim.candles import Grid
from marketdata.exchange_sim.exchange import Exchange
from marketdata.exchange_sim.listing import Listing, day_number, ns_of
from marketdata.exchange_sim.market import DAY_NS, Columns
from marketdata.exchange_sim.tape import Reader

_FILE = re.compile(
    r"data/spot/daily/(?:(?P<kind>trades|aggTrades)|klines)/(?P<symbol>[A-Z0-9]+)/(?:1m/)?"
    r"(?P=symbol)-(?P<infix>trades|aggTrades|1m)-(?P<day>\d{4}-\d{2}-\d{2})\.zip(?P<checksum>\.CHECKSUM)?"
)
_MICROSECONDS_SINCE = date(2025, 1, 1)
_MINUTE_NS = 60_000_000_000


def file(exchange: Exchange, path: str) -> Answer:
    """The zip or checksum at ``path`` (``data/spot/daily/...``), or what S3 answers for an absent key."""
    match = _FILE.fullmatch(path)
    if (
        match is None
        or (match["kind"] or "1m") != match["infix"]
        or (match["infix"] == "1m") != ("/1m/" in path)
    ):
        return _absent(path)
    reader = exchange.reader("binance", match["symbol"])
    try:
        day = date.fromisoformat(match["day"])
    except ValueError:
        return _absent(path)
    published = (
        datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1) + exchange.config.archive_delay
    )
    if reader is None or exchange.clock.now_ns() < ns_of(published):
        return _absent(path)
    kind = match["infix"]
    name = f"{match['symbol']}-{kind}-{day}"
    body = exchange.archives.get((name,), lambda: _zip(f"{name}.csv", _csv(exchange, reader, kind, day), day))
    if not body:
        return _absent(path)
    if match["checksum"]:
        return checksum(body, path.removesuffix(".CHECKSUM"))
    return Answer(body, media_type="application/zip")


def checksum(body: bytes, path: str) -> Answer:
    """The checksum file of the zip at ``path``, as ``sha256sum`` writes it."""
    name = path.rpartition("/")[2]
    return Answer(f"{hashlib.sha256(body).hexdigest()}  {name}\n".encode(), media_type="text/plain")


def _csv(exchange: Exchange, reader: Reader, kind: str, day: date) -> bytes:
    start = day_number(day) * DAY_NS
    unit = 1_000 if day >= _MICROSECONDS_SINCE else 1_000_000
    tape = reader.tape
    rows = reader.served(tape.rows(tape.after(start - 1), tape.after(start + DAY_NS - 1)))
    if kind == "aggTrades":
        frame = _agg_frame(rows, reader.listing, unit)
    elif kind == "trades":
        frame = _trade_frame(rows, reader.listing, unit)
    else:
        frame = _kline_frame(exchange, reader, start, unit)
    if frame.is_empty():
        return b""
    return frame.write_csv(include_header=False, float_precision=8).encode()


def _agg_frame(rows: Columns, listing: Listing, unit: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "a": rows.id,
            "p": rows.ticks / 10**listing.tick,
            "q": rows.lots / 10**listing.lot,
            "f": rows.first_fill,
            "l": rows.first_fill + rows.fills - 1,
            "T": rows.time_ns // unit,
            "m": np.where(rows.taker_buys, "False", "True"),
            "M": np.full(len(rows), "True"),
        }
    )


def _trade_frame(rows: Columns, listing: Listing, unit: int) -> pl.DataFrame:
    ids, lots, at, _ = raw_fills(rows)
    price, amount = rows.ticks[at] / 10**listing.tick, lots / 10**listing.lot
    return pl.DataFrame(
        {
            "id": ids,
            "price": price,
            "qty": amount,
            "quote_qty": price * amount,
            "time": rows.time_ns[at] // unit,
            "is_buyer_maker": np.where(rows.taker_buys[at], "False", "True"),
            "is_best_match": np.full(len(at), "True"),
        }
    )


def _kline_frame(exchange: Exchange, reader: Reader, start: int, unit: int) -> pl.DataFrame:
    now = exchange.clock.now_ns()
    candles = exchange.candles.regular(reader.tape, Grid(_MINUTE_NS), start, start + DAY_NS, now_ns=now)
    tick, lot = 10**reader.listing.tick, 10**reader.listing.lot
    return pl.DataFrame(
        {
            "open_time": candles.open_ns // unit,
            "open": candles.open / tick,
            "high": candles.high / tick,
            "low": candles.low / tick,
            "close": candles.close / tick,
            "volume": candles.lots / lot,
            "close_time": (candles.open_ns + _MINUTE_NS) // unit - 1,
            "quote_volume": candles.quote / (tick * lot),
            "count": candles.count,
            "taker_buy_volume": candles.buy_lots / lot,
            "taker_buy_quote_volume": candles.buy_quote / (tick * lot),
            "ignore": np.zeros(len(candles), dtype=np.int64),
        }
    )


def _zip(name: str, body: bytes, day: date) -> bytes:
    """A zip of one file whose bytes depend on nothing but its contents."""
    if not body:
        return b""
    buffer = io.BytesIO()
    entry = zipfile.ZipInfo(name, date_time=(day.year, day.month, day.day, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, body, compresslevel=1)
    return buffer.getvalue()


def _absent(path: str) -> Answer:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code>'
        f"<Message>The specified key does not exist.</Message><Key>{html.escape(path)}</Key></Error>"
    )
    return Answer(body.encode(), 404, media_type="application/xml")
