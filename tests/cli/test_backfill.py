"""Backfills through the command, against the local exchange."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from marketdata import sources
from marketdata.exchange_sim import RunningExchange
from marketdata.manifest import Status
from marketdata.market import Market
from tests.cli.conftest import Command, Result
from tests.cli.lakes import open_lake

SOL = "kraken:SOL/USD"
XRP = "binance:XRP/USDT"
DAY_1 = ["--start", "2025-06-01", "--end", "2025-06-02"]
DAYS_2 = ["--start", "2025-06-01", "--end", "2025-06-03"]
PROGRAM = [sys.executable, "-c", "from marketdata.cli.main import run; run()"]


@pytest.fixture
def server(
    exchange_server: Callable[..., RunningExchange], home: Path, monkeypatch: pytest.MonkeyPatch
) -> RunningExchange:
    running = exchange_server()
    for name, url in running.environment.items():
        monkeypatch.setenv(name, url)
    return running


@pytest.fixture(autouse=True)
def fresh_clients(home: Path) -> None:
    sources.close()


def files(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def days_in_place(home: Path) -> list[str]:
    """What a reader of the lake sees; staged pages are not part of it."""
    return [name for name in files(home) if name.endswith("part-0.parquet")]


def row(result: Result, market: str) -> list[str]:
    """The cells of a market in the final table."""
    return next(line for line in result.text.splitlines() if line.strip().startswith(market)).split()


@pytest.mark.usefixtures("server")
def test_days_of_several_exchanges_are_fetched_proved_and_folded(marketdata: Command, home: Path) -> None:
    result = marketdata("backfill", SOL, XRP, *DAYS_2)
    assert result.code == 0
    lake = open_lake(home)
    for name in (SOL, XRP):
        manifests = lake.manifests(Market.parse(name))
        assert [manifest.status for manifest in manifests] == [Status.COMPLETE, Status.COMPLETE]
        assert [manifest.day for manifest in manifests] == [date(2025, 6, 1), date(2025, 6, 2)]
        rows = sum(manifest.rows for manifest in manifests)
        assert row(result, name)[1:4] == ["2", "2", f"{rows:,}"]
        assert row(result, name)[-1] == "complete"
        for manifest in manifests:
            assert lake.size("candles", manifest.market, manifest.day, "1m") > 0
    assert row(result, "total")[1] == "4"
    lines = [line for line in result.stderr.splitlines() if " of 2 days, " not in line]
    assert len(lines) == 4
    assert len(result.stderr.splitlines()) == 6
    assert all("complete" in line and "page" in line for line in lines)


@pytest.mark.usefixtures("server")
def test_complete_days_are_left_alone_and_refresh_writes_the_identical_file(
    marketdata: Command, home: Path
) -> None:
    marketdata("backfill", SOL, *DAY_1)
    before = files(home)
    again = marketdata("backfill", SOL, *DAY_1)
    assert again.code == 0
    assert row(again, SOL)[2] == "0"
    assert "was there" in again.stderr
    refreshed = marketdata("backfill", SOL, *DAY_1, "--refresh")
    assert row(refreshed, SOL)[2] == "1"
    assert files(home) == before


@pytest.mark.usefixtures("server")
def test_without_a_market_all_of_the_market_file_is_fetched_from_since_on(
    marketdata: Command, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "markets.toml").write_text(
        '[[market]]\nexchange = "kraken"\nsymbol = "SOL/USD"\nsince = 2025-06-02\n'
        '[[market]]\nexchange = "binance"\nsymbol = "XRP/USDT"\nsince = 2025-06-01\n'
    )
    monkeypatch.setenv("MARKETDATA_MARKETS", str(tmp_path / "markets.toml"))
    result = marketdata("backfill", *DAYS_2)
    assert result.code == 0
    days = {str(market): found for market, found in open_lake(home).days().items()}
    assert days == {SOL: [date(2025, 6, 2)], XRP: [date(2025, 6, 1), date(2025, 6, 2)]}
    before = marketdata("backfill", "--start", "2025-05-01", "--end", "2025-05-03")
    assert before.code == 2
    assert "2025-06-01" in before.error


def test_a_day_with_gaps_exits_1_and_says_which_ids_are_missing(
    marketdata: Command, home: Path, server: RunningExchange, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    marketdata("backfill", SOL, *DAY_1)
    whole = open_lake(home).manifests()[0]
    assert whole.first_id is not None
    lost = (whole.first_id + 2_500, whole.first_id + 2_502)
    monkeypatch.setenv("MARKETDATA_LAKE", str(tmp_path / "other"))
    refused = {"error": ["EGeneral:Permission denied"]}
    server.faults(
        [
            {"kind": "drop", "match": "/Trades", "ids": [lost]},
            # All pages are served; asking once more for the hole is not.
            {"kind": "reply", "match": "/Trades", "skip": whole.pages, "body": refused},
        ]
    )
    result = marketdata("backfill", SOL, *DAY_1)
    assert result.code == 1
    assert row(result, SOL)[-2:] == ["1", "gaps"]
    warning = result.stderr.splitlines()[-1]
    assert warning.startswith(f"warning: {SOL} 2025-06-01 has status gaps: 3 trades")
    assert str(lost[0]) in warning
    assert "▒ gaps 1" in marketdata("coverage", SOL, "-f", "map").text
    server.faults([])
    assert marketdata("backfill", SOL, *DAY_1).code == 0


def test_one_day_that_fails_does_not_stop_the_others(
    marketdata: Command, home: Path, server: RunningExchange
) -> None:
    server.faults([{"kind": "html", "match": "/kraken/0/public/Trades"}])
    result = marketdata("backfill", SOL, XRP, *DAY_1)
    assert result.code == 1
    assert row(result, XRP)[-1] == "complete"
    assert row(result, SOL)[-2:] == ["1", "failed"]
    assert result.error.startswith(f"{SOL} 2025-06-01 failed: ")
    assert [name for name in days_in_place(home) if "kraken" in name] == []


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ([{"kind": "html", "match": "/Trades"}], ["kraken"]),
        ([{"kind": "cut", "match": "/Trades"}], ["kraken"]),
        ([{"kind": "500", "match": "/Trades"}], ["kraken"]),
        ([{"kind": "reply", "match": "/Trades", "body": {"error": [], "result": {}}}], ["kraken"]),
        (
            [{"kind": "reply", "match": "/Trades", "body": {"error": ["EGeneral:Permission denied"]}}],
            ["Permission"],
        ),
    ],
)
def test_a_malformed_page_is_one_line_and_leaves_no_day(
    marketdata: Command,
    home: Path,
    server: RunningExchange,
    faults: list[dict[str, object]],
    words: list[str],
) -> None:
    server.faults(faults)
    result = marketdata("backfill", SOL, *DAY_1)
    assert (result.code, result.stdout) == (1, b"")
    assert [word for word in words if word.lower() not in result.error.lower()] == []
    assert days_in_place(home) == []


def test_a_wrong_checksum_is_one_line_and_leaves_no_day(
    marketdata: Command, home: Path, server: RunningExchange
) -> None:
    server.faults([{"kind": "checksum"}])
    result = marketdata("backfill", XRP, *DAY_1)
    assert (result.code, result.stdout) == (1, b"")
    assert "XRPUSDT-aggTrades-2025-06-01.zip" in result.error
    assert "checksum" in result.error.lower() or "sha256" in result.error.lower()
    assert days_in_place(home) == []


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["karken:BTC/USD", *DAY_1], ["'karken'", "'kraken'"]),
        (["kraken:BTC/USDD", *DAY_1], ["BTC/USDD", "BTC/USD"]),
        (["BTC/USD", *DAY_1], ["'BTC/USD'"]),
        ([SOL], ["--last"]),
        ([SOL, "--start", "2025-06-02", "--end", "2025-06-01"], ["reversed", "2025-06-02", "2025-06-01"]),
        ([SOL, "--start", "2025-06-01", "--end", "2999-01-01"], ["2999-01-01"]),
        ([SOL, "--start", "2999-01-01", "--end", "2999-01-02"], ["future", "2999-01-01"]),
        ([SOL, "--last", "7"], ["--last '7'", "7d"]),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(
    marketdata: Command, home: Path, arguments: list[str], words: list[str]
) -> None:
    result = marketdata("backfill", *arguments)
    assert (result.code, result.stdout) == (2, b"")
    assert result.stderr.count("\n") == 1
    assert [word for word in words if word not in result.error] == []
    assert not home.exists()


@pytest.mark.usefixtures("server")
def test_the_running_day_is_never_fetched(marketdata: Command, home: Path) -> None:
    tomorrow = date.today() + timedelta(days=2)  # noqa: DTZ011 - whatever the zone, later than the running UTC day
    result = marketdata("backfill", SOL, "--start", "2025-06-01", "--end", tomorrow)
    assert result.code == 2
    assert "running day" in result.error


def test_an_exchange_that_does_not_answer_is_one_line(
    marketdata: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETDATA_KRAKEN_URL", "http://127.0.0.1:9/kraken")
    monkeypatch.setenv("MARKETDATA_REQUEST_ATTEMPTS", "1")
    result = marketdata("backfill", SOL, *DAY_1)
    assert (result.code, result.stdout) == (1, b"")
    assert "kraken" in result.error
    assert not home.exists()


@pytest.mark.usefixtures("server")
def test_a_lake_below_a_file_is_one_line_however_many_days(
    marketdata: Command, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MARKETDATA_LAKE", str(tmp_path / "file" / "lake"))
    result = marketdata("backfill", SOL, "--start", "2025-06-01", "--end", "2025-06-05")
    assert (result.code, result.stdout) == (1, b"")
    assert str(tmp_path / "file" / "lake") in result.error
    assert "MARKETDATA_LAKE" in result.error
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.usefixtures("server")
def test_a_full_disk_is_one_line_and_leaves_no_day(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system ends at 20 kB a file (RLIMIT_FSIZE); what it says then is as for a full disk."""
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "from marketdata.cli.main import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "backfill", SOL, *DAY_1],
        capture_output=True, text=True, check=False, timeout=300, env=os.environ.copy(),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    assert str(home) in errors[0]
    assert days_in_place(home) == []


