"""Files into the lake: nothing lost, nothing counted twice, nothing replaced by weaker evidence."""

import gzip
import shutil
import zipfile
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata import importing
from marketdata.completeness import build_manifest
from marketdata.errors import CorruptFile, UsageError
from marketdata.importing import ImportProgress, ImportReport, import_files
from marketdata.interval import from_us
from marketdata.lake import Lake
from marketdata.manifest import Ids, Status, day_window
from marketdata.market import Market
from marketdata.trade import SIDE, TRADE_SCHEMA

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BCH = Market("kraken", "BCH/EUR")
BTC = Market("kraken", "BTC/USD")
USDT = Market("binance", "BTC/USDT")
FIRST, SECOND = date(2023, 1, 1), date(2023, 1, 2)
T0 = 1672531200  # 2023-01-01


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def _import(lake: Lake, *paths: Path, **options: object) -> ImportReport:
    report = import_files(lake, paths, now=NOW, **options)  # type: ignore[arg-type]
    for tally in (*report.tallies.values(), report.total):
        fates = tally.accepted + tally.repeated + tally.empty + tally.rejected.total() + tally.kept
        assert tally.rows == fates
    assert report.total.kept == sum(day.rows for day in report.kept)
    return report


def _kraken(folder: Path, rows: Iterable[tuple[float, float, float]], name: str = "XBTUSD.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{time},{price:.5f},{amount:.8f}\n" for time, price, amount in rows))
    return path


def _zip(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.csv", text)
    return path


def _agg_trades(folder: Path, ids: Iterable[int], *, name: str = "BTCUSDT-aggTrades-2023-01-01") -> Path:
    lines = (f"{n},100.5,0.25,{2 * n},{2 * n + 1},{T0 * 1000 + n * 1000},True,True\n" for n in ids)
    return _zip(folder, name, "".join(lines))


def _trades(folder: Path) -> Path:
    lines = (f"{n},100.5,0.1,10.05,{T0 * 1000 + n},True,True\n" for n in range(200))
    return _zip(folder, "BTCUSDT-trades-2023-01-01", "".join(lines))


def _files(lake: Lake) -> dict[str, bytes]:
    root = Path(lake.url)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.parquet"))}


def _times(lake: Lake) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(lake.url).rglob("*.parquet")}


def _read(lake: Lake, market: Market, day: date) -> pl.DataFrame:
    return lake.read_trades(market, *day_window(day))


# -- the captured files of Kraken ---------------------------------------------------------------------


@pytest.mark.fixtures
def test_all_634_captured_trades_are_kept_identical_fills_too(lake: Lake, captures: Path) -> None:
    report = _import(lake, captures / "kraken" / "csv_bcheur")
    assert (report.rows, report.accepted, report.repeated, len(report.files)) == (634, 634, 0, 2)
    trades = lake.read_trades(BCH, day_window(FIRST)[0], day_window(SECOND)[1])
    assert len(trades) == 634
    content = trades.select("time", "price", "amount")
    assert len(content) - content.n_unique() == 49
    assert trades.select("time", "trade_id").n_unique() == 634
    same = trades.filter(
        pl.col("time") == datetime(2023, 1, 2, 17, 17, 1, tzinfo=UTC), pl.col("price") == 93.7
    )
    assert len(same.filter(pl.col("amount") == 0.213607)) == 17


@pytest.mark.fixtures
def test_stored_order_is_the_order_of_the_captured_file(lake: Lake, captures: Path) -> None:
    path = captures / "kraken" / "csv_bcheur" / "incremental_q2" / "BCHEUR.csv"
    _import(lake, path)
    raw = pl.read_csv(path, has_header=False, new_columns=["time", "price", "amount"])
    stored = _read(lake, BCH, SECOND)
    assert stored["price"].to_list() == raw["price"].to_list()
    assert stored["amount"].to_list() == raw["amount"].to_list()


@pytest.mark.fixtures
@pytest.mark.parametrize("again", ["BCHEUR.csv", "incremental_q2/BCHEUR.csv", "."])
def test_importing_a_captured_file_twice_changes_nothing(lake: Lake, captures: Path, again: str) -> None:
    folder = captures / "kraken" / "csv_bcheur"
    _import(lake, folder)
    before, touched = _files(lake), _times(lake)
    report = _import(lake, folder / again)
    assert report.accepted == 0
    assert report.repeated == report.rows > 0
    assert _files(lake) == before
    assert _times(lake) == touched


