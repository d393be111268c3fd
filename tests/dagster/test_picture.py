"""The picture of a day fits in the page."""

import struct
import zlib
from base64 import b64decode
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.interval import from_us, to_us
from marketdata_dagster import picture

DAY = date(2025, 6, 8)
START = to_us(datetime(2025, 6, 8, tzinfo=UTC))


def candles(minutes: list[int], seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    close = 50_000 * np.exp(np.cumsum(random.normal(0, 0.01, len(minutes))))
    opened = np.roll(close, 1)
    return pl.DataFrame(
        {
            "open_time": pl.Series([from_us(START + minute * 60_000_000) for minute in minutes]).cast(
                pl.Datetime("us", "UTC")
            ),
            "open": opened,
            "high": np.maximum(opened, close) * 1.001,
            "low": np.minimum(opened, close) * 0.999,
            "close": close,
            "volume": random.exponential(1.0, len(minutes)),
        }
    )


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 1439), min_size=1, max_size=1440), st.integers(0, 2**32 - 1))
def test_every_day_has_a_picture_that_the_ui_shows_in_place(minutes: set[int], seed: int) -> None:
    text = picture.of_day(candles(sorted(minutes), seed), DAY)
    assert len(text) <= picture.INLINE_LIMIT
    assert text.startswith("![2025-06-08](data:image/png;base64,")
    png = b64decode(text.partition("base64,")[2].partition(")")[0])
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    start = png.index(b"IDAT") + 4
    (size,) = struct.unpack(">I", png[start - 8 : start - 4])
    assert len(zlib.decompress(png[start : start + size])) == height * (1 + -(-width // 4))


def test_a_day_without_trades_says_so() -> None:
    assert picture.of_day(candles([], 0), DAY) == "No trades."


def test_a_day_of_one_price_is_drawn() -> None:
    flat = candles([0], 0).with_columns(pl.lit(5.0).alias(name) for name in ("open", "high", "low", "close"))
    assert picture.of_day(flat, DAY).endswith("5 to 5, 00:00 to 24:00 UTC")
