"""Frames of exchanges' sockets -> trades, rejects and a count of everything else (pure).

Kraken v2, Kraken v1 and Binance. Nothing is dropped in silence: a frame that is no JSON (proxies on the way
have their say too), an unknown symbol and a row that is no trade come back as rejects with their reason.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import orjson
import polars as pl

from marketdata.errors import MarketDataError
from marketdata.market import Market, market_from_spelling
from marketdata.sources import rows as read
from marketdata.trade import REJECT_SCHEMA, TIME, Validated, as_json, assign_ids, validate

Stream = Literal["aggTrade", "trade"]
# What was refused, of which market (null when it is not known), and the position of its frame in the call.
FRAME_REJECT_SCHEMA = pl.Schema({**REJECT_SCHEMA, "market": pl.String(), "frame": pl.UInt32()})

_KRAKEN_SIDES = {"buy": "buy", "sell": "sell"}
_KRAKEN_V1_SIDES = {"b": "buy", "s": "sell"}
# "m": whether the buyer was the maker; then the taker sold.
_BINANCE_SIDES = {True: "sell", False: "buy"}
_ISO = "%Y-%m-%dT%H:%M:%S%.fZ"


@dataclass(frozen=True, slots=True)
class Read:
    """What frames said.

    Attributes:
        trades: by market, TRADE_SCHEMA, in order of arrival; snapshots included.
        rejects: FRAME_REJECT_SCHEMA.
        others: frames that carry no trades, by what they are (``heartbeat``, ``status``, ``ohlc``, ...).
    """

    trades: dict[Market, pl.DataFrame]
    rejects: pl.DataFrame
    others: Counter[str]


@dataclass(slots=True)
class _Gathered:
    """Rows by symbol with the frames they came in, before they become columns."""

    rows: dict[str, list[Any]] = field(default_factory=dict)
    at: dict[str, list[int]] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def add(self, symbol: str, rows: Iterable[Any], frame: int) -> None:
        held = self.rows.setdefault(symbol, [])
        before = len(held)
        held.extend(rows)
        self.at.setdefault(symbol, []).extend([frame] * (len(held) - before))

    def refuse(self, reason: str, raw: Any, frame: int) -> None:
        self.rejects.append({"reason": reason, "raw": as_json(raw), "frame": frame})


def read_kraken_v2(frames: Sequence[str | bytes], *, now: datetime) -> Read:
    """Trades of Kraken's ``trade`` channel, version 2; ``now`` decides what is in the future."""
    got = _Gathered()
    for at, value in _values(frames, got):
        channel = value.get("channel") if isinstance(value, dict) else None
        if channel != "trade":
            method = value.get("method") if isinstance(value, dict) else None
            got.others[str(channel or method or "unknown")] += 1
            continue
        data = value.get("data")
        if not isinstance(data, list):
            got.refuse("frame of trades without a list of them", value, at)
            continue
        for row in data:
            symbol = row.get("symbol") if isinstance(row, dict) else None
            if isinstance(symbol, str):
                got.add(symbol, (row,), at)
            else:
                got.refuse("symbol absent or unreadable", row, at)
    return _read(got, "kraken", lambda rows: kraken_v2_trades(rows, now=now))


def read_kraken_v1(frames: Sequence[str | bytes], *, now: datetime) -> Read:
    """Trades of Kraken's ``trade`` feed, version 1, which has no ids.

    Ids are given by :func:`marketdata.trade.assign_ids` within this call: all frames of one moment must be
    in it.
    """
    got = _Gathered()
    for at, value in _values(frames, got):
        if not isinstance(value, list):
            event = value.get("event") if isinstance(value, dict) else None
            got.others[str(event or "unknown")] += 1
        elif len(value) < 4 or not isinstance(value[-1], str) or not isinstance(value[-2], str):
            got.refuse("frame without channel name and pair", value, at)
        elif value[-2] != "trade":
            got.others[value[-2]] += 1
        elif isinstance(value[1], list):
            got.add(value[-1], value[1], at)
        else:
            got.refuse("frame of trades without a list of them", value, at)
    return _read(got, "kraken", lambda rows: kraken_v1_trades(rows, now=now))


def read_binance(frames: Sequence[str | bytes], *, now: datetime, stream: Stream = "aggTrade") -> Read:
    """Trades of one kind of Binance stream, raw or combined.

    The other kind counts among the others: both hold the same trades, under different ids.
    """
    got = _Gathered()
    for at, value in _values(frames, got):
        event = value.get("data", value) if isinstance(value, dict) else None
        if not isinstance(event, dict):
            got.refuse("frame without an event", value, at)
            continue
        kind = event.get("e")
        if kind == stream:
            symbol = event.get("s")
            if isinstance(symbol, str):
                got.add(symbol, (event,), at)
            else:
                got.refuse("symbol absent or unreadable", value, at)
        else:
            named = str(value.get("stream", "")).partition("@")[2]
            got.others[str(kind or named or ("answer" if "id" in event else "unknown"))] += 1
    return _read(got, "binance", lambda rows: binance_trades(rows, now=now, stream=stream))


def kraken_v2_trades(rows: Sequence[Any], *, now: datetime) -> Validated:
    """Rows of one market as the ``trade`` channel sends them (ccxt keeps each in ``info``)."""
    return _validated(
        rows,
        {
            "trade_id": read.integers("trade_id", _field(rows, "trade_id")),
            "time": _times_from_iso(_field(rows, "timestamp")),
            "price": read.floats("price", _field(rows, "price")),
            "amount": read.floats("amount", _field(rows, "qty")),
            "side": read.sides("side", _field(rows, "side"), _KRAKEN_SIDES),
            "fills": read.ones("fills", len(rows)),
        },
        now,
    )


