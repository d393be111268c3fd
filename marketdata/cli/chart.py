"""A candle chart in plain text: prices above, volume below, time under it (pure)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from marketdata.fold import widen
from marketdata.interval import INTERVALS, Interval

_RISING, _FALLING, _RESET = "\x1b[32m", "\x1b[31m", "\x1b[0m"
_LEVELS = " ▁▂▃▄▅▆▇█"
_ASCII_LEVELS = " .:-=+*#@"
# A cell has an upper and a lower half, each empty, wick or body.
_CELLS = {
    "  ": " ", "ww": "│", "bb": "┃", "wb": "╽", "bw": "╿", " w": "╷", "w ": "╵", " b": "╻", "b ": "╹",
}  # fmt: skip
_ASCII_CELLS = {pair: "#" if "b" in pair else "|" if "w" in pair else " " for pair in _CELLS}
_Candle = tuple[float, float, float, float, float]  # open, high, low, close, volume
_MIN_WIDTH, _MIN_HEIGHT = 30, 8
_LABEL, _LABEL_EVERY = len("12:30"), 12
# Longer stretches are labelled by day instead of by time.
_DAYS_FROM = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Prices on lines: ``rows`` lines from ``high`` down to ``low``, each of two halves."""

    low: float
    high: float
    rows: int

    @classmethod
    def of(cls, candles: pl.DataFrame, rows: int) -> "_Scale":
        low, high = (float(value) for value in candles.select(pl.min("low"), pl.max("high")).row(0))
        pad = (abs(low) * 1e-3 or 1.0) if low == high else 0.0
        return cls(low - pad, high + pad, rows)

    def half(self, price: float) -> int:
        """The half-line of a price, counted from the top."""
        return min(int((self.high - price) / (self.high - self.low) * 2 * self.rows), 2 * self.rows - 1)

    @property
    def decimals(self) -> int:
        """As many as neighbouring lines need to differ."""
        step = (self.high - self.low) / self.rows
        return next((n for n in range(11) if step >= 10.0**-n), 11)

    @property
    def margin(self) -> int:
        """Columns that the labels take."""
        return max(len(f"{value:,.{self.decimals}f}") for value in (self.low, self.high)) + 2

    def label(self, row: int) -> str:
        """The price at the upper edge of a line, on every third line."""
        price = self.high - (self.high - self.low) * row / self.rows
        return " " * self.margin if row % 3 else f"{price:>{self.margin - 2},.{self.decimals}f}  "


def render_chart(
    candles: pl.DataFrame,
    width: int = 80,
    height: int = 16,
    *,
    colour: bool = False,
    ascii_only: bool = False,
) -> str:
    """Draw candles of one market and one interval as lines of text.

    They are merged into the narrowest wider interval that fits the width. An interval without candle stays
    an empty column, so gaps and quiet stretches show.

    Args:
        candles: CANDLE_SCHEMA, sorted by ``open_time``.
        width, height: columns and lines that may be used; at least 30 x 8 are.
        colour: rising candles green and falling ones red, by ANSI codes.
        ascii_only: for terminals without box characters.

    Returns:
        At most ``height`` lines of at most ``width`` columns, joined by newlines, no newline at the end.
    """
    if candles.is_empty():
        return "No candles."
    width, height = max(width, _MIN_WIDTH), max(height, _MIN_HEIGHT)
    scale = _Scale.of(candles, height - 4)
    shown, interval = _fitted(candles, width - scale.margin)
    columns = _columns(shown, interval)

    def paint(candle: _Candle | None, text: str) -> str:
        if not colour or candle is None or text == " ":
            return text
        return f"{_RISING if candle[3] >= candle[0] else _FALLING}{text}{_RESET}"

    cells = _ASCII_CELLS if ascii_only else _CELLS
    lines = [
        scale.label(row) + "".join(paint(candle, _cell(candle, row, scale, cells)) for candle in columns)
        for row in range(scale.rows)
    ]
    lines.append(_volume_line(columns, scale.margin, _ASCII_LEVELS if ascii_only else _LEVELS, paint))
    lines += _time_lines(shown, interval, len(columns), scale.margin, ascii_only=ascii_only)
    lines.append(_caption(candles, interval, scale.decimals, width))
    return "\n".join(line.rstrip() for line in lines)