@pytest.mark.fixtures
def test_the_second_captured_file_continues_the_first(lake: Lake, captures: Path) -> None:
    folder = captures / "kraken" / "csv_bcheur"
    _import(lake, folder / "BCHEUR.csv")
    alone = lake.manifest(BCH, FIRST)
    assert alone is not None
    assert alone.status is Status.UNKNOWN
    assert alone.covered[-1][1] == datetime(2023, 1, 1, 23, 19, 47, tzinfo=UTC)
    _import(lake, folder / "incremental_q2")
    first, second = lake.manifest(BCH, FIRST), lake.manifest(BCH, SECOND)
    assert first is not None
    assert second is not None
    assert first.content_hash == alone.content_hash
    assert first.covered[-1][1] == day_window(SECOND)[0] == second.covered[0][0]


@pytest.mark.fixtures
def test_the_order_in_which_captured_files_are_imported_does_not_matter(
    lake: Lake, captures: Path, tmp_path: Path
) -> None:
    folder = captures / "kraken" / "csv_bcheur"
    _import(lake, folder)
    other = Lake.open(str(tmp_path / "other"))
    _import(other, folder / "incremental_q2")
    _import(other, folder / "BCHEUR.csv")
    assert _files(other) == _files(lake)


@pytest.mark.fixtures
def test_captured_klines_are_stored_as_the_exchanges_candles(lake: Lake, captures: Path) -> None:
    folder = captures / "binance" / "klines_vision"
    assert _import(lake, folder).accepted == 2880
    start, end = day_window(date(2022, 9, 5))
    future = Market("binance", "BTC/USDT:USDT")
    stored = lake.read_candles(future, "1m", start, end, kind="exchange_candles")
    assert len(stored) == 1440
    assert stored.row(0)[:6] == (start, 19992.7, 20000.0, 19988.1, 19996.8, 482.638)
    before = _files(lake)
    assert _import(lake, folder).repeated == 2880
    assert _files(lake) == before


# -- what a file proves -------------------------------------------------------------------------------


def test_imported_days_are_folded_and_folded_again_when_trades_are_added(lake: Lake, tmp_path: Path) -> None:
    _import(lake, _kraken(tmp_path, [(T0 + 60 * n, 100.0 + n, 1.0) for n in range(10)]))
    first = lake.read_candles(BTC, "1m", *day_window(FIRST))
    _import(lake, _kraken(tmp_path / "later", [(T0 + 60 * n, 100.0 + n, 1.0) for n in range(9, 15)]))
    second = lake.read_candles(BTC, "1m", *day_window(FIRST))
    assert (len(first), len(second)) == (10, 15)
    assert lake.unfolded(BTC, *day_window(FIRST)) == []


def test_candles_that_are_not_of_the_days_trades_are_mended_by_the_same_import(
    lake: Lake, tmp_path: Path
) -> None:
    path = _kraken(tmp_path, [(T0 + 60 * n, 100.0 + n, 1.0) for n in range(10)])
    _import(lake, path)
    right = lake.read_candles(BTC, "1m", *day_window(FIRST))
    for spoil in (
        lambda: lake.write_candles(BTC, FIRST, "1m", right[:5], facts={"trades": "sha256:of half the day"}),
        lambda: Path(lake.path("candles", BTC, FIRST, "1m")).write_bytes(b"damaged"),
    ):
        spoil()
        _import(lake, path, again=True)
        assert lake.read_candles(BTC, "1m", *day_window(FIRST)).equals(right)


def test_days_inside_a_file_are_complete_and_its_edges_unknown(lake: Lake, tmp_path: Path) -> None:
    _import(lake, _kraken(tmp_path, [(T0 + 3600 * n, 100 + n, 1) for n in range(6, 66)]))
    manifests = lake.manifests(BTC)
    assert [m.status for m in manifests] == [Status.UNKNOWN, Status.COMPLETE, Status.UNKNOWN]
    assert {m.ids for m in manifests} == {Ids.FINGERPRINT}
    assert all(m.reason for m in manifests)


