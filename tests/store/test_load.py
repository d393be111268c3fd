"""A day of the store is replaced whole, and only when it differs."""

import json
import weakref
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata.errors import StorageError, UsageError
from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from marketdata.store.engine import connect
from marketdata.store.load import LoadReport, load_day, load_days, replace_day
from tests.store.days import BTC, DAY, Day, held_candles, held_trades, is_of, manifest_of, one, trades_of_day

OLD = Day(trades_of_day(3_000, seed=1))
NEW = Day(trades_of_day(4_000, seed=2))


def put(database: str, day: Day, *, refresh: bool = False) -> LoadReport:
    return replace_day(
        database, day.market, day.day, day.trades.iter_slices(999), day.candles, day.manifest, refresh=refresh
    )


def test_a_day_has_its_trades_candles_and_manifest(database: str) -> None:
    report = put(database, OLD)
    assert (report.rows, report.candles_changed, report.trades_kept) == (3_000, len(OLD.candles), False)
    assert_frame_equal(held_trades(database), OLD.trades, check_exact=True)
    candles = held_candles(database)
    assert_frame_equal(candles.select(OLD.candles.columns), OLD.candles, check_exact=True)
    assert candles.select("revision", "source", "coverage").unique().rows() == [(0, "batch", "complete")]
    with connect(database) as connection:
        row = connection.execute(
            "SELECT status, rows, fills, first_id, last_id, missing, content_hash, manifest FROM coverage"
        ).fetchone()
    manifest = OLD.manifest
    assert row is not None
    assert row[:7] == (
        "complete", 3_000, manifest.fills, manifest.first_id, manifest.last_id, 0, manifest.content_hash,
    )  # fmt: skip
    assert manifest.from_json(json.dumps(row[7])) == manifest


def test_a_replaced_day_leaves_nothing_of_the_old_one_and_nothing_of_other_days_changes(
    database: str,
) -> None:
    next_day = DAY + timedelta(days=1)
    others = [
        Day(trades_of_day(50), Market.parse("kraken:ETH/USD")),
        Day(trades_of_day(50, day=next_day), day=next_day),
    ]
    for day in (OLD, *others, NEW):
        put(database, day)
    start, end = day_window(DAY)
    with connect(database) as connection:
        kept = connection.execute(
            "SELECT count(*) FROM trade JOIN market USING (market_id) WHERE symbol = 'ETH/USD' OR time >= %s",
            (end,),
        ).fetchone()
        count = connection.execute(
            "SELECT count(*) FROM trade JOIN market USING (market_id) WHERE symbol = 'BTC/USD' AND time < %s",
            (end,),
        ).fetchone()
    assert (kept, count) == ((100,), (len(NEW.trades),))
    btc = held_candles(database).filter(pl.col("open_time").is_between(start, end, closed="left"))
    assert btc["trade_count"].sum() == NEW.manifest.fills + others[0].manifest.fills


def test_a_day_that_is_held_is_left_alone_unless_it_is_asked_for(database: str) -> None:
    put(database, OLD)
    before = held_candles(database)
    loaded = one(database, "SELECT loaded_at FROM coverage")
    again = put(database, OLD)
    assert again.skipped
    assert one(database, "SELECT loaded_at FROM coverage") == loaded
    assert_frame_equal(held_candles(database), before)
    refreshed = put(database, OLD, refresh=True)
    assert (refreshed.rows, refreshed.candles_changed, refreshed.skipped) == (3_000, 0, False)
    assert is_of(database, OLD)


def test_a_day_that_lost_rows_or_was_given_some_is_loaded_again(database: str) -> None:
    put(database, OLD)
    for change in (
        "DELETE FROM trade WHERE trade_id = 1005",
        "INSERT INTO trade SELECT market_id, time, 7, 1, 1, NULL, 1 FROM trade WHERE trade_id = 1005",
    ):
        with connect(database, autocommit=True) as connection:
            connection.execute(change)
        assert put(database, OLD).rows == 3_000
        assert is_of(database, OLD)


def test_a_candle_that_differs_has_a_higher_revision_than_what_was_there(database: str) -> None:
    put(database, OLD)
    with connect(database, autocommit=True) as connection:
        connection.execute("UPDATE candle SET revision = 4, source = 'stream' WHERE trade_count % 2 = 0")
    before = held_candles(database)
    put(database, NEW)
    after = held_candles(database).join(before, on="open_time", how="left", suffix="_before")
    assert_frame_equal(after.select(NEW.candles.columns), NEW.candles, check_exact=True)
    assert (after["revision"] == (after["revision_before"] + 1).fill_null(0)).all()
    assert after["source"].unique().to_list() == ["batch"]


def test_a_candle_that_is_confirmed_keeps_its_revision_and_says_what_is_known_now(database: str) -> None:
    put(database, OLD)
    with connect(database, autocommit=True) as connection:
        connection.execute("UPDATE candle SET revision = 4, source = 'stream', coverage = 'partial'")
    report = put(database, OLD)
    assert report.candles_changed == len(OLD.candles)
    rows = held_candles(database).select("revision", "source", "coverage").unique().rows()
    assert rows == [(4, "batch", "complete")]


