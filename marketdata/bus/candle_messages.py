"""Candles as messages (pure): one JSON object a candle, or one Arrow record batch a message."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import polars as pl

from marketdata.bus.envelope import Format, Message, Reject, format_of, headers_of, markets_of
from marketdata.bus.trade_messages import Indexes, arrow_bytes, read_arrow
from marketdata.candle import CANDLE_SCHEMA, broken
from marketdata.errors import UnknownName
from marketdata.interval import Interval, to_us
from marketdata.market import Market
from marketdata.trade import TIME

CANDLE = "candle/1"
JSON_CANDLES, ARROW_CANDLES = headers_of(CANDLE, "json"), headers_of(CANDLE, "arrow")

# A candle of one of several intervals, and which issue of it: ``revision`` counts from 0; ``final``: not
# running any more; ``partial``: begun before the first trade that was seen.
UPDATE_SCHEMA = pl.Schema(
    {
        "interval": pl.String(),
        **CANDLE_SCHEMA,
        "revision": pl.Int32(),
        "final": pl.Boolean(),
        "partial": pl.Boolean(),
    }
)
ARROW_SCHEMA = UPDATE_SCHEMA.to_frame().to_arrow().schema
_KINDS: dict[str, tuple[type, ...]] = {
    name: (str,)
    if kind == pl.String
    else (bool,)
    if kind == pl.Boolean
    else (int, float)
    if kind == pl.Float64
    else (int,)
    for name, kind in UPDATE_SCHEMA.items()
}
# From the week of the first trades on, and less than a datetime can hold; as candle-1.json says.
_TIMES = to_us(datetime(2008, 12, 29, tzinfo=UTC)), to_us(datetime(2100, 1, 1, tzinfo=UTC))
# The sums of a week of minutes fit 64 bits.
_MOST_TRADES = 1 << 40
_IDS = 0, (1 << 63) - 1
_RANGES = {
    "open_time": _TIMES,
    "first_trade_time": _TIMES,
    "last_trade_time": _TIMES,
    "first_trade_id": _IDS,
    "last_trade_id": _IDS,
    "trade_count": (0, _MOST_TRADES),
}
# Null where the source of the trades does not say who was the taker.
_OPTIONAL = ("taker_buy_volume", "taker_buy_quote_volume")


@dataclass(frozen=True, slots=True)
class CandleBatch:
    """Candles of one market in the order of their messages.

    Attributes:
        candles: UPDATE_SCHEMA, at least one row.
        message: for each row the index of its message among those given.
    """

    market: Market
    candles: pl.DataFrame
    message: Indexes


@dataclass(frozen=True, slots=True)
class DecodedCandles:
    """What messages hold: candles by market, and what was refused, in order of the messages."""

    batches: list[CandleBatch] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def encode_candles(updates: pl.DataFrame, fmt: Format = "json") -> list[bytes]:
    """Values of UPDATE_SCHEMA rows of one market: one a candle as JSON, one for all of them as Arrow.

    They travel with the market's key and the headers JSON_CANDLES or ARROW_CANDLES.
    """
    if updates.is_empty():
        return []
    if fmt == "arrow":
        return [arrow_bytes(updates.select(UPDATE_SCHEMA.names()).rechunk().to_arrow(), ARROW_SCHEMA)]
    # A cast takes a fiftieth of what to_physical and select do, and most calls are for a few candles.
    columns = [
        (updates[name].cast(pl.Int64) if dtype == TIME else updates[name]).to_list()
        for name, dtype in UPDATE_SCHEMA.items()
    ]
    names = UPDATE_SCHEMA.names()
    return [orjson.dumps(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def decode_candles(messages: Sequence[Message]) -> DecodedCandles:
    """Read messages of the candle topic; one with a candle that no trades can have made is refused."""
    keys = [message.key() for message in messages]
    known = markets_of(keys)
    decoded = DecodedCandles()
    found: dict[Market, list[tuple[int, list[tuple[Any, ...]] | pl.DataFrame]]] = {}
    for index, message in enumerate(messages):
        market, fmt = known[keys[index]], format_of(message.headers(), CANDLE)
        rows: list[tuple[Any, ...]] | pl.DataFrame | str
        if market is None:
            rows = "key is no market"
        elif fmt == "json":
            rows = _parsed(message.value())
        elif fmt == "arrow":
            rows = _table(message.value())
        else:
            rows = fmt
        if isinstance(rows, str):
            decoded.rejects.append(Reject(index, rows))
        elif market is not None:
            found.setdefault(market, []).append((index, rows))
    for market, parts in found.items():
        candles, message_of = _together(parts)
        bad = _broken(candles, message_of)
        decoded.rejects.extend(Reject(index, reason) for index, reason in bad.items())
        kept = ~np.isin(message_of, list(bad))
        if kept.any():
            batch = CandleBatch(market, candles.filter(pl.Series(kept)), message_of[kept])
            decoded.batches.append(batch)
    decoded.rejects.sort(key=lambda reject: reject.index)
    return decoded


def _together(
    parts: Sequence[tuple[int, list[tuple[Any, ...]] | pl.DataFrame]],
) -> tuple[pl.DataFrame, Indexes]:
    """The rows of all messages as one frame; neighbours that are JSON are put into it at once."""
    frames: list[pl.DataFrame] = []
    plain: list[tuple[Any, ...]] = []
    for _, rows in parts:
        if isinstance(rows, list):
            plain += rows
            continue
        if plain:
            frames.append(_frame(plain))
            plain = []
        frames.append(rows)
    if plain:
        frames.append(_frame(plain))
    index = np.repeat(
        np.array([index for index, _ in parts], np.int64), np.array([len(rows) for _, rows in parts])
    )
    return pl.concat(frames), index


def _frame(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    columns = zip(UPDATE_SCHEMA.items(), zip(*rows, strict=True), strict=True)
    return pl.DataFrame([pl.Series(name, column, kind, strict=False) for (name, kind), column in columns])


def _broken(candles: pl.DataFrame, index: Indexes) -> dict[int, str]:
    """Messages with a candle that breaks a rule, and the rule."""
    numbered = candles.with_columns(pl.Series("message", index))
    bad: dict[int, str] = {}
    inside = {name: pl.col(name).to_physical().is_between(*ends) for name, ends in _RANGES.items()}
    outside = numbered.filter(~pl.all_horizontal(inside.values()))
    for name in inside if len(outside) else ():
        bad |= dict.fromkeys(outside.filter(~inside[name])["message"], f"{name} out of range")
    if bad:  # no datetime can be made of their times
        numbered = numbered.filter(~pl.col("message").is_in(list(bad)))
    for (name,), of_interval in numbered.group_by("interval", maintain_order=True):
        messages = of_interval["message"].to_list()
        try:
            interval = Interval.parse(str(name))
        except UnknownName:
            bad |= dict.fromkeys(messages, f"interval {str(name)[:20]!r} is none")
            continue
        # Candles are issued again, so their times may repeat; which of them is wrong is asked one by one.
        rows = of_interval.select(CANDLE_SCHEMA.names())
        suspect = set(_rules(rows, interval)["open_time"])
        for place, message in enumerate(messages if suspect else ()):
            if rows["open_time"][place] in suspect:
                rules = _rules(rows[place], interval)["rule"].to_list()
                bad |= dict.fromkeys([message] if rules else [], ", ".join(rules))
    for row in numbered.filter(~(pl.col("revision") >= 0)).iter_rows(named=True):
        bad[row["message"]] = "revision is negative"
    return bad


def _rules(rows: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    return broken(rows, interval).filter(pl.col("rule") != "open_time repeats or goes back")


def _parsed(value: bytes | None) -> list[tuple[Any, ...]] | str:
    if not value:
        return "value empty"
    try:
        candle = orjson.loads(value)
    except orjson.JSONDecodeError:
        return "not JSON, or cut"
    if not isinstance(candle, dict):
        return "not a candle object"
    for name, kinds in _KINDS.items():
        said = candle.get(name)
        if type(said) not in kinds and not (said is None and name in _OPTIONAL):
            return f"{name} absent or of the wrong type"
        bits = 31 if name == "revision" else 63
        if type(said) is int and not -(1 << bits) <= said < 1 << bits:
            return f"{name} out of range"
    return [tuple(candle.get(name) for name in UPDATE_SCHEMA)]


def _table(value: bytes | None) -> pl.DataFrame | str:
    table = read_arrow(value, ARROW_SCHEMA)
    if isinstance(table, str):
        return table
    if not table.num_rows:
        return "no candle in it"
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101  # of a table
    required = [name for name in UPDATE_SCHEMA if name not in _OPTIONAL]
    if any(frame[name].null_count() for name in required):
        return "a value is null"
    return frame
