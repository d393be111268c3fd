"""Candles as they grow: the pure part of the live provider."""

from datetime import timedelta

import polars as pl
import pytest

from marketdata.fold import fold, widen
from marketdata.interval import Interval, to_us
from marketdata.provider.growing import (
    BASE_SCHEMA,
    Growing,
    frame_of,
    history_frame,
    is_newer,
    put_right,
    rows_of,
)
from tests.building import MIDNIGHT, simple

MINUTE, FIVE = Interval.parse("1m"), Interval.parse("5m")
START = to_us(MIDNIGHT)


def base(*minutes: int, revision: int | None = 0, more: int = 0) -> pl.DataFrame:
    """A candle of 1 + ``more`` trades in each of these minutes after midnight."""
    trades = simple(*((60 * at + n, 60.0 * at + n, 100 + at, 1.0) for at in minutes for n in range(1 + more)))
    return (
        fold(trades)
        .with_columns(pl.lit(revision, pl.Int32).alias("revision"), pl.lit(value=False).alias("partial"))
        .select(BASE_SCHEMA.names())
    )


def growing(interval: Interval = MINUTE, held: pl.DataFrame | None = None) -> Growing:
    """What begins at midnight; before it, history has ``held``."""
    past = BASE_SCHEMA.to_frame() if held is None else held

    def reload(first: int, end: int) -> pl.DataFrame:
        opens = pl.col("open_time").to_physical()
        return past.filter(opens.is_between(first, end, closed="left"))

    return Growing(MINUTE, interval, told_until=START, reload=reload)


def test_rows_come_back_as_the_frame_they_were() -> None:
    frame = base(0, 3, 4)
    assert frame_of(rows_of(frame)).equals(frame)


@pytest.mark.parametrize(
    ("new", "known", "newer"),
    [
        (base(0), base(0), False),
        (base(0, revision=1), base(0), False),
        (base(0, revision=1, more=1), base(0), True),
        (base(0, revision=1), base(0, more=1), True),
        (base(0), base(0, revision=1, more=1), False),
        (base(0, more=1), base(0), True),
        (base(0, revision=5), base(0, revision=None, more=1), False),
        (base(0, more=2), base(0, revision=None, more=1), True),
    ],
)
def test_the_higher_revision_is_newer_and_of_unknown_ones_that_of_more_trades(
    new: pl.DataFrame, known: pl.DataFrame, newer: bool
) -> None:
    assert is_newer(next(rows_of(new)), next(rows_of(known))) is newer


def test_a_repeat_is_not_told() -> None:
    live = growing()
    assert len(live.add(base(0, 1))) == 2
    assert live.add(base(0, 1)).is_empty()


def test_a_candle_of_a_place_that_was_passed_is_a_correction() -> None:
    live = growing()
    live.add(base(2))
    assert live.add(base(1))["correction"].to_list() == [True]


def test_a_candle_of_before_the_start_is_told_only_where_history_has_it_otherwise() -> None:
    live = growing(held=base(-3, -2, revision=None, more=1))
    assert live.add(base(-3)).is_empty()
    assert live.add(base(-2, more=2))["trade_count"].to_list() == [3]


def test_a_wider_candle_waits_for_its_last_minute_or_for_what_is_behind_it() -> None:
    live = growing(FIVE)
    assert live.add(base(0, 1, 2)).is_empty()
    assert live.add(base(5))["trade_count"].to_list() == [3]
    assert live.add(base(9))["trade_count"].to_list() == [2]


def test_a_wider_candle_without_further_trades_is_over_by_the_clock() -> None:
    live = growing(FIVE)
    assert live.add(base(0, 1), over=START + FIVE.us - 1).is_empty()
    assert live.add(BASE_SCHEMA.to_frame(), over=START + FIVE.us)["trade_count"].to_list() == [2]
    assert live.add(base(2))["correction"].to_list() == [True]


def test_memory_is_bounded_and_old_corrections_are_made_with_history() -> None:
    past = base(*range(30_000))
    live = growing(FIVE, past)
    told = [live.add(past[at : at + 1_000]) for at in range(0, 30_000, 1_000)]
    assert sum(map(len, told)) == 6_000
    assert len(live._rows) <= 11_000
    corrected = live.add(base(7, revision=1, more=3))
    assert corrected["open_time"].to_list() == [MIDNIGHT + timedelta(minutes=5)]
    assert corrected["trade_count"].to_list() == [8]
    whole = widen(past.select(corrected.columns[:14]), FIVE)
    assert pl.concat(told).select(whole.columns).equals(whole)


def test_history_is_read_some_thousand_candles_at_a_time_however_many_are_corrected() -> None:
    past, asked = base(*range(-30_000, 0)), []

    def reload(first: int, end: int) -> pl.DataFrame:
        found = past.filter(pl.col("open_time").to_physical().is_between(first, end, closed="left"))
        asked.append(len(found))
        return found

    live = Growing(MINUTE, FIVE, told_until=START, reload=reload)
    often = base(*range(-30_000, 0, 50), revision=1, more=1)
    found = live.add(often)
    assert found["trade_count"].to_list() == [6] * 600
    assert found["correction"].all()
    assert found["open_time"].is_sorted()
    assert max(asked) <= 5_000
    assert len(asked) <= 8
    assert len(live._rows) == 600
    assert live.add(often).is_empty()


def test_a_correction_of_before_the_start_is_put_into_history() -> None:
    history = history_frame(base(-3, -2, revision=None))
    renewed = growing(held=base(-3, -2, revision=None)).renew(base(-2, -1, revision=1, more=1))
    found = put_right(history, renewed)
    assert found["trade_count"].to_list() == [1, 2, 2]
    assert found["revision"].to_list() == [0, 1, 1]
    assert not found["correction"].any()
    assert put_right(history, renewed.clear()).equals(history)
