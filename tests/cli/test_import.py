"""Imports through the command."""

import json
import signal
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from marketdata.market import Market
from tests.cli.conftest import Command
from tests.cli.lakes import open_lake

PROGRAM = [sys.executable, "-c", "from marketdata.cli.main import run; run()"]
KRAKEN = "1685577600,27210.1,0.01\n1685577600,27210.1,0.01\n1685577661,27211.5,1.25\n1685750461,27300.0,0.5\n"


def kraken_file(folder: Path, name: str = "XBTUSD.csv", text: str = KRAKEN) -> Path:
    (folder / name).write_text(text)
    return folder / name


def lake_files(home: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_a_file_is_imported_once_and_a_second_time_adds_nothing(
    marketdata: Command, home: Path, tmp_path: Path
) -> None:
    path = kraken_file(tmp_path)
    first = marketdata("import", path)
    assert (first.code, first.stderr) == (0, "")
    assert "kraken:BTC/USD" in first.text
    assert "4 rows read, 4 new, 0 were there" in first.text
    before = lake_files(home)
    second = marketdata("import", path)
    assert "4 rows read, 0 new, 4 were there" in second.text
    assert lake_files(home) == before
    lake = open_lake(home)
    assert lake.days() == {
        Market("kraken", "BTC/USD"): [date(2023, 6, 1), date(2023, 6, 2), date(2023, 6, 3)]
    }


def test_ctrl_c_ends_an_import_that_waits_for_another_process(home: Path, tmp_path: Path) -> None:
    path = kraken_file(tmp_path)
    lake = open_lake(home)
    with lake.lock(Market("kraken", "BTC/USD"), date(2023, 6, 1)):
        waiting = subprocess.Popen([*PROGRAM, "import", path], stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        late = threading.Timer(60, waiting.kill)
        late.start()
        try:
            said = waiting.stderr.readline()
            waiting.send_signal(signal.SIGINT)
            _, complaint = waiting.communicate()
        finally:
            late.cancel()
            waiting.kill()
            waiting.wait()
    assert said == "kraken:BTC/USD 2023-06-01: another process has this day\n"
    assert (waiting.returncode, complaint) == (130, "Interrupted.\n")
    assert lake.days() == {}


def test_refused_rows_are_counted_with_their_reason(marketdata: Command, home: Path, tmp_path: Path) -> None:
    result = marketdata("import", kraken_file(tmp_path, text=KRAKEN + "1685750462,-1,0.5\n"))
    assert result.code == 0
    assert "1 refused (price not positive)" in result.text


def test_market_and_format_can_be_said(marketdata: Command, home: Path, tmp_path: Path) -> None:
    path = kraken_file(tmp_path, "mine.csv")
    result = marketdata("import", path, "--market", "kraken:ETH/USD", "--format", "kraken-trades")
    assert result.code == 0
    assert list(open_lake(home).days()) == [Market("kraken", "ETH/USD")]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("XBTUSD.csv", ["--format", "kraken-trade"], ["'kraken-trade'", "'kraken-trades'"]),
        ("XBTUSD.csv", ["--as", "kraken-trade"], ["'kraken-trade'", "'kraken-trades'"]),
        ("XBTUSD.csv", ["--as", "binance-klines"], ["XBTUSD.csv", "binance-klines", "kraken-trades"]),
        ("XBTUSD.csv", ["--market", "BTCUSD"], ["'BTCUSD'"]),
        ("QQQQ.csv", [], ["'QQQQ.csv'", "market"]),
        ("absent.csv", [], ["'absent.csv'"]),
    ],
)
def test_a_file_that_is_not_understood_is_one_line_and_writes_nothing(
    marketdata: Command, home: Path, name: str, options: list[str], words: list[str]
) -> None:
    if name != "absent.csv":
        kraken_file(Path(), name)
    result = marketdata("import", name, *options)
    assert (result.code, result.stdout, result.stderr.count("\n")) == (2, b"", 1)
    assert [word for word in words if word not in result.error] == []
    assert not home.exists()