@pytest.mark.usefixtures("server")
def test_a_damaged_day_is_named_and_refresh_repairs_it(marketdata: Command, home: Path) -> None:
    marketdata("backfill", SOL, *DAY_1)
    lake = open_lake(home)
    path = Path(lake.path("trades", Market.parse(SOL), date(2025, 6, 1)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    broken = marketdata("backfill", SOL, *DAY_1)
    assert broken.code == 1
    assert str(path) in broken.error
    assert marketdata("backfill", SOL, *DAY_1, "--refresh").code == 0
    assert path.read_bytes() == whole


def test_ctrl_c_keeps_the_pages_and_the_same_command_goes_on(
    home: Path, exchange_server: Callable[..., RunningExchange], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = exchange_server(latency_ms=150)
    for name, url in running.environment.items():
        monkeypatch.setenv(name, url)
    command = [*PROGRAM, "backfill", SOL, *DAY_1]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while len(files(home) if home.exists() else {}) < 3:
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        _, complaint = first.communicate(timeout=300)
    finally:
        if first.poll() is None:
            first.kill()
            first.communicate()
    assert first.returncode == 130
    assert "the same command goes on where it stopped" in complaint
    assert complaint.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in complaint
    assert days_in_place(home) == []
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert second.returncode == 0, second.stderr
    assert "from before" in second.stderr
    shutil.copytree(home, home.with_name("kept"))
    shutil.rmtree(home)
    whole = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert whole.returncode == 0
    trades = [name for name in days_in_place(home) if "trades/" in name]
    assert len(trades) == 1
    resumed, fresh = (pl.read_parquet(folder / trades[0]) for folder in (home.with_name("kept"), home))
    assert resumed.equals(fresh)


@pytest.mark.usefixtures("server")
def test_compare_counts_candles_equal_to_the_exchanges_own(marketdata: Command, home: Path) -> None:
    marketdata("backfill", XRP, *DAY_1)
    result = marketdata("compare", XRP, *DAY_1)
    assert (result.code, result.stderr) == (0, "")
    words = result.text.split()
    assert words[:2] == [XRP, "2025-06-01:"]
    compared, equal, findings = words[2], words[4], words[6]
    assert compared == equal
    assert int(compared.replace(",", "")) > 1_000
    assert findings == "0"


@pytest.mark.usefixtures("server")
def test_compare_exits_1_and_shows_what_differs(marketdata: Command, home: Path) -> None:
    marketdata("backfill", XRP, *DAY_1)
    lake = open_lake(home)
    market, day = Market.parse(XRP), date(2025, 6, 1)
    path = Path(lake.path("candles", market, day, "1m"))
    candles = pl.read_parquet(path)
    lake.write_candles(
        market,
        day,
        "1m",
        candles.with_columns(close=pl.when(pl.int_range(pl.len()) == 7).then(0.5).otherwise("close")),
        facts=lake.read_facts("candles", market, day, "1m"),
    )
    result = marketdata("compare", XRP, *DAY_1)
    assert result.code == 1
    assert "close" in result.text


@pytest.mark.usefixtures("server")
def test_what_was_fetched_can_be_read_in_every_way(marketdata: Command, home: Path) -> None:
    marketdata("backfill", SOL, *DAY_1)
    rows = open_lake(home).manifests()[0].rows
    trades = marketdata("trades", SOL, *DAY_1, "-f", "json")
    assert len(trades.stdout.splitlines()) == rows
    candles = [
        json.loads(line)
        for line in marketdata("candles", SOL, "-i", "1d", *DAY_1, "-f", "json").stdout.splitlines()
    ]
    assert [candle["trade_count"] for candle in candles] == [rows]
    assert "1/1" in marketdata("coverage", SOL, "-f", "map").text
