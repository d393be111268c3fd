"""What row faults do to a body: JSON pages and archive zips are taken apart, spoiled and put together."""

import io
import random
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from marketdata.exchange_sim.faults import Garbage, Hit


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where a row keeps its fields: indexes of a list or keys of an object."""

    id: Any
    price: Any
    amount: Any
    time: Any


_SHAPES = (
    ("/0/public/Trades", _Shape(6, 0, 1, 2)),
    ("/0/public/OHLC", _Shape(0, 1, 6, 0)),
    ("/api/v3/aggTrades", _Shape("a", "p", "q", "T")),
    ("/api/v3/trades", _Shape("id", "price", "qty", "time")),
    ("/api/v3/klines", _Shape(0, 1, 5, 0)),
    ("/daily/aggTrades/", _Shape(0, 1, 2, 5)),
    ("/daily/trades/", _Shape(0, 1, 2, 4)),
    ("/daily/klines/", _Shape(0, 1, 5, 0)),
)
# Of frames: path, channel and symbol, as faults name them.
_FRAME_SHAPES = (
    ("/v2 trade ", _Shape("trade_id", "price", "qty", "timestamp")),
    ("/v2 ohlc ", _Shape("interval_begin", "open", "volume", "interval_begin")),
    (" trade ", _Shape("t", "p", "q", "T")),
    (" aggTrade ", _Shape("a", "p", "q", "T")),
)


def spoil(path: str, body: bytes, hits: Sequence[Hit], now_ns: int) -> bytes:
    """The body after the row faults of ``hits``; as it is when the path serves no rows."""
    shape = next((shape for part, shape in _SHAPES if part in path), None)
    if shape is None or not hits:
        return body
    if body[:2] == b"PK":
        return _spoil_zip(body, shape, hits, now_ns)
    value = orjson.loads(body)
    if isinstance(value, list):
        return orjson.dumps(_spoil_rows(value, shape, hits, now_ns))
    result = value.get("result") if isinstance(value, dict) else None
    if isinstance(result, dict):
        for key, rows in result.items():
            if isinstance(rows, list):
                result[key] = _spoil_rows(rows, shape, hits, now_ns)
    return orjson.dumps(value)


def spoil_frame(target: str, payload: bytes, hits: Sequence[Hit], now_ns: int) -> list[bytes]:
    """A frame's payload after ``ws_garbage``: several where it held one trade and garbage came beside it."""
    shape = next((shape for part, shape in _FRAME_SHAPES if part in target), None)
    if shape is None:
        return [payload]
    frame = orjson.loads(payload)
    rows = frame["data"] if isinstance(frame.get("data"), list) else [frame.get("data", frame)]
    spoiled = rows
    for hit in hits:
        spoiled = _with_garbage(spoiled, shape, hit, now_ns)
    if rows is frame.get("data"):
        return [orjson.dumps(frame | {"data": spoiled})]
    if "stream" in frame:
        return [orjson.dumps(frame | {"data": row}) for row in spoiled]
    return [orjson.dumps(row) for row in spoiled]


def _spoil_zip(body: bytes, shape: _Shape, hits: Sequence[Hit], now_ns: int) -> bytes:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        entry = archive.infolist()[0]
        lines = archive.read(entry).decode().splitlines()
    rows = _spoil_rows([line.split(",") for line in lines], shape, hits, now_ns)
    buffer = io.BytesIO()
    fresh = zipfile.ZipInfo(entry.filename, entry.date_time)
    fresh.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(buffer, "w") as archive:
        text = "".join(",".join(str(value) for value in row) + "\n" for row in rows)
        archive.writestr(fresh, text, compresslevel=1)
    return buffer.getvalue()


def _spoil_rows(rows: list[Any], shape: _Shape, hits: Sequence[Hit], now_ns: int) -> list[Any]:
    for hit in hits:
        if hit.fault.kind == "drop":
            rows = [row for row in rows if not _dropped(row, shape, hit)]
        elif hit.fault.kind == "garbage":
            rows = _with_garbage(rows, shape, hit, now_ns)
        elif hit.fault.kind == "shuffle":
            rows = hit.chance.sample(rows, len(rows))
    return rows


def _dropped(row: Any, shape: _Shape, hit: Hit) -> bool:
    fault = hit.fault
    if isinstance(row, list) and len(row) <= shape.id:
        return False
    row_id = int(row[shape.id])
    inside = any(first <= row_id <= last for first, last in fault.ids)
    if not inside and zlib.crc32(f"{fault.seed}/{row_id}".encode()) >= fault.fraction * 2**32:
        return False
    if fault.once:
        if row_id in hit.seen:
            return False
        hit.seen.add(row_id)
    return True


def _with_garbage(rows: list[Any], shape: _Shape, hit: Hit, now_ns: int) -> list[Any]:
    fault = hit.fault
    at = sorted(hit.chance.sample(range(len(rows)), min(fault.rows, len(rows))), reverse=True)
    rows = list(rows)
    for turn, index in enumerate(at):
        spoiled = _spoiled(rows[index], shape, fault.garbage[turn % len(fault.garbage)], now_ns, hit.chance)
        if fault.insert:
            rows.insert(index, spoiled)
        else:
            rows[index] = spoiled
    return rows


def _spoiled(row: Any, shape: _Shape, how: Garbage, now_ns: int, chance: random.Random) -> Any:
    row = row.copy()
    if how == "negative_price":
        price = row[shape.price]
        row[shape.price] = f"-{price}" if isinstance(price, str) else -price
    elif how == "zero_amount":
        row[shape.amount] = "0.00000000" if isinstance(row[shape.amount], str) else 0.0
    elif how == "absent_field":
        if isinstance(row, dict):
            del row[shape.price]
        else:
            row = row[: shape.time]
    elif how == "void":
        # A row that voids a trade: Binance marks it X = "NA", with nothing in it.
        row[shape.price] = row[shape.amount] = "0.00000000"
        if isinstance(row, dict):
            row["X"] = "NA"
    elif how == "wrong_type":
        in_json: list[Any] = [None, True, [], "abc", {}]
        row[shape.price] = chance.choice(in_json) if _is_json(row) else "abc"
    else:
        row[shape.time] = _tomorrow(row[shape.time], now_ns)
    return row


def _is_json(row: Any) -> bool:
    return isinstance(row, dict) or any(not isinstance(value, str) for value in row)


def _tomorrow(time: Any, now_ns: int) -> Any:
    """A time a day after now, in the unit and type of ``time``."""
    if isinstance(time, str) and "T" in time:
        return f"{datetime.fromtimestamp(now_ns // 1_000_000_000 + 86_400, UTC):%Y-%m-%dT%H:%M:%S.000000Z}"
    value, ahead = float(time), now_ns + 86_400_000_000_000
    if value < 1e11:
        number: Any = ahead / 1e9 if isinstance(time, float) else ahead // 1_000_000_000
    else:
        number = ahead // (1_000_000 if value < 1e14 else 1_000)
    return str(number) if isinstance(time, str) else number