def test_one_foreign_file_among_good_ones_is_named_and_the_exit_code_says_so(
    marketdata: Command, home: Path, tmp_path: Path
) -> None:
    good, foreign = kraken_file(tmp_path), kraken_file(tmp_path, "notes.csv", "hello,world\n")
    result = marketdata("import", good, foreign)
    assert result.code == 1
    assert "4 rows read, 4 new" in result.text
    for word in ("notes.csv", "hello,world", "kraken-trades", "1 file left out"):
        assert word in result.stderr


@pytest.mark.parametrize("written", ["csv", "json"])
def test_the_summary_as_rows_counts_by_format_and_in_total(
    marketdata: Command, home: Path, tmp_path: Path, written: str
) -> None:
    kraken_file(tmp_path, text=KRAKEN + "1685750462,-1,0.5\n1685750463,1,0\n")
    kraken_file(tmp_path, "XBTUSD_1.csv", "1685577600,1,2,0.5,1.5,10,3\n")
    result = marketdata("import", "*.csv", "--format", written)
    assert result.code == 0
    read = pl.read_csv if written == "csv" else pl.read_ndjson
    rows = {row["format"]: row for row in read(result.stdout).to_dicts()}
    assert list(rows) == ["kraken-ohlcvt", "kraken-trades", "total"]
    trades, total = rows["kraken-trades"], rows["total"]
    assert (trades["rows"], trades["accepted"], trades["rejected"], total["accepted"]) == (6, 4, 2, 5)
    assert json.loads(trades["rejected_by_reason"]) == {"amount not positive": 1, "price not positive": 1}
    assert (trades["days"], trades["days_complete"], trades["days_unknown"]) == (3, 2, 1)
    assert total["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.csv"))
    assert total["files"] == 2


def test_the_summary_goes_to_a_file_and_what_was_finished_is_said(
    marketdata: Command, home: Path, tmp_path: Path
) -> None:
    path = kraken_file(tmp_path)
    assert marketdata("import", path).code == 0
    result = marketdata("import", path, "--output", tmp_path / "summary.json")
    assert (result.code, result.stdout) == (0, b"")
    row = pl.read_ndjson(tmp_path / "summary.json").to_dicts()[0]
    assert (row["finished_before"], row["accepted"], row["repeated"]) == (1, 0, 4)
    assert "1 file finished before" in marketdata("import", path).text
    assert "finished before" not in marketdata("import", path, "--again").text


def test_the_table_counts_by_format_and_says_how_the_days_stand(
    marketdata: Command, home: Path, tmp_path: Path
) -> None:
    kraken_file(tmp_path)
    kraken_file(tmp_path, "XBTUSD_1.csv", "1685577600,1,2,0.5,1.5,10,3\n")
    (tmp_path / "notes.txt").write_text("mine")
    result = marketdata("import", tmp_path)
    lines = [line.split() for line in result.text.splitlines()]
    heads = next(line for line in lines if line[:1] == ["format"])
    trades = dict(zip(heads, next(line for line in lines if line[:1] == ["kraken-trades"]), strict=False))
    assert (trades["new"], trades["days"], trades["complete"], trades["unknown"]) == ("4", "3", "2", "1")
    assert any(line[:4] == ["total", "2", "5", "5"] for line in lines)
    assert "passed over in the folders: 1 .txt" in result.stderr


@pytest.mark.fixtures
def test_a_captured_file_and_its_continuation_are_imported_once(
    marketdata: Command, home: Path, captures: Path
) -> None:
    folder = captures / "kraken" / "csv_bcheur"
    base, more = folder / "BCHEUR.csv", folder / "incremental_q2" / "BCHEUR.csv"
    assert "148 rows read, 148 new" in marketdata("import", base).text
    assert "486 rows read, 486 new" in marketdata("import", more).text
    assert "634 rows read, 0 new, 634 were there" in marketdata("import", base, more).text
    trades = marketdata(
        "trades", "kraken:BCH/EUR", "--start", "2023-01-01", "--end", "2023-01-03", "-f", "csv"
    )
    assert len(trades.text.splitlines()) == 1 + 634
