"""Trades as messages (pure): one JSON object a trade, or one Arrow record batch a message.

JSON takes the way of one regular expression over all values at once, which accepts exactly what
:func:`encode_trades` writes. A value it does not match is parsed by itself: other spacing, other order of
fields, an array of trades, or none of these, which is refused with its reason.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl
import pyarrow as pa
from pyarrow import ipc

from marketdata.bus.envelope import Format, Headers, Message, Reject, format_of, headers_of, markets_of
from marketdata.interval import to_us
from marketdata.market import Market
from marketdata.trade import TRADE_SCHEMA, empty_trades, validate

TRADE = "trade/1"
# A trade as JSON goes without headers: with two it costs three times as much to send and twice as much to
# read, and there are as many of these messages as there are trades.
JSON_TRADES: Headers = []
ARROW_TRADES = headers_of(TRADE, "arrow")

# A side as it was said: validation refuses one that is neither buy nor sell.
_ROWS = pl.Schema({**TRADE_SCHEMA, "side": pl.String()})
ARROW_SCHEMA = _ROWS.to_frame().to_arrow().schema
_NUMBER = r"-?[0-9]{1,17}(?:\.[0-9]{1,25})?(?:e-?[0-9]{1,3})?"
_WRITTEN = (
    r'^\{"trade_id":(?P<trade_id>[0-9]{1,19}|null),"time":(?P<time>[0-9]{1,18}),"price":(?P<price>'
    + _NUMBER
    + r'),"amount":(?P<amount>'
    + _NUMBER
    + r'),"side":(?:"(?P<side>buy|sell)"|null),"fills":(?P<fills>[0-9]{1,10})\}$'
)
# Half of what a broker takes as one message unless it is told otherwise.
_ROWS_A_MESSAGE = 10_000
# So few values are parsed one by one sooner than the expression is compiled.
_FEW = 256
# No market has had such a price or amount, and one of them would drown the sums of its candles.
_GIANT = 1e18
# Rows well inside what validation allows need not be shown to it.
_EARLIEST, _LARGE = to_us(datetime(2010, 1, 1, tzinfo=UTC)), 1e12
Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Trades of one market in the order of their messages.

    Attributes:
        trades: TRADE_SCHEMA, at least one row.
        message: for each row the index of its message among those given.
    """

    market: Market
    trades: pl.DataFrame
    message: Indexes


@dataclass(frozen=True, slots=True)
class Decoded:
    """What messages hold: trades by market, and what was refused, in order of the messages."""

    batches: list[Batch] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def encode_trades(trades: pl.DataFrame, fmt: Format = "json") -> list[bytes]:
    """Values of TRADE_SCHEMA rows: one a trade as JSON, as Arrow one for up to 10,000.

    They travel with the key :func:`~marketdata.bus.envelope.key_of` the market and the headers JSON_TRADES
    or ARROW_TRADES.
    """
    if fmt == "arrow":
        rows = trades.select(TRADE_SCHEMA.names()).cast({"side": pl.String})
        return [
            arrow_bytes(part.rechunk().to_arrow(), ARROW_SCHEMA) for part in rows.iter_slices(_ROWS_A_MESSAGE)
        ]
    plain = trades.select(TRADE_SCHEMA.names()).with_columns(pl.col("time").to_physical())
    return plain.write_ndjson().encode().splitlines()


def decode_trades(messages: Sequence[Message], *, now: datetime, ids: bool = True) -> Decoded:
    """Read messages of the trade topics.

    A row that is no trade is refused alone; the others of its message count.

    Args:
        messages: of any partitions; a market's trades come out in the order given.
        now: the time of the check; a trade more than five minutes later is in the future.
        ids: whether a trade without id is refused.
    """
    if not messages:
        return Decoded()
    # Named by their class: a look-up for each message would cost as much as reading it.
    kind = type(messages[0])
    keys, values = list(map(kind.key, messages)), list(map(kind.value, messages))
    headers = list(map(kind.headers, messages))
    refused: list[Reject] = []
    known = markets_of(keys)
    whole = None not in known.values()
    all_json = headers.count(None) == len(headers)
    if all_json and whole:
        formats: dict[Format, list[int] | None] = {"json": None}
    else:
        formats = {"json": [], "arrow": []}
        for index, said in enumerate(headers):
            if known[keys[index]] is None:
                refused.append(Reject(index, "key is no market"))
                continue
            fmt = (
                "json" if said == JSON_TRADES else "arrow" if said == ARROW_TRADES else format_of(said, TRADE)
            )
            chosen = formats.get(fmt)  # type: ignore[call-overload]
            if chosen is None:
                refused.append(Reject(index, fmt))
            else:
                chosen.append(index)
    rows: list[tuple[pl.DataFrame, Indexes]] = []
    for fmt, chosen in formats.items():
        if chosen or (chosen is None and values):
            picked = values if chosen is None else [values[at] for at in chosen]
            places = np.arange(len(values)) if chosen is None else np.array(chosen, np.int64)
            if fmt == "json" and len(picked) <= _FEW:
                rows.append(_few_json(picked, places, refused, now=now, ids=ids))
            else:
                read = _read_json if fmt == "json" else _read_arrow
                rows.append(_valid(*read(picked, places, refused), refused, now=now, ids=ids))
    refused.sort(key=lambda reject: reject.index)
    return Decoded(_by_market(*(rows[0] if len(rows) == 1 else _joined(rows)), keys, known), refused)