def test_a_quiet_day_inside_a_file_is_complete_and_empty(lake: Lake, tmp_path: Path) -> None:
    _import(lake, _kraken(tmp_path, [(T0 + 100, 1, 1), (T0 + 3 * 86_400 + 100, 1, 1)]))
    quiet = lake.manifest(BTC, SECOND)
    assert quiet is not None
    assert (quiet.status, quiet.rows) == (Status.COMPLETE, 0)


def test_a_continuing_file_completes_the_day_between(lake: Lake, tmp_path: Path) -> None:
    times = [T0 + 600 * n for n in range(300)]
    _import(lake, _kraken(tmp_path / "base", [(t, 1, 1) for t in times[:200]]))
    assert lake.manifest(BTC, SECOND).status is Status.UNKNOWN  # type: ignore[union-attr]
    _import(lake, _kraken(tmp_path / "next", [(t, 1, 1) for t in times[200:]]))
    assert lake.manifest(BTC, SECOND).status is Status.COMPLETE  # type: ignore[union-attr]
    assert lake.manifest(BTC, SECOND).rows == 144  # type: ignore[union-attr]


def test_a_file_missing_between_two_leaves_the_day_open(lake: Lake, tmp_path: Path) -> None:
    times = [T0 + 600 * n for n in range(300)]
    _import(lake, _kraken(tmp_path / "base", [(t, 1, 1) for t in times[:200]]))
    _import(lake, _kraken(tmp_path / "next", [(t, 1, 1) for t in times[230:]]))
    manifest = lake.manifest(BTC, SECOND)
    assert manifest is not None
    assert manifest.status is not Status.COMPLETE
    assert len(manifest.covered) == 2
    _import(lake, _kraken(tmp_path / "between", [(t, 1, 1) for t in times[200:230]]))
    assert lake.manifest(BTC, SECOND).status is Status.COMPLETE  # type: ignore[union-attr]


def test_a_day_that_is_still_running_is_never_complete(lake: Lake, tmp_path: Path) -> None:
    now = datetime(2023, 1, 3, 12, tzinfo=UTC)
    path = _kraken(tmp_path, [(T0 + 3600 * n, 1, 1) for n in range(100)])
    report = import_files(lake, [path], now=now)
    assert report.rejected == {"time in the future": 39}
    running = lake.manifest(BTC, date(2023, 1, 3))
    assert running is not None
    assert running.status is not Status.COMPLETE


def test_a_days_archive_file_is_complete_by_its_name_and_ids(lake: Lake, tmp_path: Path) -> None:
    _import(lake, _agg_trades(tmp_path, range(10, 200)))
    manifest = lake.manifest(USDT, FIRST)
    assert manifest is not None
    assert (manifest.status, manifest.ids, manifest.rows, manifest.fills) == (
        Status.COMPLETE,
        Ids.SEQUENTIAL,
        190,
        380,
    )
    assert manifest.evidence["id_space"] == "aggTrade"


def test_plain_files_day_after_day_are_complete_by_their_ids(lake: Lake, tmp_path: Path) -> None:
    for day in range(3):
        path = tmp_path / f"BTCUSDT-trades-2023-01-0{day + 1}.csv"
        ids = range(10 * day, 10 * day + 10)
        path.write_text("".join(f"{n},1,1,1,{(T0 + 8640 * n) * 1000},True,True\n" for n in ids))
        _import(lake, path)
    statuses = [manifest.status for manifest in lake.manifests(USDT)]
    assert statuses == [Status.COMPLETE, Status.COMPLETE, Status.UNKNOWN]


def test_missing_ids_are_a_gap_and_a_second_file_closes_it(lake: Lake, tmp_path: Path) -> None:
    _import(lake, _agg_trades(tmp_path, [*range(50), *range(60, 100)]))
    manifest = lake.manifest(USDT, FIRST)
    assert manifest is not None
    assert (manifest.status, manifest.missing_ids) == (Status.GAPS, ((50, 59),))
    report = _import(lake, _agg_trades(tmp_path, range(40, 70)))
    assert (report.accepted, report.repeated) == (10, 20)
    manifest = lake.manifest(USDT, FIRST)
    assert manifest is not None
    assert (manifest.status, manifest.missing_ids, manifest.rows) == (Status.COMPLETE, (), 100)


# -- stronger and weaker evidence ---------------------------------------------------------------------


