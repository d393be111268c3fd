"""Many files of many formats in one import: what is finished is not read again, nothing counts twice."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from marketdata import importing
from marketdata.completeness import content_hash
from marketdata.fold import fold
from marketdata.importing import ImportProgress, ImportReport, import_files
from marketdata.lake import Lake
from marketdata.manifest import Ids, Status, day_window
from marketdata.market import Market
from marketdata.reading import candles
from tests.conftest import ROOT
from tests.imports import (
    HOUR,
    T0,
    agg_trades_zip,
    freqtrade_candles,
    freqtrade_trades,
    kraken_csv,
    stored,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BTC, USDT = Market("kraken", "BTC/USD"), Market("binance", "BTC/USDT")
FIRST = date(2023, 1, 1)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def _import(lake: Lake, *paths: Path | str, **options: object) -> ImportReport:
    return import_files(lake, paths, now=NOW, **options)  # type: ignore[arg-type]


def _mixed(folder: Path) -> Path:
    """Days of two exchanges in five formats, copies and overlaps among them."""
    hours = [(T0 + HOUR * n, 100 + n % 7, 1 + n) for n in range(60)]
    kraken_csv(folder / "kraken", hours[:40])
    kraken_csv(folder / "kraken" / "q2", hours[38:])
    kraken_csv(folder / "kraken", [(T0 + 7 * n, 3, 1) for n in range(99)], name="ETHUSD.csv")
    for day in range(3):
        agg_trades_zip(folder / "binance" / "zips", day, range(100 + 50 * day, 150 + 50 * day))
    rows = [(int(time * 1000), None, "buy", price, amount) for time, price, amount in hours]
    freqtrade_trades(folder / "ft" / "kraken" / "SOL_USD-trades.feather", rows)
    freqtrade_trades(folder / "ft" / "kraken" / "SOL_USD-trades.json.gz", rows)
    freqtrade_candles(
        folder / "ft" / "binance" / "BTC_USDT-1h.feather",
        [[(T0 + HOUR * n) * 1000, 1, 2, 0.5, 1.5, 3] for n in range(48)],
    )
    return folder


# -- resume -------------------------------------------------------------------------------------------


def test_what_was_finished_is_not_read_again(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _mixed(tmp_path / "in")
    first = _import(lake, source)
    before = stored(lake)
    read: list[str] = []
    days_of = importing.days_of
    monkeypatch.setattr(
        importing, "days_of", lambda file, now: read.append(str(file.table)) or days_of(file, now)
    )
    second = _import(lake, source)
    assert read == []
    assert (second.rows, second.accepted, second.repeated) == (first.rows, 0, first.rows)
    assert second.total.finished_before == second.total.files == len(first.files) == 9
    assert stored(lake) == before
    _import(lake, source, again=True)
    assert len(read) == 9
    assert stored(lake) == before


@pytest.mark.parametrize("change", ["content", "time", "size", "lake"])
def test_a_changed_file_or_a_lost_day_is_read_again(lake: Lake, tmp_path: Path, change: str) -> None:
    path = kraken_csv(tmp_path, [(T0 + HOUR * n, 100, 1) for n in range(30)])
    _import(lake, path)
    status = path.stat()
    body = path.read_bytes()
    if change == "content":
        path.write_bytes(body.replace(b"100.00000", b"200.00000"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    elif change == "size":
        path.write_bytes(body + f"{T0 + HOUR * 30},100,1\n".encode())
    else:
        shutil.rmtree(Path(lake.path("trades", BTC, FIRST)).parent)
    report = _import(lake, path)
    assert report.total.finished_before == 0
    assert report.accepted == {"content": 30, "time": 0, "size": 1, "lake": 24}[change]


def test_a_file_that_still_grows_is_never_finished(lake: Lake, tmp_path: Path) -> None:
    path = kraken_csv(tmp_path, [(T0 + HOUR * n, 100, 1) for n in range(30)])
    early = datetime(2023, 1, 2, 3, tzinfo=UTC)
    report = import_files(lake, [path], now=early)
    assert report.rejected["time in the future"] == 2
    report = _import(lake, path)
    assert (report.total.finished_before, report.accepted) == (0, 2)


Killed = Callable[[Path, Path, int], str]


@pytest.fixture
def killed() -> Iterator[Killed]:
    """Import in a process that dies at its n-th step; says ``killed``, or steps, rows and files finished."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.imports_killed"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    commands, answers = server.stdin, server.stdout

    def ask(lake: Path, source: Path, kill_at: int) -> str:
        commands.write(f"{lake} {source} {kill_at}\n")
        commands.flush()
        return answers.readline().strip()

    try:
        yield ask
    finally:
        commands.close()
        answers.close()
        server.wait(90)