def _joined(rows: list[tuple[pl.DataFrame, Indexes]]) -> tuple[pl.DataFrame, Indexes]:
    if not rows:
        return empty_trades(), np.empty(0, np.int64)
    index = np.concatenate([part for _, part in rows])
    order = np.argsort(index, kind="stable")
    return pl.concat([frame for frame, _ in rows])[order], index[order]


def _by_market(
    frame: pl.DataFrame, index: Indexes, keys: list[bytes | None], known: dict[bytes | None, Market | None]
) -> list[Batch]:
    markets = [(key, market) for key, market in known.items() if market is not None]
    if frame.is_empty():
        return []
    if len(known) == 1:
        return [Batch(markets[0][1], frame, index)]
    number = {key: place for place, key in enumerate(known)}
    of_message = np.fromiter(map(number.__getitem__, keys), np.int64, len(keys))
    of_row = of_message[index]
    order = np.argsort(of_row, kind="stable")
    frame, index, of_row = frame[order], index[order], of_row[order]
    batches = []
    for key, market in markets:
        low, high = np.searchsorted(of_row, (number[key], number[key] + 1))
        if low < high:
            batches.append(Batch(market, frame[int(low) : int(high)], index[low:high]))
    return batches


def _valid(
    frame: pl.DataFrame, index: Indexes, refused: list[Reject], *, now: datetime, ids: bool
) -> tuple[pl.DataFrame, Indexes]:
    """Rows that are trades; a message is refused once for each reason its rows give."""
    checked = validate(frame, now=now, raw=range(len(frame)), ids=ids)
    trades, kept = checked.accepted, index
    reasons: Counter[tuple[int, str]] = Counter()
    if not checked.rejected.is_empty():
        bad = checked.rejected["raw"].cast(pl.Int64).to_numpy()
        reasons.update(zip(index[bad].tolist(), checked.rejected["reason"], strict=True))
        kept = np.delete(index, bad)
    for name in ("price", "amount"):
        giant = trades[name] > _GIANT
        if giant.any():
            reasons.update((message, f"{name} giant") for message in kept[giant.to_numpy()].tolist())
            trades, kept = trades.filter(~giant), kept[~giant.to_numpy()]
    sizes = np.bincount(index)
    for (message, reason), count in reasons.items():
        share = f" ({count} of {sizes[message]} trades)" if sizes[message] > 1 else ""
        refused.append(Reject(message, reason + share))
    return trades, kept


# -- JSON ------------------------------------------------------------------------------------------------


def _few_json(
    values: list[bytes | None], places: Indexes, refused: list[Reject], *, now: datetime, ids: bool
) -> tuple[pl.DataFrame, Indexes]:
    """Valid rows of a few values, soon: validation alone takes 0.7 ms whatever their number."""
    rows, of_row = _rows(zip(places.tolist(), values, strict=True), refused)
    latest = to_us(now)
    if not all(_is_plain(row, latest) for row in rows):
        return _valid(_frame(rows, _ROWS), of_row, refused, now=now, ids=ids)
    return _frame(rows, TRADE_SCHEMA), of_row


def _is_plain(row: tuple[Any, ...], latest: int) -> bool:
    """Whether a row lies so well inside of what is valid that it need not be looked at again."""
    trade_id, time, price, amount, side, fills = row
    return (
        trade_id is not None
        and trade_id >= 0
        and time is not None
        and _EARLIEST <= time <= latest
        and price is not None
        and 0 < price < _LARGE
        and amount is not None
        and 0 < amount < _LARGE
        and side in (None, "buy", "sell")
        and fills is not None
        and fills >= 1
    )