def _store(
    lake: Lake, market: Market, ids: Ids, *, complete: bool, evidence: dict[str, str] | None = None
) -> None:
    start, end = day_window(FIRST)
    trades = pl.DataFrame(
        {
            "trade_id": range(5, 15),
            "time": [start + timedelta(hours=n) for n in range(10)],
            "price": [7.0] * 10,
            "amount": [1.0] * 10,
            "side": pl.Series(["buy"] * 10, dtype=SIDE),
            "fills": [1] * 10,
        },
        schema=TRADE_SCHEMA,
    )
    manifest = build_manifest(
        market,
        FIRST,
        trades,
        source="exchange REST",
        ids=ids,
        covered=((start, end if complete else start + timedelta(hours=10)),),
        previous_id=4 if complete else None,
        following_id=15 if complete else None,
        not_served=(),
        repeated=0,
        rejected={},
        pages=1,
        cursor=None,
        evidence=evidence or {},
    )
    assert (manifest.status is Status.COMPLETE) == complete
    lake.write_trades(market, FIRST, trades, manifest)


@pytest.mark.parametrize("complete", [True, False])
def test_a_day_with_the_exchanges_ids_is_kept_against_a_csv_without(
    lake: Lake, tmp_path: Path, complete: bool
) -> None:
    _store(lake, BTC, Ids.SEQUENTIAL, complete=complete)
    before = _files(lake)
    report = _import(lake, _kraken(tmp_path, [(T0 + 3600 * n, 100, 1) for n in range(30)]))
    assert [(day.day, day.rows) for day in report.kept] == [(FIRST, 24)]
    assert "stronger evidence" in report.kept[0].reason
    assert report.accepted == 6
    after = _files(lake)
    assert all(after[name] == body for name, body in before.items())


def test_trade_ids_and_aggregate_ids_are_never_mixed(lake: Lake, tmp_path: Path) -> None:
    _import(lake, _agg_trades(tmp_path, range(100)))
    before = _files(lake)
    report = _import(lake, _trades(tmp_path))
    assert [day.reason for day in report.kept] == [
        "kept, already complete with other ids (file binance-aggtrades, aggTrade)"
    ]
    assert _files(lake) == before


def test_a_complete_day_of_other_ids_replaces_one_with_gaps(lake: Lake, tmp_path: Path) -> None:
    _import(lake, _agg_trades(tmp_path, [*range(50), *range(60, 100)]))
    assert _import(lake, _trades(tmp_path)).accepted == 200
    manifest = lake.manifest(USDT, FIRST)
    assert manifest is not None
    assert (manifest.rows, manifest.evidence["id_space"]) == (200, "trade")


def test_the_same_ids_from_a_file_add_nothing_to_a_fetched_day(lake: Lake, tmp_path: Path) -> None:
    _import(lake, _agg_trades(tmp_path, range(100)))
    held = lake.manifest(USDT, FIRST)
    other = _agg_trades(tmp_path, range(20, 60), name="BTCUSDT-aggTrades-2023-01")
    report = import_files(lake, [other], now=datetime(2023, 1, 2, tzinfo=UTC))
    assert (report.accepted, report.repeated) == (0, 40)
    assert lake.manifest(USDT, FIRST) == held


def test_an_id_with_other_values_is_refused_and_kept_aside(lake: Lake, tmp_path: Path) -> None:
    _import(lake, _agg_trades(tmp_path, range(100)))
    name = "BTCUSDT-aggTrades-2023-01-01"
    with zipfile.ZipFile(_agg_trades(tmp_path, range(100))) as file:
        text = file.read(f"{name}.csv").decode()
    path = _zip(tmp_path, name, text.replace("\n7,100.5,", "\n7,999,"))
    for _ in range(2):
        report = _import(lake, path)
        assert (report.accepted, report.repeated) == (0, 99)
        assert report.rejected == {"id repeated with other values": 1}
    rejects = lake.read_rejects(USDT, *day_window(FIRST))
    assert rejects["trade_id"].to_list() == [7]
    assert _read(lake, USDT, FIRST)["price"].unique().to_list() == [100.5]


# -- refused rows, crashes, odd files -----------------------------------------------------------------


