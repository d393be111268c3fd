"""A day of candles as text."""

from datetime import timedelta

import polars as pl
import pytest

from marketdata.candle import CANDLE_SCHEMA, empty_candles
from marketdata.cli.chart import render_chart
from marketdata.fold import fold
from tests.cli.lakes import DAY, some_trades

CANDLES = fold(some_trades(DAY), "1m")


@pytest.mark.parametrize(("width", "height"), [(40, 8), (80, 16), (120, 24), (200, 50)])
def test_a_chart_keeps_to_its_room(width: int, height: int) -> None:
    lines = render_chart(CANDLES, width, height).splitlines()
    assert len(lines) == height
    assert max(map(len, lines)) <= width


def test_a_day_is_drawn_in_the_narrowest_interval_that_fits() -> None:
    for width, interval in ((40, "1h"), (80, "30m"), (120, "15m")):
        assert (
            render_chart(CANDLES, width, 16)
            .splitlines()[-1]
            .startswith(f"{interval} from 2025-06-01 00:00 UTC")
        )


def test_the_caption_says_open_close_and_how_many_trades() -> None:
    caption = render_chart(CANDLES, 120, 16).splitlines()[-1]
    assert "67,000 to 67,020" in caption  # 67,000.5 and 67,019.5, no finer than a line
    assert "1,440 trades" in caption


def test_a_wick_reaches_from_high_to_low_and_the_body_from_open_to_close() -> None:
    candle = pl.DataFrame(
        {"open_time": [CANDLES["open_time"][0]], "open": [4.0], "high": [8.0], "low": [0.0], "close": [6.0]}
    )
    candle = candle.with_columns(
        pl.lit(1.0 if dtype.is_float() else 1).cast(dtype).alias(name)
        for name, dtype in CANDLE_SCHEMA.items()
        if name not in candle.columns
    ).select(CANDLE_SCHEMA.names())
    lines = render_chart(candle, 40, 8).splitlines()
    column = [line[-1] for line in lines[:4]]
    assert "".join(column) == "│┃╿│"


def test_an_hour_without_candles_stays_empty() -> None:
    quiet = CANDLES.filter(~pl.col("open_time").dt.hour().is_between(6, 8))
    volume = render_chart(quiet, 40, 8).splitlines()[4]
    assert volume.startswith("volume")
    hours = volume[-24:]
    assert hours[6:9] == "   "
    assert " " not in hours[:6] + hours[9:]


def test_a_price_that_never_moves_is_drawn() -> None:
    flat = fold(some_trades(DAY).with_columns(price=pl.lit(5.0)), "1m")
    assert "5.0" in render_chart(flat, 80, 16)
    assert len(render_chart(flat, 80, 16).splitlines()) == 16


def test_one_candle_and_none_are_drawn() -> None:
    assert render_chart(CANDLES.head(1), 80, 10).splitlines()[-1].startswith("1m from 2025-06-01 00:00 UTC")
    assert render_chart(empty_candles(), 80, 10) == "No candles."


def test_years_are_cut_to_the_weeks_that_fit() -> None:
    days = [fold(some_trades(DAY + timedelta(days=n), 1), "1d") for n in range(0, 1_400, 7)]
    lines = render_chart(pl.concat(days), 60, 12).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[-1].startswith("1w")


def test_plain_terminals_get_ascii_and_only_colour_adds_codes() -> None:
    assert render_chart(CANDLES, 80, 16, ascii_only=True).isascii()
    assert "\x1b" not in render_chart(CANDLES, 80, 16)
    coloured = render_chart(CANDLES, 80, 16, colour=True)
    assert "\x1b[32m" in coloured
    assert coloured.count("\x1b[0m") == coloured.count("\x1b[32m") + coloured.count("\x1b[31m")
