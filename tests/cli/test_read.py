"""Candles and trades as they are printed."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest

from marketdata import reading
from marketdata.candle import CANDLE_SCHEMA
from marketdata.manifest import Status
from marketdata.trade import TRADE_SCHEMA
from tests.cli.conftest import Command
from tests.cli.lakes import BTC, DAY, PRICES, open_lake, put_day, some_trades

DAY_1 = ["--start", "2025-06-01", "--end", "2025-06-02"]


def awkward(tmp_home: Path) -> pl.DataFrame:
    """A day of trades whose prices need all their digits."""
    trades = some_trades(DAY, len(PRICES)).with_columns(price=pl.Series(PRICES), amount=pl.lit(0.1))
    trades = trades.with_columns(time=pl.col("time") + pl.duration(microseconds=1))
    put_day(open_lake(tmp_home), BTC, DAY, trades)
    return trades


def read_back(content: bytes, form: str) -> pl.DataFrame:
    """The file as a program would read it."""
    if form == "parquet":
        return pl.read_parquet(BytesIO(content))
    if form == "csv":
        return pl.read_csv(content, schema_overrides={"time": pl.String, "side": pl.String})
    return pl.DataFrame([json.loads(line) for line in content.splitlines()])


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_numbers_and_times_come_back_as_they_were(marketdata: Command, home: Path, form: str) -> None:
    trades = awkward(home)
    result = marketdata("trades", BTC, *DAY_1, "--format", form)
    assert (result.code, result.stderr) == (0, "")
    back = read_back(result.stdout, form)
    assert back.columns == ["exchange", "symbol", *TRADE_SCHEMA.names()]
    assert back["price"].to_list() == PRICES
    assert back["trade_id"].to_list() == trades["trade_id"].to_list()
    if form == "parquet":
        assert back.schema["time"] == pl.Datetime("us", "UTC")
        assert back["time"].equals(trades["time"])
    else:
        assert back["time"][0] == "2025-06-01T00:00:00.000001Z"
        times = [datetime.fromisoformat(text) for text in back["time"]]
        assert times == trades["time"].to_list()
    assert set(back["exchange"]) == {"kraken"}
    assert set(back["symbol"]) == {"BTC/USD"}


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_candles_come_with_every_column_of_a_candle(marketdata: Command, home: Path, form: str) -> None:
    put_day(open_lake(home), BTC, DAY)
    result = marketdata("candles", BTC, "--interval", "1h", *DAY_1, "-f", form)
    assert result.code == 0
    back = read_back(result.stdout, form)
    assert back.columns == ["exchange", "symbol", "interval", *CANDLE_SCHEMA.names()]
    start = datetime(2025, 6, 1, tzinfo=UTC)
    expected = reading.candles(open_lake(home), BTC, "1h", start, start + timedelta(days=1))
    assert len(back) == len(expected) == 24
    for name in ("open", "high", "low", "close", "volume", "quote_volume", "trade_count"):
        assert back[name].to_list() == expected[name].to_list()


def test_the_ending_of_the_file_says_the_format(marketdata: Command, home: Path, tmp_path: Path) -> None:
    put_day(open_lake(home), BTC, DAY)
    for name, form in (("a.csv", "csv"), ("a.json", "json"), ("a.ndjson", "json"), ("a.parquet", "parquet")):
        result = marketdata("candles", BTC, "-i", "4h", *DAY_1, "-o", tmp_path / name)
        assert (result.code, result.stdout, result.stderr) == (0, b"", "")
        assert len(read_back((tmp_path / name).read_bytes(), form)) == 6


def test_a_terminal_gets_a_table_and_a_pipe_gets_csv(marketdata: Command, home: Path) -> None:
    put_day(open_lake(home), BTC, DAY)
    arguments = ["candles", BTC, "-i", "1h", *DAY_1]
    assert marketdata(*arguments).text.startswith("exchange,symbol,interval,open_time,")
    shown = marketdata(*arguments, terminal=True).text
    assert "2025-06-01 00:00" in shown
    assert "exchange" not in shown


@pytest.mark.parametrize("columns", [80, 120])
def test_a_table_shows_the_first_and_the_last_rows_and_the_count(
    marketdata: Command, home: Path, columns: int
) -> None:
    put_day(open_lake(home), BTC, DAY)
    result = marketdata("candles", BTC, *DAY_1, "-f", "table", "--rows", 6, columns=columns)
    lines = [line.rstrip() for line in result.text.splitlines() if line.strip()]
    assert max(map(len, lines)) <= columns
    times = [line.split()[1] for line in lines if line.startswith(" 2025") or line.startswith("2025")]
    assert times == ["00:00", "00:01", "00:02", "23:57", "23:58", "23:59"]
    assert lines[-1].strip() == "1,440 rows"
    assert sum("…" in line for line in lines) == 1


def test_a_short_table_is_shown_whole(marketdata: Command, home: Path) -> None:
    put_day(open_lake(home), BTC, DAY)
    text = marketdata("candles", BTC, "-i", "1h", *DAY_1, "-f", "table", "--rows", 24).text
    assert "…" not in text
    assert text.count("2025-06-01") == 24


def test_fill_marks_what_it_adds(marketdata: Command, home: Path) -> None:
    put_day(open_lake(home), BTC, DAY, some_trades(DAY, 24, every_s=3600))
    plain = marketdata("candles", BTC, *DAY_1)
    assert len(read_back(plain.stdout, "csv")) == 24
    filled = read_back(marketdata("candles", BTC, *DAY_1, "--fill", "previous").stdout, "csv")
    assert len(filled) == 1_440
    assert filled["filled"].sum() == 1_440 - 24
    table = marketdata("candles", BTC, *DAY_1, "--fill", "previous", "-f", "table", "--rows", 2).text
    assert "filled" in table


def test_a_range_of_several_days_is_written_in_order_with_one_header(marketdata: Command, home: Path) -> None:
    lake = open_lake(home)
    for n in range(3):
        put_day(
            lake, BTC, DAY + timedelta(days=n), some_trades(DAY + timedelta(days=n), 10, first_id=1 + 10 * n)
        )
    result = marketdata(
        "trades", BTC, "--start", "2025-06-01T00:05", "--end", "2025-06-03T00:02", "-f", "csv"
    )
    assert read_back(result.stdout, "csv")["trade_id"].to_list() == [*range(6, 21), 21, 22]
    assert result.text.count("trade_id") == 1


def test_days_that_the_lake_lacks_or_holds_with_gaps_are_named(marketdata: Command, home: Path) -> None:
    lake = open_lake(home)
    put_day(lake, BTC, DAY)
    put_day(lake, BTC, DAY + timedelta(days=3), status=Status.GAPS, reason="3 ids are missing.")
    result = marketdata("candles", BTC, "-i", "1d", "--start", "2025-06-01", "--end", "2025-06-05")
    assert result.code == 0
    assert len(read_back(result.stdout, "csv")) == 2
    assert result.stderr.splitlines() == [
        "warning: not in the lake: kraken:BTC/USD 2025-06-02..2025-06-03 (2 days).",
        "warning: kraken:BTC/USD 2025-06-04 has status gaps: 3 ids are missing.",
    ]


def test_a_range_that_the_lake_lacks_altogether_says_what_it_has(marketdata: Command, home: Path) -> None:
    put_day(open_lake(home), BTC, DAY)
    result = marketdata("trades", BTC, "--start", "2025-07-01", "--end", "2025-07-03")
    assert (result.code, result.stdout) == (1, b"")
    assert "2025-07-01" in result.error
    assert "it has 2025-06-01 to 2025-06-01" in result.error
    assert "marketdata backfill kraken:BTC/USD --start 2025-07-01 --end 2025-07-03" in result.error


def test_a_chart_fits_the_terminal(marketdata: Command, home: Path) -> None:
    put_day(open_lake(home), BTC, DAY)
    for columns in (80, 120):
        result = marketdata("candles", BTC, *DAY_1, "--chart", columns=columns)
        assert result.code == 0
        assert max(len(line) for line in result.text.splitlines()) <= columns
        assert "1,440 trades" in result.text


def test_binary_output_to_a_terminal_is_refused(marketdata: Command, home: Path) -> None:
    put_day(open_lake(home), BTC, DAY)
    result = marketdata("candles", BTC, *DAY_1, "-f", "parquet", terminal=True)
    assert (result.code, result.stdout) == (2, b"")
    assert "--output" in result.error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kraken:BTC/USD", "-i", "7m", *DAY_1], ["'7m'", "1m", "1w"]),
        (["kraken:BTC/USD", *DAY_1, "-f", "xls"], ["'xls'", "parquet"]),
        (["kraken:BTC/USD", *DAY_1, "-o", "candles.xls"], ["'candles.xls'", "--format"]),
        (["kraken:BTC/USD", *DAY_1, "--fill", "zero"], ["'zero'", "previous"]),
        (["kraken:BTC/USD"], ["--last"]),
        (
            ["kraken:BTC/USD", "--start", "2025-06-02", "--end", "2025-06-01"],
            ["2025-06-02", "2025-06-01", "reversed"],
        ),
        (["kraken:BTC/USD", "--start", "2025-06-01", "--end", "2025-06-01"], ["2025-06-01", "empty"]),
        (["kraken:BTC/USD", "--start", "2025-06-01", "--end", "2999-01-01"], ["2999-01-01", "future"]),
        (["kraken:BTC/USD", "--start", "June"], ["--start 'June'"]),
        (["kraken:BTC/USDT", *DAY_1], ["'kraken:BTC/USDT'", "'kraken:BTC/USD'", "marketdata backfill"]),
        (["karken:BTC/USD", *DAY_1], ["'karken:BTC/USD'", "'kraken:BTC/USD'"]),
        (["BTC/USD", *DAY_1], ["'BTC/USD'", "exchange"]),
        (["kraken:BTC/USD", *DAY_1, "--chart", "-f", "csv"], ["--chart", "--format"]),
    ],
)
def test_what_cannot_be_is_named_in_one_line(
    marketdata: Command, home: Path, arguments: list[str], words: list[str]
) -> None:
    put_day(open_lake(home), BTC, DAY)
    result = marketdata("candles", *arguments)
    assert (result.code, result.stdout) == (2, b"")
    assert result.stderr.count("\n") == 1
    assert [word for word in words if word not in result.error] == []


def test_an_empty_lake_says_how_to_fill_it(marketdata: Command, home: Path) -> None:
    result = marketdata("candles", BTC, *DAY_1)
    assert result.code == 1
    assert str(home) in result.error
    assert "marketdata backfill kraken:BTC/USD" in result.error
    assert not home.exists()


@pytest.mark.parametrize("damage", ["cut", "foreign", "text"])
def test_a_damaged_file_of_the_lake_is_named(marketdata: Command, home: Path, damage: str) -> None:
    lake = open_lake(home)
    put_day(lake, BTC, DAY)
    for kind, interval in (("trades", None), ("candles", "1m")):
        path = Path(lake.path(kind, BTC, DAY, interval))  # type: ignore[arg-type]
        whole = path.read_bytes()
        if damage == "cut":
            path.write_bytes(whole[: len(whole) // 2])
        elif damage == "text":
            path.write_text("not a Parquet file\n")
        else:
            pl.DataFrame({"a": [1]}).write_parquet(path)
    for command in ("trades", "candles"):
        result = marketdata(command, BTC, *DAY_1, "-f", "csv")
        assert (result.code, result.stdout) == (1, b"")
        assert "part-0.parquet" in result.error


@pytest.mark.parametrize("form", ["csv", "json", "parquet", "table"])
def test_output_that_fails_half_way_leaves_what_was_there(
    marketdata: Command, home: Path, tmp_path: Path, form: str
) -> None:
    lake = open_lake(home)
    put_day(lake, BTC, DAY)
    put_day(lake, BTC, DAY + timedelta(days=1))
    target = tmp_path / "out.csv"
    target.write_text("before")
    Path(lake.path("trades", BTC, DAY + timedelta(days=1))).write_bytes(b"cut")
    failed = marketdata(
        "trades", BTC, "--start", "2025-06-01", "--end", "2025-06-03", "-f", form, "-o", target
    )
    assert failed.code == 1
    assert target.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out.csv"]
    assert failed.stderr.count("\n") == 1


def test_a_link_stays_and_its_target_is_written(marketdata: Command, home: Path, tmp_path: Path) -> None:
    put_day(open_lake(home), BTC, DAY)
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "real.csv", tmp_path / "out.csv"
    link.symlink_to(target)
    expected = marketdata("candles", BTC, "-i", "1h", *DAY_1, "-f", "csv").stdout
    for before in (None, "old"):  # also where it leads to nothing yet
        if before is not None:
            target.write_text(before)
        assert marketdata("candles", BTC, "-i", "1h", *DAY_1, "-o", link).code == 0
        assert link.is_symlink()
        assert target.read_bytes() == expected
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["real.csv"]


@pytest.mark.parametrize("form", ["csv", "json", "parquet", "table"])
def test_a_named_pipe_is_written_to(marketdata: Command, home: Path, tmp_path: Path, form: str) -> None:
    put_day(open_lake(home), BTC, DAY)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        try:
            arguments = ["candles", BTC, "-i", "1h", *DAY_1, "-f", form]
            assert marketdata(*arguments, "-o", pipe).code == 0
            assert pipe.is_fifo()
            assert reader.stdout is not None
            assert reader.stdout.read() == marketdata(*arguments).stdout
        finally:
            reader.kill()


def test_a_device_stays_a_device(marketdata: Command, home: Path, tmp_path: Path) -> None:
    """Through a link, so that a regular file in its place would harm nobody."""
    put_day(open_lake(home), BTC, DAY)
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    assert marketdata("candles", BTC, "-i", "1h", *DAY_1, "-f", "csv", "-o", link).code == 0
    assert link.is_symlink()
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    failed = marketdata("candles", BTC, "-i", "1h", *DAY_1, "-f", "csv", "-o", full)
    assert failed.code == 1
    assert "No space left on device" in failed.error


def test_an_output_that_is_a_folder_is_named(marketdata: Command, home: Path, tmp_path: Path) -> None:
    put_day(open_lake(home), BTC, DAY)
    failed = marketdata("candles", BTC, "-i", "1h", *DAY_1, "-f", "csv", "-o", tmp_path)
    assert failed.code == 1
    assert "Is a directory" in failed.error


def test_an_output_folder_that_is_absent_is_named(marketdata: Command, home: Path, tmp_path: Path) -> None:
    put_day(open_lake(home), BTC, DAY)
    nowhere = marketdata("trades", BTC, *DAY_1, "-o", tmp_path / "absent" / "out.csv")
    assert nowhere.code == 1
    assert "absent/out.csv" in nowhere.error


def test_a_full_disk_is_one_line(home: Path, marketdata: Command) -> None:
    put_day(open_lake(home), BTC, DAY)
    program = [sys.executable, "-c", "from marketdata.cli.main import run; run()", "trades", str(BTC), *DAY_1]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*program, "-f", "csv"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=300
        )
    assert done.returncode == 1
    assert done.stderr == "error: The system refused: No space left on device.\n"


def test_a_reader_that_goes_away_ends_the_command_quietly(home: Path) -> None:
    lake = open_lake(home)
    put_day(lake, BTC, DAY, some_trades(DAY, 80_000, every_s=1))
    program = [sys.executable, "-c", "from marketdata.cli.main import run; run()", "trades", str(BTC), *DAY_1]
    running = subprocess.Popen(
        [*program, "-f", "csv"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ.copy()
    )
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.readline().startswith(b"exchange,symbol,trade_id")
    running.stdout.close()
    complaint = running.stderr.read()
    running.stderr.close()
    assert running.wait(timeout=300) == 141
    assert complaint == b""