def _read_json(
    values: list[bytes | None], places: Indexes, refused: list[Reject]
) -> tuple[pl.DataFrame, Indexes]:
    """Rows of the values, a null where a field cannot be read, and the index of the message of each."""
    try:
        text = pl.Series(values, dtype=pl.Binary).cast(pl.String)
    except pl.exceptions.PolarsError:  # not UTF-8 somewhere
        text = pl.Series([_text(value) for value in values], dtype=pl.String)
    found = text.str.extract_groups(_WRITTEN).struct.unnest()
    unmatched = found["time"].is_null()
    frame = found.select(
        pl.col("trade_id", "time").cast(pl.Int64, strict=False),
        pl.col("price", "amount").cast(pl.Float64, strict=False),
        "side",
        pl.col("fills").cast(pl.Int32, strict=False),
    ).select(pl.col(name).cast(kind) for name, kind in _ROWS.items())
    if not unmatched.any():
        return frame, places
    left = unmatched.arg_true().to_list()
    rows, of_row = _rows(((int(places[at]), values[at]) for at in left), refused)
    matched = (~unmatched).to_numpy()
    return _joined([(frame.filter(~unmatched), places[matched]), (_frame(rows, _ROWS), of_row)])


def _rows(
    values: Iterable[tuple[int, bytes | None]], refused: list[Reject]
) -> tuple[list[tuple[Any, ...]], Indexes]:
    """The rows of values, each parsed by itself."""
    rows: list[tuple[Any, ...]] = []
    of_row: list[int] = []
    for at, value in values:
        parsed = _parsed(value)
        if isinstance(parsed, str):
            refused.append(Reject(at, parsed))
        else:
            rows += parsed
            of_row += [at] * len(parsed)
    return rows, np.array(of_row, np.int64)


def _frame(rows: list[tuple[Any, ...]], schema: pl.Schema) -> pl.DataFrame:
    if not rows:
        return schema.to_frame()
    columns = zip(schema.items(), zip(*rows, strict=True), strict=True)
    return pl.DataFrame([pl.Series(name, column, kind) for (name, kind), column in columns])


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _parsed(value: bytes | None) -> list[tuple[Any, ...]] | str:
    """The rows of a value, ``None`` for what is absent or of the wrong type; or why it has no rows."""
    if not value:
        return "value empty"
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError:
        return "not JSON, or cut"
    trades = body if isinstance(body, list) else [body]
    if not trades:
        return "no trade in it"
    if not all(isinstance(trade, dict) for trade in trades):
        return "not a trade object"
    return [_row(trade) for trade in trades]


def _row(trade: dict[str, Any]) -> tuple[Any, ...]:
    side = trade.get("side")
    return (
        _integer(trade.get("trade_id"), 64),
        _integer(trade.get("time"), 64),
        _number(trade.get("price")),
        _number(trade.get("amount")),
        side if side is None else str(side),
        _integer(trade.get("fills", 1), 32),
    )


def _integer(value: Any, bits: int) -> int | None:
    return value if type(value) is int and -(1 << bits - 1) <= value < 1 << bits - 1 else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) else None


# -- Arrow -----------------------------------------------------------------------------------------------


def arrow_bytes(table: pa.Table, schema: pa.Schema) -> bytes:
    """An Arrow IPC stream of the table."""
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def _read_arrow(
    values: list[bytes | None], places: Indexes, refused: list[Reject]
) -> tuple[pl.DataFrame, Indexes]:
    tables, of_table, sizes = [], [], []
    for place, value in zip(places.tolist(), values, strict=True):
        table = read_arrow(value, ARROW_SCHEMA)
        if isinstance(table, str):
            refused.append(Reject(place, table))
        elif not table.num_rows:
            refused.append(Reject(place, "no trade in it"))
        else:
            tables.append(table)
            of_table.append(place)
            sizes.append(table.num_rows)
    frame = pl.from_arrow(pa.concat_tables(tables)) if tables else _ROWS.to_frame()
    assert isinstance(frame, pl.DataFrame)  # noqa: S101  # of a table
    return frame, np.repeat(np.array(of_table, np.int64), sizes)


def read_arrow(value: bytes | None, schema: pa.Schema) -> pa.Table | str:
    """The table of an Arrow IPC stream of this schema, or why it is none. Other columns are dropped."""
    if not value:
        return "value empty"
    try:
        table = ipc.open_stream(value).read_all()
        table.validate(full=True)
    except (pa.ArrowInvalid, OSError, pa.ArrowException):
        return "not an Arrow stream, or cut"
    for column in schema:
        at = table.schema.get_field_index(column.name)
        if at < 0:
            return f"no column {column.name}"
        kind = table.schema.field(at).type
        if kind != column.type and not (kind == pa.string() and column.type == pa.large_string()):
            return f"column {column.name} is {kind}, not {column.type}"
    return table.select(schema.names).cast(schema)