def _fitted(candles: pl.DataFrame, columns: int) -> tuple[pl.DataFrame, Interval]:
    """Merge into the narrowest interval of which ``columns`` cover the whole stretch; at worst its end."""
    own = _interval_of(candles)
    first, last = candles["open_time"][0], candles["open_time"][-1]
    for interval in INTERVALS:
        if (
            own.divides(interval)
            and (interval.floor(last) - interval.floor(first)) // interval.width < columns
        ):
            return (candles if interval == own else widen(candles, interval)), interval
    weeks = widen(candles, INTERVALS[-1])
    return weeks.tail(columns), INTERVALS[-1]


def _interval_of(candles: pl.DataFrame) -> Interval:
    """The widest interval that candles at these times can have; of one candle alone, a minute."""
    times = candles["open_time"].to_physical()
    steps = times.diff().drop_nulls().to_list()
    if not steps:
        return Interval.parse("1m")
    fitting = [
        interval
        for interval in INTERVALS
        if interval.us <= min(steps) and ((times - interval.offset_us) % interval.us == 0).all()
    ]
    return fitting[-1] if fitting else INTERVALS[0]


def _columns(candles: pl.DataFrame, interval: Interval) -> list[_Candle | None]:
    times = candles["open_time"].to_physical().to_list()
    rows = candles.select("open", "high", "low", "close", "volume").rows()
    first = interval.floor_us(times[0])
    columns: list[_Candle | None] = [None] * ((times[-1] - first) // interval.us + 1)
    for at, row in zip(times, rows, strict=True):
        columns[(at - first) // interval.us] = row
    return columns


def _cell(candle: _Candle | None, row: int, scale: _Scale, cells: dict[str, str]) -> str:
    """What stands in one cell: which of its halves the body or the wick of the candle touches."""
    if candle is None:
        return " "
    opened, top, bottom, closed, _ = candle
    body = scale.half(max(opened, closed)), scale.half(min(opened, closed))
    wick = scale.half(top), scale.half(bottom)
    pair = "".join(
        "b" if body[0] <= place <= body[1] else "w" if wick[0] <= place <= wick[1] else " "
        for place in (2 * row, 2 * row + 1)
    )
    return cells[pair]


def _volume_line(
    columns: Sequence[_Candle | None], margin: int, levels: str, paint: Callable[[_Candle | None, str], str]
) -> str:
    most = max((candle[4] for candle in columns if candle is not None), default=0.0)
    cells = [
        " " if candle is None or most <= 0 else levels[max(1, round(candle[4] / most * (len(levels) - 1)))]
        for candle in columns
    ]
    return f"{'volume':>{margin - 2}}  "[-margin:] + "".join(
        paint(candle, cell) for candle, cell in zip(columns, cells, strict=True)
    )


def _time_lines(
    shown: pl.DataFrame, interval: Interval, columns: int, margin: int, *, ascii_only: bool
) -> list[str]:
    first = interval.floor(shown["open_time"][0])
    form = "%m-%d" if columns * interval.width > _DAYS_FROM else "%H:%M"
    rule, labels = ["-" if ascii_only else "─"] * columns, [" "] * max(columns, _LABEL)
    for place in range(0, max(columns - _LABEL, 0) + 1, _LABEL_EVERY):
        rule[place] = "+" if ascii_only else "┬"
        labels[place : place + _LABEL] = (first + place * interval.width).strftime(form)
    pad = " " * margin
    return [pad + "".join(rule), (pad + "".join(labels)).rstrip()]


def _caption(candles: pl.DataFrame, interval: Interval, decimals: int, width: int) -> str:
    """What the chart shows; as much of it as fits."""
    opened, closed = candles["open"][0], candles["close"][-1]
    first: datetime = candles["open_time"][0]
    parts = [
        f"{interval} from {first:%Y-%m-%d %H:%M} UTC",
        f"{opened:,.{decimals}f} to {closed:,.{decimals}f} ({(closed / opened - 1) * 100:+.2f} %)",
        f"{candles['trade_count'].sum():,} trades",
        f"volume {candles['volume'].sum():,.4g}",
    ]
    fitting = (", ".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((text for text in fitting if len(text) <= width), parts[0])