def test_an_import_killed_at_any_step_ends_in_the_identical_lake(killed: Killed, tmp_path: Path) -> None:
    source = _mixed(tmp_path / "in")
    whole = tmp_path / "whole"
    steps, rows, _ = map(int, killed(whole, source, 0).split())
    expected = stored(Lake.open(str(whole)))
    resumed = []
    for point in sorted(random.Random(20250608).sample(range(1, steps + 1), 8)):
        folder = tmp_path / f"lake-{point}"
        assert killed(folder, source, point) == "killed", point
        _, again, finished = map(int, killed(folder, source, 0).split())
        resumed.append(finished)
        assert again == rows
        assert stored(Lake.open(str(folder))) == expected, point
    assert resumed == sorted(resumed)
    assert 0 < resumed[-1] <= 9


def test_an_import_killed_again_and_again_comes_to_its_end(killed: Killed, tmp_path: Path) -> None:
    source = _mixed(tmp_path / "in")
    whole, folder = tmp_path / "whole", tmp_path / "lake"
    steps = int(killed(whole, source, 0).split()[0])
    kills = 0
    while (said := killed(folder, source, steps // 4)) == "killed":
        kills += 1
        assert kills < 20
    assert kills >= 2
    assert int(said.split()[2]) > 0
    assert stored(Lake.open(str(folder))) == stored(Lake.open(str(whole)))


# -- the summary --------------------------------------------------------------------------------------


def test_rows_are_counted_by_format_and_reason(lake: Lake, tmp_path: Path) -> None:
    source = _mixed(tmp_path / "in")
    with (source / "kraken" / "XBTUSD.csv").open("a") as file:
        file.write(f"{T0 + HOUR * 40},0,1\n{T0 + HOUR * 40},1,-1\n")
    report = _import(lake, source)
    csv, archive = report.tallies["kraken-trades"], report.tallies["binance-aggtrades"]
    assert (csv.files, csv.rows, csv.accepted, csv.repeated) == (3, 40 + 22 + 99 + 2, 60 + 99, 2)
    assert csv.rejected == {"price not positive": 1, "amount not positive": 1}
    # The first file begins with the first second of its day; the last of BTC and all of ETH end inside one.
    assert (csv.days, csv.statuses) == (4, {Status.COMPLETE: 2, Status.UNKNOWN: 2})
    assert (archive.files, archive.rows, archive.accepted) == (3, 150, 150)
    assert archive.statuses == {Status.COMPLETE: 3}
    trades = report.tallies["freqtrade-trades"]
    assert (trades.files, trades.accepted, trades.repeated) == (2, 60, 60)
    assert trades.statuses == {Status.UNKNOWN: 3}
    assert (report.tallies["freqtrade-candles"].accepted, report.tallies["freqtrade-candles"].days) == (48, 2)
    assert report.total.bytes == sum(
        path.stat().st_size for path in source.rglob("*.*") if path.suffix != ".zip"
    ) + (report.tallies["binance-aggtrades"].bytes)


def test_progress_is_of_the_whole_set(lake: Lake, tmp_path: Path) -> None:
    seen: list[ImportProgress] = []
    report = _import(lake, _mixed(tmp_path / "in"), on_progress=seen.append)
    done = [progress.bytes_done for progress in seen]
    assert done == sorted(done)
    assert {progress.files for progress in seen} == {9}
    assert {progress.bytes for progress in seen} == {report.total.bytes}
    assert seen[-1].files_done == 8
    assert seen[-1].rows == report.rows


def test_the_lake_may_lie_among_the_files(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "in" / "lake"))
    _import(lake, _mixed(tmp_path / "in"))
    report = _import(lake, tmp_path / "in")
    assert (report.left_out, report.accepted) == ([], 0)


def test_days_of_many_files_prove_each_other_whatever_the_order(tmp_path: Path) -> None:
    source = _mixed(tmp_path / "in") / "binance" / "zips"
    together, apart = (Lake.open(str(tmp_path / name)) for name in ("together", "apart"))
    _import(together, source)
    for path in sorted(source.glob("*.zip"), reverse=True):
        _import(apart, path)
    assert stored(together) == stored(apart)
    middle = together.manifest(USDT, FIRST + timedelta(days=1))
    assert middle is not None
    assert (middle.previous_id, middle.following_id) == (149, 200)


# -- freqtrade ----------------------------------------------------------------------------------------


def test_a_file_without_ids_proves_no_day_and_one_with_ids_does(lake: Lake, tmp_path: Path) -> None:
    times = [(T0 + HOUR * n) * 1000 for n in range(72)]
    _import(
        lake,
        freqtrade_trades(
            tmp_path / "kraken" / "BTC_USD-trades.json", [(t, None, "buy", 1, 1) for t in times]
        ),
    )
    assert [(m.status, m.ids) for m in lake.manifests(BTC)] == [(Status.UNKNOWN, Ids.FINGERPRINT)] * 3
    rows = [(time, str(n), "buy", 1, 1) for n, time in enumerate(times)]
    _import(lake, freqtrade_trades(tmp_path / "new" / "kraken" / "BTC_USD-trades.json", rows))
    statuses = [(manifest.status, manifest.ids) for manifest in lake.manifests(BTC)]
    assert statuses[1] == (Status.COMPLETE, Ids.SEQUENTIAL)


def test_a_file_of_odd_types_is_named_and_does_not_stop_the_others(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "kraken"
    kraken_csv(folder, [(T0, 1, 1)])
    odd = freqtrade_trades(folder / "ETH_USD-trades.parquet", [(T0 * 1000, "1", "buy", 1, 1)])
    pl.read_parquet(odd).with_columns(pl.concat_list("id").alias("id")).write_parquet(odd)
    report = _import(lake, tmp_path / "in")
    assert report.accepted == 1
    assert [Path(each.file).name for each in report.left_out] == ["ETH_USD-trades.parquet"]
    assert "Column 'id'" in report.left_out[0].error.message


def test_an_archive_replaces_what_freqtrade_knew_without_fills(lake: Lake, tmp_path: Path) -> None:
    rows = [((T0 + 600 * n) * 1000, str(100 + n), "sell", 100.5, 0.25) for n in range(-2, 150)]
    _import(lake, freqtrade_trades(tmp_path / "binance" / "BTC_USDT-trades.feather", rows))
    held = lake.manifest(USDT, FIRST)
    assert held is not None
    assert (held.status, held.rows, held.fills) == (Status.COMPLETE, 144, 144)
    archive = agg_trades_zip(tmp_path, 0, range(100, 244))
    assert _import(lake, archive).accepted == 144
    assert lake.manifest(USDT, FIRST).fills == 288  # type: ignore[union-attr]
    report = _import(lake, tmp_path / "binance", again=True)
    assert [day.day for day in report.kept] == [FIRST]


def test_candles_of_the_exchange_replace_those_of_freqtrade(lake: Lake, tmp_path: Path) -> None:
    freqtrade_candles(tmp_path / "kraken" / "BTC_USD-1h.json", [[T0 * 1000, 1, 2, 0.5, 1.5, 3]])
    (tmp_path / "XBTUSD_60.csv").write_text(f"{T0},1,3,0.5,1.5,4,9\n{T0 + HOUR},1,2,0.5,1.5,3,9\n")
    for _ in range(2):
        _import(lake, tmp_path / "kraken" / "BTC_USD-1h.json", again=True)
        _import(lake, tmp_path / "XBTUSD_60.csv", again=True)
        held = lake.read_candles(BTC, "1h", *day_window(FIRST), kind="exchange_candles")
        assert held["trade_count"].to_list() == [9, 9]
        facts = lake.read_facts("exchange_candles", BTC, FIRST, "1h")
        assert facts is not None
        assert facts["source"] == "file kraken-ohlcvt"


# -- captured files -----------------------------------------------------------------------------------


@pytest.mark.fixtures
def test_everything_captured_is_imported_in_one_call_and_twice_adds_nothing(
    lake: Lake, captures: Path
) -> None:
    names = [
        "binance/aggtrades_xrpeth/XRP_ETH*",
        "binance/klines/*",
        "binance/klines_vision/**/*.zip",
        "binance/long_1m/*",
        "kraken/freqtrade_xrpusdt/*",
        "kraken/long_1m/*",
        "kraken/csv_bcheur",
    ]
    report = _import(lake, *(str(captures / name) for name in names))
    counts = {name: (tally.files, tally.accepted) for name, tally in report.tallies.items()}
    assert counts == {
        "freqtrade-trades": (2, 12_477 + 17_574),
        "freqtrade-candles": (6, 2_469 + 706 + 43_209 + 42_915 + 51 + 74_639),
        "binance-klines": (2, 2_880),
        "kraken-trades": (2, 634),
    }
    assert (report.rejected, report.kept, report.left_out, report.repeated) == ({}, [], [], 0)
    before = stored(lake)
    again = _import(lake, *(str(captures / name) for name in names), again=True)
    assert (again.rows, again.accepted, again.repeated) == (report.rows, 0, report.rows)
    assert stored(lake) == before


@pytest.mark.fixtures
@pytest.mark.parametrize("name", ["XRP_ETH-trades.feather", "XRP_OLD-trades.json.gz"])
def test_captured_aggregate_trades_give_the_candles_freqtrade_gave(
    lake: Lake, captures: Path, name: str
) -> None:
    folder = captures / "binance" / "aggtrades_xrpeth"
    _import(lake, folder / name)
    market = Market("binance", "XRP/ETH")
    manifests = lake.manifests(market)
    assert [manifest.status for manifest in manifests] == [Status.UNKNOWN, Status.COMPLETE, Status.UNKNOWN]
    fills = sum(manifest.fills for manifest in manifests)
    assert fills == (12_477 if name.endswith(".feather") else 14_672)
    _import(lake, folder / "XRP_ETH-1m.feather", folder / "XRP_ETH-5m.feather")
    start, end = day_window(date(2019, 10, 11))[0], day_window(date(2019, 10, 13))[1]
    for interval, count in (("1m", 2_469), ("5m", 706)):
        ours = candles(lake, market, interval, start, end)
        theirs = lake.read_candles(market, interval, start, end, kind="exchange_candles")
        assert len(ours) == len(theirs) == count
        for column in ("open_time", "open", "high", "low", "close"):
            assert ours[column].to_list() == theirs[column].to_list()
        assert (ours["volume"] - theirs["volume"]).abs().max() < 1e-6  # type: ignore[operator]


@pytest.mark.fixtures
def test_captured_trades_without_ids_are_all_kept_and_give_freqtrades_days(
    lake: Lake, captures: Path
) -> None:
    folder = captures / "kraken" / "freqtrade_xrpusdt"
    report = _import(lake, folder)
    market = Market("kraken", "XRP/USDT")
    assert report.tallies["freqtrade-trades"].accepted == 17_574
    start, end = day_window(date(2022, 5, 13))[0], day_window(date(2022, 7, 2))[1]
    trades = lake.read_trades(market, start, end)
    assert len(trades) == trades.select("time", "trade_id").n_unique() == 17_574
    assert {manifest.status for manifest in lake.manifests(market)} == {Status.UNKNOWN}
    ours = fold(trades, "1d")
    theirs = lake.read_candles(market, "1d", start, end, kind="exchange_candles")
    assert len(ours) == len(theirs) == 51
    for column in ("open_time", "open", "high", "low", "close"):
        assert ours[column].to_list() == theirs[column].to_list()
    assert (ours["volume"] - theirs["volume"]).abs().max() < 1e-6  # type: ignore[operator]


@pytest.mark.fixtures
def test_an_outage_in_captured_candles_stays_a_hole(lake: Lake, captures: Path) -> None:
    _import(lake, captures / "binance" / "long_1m")
    start, end = day_window(date(2021, 4, 25))
    held = lake.read_candles(USDT, "1m", start, end, kind="exchange_candles")
    assert len(held) == 1440 - 284
    facts = lake.read_facts("exchange_candles", USDT, date(2021, 4, 25), "1m")
    assert facts is not None
    assert facts["source"] == "file freqtrade-candles"


def test_the_same_trades_have_the_same_hash_from_every_form(tmp_path: Path) -> None:
    rows = [((T0 + 60 * n) * 1000, str(n), "buy", 1.5 + n, 0.25) for n in range(90)]
    hashes = set()
    for form in ("feather", "parquet", "json", "json.gz"):
        lake = Lake.open(str(tmp_path / form))
        _import(lake, freqtrade_trades(tmp_path / "kraken" / f"BTC_USD-trades.{form}", rows))
        trades = lake.read_trades(BTC, *day_window(FIRST))
        hashes.add(content_hash(trades))
        assert trades["trade_id"].dtype == pl.Int64
    assert len(hashes) == 1