def test_refused_rows_are_kept_with_reason_and_line_once(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD.csv"
    path.write_text(f"{T0},1,1\n{T0},0,1\nrubbish\nrubbish\n{T0 + 1},1,1\n")
    for _ in range(2):
        assert _import(lake, path).rejected == {"price not positive": 1, "time absent or unreadable": 2}
        rejects = lake.read_rejects(BTC, *day_window(FIRST))
        assert rejects["raw"].to_list() == [f'"{T0},0,1"', '"rubbish"', '"rubbish"']
    assert lake.manifest(BTC, FIRST).rejected == {  # type: ignore[union-attr]
        "price not positive": 1,
        "time absent or unreadable": 2,
    }


def test_a_trade_cut_in_its_amount_is_read_from_the_whole_file(lake: Lake, tmp_path: Path) -> None:
    path = _kraken(tmp_path, [(T0 + 3600 * n, 100.0, 1.2345) for n in range(60)])
    text = path.read_text()
    path.write_text(text[: text.index("\n", 1000) - 4])
    cut = shutil.copytree(tmp_path, tmp_path / "cut", ignore=shutil.ignore_patterns("lake"))
    report = _import(lake, cut)
    assert report.rejected == {"last line has no end and may be cut": 1}
    assert _import(lake, cut).total.finished_before == 0
    path.write_text(text)
    assert _import(lake, path).accepted == 60 - report.accepted
    for again in (cut, path):
        second = lake.manifest(BTC, SECOND)
        assert second is not None
        assert (second.status, second.rows, second.rejected) == (Status.COMPLETE, 24, {})
        assert _read(lake, BTC, SECOND)["amount"].unique().to_list() == [1.2345]
        assert _import(lake, again, again=True).accepted == 0


def test_the_id_of_a_line_that_may_be_cut_is_missing(lake: Lake, tmp_path: Path) -> None:
    lines = [f"{n},1,1,1,{(T0 + n) * 1000},True,True" for n in range(10)]
    (tmp_path / "BTCUSDT-trades-2023-01-01.csv").write_text("\n".join(lines[:6]))
    _import(lake, tmp_path)
    _import(lake, _zip(tmp_path, "BTCUSDT-trades-2023-01-01", "\n".join(lines[6:])))
    manifest = lake.manifest(USDT, FIRST)
    assert manifest is not None
    assert (manifest.status, manifest.missing_ids) == (Status.GAPS, ((5, 5),))


def test_a_candle_cut_in_its_last_number_is_read_from_the_whole_file(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD_60.csv"
    text = f"{T0},1,2,0.5,1.5,7,99\n{T0 + 3600},1,2,0.5,1.5,7,1234"
    for written in (text[:-3], text + "\n"):
        path.write_text(written)
        _import(lake, path)
    held = lake.read_candles(BTC, "1h", *day_window(FIRST), kind="exchange_candles")
    assert held["trade_count"].to_list() == [99, 1234]


def test_a_refused_row_is_not_a_missing_trade(lake: Lake, tmp_path: Path) -> None:
    name = "BTCUSDT-trades-2023-01-01"
    lines = [f"{n},{0 if n == 5 else 1},1,1,{(T0 + n) * 1000},True,True\n" for n in range(10)]
    _import(lake, _zip(tmp_path, name, "".join(lines)))
    for _ in range(2):
        manifest = lake.manifest(USDT, FIRST)
        assert manifest is not None
        assert (manifest.status, manifest.missing_ids) == (Status.COMPLETE, ())
        assert manifest.rejected == {"price not positive": 1}
        _import(lake, tmp_path / f"{name}.zip")


def test_foreign_and_damaged_files_are_named_and_do_not_stop_the_others(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    _kraken(folder, [(T0, 1, 1)])
    (folder / "notes.csv").write_text("hello,world\n")
    (folder / "ETHUSD.csv.gz").write_bytes(gzip.compress(b"1672531200,1,1\n" * 99)[:-9])
    (folder / "BTCUSDT-trades-2023-01-01.zip").write_bytes(b"PK\x03\x04 no zip")
    (folder / "SOLUSD.csv").write_text("1672531200,0,1\n")
    (folder / "readme.txt").write_text("hello")
    report = _import(lake, folder)
    assert (report.accepted, report.files) == (1, [str(folder / "XBTUSD.csv")])
    left_out = {Path(each.file).name: (each.format, each.error.message) for each in report.left_out}
    assert set(left_out) == {"notes.csv", "ETHUSD.csv.gz", "BTCUSDT-trades-2023-01-01.zip", "SOLUSD.csv"}
    assert "no known format" in left_out["notes.csv"][1]
    assert left_out["SOLUSD.csv"][0] == "kraken-trades"
    assert report.passed_over == {".txt": 1}


def test_when_no_file_can_be_imported_nothing_is_written_and_the_first_is_named(
    lake: Lake, tmp_path: Path
) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("hello,world\n")
    with pytest.raises(UsageError, match=r"None of 2 files.*a\.csv.*no known format"):
        _import(lake, tmp_path / "*.csv")
    assert not _files(lake)


def test_a_file_without_any_trade_is_an_error(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="price not positive"):
        _import(lake, _kraken(tmp_path, [(T0, 0, 1), (T0, -1, 1)]))
    assert not _files(lake)


def test_a_crash_leaves_whole_days_and_the_next_import_ends_the_work(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _kraken(tmp_path, [(T0 + 3600 * n, 100 + n, 1) for n in range(120)])
    whole = Lake.open(str(tmp_path / "whole"))
    _import(whole, path)
    placed = importing.place

    def place_two(*args: object) -> object:
        if len(lake.manifests(BTC)) == 2:
            raise KeyboardInterrupt
        return placed(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(importing, "place", place_two)
    with pytest.raises(KeyboardInterrupt):
        _import(lake, path)
    assert [manifest.rows for manifest in lake.manifests(BTC)] == [24, 24]
    monkeypatch.undo()
    report = _import(lake, path)
    assert (report.accepted, report.repeated) == (72, 48)
    assert _files(lake) == _files(whole)


def test_a_cut_gzip_leaves_the_days_before_the_damage(lake: Lake, tmp_path: Path) -> None:
    path = _kraken(tmp_path, [(T0 + 7 * n, 100 + n % 7, 1 + n / 1e8) for n in range(60_000)])
    body = gzip.compress(path.read_bytes())
    cut = tmp_path / "XBTUSD.csv.gz"
    cut.write_bytes(body[:-100])
    with pytest.raises(CorruptFile, match="cut"):
        _import(lake, cut)
    for manifest in lake.manifests(BTC):
        assert manifest.status is not Status.GAPS
        assert manifest.rows == len(_read(lake, BTC, manifest.day))
    cut.write_bytes(body)
    report = _import(lake, cut)
    assert report.rows == 60_000
    assert sum(manifest.rows for manifest in lake.manifests(BTC)) == 60_000


def test_candles_of_kraken_are_stored_per_interval(lake: Lake, tmp_path: Path) -> None:
    lines = "".join(f"{T0 + 3600 * n},1,2,0.5,1.5,{n % 3}.5,{n % 4}\n" for n in range(48))
    (tmp_path / "XBTUSD_60.csv").write_text(lines)
    assert _import(lake, tmp_path / "XBTUSD_60.csv").accepted == 48
    stored = lake.read_candles(
        BTC, "1h", day_window(FIRST)[0], day_window(SECOND)[1], kind="exchange_candles"
    )
    assert len(stored) == 48
    assert stored["quote_volume"].null_count() == 48
    assert stored["trade_count"].sum() == sum(n % 4 for n in range(48))


def test_the_market_can_be_said_and_progress_is_told(lake: Lake, tmp_path: Path) -> None:
    seen: list[ImportProgress] = []
    path = _kraken(tmp_path, [(T0 + 3600 * n, 1, 1) for n in range(60)], name="download (1).csv")
    market = Market("kraken", "ETH/EUR")
    report = _import(lake, path, market=market, on_progress=seen.append)
    assert report.days == {market: {FIRST, SECOND, date(2023, 1, 3)}}
    assert [progress.rows for progress in seen] == [24, 48, 60]
    assert seen[-1].fraction == 1.0


def test_copies_of_one_file_in_two_folders_add_its_trades_once(lake: Lake, tmp_path: Path) -> None:
    path = _kraken(tmp_path / "a", [(T0 + n // 3, 1, 1) for n in range(30)])
    (tmp_path / "b").mkdir()
    shutil.copy(path, tmp_path / "b")
    report = _import(lake, tmp_path / "a", tmp_path / "b")
    assert (report.accepted, report.repeated) == (30, 30)


ROWS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([1.0, 2.0]), st.sampled_from([0.5, 1.0])),
    min_size=1,
    max_size=60,
)


@given(ROWS, st.integers(0, 59), st.integers(0, 59))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_two_overlapping_parts_give_what_the_whole_file_gives(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float, float]], cut: int, overlap: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    rows = sorted(rows, key=lambda row: row[0])
    rows = [(T0 + 4000 * time, price, amount) for time, price, amount in rows]
    cuts = [n for n in range(len(rows) + 1) if n in {0, len(rows)} or rows[n - 1][0] < rows[n][0]]
    end = min(cuts, key=lambda n: abs(n - cut))
    begin = min(cuts, key=lambda n: abs(n - max(0, end - overlap)))
    if end == 0 or begin == len(rows):
        return
    parts = Lake.open(str(folder / "parts"))
    _import(parts, _kraken(folder / "2", rows[begin:]))
    _import(parts, _kraken(folder / "1", rows[:end]))
    whole = Lake.open(str(folder / "whole"))
    _import(whole, _kraken(folder / "0", rows))
    span = (from_us(T0 * 10**6), from_us((T0 + 4000 * 41) * 10**6))
    assert parts.read_trades(BTC, *span).equals(whole.read_trades(BTC, *span))


def _candles(lake: Lake, *days: date) -> pl.DataFrame:
    return lake.read_candles(BTC, "1m", day_window(days[0])[0], day_window(days[-1])[1])


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_a_second_split_by_two_files_opens_and_closes_its_candle_in_any_order(
    lake: Lake, tmp_path: Path, order: tuple[str, ...]
) -> None:
    noon = T0 + 12 * 3600
    rows = [(noon + at, price, 1) for at, price in ((-600, 9), (-300, 9), (-60, 9), (0, 2), (0, 2.5))]
    rows += [(noon + at, price, 1) for at, price in ((0, 3), (0, 4), (600, 9))]
    for name, part in {"a": rows[:2], "b": rows[2:5], "c": rows[5:]}.items():
        _kraken(tmp_path / name, part)
    for name in order:
        _import(lake, tmp_path / name)
    candle = _candles(lake, FIRST).filter(pl.col("open_time") == from_us(noon * 10**6))
    assert candle.select("open", "close", "trade_count").rows() == [(2.0, 4.0, 4)]
    before = _times(lake)
    assert _import(lake, _kraken(tmp_path / "whole", rows)).accepted == 0
    assert _times(lake) == before


@given(ROWS, st.data())
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_whole_file_after_parts_cut_anywhere_gives_its_rows_in_its_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float, float]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    rows = [(-1, 9.0, 1.0), *sorted(rows, key=lambda row: row[0]), (41, 9.0, 1.0)]
    rows = [(T0 + 86_400 + 9000 * (time // 4), price, amount) for time, price, amount in rows]
    cuts = st.tuples(st.integers(0, len(rows) - 1), st.integers(1, 25))
    parts = Lake.open(str(folder / "parts"))
    for number, (begin, length) in enumerate(data.draw(st.lists(cuts, min_size=2, max_size=5))):
        _import(parts, _kraken(folder / str(number), rows[begin : begin + length]))
    path = _kraken(folder / "whole", rows)
    _import(parts, path)
    whole = Lake.open(str(folder / "lake"))
    _import(whole, path)
    days = [FIRST + timedelta(days=number) for number in range(4)]
    span = day_window(days[0])[0], day_window(days[-1])[1]
    assert len(whole.read_trades(BTC, *span)) == len(rows)
    assert parts.read_trades(BTC, *span).equals(whole.read_trades(BTC, *span))
    assert _candles(parts, *days).equals(_candles(whole, *days))


def test_a_file_that_is_newest_first_stores_the_order_in_which_it_happened(
    lake: Lake, tmp_path: Path
) -> None:
    rows = [(T0 + n // 3 * 5000, 100.0 + n, 1.0) for n in range(60)]
    _import(lake, _kraken(tmp_path / "newest first", rows[::-1]))
    backwards = lake.read_trades(BTC, *day_window(FIRST))
    assert backwards["price"].is_sorted()
    report = _import(lake, _kraken(tmp_path, rows))
    assert report.accepted == 0
    assert lake.read_trades(BTC, *day_window(FIRST)).equals(backwards)