def kraken_v1_trades(rows: Sequence[Any], *, now: datetime) -> Validated:
    """Rows ``[price, volume, time, b|s, l|m, misc]`` of one market; ids are given here."""
    price, amount, time, side = (
        [row[at] if isinstance(row, list) and len(row) > at else None for row in rows] for at in range(4)
    )
    found = _validated(
        rows,
        {
            "trade_id": pl.Series("trade_id", [None] * len(rows), dtype=pl.Int64),
            "time": read.times_from_seconds("time", time),
            "price": read.floats("price", price),
            "amount": read.floats("amount", amount),
            "side": read.sides("side", side, _KRAKEN_V1_SIDES),
            "fills": read.ones("fills", len(rows)),
        },
        now,
        ids=False,
    )
    return Validated(assign_ids(found.accepted), found.rejected)


def binance_trades(rows: Sequence[Any], *, now: datetime, stream: Stream = "aggTrade") -> Validated:
    """Events of one market and one kind of stream (ccxt keeps each in ``info``); times in ms or us."""
    fills = read.ones("fills", len(rows))
    if stream == "aggTrade":
        first, last = (read.integers(name, _field(rows, name)) for name in ("f", "l"))
        fills = (last - first + 1).cast(pl.Int32, strict=False).alias("fills")
    return _validated(
        rows,
        {
            "trade_id": read.integers("trade_id", _field(rows, "a" if stream == "aggTrade" else "t")),
            "time": read.times_from_ticks("time", _field(rows, "T")),
            "price": read.floats("price", _field(rows, "p")),
            "amount": read.floats("amount", _field(rows, "q")),
            "side": read.sides("side", _field(rows, "m"), _BINANCE_SIDES),
            "fills": fills,
        },
        now,
    )


@dataclass(frozen=True, slots=True)
class Captured:
    """A line of a captured file: the frame, and when it was received where the file says so."""

    received: datetime | None
    text: str


# "<ns> <frame>" and "<seconds>: <frame>"; the address and what was sent stand before the frames.
_NS_LINE = re.compile(r"(\d{19}) (.*)", re.DOTALL)
_SECONDS_LINE = re.compile(r"(\d{9,10}\.\d+): (.*)", re.DOTALL)
_SENT_LINE = re.compile(r"wss?://\S+ <-")


def captured(lines: Iterable[str]) -> Iterator[Captured]:
    """The frames of a captured file, in any of the layouts that ``docs/local-exchange.md`` shows."""
    for line in lines:
        text = line.rstrip("\n")
        if match := _NS_LINE.fullmatch(text):
            yield Captured(_from_us(int(match[1]) // 1_000), match[2])
        elif match := _SECONDS_LINE.fullmatch(text):
            yield Captured(_from_us(round(float(match[1]) * 1e6)), match[2])
        elif text and not _SENT_LINE.match(text):
            yield Captured(None, text)


def _from_us(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def _values(frames: Sequence[str | bytes], got: _Gathered) -> Iterator[tuple[int, Any]]:
    for at, frame in enumerate(frames):
        try:
            value = orjson.loads(frame)
        except orjson.JSONDecodeError:
            text = frame.decode("utf-8", "replace") if isinstance(frame, bytes) else frame
            got.refuse("not JSON", text, at)
            continue
        yield at, value


def _read(got: _Gathered, exchange: str, parse: Callable[[list[Any]], Validated]) -> Read:
    trades: dict[Market, pl.DataFrame] = {}
    refused = [pl.DataFrame(got.rejects, schema=FRAME_REJECT_SCHEMA)]
    for symbol, rows in got.rows.items():
        at = pl.Series("frame", got.at[symbol], dtype=pl.UInt32)
        try:
            market = market_from_spelling(exchange, symbol)
        except MarketDataError:
            raw = [as_json(row) for row in rows]
            refused.append(_rejects({"reason": ["symbol unknown"] * len(rows), "raw": raw, "frame": at}))
            continue
        found = parse(rows)
        if len(found.accepted):
            held = trades.get(market)
            trades[market] = found.accepted if held is None else pl.concat([held, found.accepted])
        if len(found.rejected):
            wrong = _places(rows, found.rejected)
            refused.append(
                found.rejected.with_columns(
                    pl.lit(str(market)).alias("market"), at.gather(wrong).alias("frame")
                ).select(FRAME_REJECT_SCHEMA.names())
            )
    return Read(trades, pl.concat(refused).sort("frame", maintain_order=True), got.others)


def _places(rows: list[Any], rejected: pl.DataFrame) -> list[int]:
    """Where the rejected rows stood: rejects keep the order of rows, and each its row as JSON."""
    numbered = ((at, as_json(row)) for at, row in enumerate(rows))
    return [next(at for at, text in numbered if text == raw) for raw in rejected["raw"]]


def _rejects(columns: dict[str, Any]) -> pl.DataFrame:
    absent = {name: None for name in FRAME_REJECT_SCHEMA if name not in columns}
    return pl.DataFrame(columns | absent, schema=FRAME_REJECT_SCHEMA)


def _validated(
    rows: Sequence[Any], columns: dict[str, pl.Series], now: datetime, *, ids: bool = True
) -> Validated:
    return validate(pl.DataFrame(columns), now=now, raw=rows, ids=ids, sides=True)


def _field(rows: Sequence[Any], name: str) -> list[Any]:
    return [row.get(name) for row in rows]


def _times_from_iso(values: Sequence[Any]) -> pl.Series:
    """Times as Kraken v2 writes them; null where they are not."""
    plain = [value if isinstance(value, str) and value.isascii() else None for value in values]
    text = pl.Series("time", plain, dtype=pl.String)
    return text.str.to_datetime(_ISO, time_unit="us", time_zone="UTC", strict=False).cast(TIME)