def test_a_repaired_minute_stays_while_its_day_has_gaps(database: str) -> None:
    hour = OLD.trades.filter(pl.col("time").dt.hour() != 5)
    start = day_window(DAY)[0]
    covered = [(start, start + timedelta(hours=5)), (start + timedelta(hours=6), day_window(DAY)[1])]
    gaps = manifest_of(hour, covered=covered)
    assert gaps.status is Status.GAPS
    put(database, OLD)
    with connect(database, autocommit=True) as connection:
        connection.execute("UPDATE candle SET source = 'exchange' WHERE extract(hour FROM open_time) = 5")
    replace_day(database, BTC, DAY, hour, fold(hour, "1m"), gaps)
    sources = (
        held_candles(database).group_by("source", "coverage").agg(pl.col("open_time").dt.hour().unique())
    )
    assert sources.filter(pl.col("source") == "exchange")["open_time"].to_list() == [[5]]
    assert "gaps" in sources["coverage"].to_list()
    put(database, NEW)
    assert held_candles(database)["source"].unique().to_list() == ["batch"]


def test_trades_that_are_not_those_of_the_manifest_change_nothing(database: str) -> None:
    put(database, OLD)
    wrong = NEW.trades.with_columns(pl.col("price") + 1)
    with pytest.raises(StorageError, match="their manifest is of 4,000 rows"):
        replace_day(database, BTC, DAY, wrong, NEW.candles, NEW.manifest)
    with pytest.raises(StorageError, match="not of"):
        replace_day(database, BTC, DAY + timedelta(days=1), NEW.trades, None, NEW.manifest)
    assert is_of(database, OLD)
    assert one(database, "SELECT content_hash FROM coverage") == OLD.manifest.content_hash


def test_an_empty_day_is_known_to_be_empty(database: str) -> None:
    put(database, OLD)
    put(database, Day(OLD.trades.clear()))
    assert held_trades(database).is_empty()
    assert held_candles(database).is_empty()
    assert one(database, "SELECT rows FROM coverage") == 0


def test_trades_and_candles_can_be_loaded_apart(database: str) -> None:
    replace_day(database, BTC, DAY, None, OLD.candles, OLD.manifest)
    assert held_trades(database).is_empty()
    assert len(held_candles(database)) == len(OLD.candles)
    report = replace_day(database, BTC, DAY, OLD.trades, None, OLD.manifest)
    assert report.rows == 3_000
    assert is_of(database, OLD)


def test_wider_candles_follow_a_day_that_is_replaced(database: str) -> None:
    for day in (OLD, NEW):
        put(database, day)
        for interval in ("5m", "1h", "1d"):
            wanted = fold(day.trades, interval)
            with connect(database) as connection:
                rows = connection.execute(
                    f"SELECT open_time, open, high, low, close, trade_count FROM candle_{interval} ORDER BY 1"
                ).fetchall()
            names = ["open_time", "open", "high", "low", "close", "trade_count"]
            assert rows == wanted.select(names).rows()
    assert one(database, "SELECT count(*) FROM candle_stale") == 0


def test_a_day_in_compressed_chunks_is_replaced_like_any_other(database: str, timescale: str) -> None:
    other = Day(trades_of_day(500, seed=3), Market.parse("kraken:ETH/USD"))
    put(database, OLD)
    put(database, other)
    with connect(database, autocommit=True) as connection:
        for table in ("trade", "candle"):
            connection.execute(f"SELECT compress_chunk(c) FROM show_chunks('{table}') AS c")
    for day in (NEW, OLD, NEW):
        assert put(database, day).rows == len(day.trades)
        with connect(database) as connection:
            held = connection.execute(
                "SELECT symbol, count(*), sum(fills) FROM v_trade GROUP BY 1 ORDER BY 1"
            ).fetchall()
        assert held == [
            ("BTC/USD", len(day.trades), day.manifest.fills), ("ETH/USD", 500, other.manifest.fills),
        ]  # fmt: skip
        with connect(database, autocommit=True) as connection:
            connection.execute("SELECT compress_chunk(c) FROM show_chunks('trade') AS c")
    third = Day(trades_of_day(300, seed=4), Market.parse("kraken:LTC/USD"))
    put(database, third)
    assert one(database, "SELECT count(*) FROM trade") == len(NEW.trades) + 800


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.open(str(tmp_path / "lake"))
    lake.write_trades(BTC, DAY, OLD.trades, OLD.manifest)
    return lake


def test_a_day_of_the_lake_is_loaded_with_candles_of_its_own_trades(database: str, lake: Lake) -> None:
    lake.write_candles(BTC, DAY, "1m", NEW.candles, facts={"trades": "of other trades"})
    report = load_day(database, lake, BTC, DAY)
    assert (report.rows, report.candles_changed) == (3_000, len(OLD.candles))
    assert_frame_equal(held_candles(database).select(OLD.candles.columns), OLD.candles, check_exact=True)
    assert load_day(database, lake, BTC, DAY).skipped


def test_a_day_that_fails_does_not_stop_the_others(database: str, lake: Lake) -> None:
    missing = DAY + timedelta(days=1)
    good, bad = load_days(database, lake, [(BTC, DAY), (BTC, missing)])
    assert isinstance(good, LoadReport)
    assert not isinstance(bad, LoadReport)
    assert bad[0] == (BTC, missing)
    assert isinstance(bad[1], UsageError)


def test_only_a_few_frames_of_a_day_are_in_memory(database: str) -> None:
    trades = trades_of_day(40_000)
    seen: list[weakref.ref[pl.DataFrame]] = []
    most = 0

    def frames() -> Iterator[pl.DataFrame]:
        nonlocal most
        for start in range(0, 40_000, 1_000):
            frame = trades[start : start + 1_000]
            seen.append(weakref.ref(frame))
            yield frame
            del frame
            most = max(most, sum(each() is not None for each in seen))

    replace_day(database, BTC, DAY, frames(), None, manifest_of(trades))
    assert one(database, "SELECT count(*) FROM trade") == 40_000
    assert len(seen) == 40
    assert most <= 3
