"""A day that is not complete replaces what its manifest speaks for, a complete one everything."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from marketdata.completeness import content_hash
from marketdata.fold import fold
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata.store.candles import STORED_SCHEMA, upsert_candles
from marketdata.store.check import check
from marketdata.store.engine import connect
from marketdata.store.load import LoadReport, replace_day
from marketdata.trade import assign_ids
from tests.store.days import BTC, DAY, held_candles, held_trades, manifest_of, trades_of_day

LIVE = trades_of_day(3_000)
START, END = day_window(DAY)
# Inside a minute, after a trade, as files end.
STOP = LIVE["time"][1_999]
TRADES = pl.col("trade_id")


def stream(database: str, trades: pl.DataFrame = LIVE) -> None:
    """What the sinks have written: trades, and the candles of the stream."""
    whole = manifest_of(trades)
    replace_day(database, BTC, DAY, trades, None, whole)
    candles = fold(trades, "1m").with_columns(
        pl.lit(0, pl.Int32).alias("revision"), source=pl.lit("stream"), coverage=pl.lit("unknown")
    )
    with connect(database) as connection:
        connection.execute("DELETE FROM coverage")
        upsert_candles(connection, {BTC: candles.select(STORED_SCHEMA.names())})


def load(database: str, trades: pl.DataFrame, **known: Any) -> tuple[Manifest, LoadReport]:
    manifest = manifest_of(trades, **known)
    return manifest, replace_day(database, BTC, DAY, trades, fold(trades, "1m"), manifest)


def by_source(database: str) -> dict[str, list[datetime]]:
    candles = held_candles(database)
    return {
        str(source): rows["open_time"].to_list()
        for (source,), rows in candles.group_by("source", maintain_order=True)
    }


def holds(database: str, trades: pl.DataFrame) -> bool:
    return content_hash(held_trades(database)) == content_hash(trades)


@pytest.mark.parametrize("ids", [Ids.SEQUENTIAL, Ids.EXCHANGE])
def test_a_file_that_ends_early_removes_nothing_of_what_the_stream_has_brought_since(
    database: str, ids: Ids
) -> None:
    stream(database)
    manifest, report = load(database, LIVE.head(2_000), ids=ids, covered=[(START, STOP)])
    assert manifest.status is Status.UNKNOWN
    assert (report.rows, report.candles_removed) == (2_000, 0)
    assert holds(database, LIVE)
    border = STOP.replace(second=0, microsecond=0)
    sources = by_source(database)
    assert max(sources["batch"]) < border <= min(sources["stream"])
    minutes = fold(LIVE, "1m")
    assert (
        held_candles(database)
        .select("open_time", "trade_count")
        .equals(minutes.select("open_time", "trade_count"))
    )
    with connect(database) as connection:
        assert check(connection).filter(pl.col("check") == "coverage").is_empty()


def test_a_day_that_is_not_complete_is_not_copied_again_either(database: str) -> None:
    stream(database)
    early = LIVE.head(2_000)
    load(database, early, covered=[(START, STOP)])
    before = held_candles(database)
    _, again = load(database, early, covered=[(START, STOP)])
    assert again.skipped
    assert holds(database, LIVE)
    assert held_candles(database).equals(before)


def test_what_lies_inside_of_what_a_file_covers_is_what_the_file_says(database: str) -> None:
    stream(database)
    told = LIVE.head(2_000).filter(TRADES % 50 != 0)
    load(database, told, covered=[(START, STOP)])
    assert holds(database, pl.concat([told, LIVE.tail(1_000)]))
    with connect(database, autocommit=True) as connection:
        connection.execute("DELETE FROM trade WHERE trade_id = 1005")
    _, again = load(database, told, covered=[(START, STOP)])
    assert again.rows == len(told)


def test_a_complete_day_takes_the_place_of_everything(database: str) -> None:
    stream(database)
    load(database, LIVE.head(2_000), covered=[(START, STOP)])
    last = LIVE.filter(TRADES % 50 != 0)
    _, report = load(database, last)
    assert report.rows == len(last)
    assert holds(database, last)
    assert set(by_source(database)) == {"batch"}
    assert held_candles(database)["trade_count"].sum() == last["fills"].sum()


def test_trades_that_a_day_is_known_to_lack_stay_with_the_candles_they_are_in(database: str) -> None:
    stream(database)
    lacking = TRADES.is_between(1_500, 1_520) | (TRADES == 2_700)
    manifest, report = load(database, LIVE.filter(~lacking), ids=Ids.SEQUENTIAL)
    assert (manifest.status, manifest.missing_count) == (Status.GAPS, 22)
    assert (report.rows, report.candles_removed) == (2_978, 0)
    assert holds(database, LIVE)
    minutes = LIVE.filter(lacking)["time"].dt.truncate("1m").unique().sort().to_list()
    assert by_source(database)["stream"] == minutes
    assert load(database, LIVE.filter(~lacking), ids=Ids.SEQUENTIAL)[1].skipped


def test_a_stretch_that_was_not_asked_for_stays(database: str) -> None:
    stream(database)
    hole = (START + timedelta(hours=5), START + timedelta(hours=6))
    inside = (pl.col("time") > hole[0]) & (pl.col("time") < hole[1])
    told = LIVE.filter(~inside)
    manifest, _ = load(database, told, covered=[(START, hole[0]), (hole[1], END)])
    assert manifest.status is Status.GAPS
    assert holds(database, LIVE)
    assert {time.hour for time in by_source(database)["stream"]} == {5}


def test_trades_of_the_microsecond_in_which_a_file_ends_stay_when_it_has_them_not(database: str) -> None:
    last = pl.when(TRADES.is_between(2_990, 3_009)).then(pl.lit(STOP)).otherwise("time")
    live = LIVE.with_columns(last.alias("time"))
    stream(database, live)
    load(database, live.head(2_000), ids=Ids.SEQUENTIAL, covered=[(START, STOP)])
    assert holds(database, live)


def test_a_file_that_does_not_say_what_it_covers_covers_its_rows(database: str) -> None:
    """Its ids are of its own making: what the stream has brought of that time are the same trades."""
    stream(database)
    told = assign_ids(LIVE[500:2_000])
    manifest, _ = load(database, told, ids=Ids.FINGERPRINT, covered=[])
    assert manifest.status is Status.UNKNOWN
    assert holds(database, pl.concat([LIVE.head(500), told, LIVE.tail(1_000)]))


def test_a_candle_of_the_stream_gives_way_to_one_of_more_trades(database: str) -> None:
    busy = LIVE.with_columns(time=pl.lit(START) + pl.int_range(pl.len()) * timedelta(milliseconds=100))
    stream(database, busy.filter(TRADES < 1_100))
    told = busy.filter(TRADES < 1_400)
    _, report = load(database, told, covered=[(START, told["time"][-1])])
    assert report.candles_changed == 1
    assert by_source(database) == {"batch": [START]}


def test_in_compressed_chunks_an_incomplete_day_leaves_the_same_rows(database: str, timescale: str) -> None:
    stream(database)
    with connect(database, autocommit=True) as connection:
        for table in ("trade", "candle"):
            connection.execute(f"SELECT compress_chunk(c) FROM show_chunks('{table}') AS c")
    early = LIVE.head(2_000)
    _, report = load(database, early, ids=Ids.SEQUENTIAL, covered=[(START, STOP)])
    assert (report.rows, report.candles_removed) == (2_000, 0)
    assert holds(database, LIVE)
    # Rows that stay lie between those of the file.
    lacking = early.filter(~TRADES.is_between(early["trade_id"][500], early["trade_id"][509]))
    manifest, _ = load(database, lacking, ids=Ids.SEQUENTIAL, covered=[(START, STOP)])
    assert (manifest.status, manifest.missing_count) == (Status.GAPS, 10)
    assert holds(database, LIVE)
