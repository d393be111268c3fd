"""A picture of a day, small enough to stand in Dagster's UI without a click.

The UI shows Markdown in place up to 999 characters and hides longer text behind a button; images given as
``data:`` URIs are shown. So a day is drawn as a PNG of four colours and a few hundred bytes: candles above,
volume below, and where something is marked, a line of dots on top.
"""

import struct
import zlib
from base64 import b64encode
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from marketdata.interval import to_us
from marketdata.manifest import day_window

INLINE_LIMIT = 999
# Transparent ground, rising candle, falling candle, volume; readable on white and on black.
_PALETTE = bytes.fromhex("ffffff2e9e6bd1495b8e8aa0")
_RISING, _FALLING, _VOLUME = 1, 2, 3
_CANDLE_ROWS, _VOLUME_ROWS, _SLOT = 72, 18, 8
_MARK_ROWS, _MARK_GAP = 4, 3
_DAY_US = 86_400_000_000

Canvas = np.ndarray[Any, np.dtype[np.uint8]]


def of_trades(trades: pl.DataFrame) -> pl.DataFrame:
    """Trades in order as what :func:`of_day` draws: each is a candle of itself."""
    price = trades["price"]
    return pl.DataFrame(
        {
            "open_time": trades["time"],
            "open": price,
            "high": price,
            "low": price,
            "close": price,
            "volume": trades["amount"],
        }
    )


def of_day(candles: pl.DataFrame, day: date, marks: pl.Series | None = None) -> str:
    """Markdown with a picture of the day, never longer than INLINE_LIMIT.

    Args:
        candles: of that day, sorted, any interval that divides 30 minutes; columns as in CANDLE_SCHEMA.
        day: the UTC day, drawn from midnight to midnight.
        marks: times (TIME) over which a red dot stands.
    """
    if candles.is_empty():
        return "No trades."
    low, high = float(candles["low"].min()), float(candles["high"].max())  # type: ignore[arg-type]
    caption = f"\n\n{low:.10g} to {high:.10g}, 00:00 to 24:00 UTC"
    for slots in (48, 24):
        canvas = _draw(candles, day, slots)
        if marks is not None:
            canvas = _marked(canvas, marks, day, slots)
        png = _png(canvas)
        text = f"![{day}](data:image/png;base64,{b64encode(png).decode()}){caption}"
        if len(text) <= INLINE_LIMIT:
            return text
    return caption.strip()


def of_drift(drift: pl.DataFrame, day: date) -> str:
    """Markdown with a picture of how far candles had drifted over the day, never longer than INLINE_LIMIT.

    Args:
        drift: ``open_time`` (TIME) and ``drift`` in percent, sorted by time; of each half an hour the
            largest is drawn.
        day: the UTC day, drawn from midnight to midnight.
    """
    if drift.is_empty():
        return "No drift."
    slots, most = 48, float(drift["drift"].max())  # type: ignore[arg-type]
    at = (drift["open_time"].to_physical().to_numpy() - to_us(day_window(day)[0])) * slots // _DAY_US
    canvas = np.zeros((_CANDLE_ROWS // 2, slots * _SLOT), dtype=np.uint8)
    canvas[-1:] = _VOLUME
    for slot, percent in zip(at.tolist(), drift["drift"].to_list(), strict=True):
        tall = max(2, round(percent / most * len(canvas))) if most > 0 else 2
        canvas[len(canvas) - tall :, slot * _SLOT : (slot + 1) * _SLOT - 1] = _FALLING
    image = b64encode(_png(canvas)).decode()
    caption = f"drift up to {most:.4g} %, 00:00 to 24:00 UTC"
    text = f"![{day}](data:image/png;base64,{image})\n\n{caption}"
    return text if len(text) <= INLINE_LIMIT else caption


def _draw(candles: pl.DataFrame, day: date, slots: int) -> Canvas:
    """Candles and volume as palette numbers, one slot of pixels a candle."""
    start = to_us(day_window(day)[0])
    at = (candles["open_time"].to_physical().to_numpy() - start) * slots // _DAY_US
    first = np.flatnonzero(np.diff(at, prepend=at[0] - 1))
    last = np.append(first[1:], len(at)) - 1
    highs = np.maximum.reduceat(candles["high"].to_numpy(), first)
    lows = np.minimum.reduceat(candles["low"].to_numpy(), first)
    volumes = np.add.reduceat(candles["volume"].to_numpy(), first)
    opens, closes = candles["open"].to_numpy()[first], candles["close"].to_numpy()[last]
    wide = _SLOT * 96 // slots // 2
    canvas = np.zeros((_CANDLE_ROWS + _VOLUME_ROWS + 2, slots * wide), dtype=np.uint8)
    bottom, top, most = float(lows.min()), float(highs.max()), float(volumes.max())
    scale = (_CANDLE_ROWS - 1) / (top - bottom) if top > bottom else 0.0

    def row(price: float) -> int:
        return int(round((top - price) * scale, 0))

    columns = (column.tolist() for column in (at[first], opens, highs, lows, closes, volumes))
    for slot, opened, highest, lowest, closed, volume in zip(*columns, strict=True):
        left = slot * wide
        body = slice(left, left + wide - 1)
        colour = _RISING if closed >= opened else _FALLING
        canvas[row(highest) : row(lowest) + 1, left + (wide - 1) // 2] = colour
        canvas[row(max(opened, closed)) : row(min(opened, closed)) + 1, body] = colour
        tall = max(1, round(volume / most * _VOLUME_ROWS)) if most > 0 else 0
        canvas[len(canvas) - tall :, body] = _VOLUME
    return canvas


def _marked(canvas: Canvas, marks: pl.Series, day: date, slots: int) -> Canvas:
    """The canvas under a strip with a dot over each slot that holds a mark."""
    strip = np.zeros((_MARK_ROWS + _MARK_GAP, canvas.shape[1]), dtype=np.uint8)
    wide = canvas.shape[1] // slots
    at = (marks.to_physical().to_numpy() - to_us(day_window(day)[0])) * slots // _DAY_US
    for slot in np.unique(at[(at >= 0) & (at < slots)]).tolist():
        middle = slot * wide + wide // 2
        strip[:_MARK_ROWS, middle - _MARK_ROWS // 2 : middle + _MARK_ROWS // 2] = _FALLING
    return np.concatenate([strip, canvas])


def _png(canvas: Canvas) -> bytes:
    """Encode palette numbers 0..3 as a PNG of two bits a pixel, colour 0 transparent."""
    height, width = canvas.shape
    padded = np.zeros((height, -(-width // 4) * 4), dtype=np.uint8)
    padded[:, :width] = canvas
    four = padded.reshape(height, -1, 4)
    packed = four[..., 0] << 6 | four[..., 1] << 4 | four[..., 2] << 2 | four[..., 3]
    # Filter 2 ("up") turns tall bars into zeros.
    up = np.full((height, packed.shape[1] + 1), 2, dtype=np.uint8)
    up[0, 1:] = packed[0]
    up[1:, 1:] = packed[1:] - packed[:-1]
    body = zlib.compress(up.tobytes(), 9)
    header = struct.pack(">IIBBBBB", width, height, 2, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", _PALETTE), (b"tRNS", b"\x00"), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
