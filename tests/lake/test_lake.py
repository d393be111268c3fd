"""What the lake keeps, and what it says when it cannot."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from random import Random

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pyarrow import parquet as pq

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA, hash_of_cells
from marketdata.errors import CorruptFile, StorageError, TransientError, UsageError
from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.lake.paths import Part
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from marketdata.trade import TRADE_SCHEMA, empty_trades
from tests.lake.world import BTC, DAY, ETH, NEXT, PagedSource, at, manifest_of, trades_of

PART = "trades/exchange=kraken/symbol=BTC-USD/date=2025-06-08/part-0.parquet"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def put(lake: Lake, market: Market = BTC, day=DAY, trades: pl.DataFrame | None = None) -> pl.DataFrame:
    trades = trades_of(day) if trades is None else trades
    lake.write_trades(market, day, trades, manifest_of(market, day, trades))
    return trades


def test_a_day_comes_back_as_it_was_written(lake: Lake) -> None:
    trades = put(lake)
    assert_frame_equal(lake.read_trades(BTC, *day_window(DAY)), trades)
    assert lake.manifest(BTC, DAY) == manifest_of(BTC, DAY, trades)
    assert lake.path("trades", BTC, DAY).endswith(PART)
    assert lake.size("trades", BTC, DAY) == Path(lake.path("trades", BTC, DAY)).stat().st_size


def test_a_day_written_again_in_any_order_is_the_identical_file(lake: Lake) -> None:
    trades = put(lake)
    before = Path(lake.path("trades", BTC, DAY)).read_bytes()
    put(lake, trades=trades.sample(fraction=1, shuffle=True, seed=1))
    assert Path(lake.path("trades", BTC, DAY)).read_bytes() == before


def test_the_file_is_sorted_zstd_parquet_with_statistics_and_manifest(lake: Lake) -> None:
    put(lake)
    footer = pq.read_metadata(lake.path("trades", BTC, DAY))
    column = footer.row_group(0).column(1)
    assert (column.path_in_schema, column.compression) == ("time", "ZSTD")
    assert column.statistics.has_min_max
    assert [c.column_index for c in footer.row_group(0).sorting_columns] == [1, 0]
    assert b"marketdata.manifest" in footer.metadata


def test_a_reader_that_has_the_old_day_open_keeps_it(lake: Lake) -> None:
    put(lake)
    with Path(lake.path("trades", BTC, DAY)).open("rb") as opened:
        put(lake, trades=trades_of(DAY)[:10])
        assert len(pq.read_table(opened)) == 3000
    assert len(lake.read_trades(BTC, *day_window(DAY))) == 10


def test_a_range_is_half_open_and_reads_only_days_it_touches(lake: Lake) -> None:
    both = pl.concat([put(lake), put(lake, day=NEXT)])
    start, end = both["time"][100], both["time"][4000]
    expected = both.filter(pl.col("time").is_between(start, end, closed="left"))
    assert_frame_equal(lake.read_trades(BTC, start, end), expected)
    Path(lake.path("trades", BTC, NEXT)).write_bytes(b"damaged")
    midnight = day_window(NEXT)[0]
    assert len(lake.read_trades(BTC, start, midnight)) == 2900
    assert lake.read_trades(BTC, start, start).is_empty()


def test_a_scan_brings_several_markets_together(lake: Lake) -> None:
    put(lake), put(lake, ETH), put(lake, ETH, NEXT)
    scanned = lake.scan_trades(None, at("2025-06-08 06:00"), at("2025-06-09 06:00")).collect()
    assert scanned.columns == ["exchange", "symbol", *TRADE_SCHEMA.names()]
    counts = dict(scanned.group_by("symbol").len().iter_rows())
    one = len(lake.read_trades(BTC, at("2025-06-08 06:00"), at("2025-06-09 06:00")))
    two = len(lake.read_trades(ETH, at("2025-06-08 06:00"), at("2025-06-09 06:00")))
    assert counts == {"BTC/USD": one, "ETH/USD": two}
    assert lake.scan_trades([BTC], at("2020-01-01"), at("2020-01-02")).collect().is_empty()


def test_a_folder_that_comes_and_goes_while_it_is_listed_is_no_error(lake: Lake) -> None:
    folder = lake.storage.local("ledger")
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            folder.mkdir(parents=True)
            folder.rmdir()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        # Arrow alone fails about once in two hundred.
        assert not any(lake.storage.files("ledger") for _ in range(2_000))
    finally:
        ended.set()
        thread.join()


def test_more_days_than_are_asked_for_one_by_one_are_listed(lake: Lake) -> None:
    put(lake), put(lake, day=NEXT)
    assert len(lake.read_trades(BTC, at("2025-01-01"), at("2026-01-01"))) == 6000


def test_days_and_manifests_say_what_is_there(lake: Lake) -> None:
    assert lake.days() == {}
    assert lake.manifests() == []
    assert lake.manifest(BTC, DAY) is None
    put(lake), put(lake, ETH, NEXT)
    assert lake.days() == {BTC: [DAY], ETH: [NEXT]}
    assert [(m.market, m.day) for m in lake.manifests()] == [(BTC, DAY), (ETH, NEXT)]
    assert [m.market for m in lake.manifests(start=NEXT)] == [ETH]
    assert lake.manifests(BTC, end=DAY) == []


@pytest.mark.parametrize("symbol", ["BTC/USD", "BTC/USDT:USDT", "BTC/USD:BTC-250926-60000-C", "$PAC/USDT"])
def test_any_symbol_has_a_path_that_is_read_back(lake: Lake, symbol: str) -> None:
    market = Market("binance", symbol)
    put(lake, market)
    assert lake.days() == {market: [DAY]}
    part = Part("candles", market, DAY)
    assert Part.parse(part.key.replace("candles/", "candles/interval=1m/")).market == market  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "key",
    [
        "trades/exchange=KRAKEN/symbol=BTC-USD/date=2025-06-08/part-0.parquet",
        "trades/exchange=kraken/symbol=BTCUSD/date=2025-06-08/part-0.parquet",
        "trades/exchange=kraken/symbol=BTC-USD/date=2025-06-31/part-0.parquet",
        "candles/interval=7m/exchange=kraken/symbol=BTC-USD/date=2025-06-08/part-0.parquet",
        "trades/exchange=kraken/symbol=BTC-USD/date=2025-06-08/part-1.parquet",
        "notes.txt",
    ],
)
def test_what_is_not_ours_is_left_alone(lake: Lake, key: str) -> None:
    path = Path(lake.url) / key
    path.parent.mkdir(parents=True)
    path.write_text("not ours")
    assert Part.parse(key) is None
    assert lake.days() == {}
    assert lake.parts("candles") == []


def test_candles_are_kept_by_interval_with_facts(lake: Lake) -> None:
    candles = fold(trades_of(DAY), "5m")
    lake.write_candles(BTC, DAY, "5m", candles, facts={"trades": "sha256:x"})
    assert_frame_equal(lake.read_candles(BTC, "5m", *day_window(DAY)), candles)
    facts = {"trades": "sha256:x", "rows": str(len(candles)), "content": hash_of_cells(candles)}
    assert lake.read_facts("candles", BTC, DAY, "5m") == facts
    assert lake.read_facts("candles", BTC, DAY, "1m") is None
    theirs = candles.select(EXCHANGE_CANDLE_SCHEMA.names())
    lake.write_candles(BTC, DAY, "5m", theirs, kind="exchange_candles")
    assert_frame_equal(lake.read_candles(BTC, "5m", *day_window(DAY), kind="exchange_candles"), theirs)


def test_rejects_are_kept_and_removed_with_the_next_clean_day(lake: Lake) -> None:
    rejects = pl.DataFrame(
        {"reason": ["price not positive"], "trade_id": [5], "time": [at("2025-06-08")], "raw": ["[]"]}
    )
    rejects = rejects.cast({"time": pl.Datetime("us", "UTC")})
    lake.write_rejects(BTC, DAY, rejects)
    assert_frame_equal(lake.read_rejects(BTC, *day_window(DAY)), rejects)
    lake.write_rejects(BTC, DAY, rejects.clear())
    assert lake.read_rejects(BTC, *day_window(DAY)).is_empty()
    lake.write_rejects(BTC, DAY, rejects.clear())


def test_a_manifest_of_other_rows_is_refused(lake: Lake) -> None:
    trades = trades_of(DAY)
    with pytest.raises(StorageError, match="2999 rows"):
        lake.write_trades(BTC, DAY, trades[1:], manifest_of(BTC, DAY, trades))
    assert lake.manifest(BTC, DAY) is None


def test_a_day_without_trades_is_a_file_too(lake: Lake) -> None:
    manifest = replace(manifest_of(BTC, DAY, trades_of(DAY)), rows=0, status=Status.COMPLETE)
    lake.write_trades(BTC, DAY, empty_trades(), manifest)
    assert lake.read_trades(BTC, *day_window(DAY)).is_empty()
    assert lake.manifest(BTC, DAY) == manifest


# -- when it cannot ------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(path)


@pytest.mark.parametrize(
    "damage", [cut, foreign, lambda path: path.write_bytes(b"")], ids=["cut", "foreign", "empty"]
)
def test_a_damaged_file_is_named(lake: Lake, damage) -> None:
    put(lake)
    path = Path(lake.path("trades", BTC, DAY))
    damage(path)
    for read in (
        lambda: lake.manifest(BTC, DAY),
        lake.manifests,
        lambda: lake.read_trades(BTC, *day_window(DAY)),
        lambda: lake.read_trades(BTC, at("2025-06-08 01:00"), at("2025-06-08 02:00")),
    ):
        with pytest.raises(CorruptFile, match=r"part-0\.parquet") as caught:
            read()
        until = DAY + timedelta(days=1)
        repair = f"marketdata backfill {BTC} --start {DAY} --end {until} --refresh"
        assert str(caught.value).endswith(repair)


def test_a_file_with_a_hole_in_its_middle_is_named(lake: Lake) -> None:
    put(lake)
    path = Path(lake.path("trades", BTC, DAY))
    body = bytearray(path.read_bytes())
    body[10:2000] = bytes(1990)
    path.write_bytes(body)
    with pytest.raises(CorruptFile, match=r"part-0\.parquet"):
        lake.read_trades(BTC, *day_window(DAY))


def test_whichever_bytes_are_damaged_the_file_is_named_or_read(lake: Lake) -> None:
    candles = fold(put(lake))
    lake.write_candles(BTC, DAY, "1m", candles, facts={"trades": "sha256:x"})

    def streamed() -> None:
        with lake.stream_trades(BTC, DAY) as (_, frames):
            list(frames)

    reads: dict[Path, list[Callable[[], object]]] = {
        Path(lake.path("trades", BTC, DAY)): [
            lambda: lake.manifest(BTC, DAY),
            lambda: lake.read_trades(BTC, *day_window(DAY)),
            streamed,
        ],
        Path(lake.path("candles", BTC, DAY, "1m")): [
            lambda: lake.read_facts("candles", BTC, DAY, "1m"),
            lambda: lake.read_candles(BTC, "1m", *day_window(DAY)),
        ],
    }
    damaged = 0
    for path, ways in reads.items():
        whole = path.read_bytes()
        random = Random(20250608)
        for _ in range(150):
            body = bytearray(whole)
            for _ in range(4):
                body[random.randrange(len(body))] = random.randrange(256)
            for way in ways:
                path.write_bytes(body)
                with suppress(CorruptFile):
                    way()
                    continue
                damaged += 1
    assert damaged > 100


def test_a_file_where_the_lake_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("not a folder")
    lake = Lake.open(str(tmp_path / "lake"))
    with pytest.raises(StorageError, match="MARKETDATA_LAKE"):
        put(lake)


def test_a_lake_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    lake = Lake.open(str(tmp_path / "lake"))
    trades = trades_of(DAY)
    manifest = manifest_of(BTC, DAY, trades)
    privileged = os.geteuid() == 0
    if not privileged:
        tmp_path.chmod(0o555)
    try:
        if privileged:
            os.seteuid(65534)
        with pytest.raises(StorageError, match="permission denied") as caught:
            lake.write_trades(BTC, DAY, trades, manifest)
    finally:
        if privileged:
            os.seteuid(0)
        else:
            tmp_path.chmod(0o755)
    assert "MARKETDATA_LAKE" in str(caught.value)
    assert not (tmp_path / "lake").exists()


def test_a_full_disk_leaves_the_old_day_and_nothing_half_written(lake: Lake, small_files) -> None:
    put(lake, trades=trades_of(DAY)[:10])
    with small_files(4096), pytest.raises(StorageError, match="the disk is full") as caught:
        put(lake)
    assert "run again" in str(caught.value)
    assert len(lake.read_trades(BTC, *day_window(DAY))) == 10
    assert [path.name for path in Path(lake.url).rglob("*") if path.is_file()] == ["part-0.parquet"]


def test_what_a_killed_writer_left_is_removed_after_an_hour(lake: Lake) -> None:
    put(lake)
    folder = Path(lake.path("trades", BTC, DAY)).parent
    old, fresh = folder / ".part-0.parquet.1-0.tmp", folder / ".part-0.parquet.2-0.tmp"
    for left in (old, fresh):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    with lake.lock(BTC, DAY):
        assert not old.exists()
        assert fresh.exists()


def test_a_held_day_is_not_taken_twice(lake: Lake) -> None:
    with lake.lock(BTC, DAY):
        with (
            pytest.raises(TransientError, match=f"process {os.getpid()}"),
            lake.lock(BTC, DAY, patience_s=0.3),
        ):
            pass
        with lake.lock(BTC, NEXT), lake.lock(ETH, DAY):
            pass
    with lake.lock(BTC, DAY, patience_s=0):
        pass


def test_a_held_day_stays_held_while_its_pages_are_removed(lake: Lake) -> None:
    with lake.lock(BTC, DAY):
        stage = lake.stage(BTC, DAY, "paged")
        stage.append(next(PagedSource().pages(BTC, *day_window(DAY))))
        stage.discard()
        with pytest.raises(TransientError, match="in use"), lake.lock(BTC, DAY, patience_s=0):
            pass
    assert not [path for path in Path(lake.url).rglob("*") if path.is_file()]


def test_a_day_has_one_holder_at_a_time_however_often_its_lock_comes_and_goes(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketdata.lake.files._LOCK_POLL_S", 0.0)
    page = next(PagedSource(page_rows=10).pages(BTC, *day_window(DAY)))
    inside: list[int] = []
    most: list[int] = []

    def fetch(number: int) -> None:
        for _ in range(25):
            with lake.lock(BTC, DAY):
                inside.append(number)
                stage = lake.stage(BTC, DAY, f"source {number}")
                for _ in range(3):
                    stage.append(replace(page, next_cursor="1"))
                stage.discard()
                most.append(len(inside))
                inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch, range(4)))
    assert most == [1] * 100
    assert not [path for path in Path(lake.url).rglob("*") if path.is_file()]


def test_who_waits_for_a_day_is_told_and_may_give_up(lake: Lake) -> None:
    def give_up(market: Market, day: date) -> None:
        msg = f"no time for {market} {day}"
        raise TransientError(msg)

    with (
        lake.lock(BTC, DAY),
        pytest.raises(TransientError, match=f"no time for {BTC} {DAY}"),
        lake.with_waiting(give_up).lock(BTC, DAY),
    ):
        pass


@pytest.mark.parametrize("url", ["gs://bucket/lake", "s3://", "http://example.org/lake"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="s3://bucket/prefix"):
        Lake.open(url)


def test_globs_of_the_docs_meet_neither_pages_nor_temporary_files(lake: Lake) -> None:
    put(lake)
    folder = Path(lake.path("trades", BTC, DAY)).parent
    (folder / ".part-0.parquet.77-0.tmp").write_bytes(b"half a file")
    staged = Path(lake.url) / "_staging/trades/exchange=kraken/symbol=BTC-USD/date=2025-06-09/source=x"
    staged.mkdir(parents=True)
    (staged / "page-000001.arrow").write_bytes(b"a page")
    for glob in ("trades/*/*/*/*.parquet", "trades/**/*.parquet", "**/*.parquet"):
        counted = duckdb.sql(f"SELECT count(*) FROM read_parquet('{lake.url}/{glob}')").fetchall()
        assert counted == [(3000,)]
        assert pl.scan_parquet(f"{lake.url}/{glob}").select(pl.len()).collect().item() == 3000


def test_neighbouring_days_do_not_leak_into_each_other(lake: Lake) -> None:
    put(lake), put(lake, day=NEXT)
    edge = day_window(NEXT)[0]
    last = lake.read_trades(BTC, edge - timedelta(minutes=5), edge)
    assert last["time"].max() < edge  # type: ignore[operator]
