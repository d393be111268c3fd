"""Reading candles of any interval, whole at both edges, filled only where a day is known to be complete."""

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata import reading
from marketdata.candle import CANDLE_SCHEMA
from marketdata.completeness import content_hash
from marketdata.errors import BadRange, UnknownName, UsageError
from marketdata.fold import fold, widen
from marketdata.interval import INTERVALS, Interval
from marketdata.lake import Lake
from marketdata.manifest import Status
from tests.lake.world import BTC, at, manifest_of, trades_of

MONDAY = date(2025, 6, 2)
DAYS = [MONDAY + timedelta(days=n) for n in range(9)]  # to Tuesday of the next week
QUIET = (3.0, 5.0)


def put(lake: Lake, day: date, status: Status = Status.COMPLETE, trades: pl.DataFrame | None = None) -> None:
    trades = trades_of(day, 600, quiet=QUIET) if trades is None else trades
    lake.write_trades(BTC, day, trades, manifest_of(BTC, day, trades, status))
    lake.write_candles(BTC, day, "1m", fold(trades), facts={"trades": content_hash(trades)})


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake.open(str(tmp_path_factory.mktemp("reading") / "lake"))
    for day in DAYS:
        put(lake, day)
    return lake


@pytest.fixture
def empty(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def everything() -> pl.DataFrame:
    return pl.concat([trades_of(day, 600, quiet=QUIET) for day in DAYS])


@pytest.mark.parametrize("interval", [interval.name for interval in INTERVALS])
def test_candles_of_every_interval_are_the_fold_of_all_trades(lake: Lake, interval: str) -> None:
    found = reading.candles(lake, BTC, interval, at("2025-06-02"), at("2025-06-16"))
    assert_frame_equal(found, fold(everything(), interval), rel_tol=1e-9)


@pytest.mark.parametrize("interval", ["10s", "1m", "5m", "1h", "12h", "1d", "1w"])
def test_a_candle_is_in_the_range_by_its_open_time_and_is_never_cut(lake: Lake, interval: str) -> None:
    start, end = at("2025-06-02 00:00:30"), at("2025-06-09 13:30:30")
    found = reading.candles(lake, BTC, interval, start, end)
    expected = fold(everything(), interval).filter(pl.col("open_time").is_between(start, end, closed="left"))
    assert_frame_equal(found, expected, rel_tol=1e-9)


def test_a_range_inside_one_candle_holds_none(lake: Lake) -> None:
    found = reading.candles(lake, BTC, "1d", at("2025-06-03 01:00"), at("2025-06-03 02:00"))
    assert found.is_empty()
    assert found.schema == CANDLE_SCHEMA


@pytest.mark.parametrize("interval", ["1s", "10s", "1m", "1h", "1d", "1w"])
def test_a_range_may_end_with_the_calendar(lake: Lake, interval: str) -> None:
    start, end = at("2025-06-08"), datetime.max.replace(tzinfo=UTC)
    assert reading.candles(lake, BTC, interval, end - timedelta(days=1), end, fill="previous").is_empty()
    if interval != "1s":  # every second of days would be a million rows
        held = reading.candles(lake, BTC, interval, start, at("2025-07-07"), fill="previous")
        assert reading.candles(lake, BTC, interval, start, end, fill="previous").equals(held)


def test_only_days_that_are_touched_are_opened(empty: Lake) -> None:
    for day in DAYS[:3]:
        put(empty, day)
    for path in Path(empty.url).rglob("date=2025-06-03/*.parquet"):
        path.write_bytes(b"damaged")
    assert len(reading.candles(empty, BTC, "1h", at("2025-06-02"), at("2025-06-03"))) > 10
    assert len(reading.trades(empty, BTC, at("2025-06-04"), at("2025-06-05"))) > 500


def test_filled_candles_stand_at_the_close_before_them(lake: Lake) -> None:
    start, end = at("2025-06-03"), at("2025-06-05")
    filled = reading.candles(lake, BTC, "1m", start, end, fill="previous")
    assert len(filled) == 2 * 1440
    assert (
        filled.filter(~pl.col("filled")).drop("filled").equals(reading.candles(lake, BTC, "1m", start, end))
    )
    before = reading.candles(lake, BTC, "1m", at("2025-06-02"), start)["close"][-1]
    marked = filled.filter("filled")
    assert set(marked["volume"]) == {0.0}
    quiet = filled.filter(pl.col("open_time").is_between(at("2025-06-03 03:00"), at("2025-06-03 04:59")))
    assert quiet["filled"].all()
    assert quiet["close"].n_unique() == 1
    if filled["filled"][0]:
        assert filled["close"][0] == before


def test_a_filled_range_may_start_and_end_inside_a_day(lake: Lake) -> None:
    filled = reading.candles(lake, BTC, "5m", at("2025-06-03 04:00"), at("2025-06-03 04:30"), fill="previous")
    last = reading.candles(lake, BTC, "1m", at("2025-06-03"), at("2025-06-03 04:00"))["close"][-1]
    assert filled["open_time"].to_list() == [at(f"2025-06-03 04:{5 * n:02}") for n in range(6)]
    assert filled["filled"].all()
    assert set(filled["close"]) == {last}


def test_a_gap_is_not_filled(empty: Lake) -> None:
    put(empty, DAYS[0])
    put(empty, DAYS[2])
    put(empty, DAYS[3], Status.GAPS)
    put(empty, DAYS[4])
    start, end = at("2025-06-02"), at("2025-06-08")
    filled = reading.candles(empty, BTC, "1h", start, end, fill="previous")
    by_day = dict(filled.group_by(pl.col("open_time").dt.date()).agg(pl.col("filled").sum()).iter_rows())
    assert DAYS[1] not in by_day  # never asked for
    assert by_day[DAYS[3]] == 0  # some of its ids are missing
    assert by_day[DAYS[0]] == by_day[DAYS[2]] == by_day[DAYS[4]] == 2
    assert DAYS[5] not in by_day


def test_the_price_before_a_gap_is_not_carried_over_it(empty: Lake) -> None:
    late = trades_of(DAYS[2], 600).filter(pl.col("time") >= at("2025-06-04 06:00"))
    put(empty, DAYS[0])
    put(empty, DAYS[2], trades=late)
    filled = reading.candles(empty, BTC, "1h", at("2025-06-02"), at("2025-06-05"), fill="previous")
    after = filled.filter(pl.col("open_time") >= at("2025-06-03"))
    assert after["open_time"][0] == at("2025-06-04 06:00")


def test_the_close_is_looked_for_across_days_without_a_trade(empty: Lake) -> None:
    put(empty, DAYS[0])
    none = trades_of(DAYS[1], 600).clear()
    for day in DAYS[1:4]:
        put(empty, day, trades=none)
    filled = reading.candles(empty, BTC, "1d", at("2025-06-04"), at("2025-06-06"), fill="previous")
    close = reading.candles(empty, BTC, "1d", at("2025-06-02"), at("2025-06-03"))["close"][0]
    assert filled["close"].to_list() == [close, close]
    assert filled["open_time"].to_list() == [at("2025-06-04"), at("2025-06-05")]


def test_a_week_is_filled_only_when_all_its_days_are_complete(empty: Lake) -> None:
    none = trades_of(MONDAY, 600).clear()
    put(empty, MONDAY - timedelta(days=1))
    for day in DAYS[:7]:
        put(empty, day, trades=none)
    filled = reading.candles(empty, BTC, "1w", at("2025-06-02"), at("2025-06-16"), fill="previous")
    assert filled["open_time"].to_list() == [at("2025-06-02")]
    assert filled["filled"].to_list() == [True]


def test_a_day_that_is_not_folded_yet_is_folded_from_its_trades(empty: Lake) -> None:
    put(empty, DAYS[0])
    trades = trades_of(DAYS[1], 600)
    empty.write_trades(BTC, DAYS[1], trades, manifest_of(BTC, DAYS[1], trades))
    assert empty.unfolded(BTC, at("2025-06-01"), at("2025-06-05")) == [DAYS[1]]
    found = reading.candles(empty, BTC, "1h", at("2025-06-02"), at("2025-06-04"))
    expected = fold(pl.concat([trades_of(DAYS[0], 600, quiet=QUIET), trades]), "1h")
    assert_frame_equal(found, expected, rel_tol=1e-9)


def test_candles_older_than_the_trades_of_their_day_are_not_believed(empty: Lake) -> None:
    put(empty, DAYS[0])
    more = trades_of(DAYS[0], 900)
    empty.write_trades(BTC, DAYS[0], more, manifest_of(BTC, DAYS[0], more))
    found = reading.candles(empty, BTC, "1m", at("2025-06-02"), at("2025-06-03"))
    assert_frame_equal(found, fold(more), rel_tol=1e-9)
    assert empty.unfolded(BTC, at("2025-01-01"), at("2026-01-01")) == [DAYS[0]]


def test_candles_of_other_trades_are_not_believed_however_new_they_are(empty: Lake) -> None:
    put(empty, DAYS[0])
    put(empty, DAYS[1])
    fewer = trades_of(DAYS[0], 200)
    empty.write_candles(BTC, DAYS[0], "1m", fold(fewer), facts={"trades": content_hash(fewer)})
    wanted = at("2025-06-02"), at("2025-06-04")
    right = pl.concat([fold(trades_of(day, 600, quiet=QUIET)) for day in DAYS[:2]])
    assert_frame_equal(reading.candles(empty, BTC, "1m", *wanted), right)
    assert_frame_equal(reading.candles(empty, BTC, "1d", *wanted), widen(right, Interval.parse("1d")))
    assert empty.unfolded(BTC, *wanted) == [DAYS[0]]


def test_an_empty_lake_has_no_candles(empty: Lake) -> None:
    for fill in (None, "previous"):
        found = reading.candles(empty, BTC, "1h", at("2025-06-02"), at("2025-06-03"), fill=fill)  # type: ignore[arg-type]
        assert found.is_empty()


def test_times_may_come_in_any_zone(lake: Lake) -> None:
    utc = reading.candles(lake, BTC, "1h", at("2025-06-03 22:00"), at("2025-06-04 02:00"))
    east = timezone(timedelta(hours=5))
    start, end = (at(text).astimezone(east) for text in ("2025-06-03 22:00", "2025-06-04 02:00"))
    assert reading.candles(lake, BTC, "1h", start, end).equals(utc)
    assert_frame_equal(
        reading.trades(lake, BTC, start, end),
        reading.trades(lake, BTC, at("2025-06-03 22:00"), at("2025-06-04 02:00")),
    )


def test_ranges_that_cannot_be_are_refused(lake: Lake) -> None:
    with pytest.raises(BadRange, match="reversed"):
        reading.candles(lake, BTC, "1h", at("2025-06-04"), at("2025-06-03"))
    with pytest.raises(BadRange, match="no zone"):
        reading.trades(lake, BTC, datetime(2025, 6, 3), at("2025-06-04"))  # noqa: DTZ001
    with pytest.raises(UnknownName, match="1hour"):
        reading.candles(lake, BTC, "1hour", at("2025-06-03"), at("2025-06-04"))
    with pytest.raises(UsageError, match="forward"):
        reading.candles(lake, BTC, "1h", at("2025-06-03"), at("2025-06-04"), fill="forward")  # type: ignore[arg-type]


def test_an_interval_can_be_given_as_such(lake: Lake) -> None:
    hour = Interval.parse("1h")
    start, end = at("2025-06-03"), at("2025-06-04")
    assert reading.candles(lake, BTC, hour, start, end).equals(reading.candles(lake, BTC, "1h", start, end))
