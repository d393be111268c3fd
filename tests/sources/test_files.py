"""Files on disk: found, read in blocks, recognised; one clear error for what is none of ours."""

import gzip
import zipfile
import zlib
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketdata.errors import CorruptFile, MarketDataError, UnknownName, UsageError
from marketdata.market import Market
from marketdata.sources import binance_csv, kraken_csv
from marketdata.sources.days import days_of
from marketdata.sources.files import Table, blocks, find, parse
from marketdata.sources.formats import FORMATS, Known, recognise

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KRAKEN_LINE = "1672531436,90.540000,1.10448420\n"
AGG_TRADE = "100,0.10000000,2.00000000,500,502,1672531436123,True,True\n"
TRADE = "500,0.10000000,2.00000000,0.20000000,1672531436123,False,True\n"
KLINE = "1672531200000,1,2,0.5,1.5,10,1672531259999,15,3,4,6,0\n"


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.lower().endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{path.stem}.csv", text)
    else:
        path.write_text(text)
    return path


def test_folders_globs_and_zips_are_searched(tmp_path: Path) -> None:
    _file(tmp_path, "a/XBTUSD.csv", KRAKEN_LINE)
    _file(tmp_path, "a/deeper/ETHUSD.csv.gz", KRAKEN_LINE)
    _file(tmp_path, "b/notes.txt", "nothing")
    with zipfile.ZipFile(tmp_path / "b" / "all.zip", "w") as archive:
        archive.writestr("Kraken/SOLUSD.csv", KRAKEN_LINE)
        archive.writestr("__MACOSX/SOLUSD.csv", "x")
        archive.writestr("readme.pdf", "x")
    found = [table.stem for table in find([tmp_path / "a", tmp_path / "b" / "*.zip", tmp_path / "a"])]
    assert found == ["XBTUSD", "ETHUSD", "SOLUSD"]


@pytest.mark.parametrize("size", [40, 64, 100, 10_000])
def test_blocks_are_whole_lines_and_lose_nothing(tmp_path: Path, size: int) -> None:
    text = KRAKEN_LINE * 50 + KRAKEN_LINE.rstrip()
    table = Table(_file(tmp_path, "XBTUSD.csv", text))
    found = list(blocks(table, size))
    assert b"".join(found).decode() == text
    assert all(block.endswith(b"\n") for block in found[:-1])


def test_skipped_bytes_are_not_read_again(tmp_path: Path) -> None:
    table = Table(_file(tmp_path, "XBTUSD.csv.gz", KRAKEN_LINE * 50))
    reading = blocks(table, 100)
    first = next(reading)
    reading.close()
    assert first + b"".join(blocks(table, 100, len(first))) == KRAKEN_LINE.encode() * 50


@pytest.mark.parametrize(
    ("name", "text", "format_name", "market"),
    [
        ("XBTUSD.csv", KRAKEN_LINE, "kraken-trades", "kraken:BTC/USD"),
        ("XXBTZUSD.csv.gz", KRAKEN_LINE, "kraken-trades", "kraken:BTC/USD"),
        ("XBTUSD.CSV.GZ", KRAKEN_LINE, "kraken-trades", "kraken:BTC/USD"),
        ("XDGEUR.csv", "1672531436.1234,0.07,12\n", "kraken-trades", "kraken:DOGE/EUR"),
        ("XBTUSD_60.csv", "1672531200,1,2,0.5,1.5,10,3\n", "kraken-ohlcvt", "kraken:BTC/USD"),
        ("BTCUSDT-aggTrades-2023-01-01.zip", AGG_TRADE, "binance-aggtrades", "binance:BTC/USDT"),
        ("BTCUSDT-trades-2023-01.csv", TRADE, "binance-trades", "binance:BTC/USDT"),
        ("spot/BTCUSDT-1m-2023-01-01.zip", KLINE, "binance-klines", "binance:BTC/USDT"),
        (
            "um/BTCUSDT-trades-2023-01-01.csv",
            "5,1,2,2,1672531436123,true\n",
            "binance-trades",
            "binance:BTC/USDT:USDT",
        ),
        ("um/BTCUSDT-1m-2023-01-01.zip", KLINE, "binance-klines", "binance:BTC/USDT:USDT"),
    ],
)
def test_a_file_is_recognised_by_its_name_and_first_line(
    tmp_path: Path, name: str, text: str, format_name: str, market: str
) -> None:
    (table,) = find([_file(tmp_path, name, text)])
    known = recognise(table)
    assert (known.format.name, str(known.market), known.header) == (format_name, market, False)


def test_the_name_of_a_binance_file_says_which_days_it_holds(tmp_path: Path) -> None:
    (day,) = find([_file(tmp_path, "BTCUSDT-trades-2024-02-29.csv", TRADE)])
    (month,) = find([_file(tmp_path, "BTCUSDT-trades-2024-12.csv", TRADE)])
    assert recognise(day).window == (date(2024, 2, 29), date(2024, 3, 1))
    assert recognise(month).window == (date(2024, 12, 1), date(2025, 1, 1))


@pytest.mark.fixtures
def test_both_captured_kline_zips_hold_their_1440_candles(captures: Path) -> None:
    found = {}
    for table in find([captures / "binance" / "klines_vision"]):
        known = recognise(table)
        (day,) = days_of(known, NOW)
        assert day.rejects.is_empty()
        assert day.rows["open_time"].n_unique() == 1440
        found[str(known.market)] = (known.header, day.day, day.rows["trade_count"].sum())
    assert found["binance:BTC/USDT:USDT"][:2] == (True, date(2022, 9, 5))
    assert found["binance:ETH/USDT"][:2] == (False, date(2022, 8, 14))


def test_a_header_outside_a_futures_folder_needs_the_market_said(tmp_path: Path) -> None:
    header = "open_time,open,high,low,close,volume,close_time,quote_volume,count,tb,tbq,ignore\n"
    (table,) = find([_file(tmp_path, "BTCUSDT-1m-2023-01-01.csv", header + KLINE)])
    with pytest.raises(UsageError, match="header row"):
        recognise(table)
    known = recognise(table, market=Market("binance", "BTC/USDT"))
    (day,) = days_of(known, NOW)
    assert len(day.rows) == 1


@pytest.mark.parametrize("microseconds", [False, True])
def test_binance_times_are_read_in_milliseconds_or_microseconds(microseconds: bool) -> None:
    time = 1_740_000_000_123_456 if microseconds else 1_740_000_000_123
    text = f"1,0.1,2,5,7,{time},true,true\n".encode()
    cells, _ = parse(text, binance_csv.AGG_TRADE_COLUMNS)
    row = binance_csv.agg_trades(cells).row(0, named=True)
    expected = datetime(2025, 2, 19, 21, 20, 0, 123_456 if microseconds else 123_000, tzinfo=UTC)
    assert (row["time"], row["side"], row["fills"]) == (expected, "sell", 3)


@given(st.integers(1_300_000_000_000_000, 4_000_000_000_000_000), st.integers(0, 10))
def test_kraken_seconds_with_any_decimals_are_exact_to_the_microsecond(us: int, digits: int) -> None:
    text = f"{us // 10**6}.{us % 10**6:06d}{'0' * digits},1,1\n".encode()
    cells, _ = parse(text, kraken_csv.TRADE_COLUMNS)
    assert kraken_csv.trades(cells)["time"].to_physical().item() == us


@given(st.lists(st.binary(max_size=40), max_size=30))
@example([b"x\x01"])
@example([zlib.compress(b"1,2,3\n4,5,6\n").replace(b"\n", b" ")])
@example([gzip.compress(b"1,2,3\n", mtime=0).replace(b"\n", b" ")])
def test_any_bytes_parse_to_one_row_a_line_with_its_line(lines: list[bytes]) -> None:
    block = b"\n".join(line.replace(b"\n", b" ") for line in lines) + b"\n" + KRAKEN_LINE.encode()
    cells, kept = parse(block, kraken_csv.TRADE_COLUMNS)
    assert len(cells) == len(kept)
    assert kept[len(kept) - 1] == KRAKEN_LINE.strip()
    assert cells.row(-1) == (1672531436.0, 90.54, 1.1044842)


def test_lines_that_are_no_trades_are_refused_with_their_text(tmp_path: Path) -> None:
    bad = [
        "1672531437,abc,1\n",
        "1672531438,1\n",
        "1672531439,1,2,3\n",
        "\x00\x01,,\n",
        "1672531440,0,1\n",
        "\n",
    ]
    (table,) = find([_file(tmp_path, "XBTUSD.csv", KRAKEN_LINE + "".join(bad) + KRAKEN_LINE)])
    (day,) = days_of(recognise(table), NOW)
    assert len(day.rows) == 2
    assert day.rejects["reason"].to_list() == [
        "price absent or unreadable",
        "time absent or unreadable",
        "time absent or unreadable",
        "time absent or unreadable",
        "price not positive",
    ]
    assert day.rejects["raw"].to_list()[0] == '"1672531437,abc,1"'


def _kraken(folder: Path, times: list[int]) -> Known:
    (table,) = find([_file(folder, "XBTUSD.csv", "".join(f"{t},1,1\n" for t in times))])
    return recognise(table)


def test_rows_that_go_back_over_midnight_by_a_little_are_taken(tmp_path: Path) -> None:
    times = [1672531200, 1672617599, 1672617600, 1672617598, 1672617601, 1672617599, 1672617700]
    first, second = days_of(_kraken(tmp_path, times), NOW)
    assert (len(first.rows), len(second.rows)) == (4, 3)
    assert second.rejects.is_empty()


def test_rows_of_a_day_the_file_has_passed_are_refused(tmp_path: Path) -> None:
    times = [1672531200 + 3600 * n for n in range(72)] + [1672531300, 1672531400]
    days = list(days_of(_kraken(tmp_path, times), NOW, size=100))
    assert [len(day.rows) for day in days] == [24, 24, 24]
    assert days[-1].rejects["reason"].to_list() == ["time goes back to a day the file had passed"] * 2


@pytest.mark.parametrize("size", [40, 100, 10_000])
@pytest.mark.parametrize("wrong", [1_300_000_000, 1_700_000_000])
def test_one_wrong_time_costs_one_row_and_no_day(tmp_path: Path, size: int, wrong: int) -> None:
    times = [1672531200 + 3600 * n for n in range(72)]
    for where in (1, 5, 24, 47, 70):
        with_stray = [*times[:where], wrong, *times[where:]]
        days = list(days_of(_kraken(tmp_path, with_stray), NOW, size=size))
        assert [len(day.rows) for day in days] == [24, 24, 24]
        reasons = [reason for day in days for reason in day.rejects["reason"]]
        assert reasons == ["time more than a day off the rows around it"]


@pytest.mark.parametrize("size", [40, 100, 10_000])
def test_a_long_pause_is_not_taken_for_a_quiet_market(tmp_path: Path, size: int) -> None:
    times = [1672531200, 1672531300, 1672531200 + 100 * 86_400, 1672531300 + 100 * 86_400]
    first, last = days_of(_kraken(tmp_path, times), NOW, size=size)
    assert first.covered == (datetime(2023, 1, 1, tzinfo=UTC), datetime(2023, 1, 1, 0, 1, 40, tzinfo=UTC))
    assert last.covered == (datetime(2023, 4, 11, tzinfo=UTC), datetime(2023, 4, 11, 0, 1, 40, tzinfo=UTC))


def test_a_file_that_is_newest_first_gives_every_day(tmp_path: Path) -> None:
    times = [1672704000, 1672617600, 1672531200]
    (table,) = find([_file(tmp_path, "XBTUSD.csv", "".join(f"{t},1,1\n" for t in times))])
    assert [(day.day, len(day.rows)) for day in days_of(recognise(table), NOW)] == [
        (date(2023, 1, 3), 1),
        (date(2023, 1, 2), 1),
        (date(2023, 1, 1), 1),
    ]


def test_a_day_without_rows_inside_a_file_is_known_to_be_quiet(tmp_path: Path) -> None:
    (table,) = find([_file(tmp_path, "XBTUSD.csv", "1672531300,1,1\n1672704100,1,1\n")])
    first, quiet, last = days_of(recognise(table), NOW)
    assert first.covered == (datetime(2023, 1, 1, 0, 1, 40, tzinfo=UTC), datetime(2023, 1, 2, tzinfo=UTC))
    assert quiet.covered == (datetime(2023, 1, 2, tzinfo=UTC), datetime(2023, 1, 3, tzinfo=UTC))
    assert quiet.rows.is_empty()
    assert last.covered == (datetime(2023, 1, 3, tzinfo=UTC), datetime(2023, 1, 3, 0, 1, 40, tzinfo=UTC))


def test_ids_run_on_over_the_days_of_a_file(tmp_path: Path) -> None:
    lines = [f"{i},1,1,1,{1672531200000 + i * 43_200_000},True,True\n" for i in range(5)]
    (table,) = find([_file(tmp_path, "BTCUSDT-trades-2023-01.zip", "".join(lines))])
    days = list(days_of(recognise(table), NOW))
    assert [(day.previous_id, day.following_id) for day in days[:3]] == [(None, 2), (1, 4), (3, None)]
    assert len(days) == 31  # the name promises the month


def test_plain_text_does_not_prove_that_it_was_not_cut(tmp_path: Path) -> None:
    plain, zipped = find(
        [_file(tmp_path, f"BTCUSDT-trades-2023-01-01.{kind}", TRADE) for kind in ("csv", "zip")]
    )
    midnight, last = datetime(2023, 1, 1, tzinfo=UTC), datetime(2023, 1, 1, 0, 3, 56, 123_000, tzinfo=UTC)
    assert next(days_of(recognise(plain), NOW)).covered == (midnight, last)
    assert next(days_of(recognise(zipped), NOW)).covered == (midnight, datetime(2023, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_of_plain_text_cut_anywhere_only_whole_lines_are_believed(tmp_path: Path, ending: str) -> None:
    lines = [f"{1672531436 + n},90.54,1.10448420" for n in range(3)]
    text = "".join(line + ending for line in lines)
    for end in range(len(lines[0]) + len(ending), len(text)):
        table = Table(_file(tmp_path, "XBTUSD.csv", text[:end]))
        (day,) = days_of(recognise(table), NOW)
        rest = text[:end].rpartition("\n")[2]
        assert day.rows.select("price", "amount").rows() == [(90.54, 1.1044842)] * text[:end].count("\n")
        refused = [("last line has no end and may be cut", None, None, f'"{rest.rstrip()}"')] * bool(rest)
        assert day.rejects.rows() == refused


def test_a_last_line_without_an_end_is_taken_where_a_cut_would_show(tmp_path: Path) -> None:
    for name in ("XBTUSD.csv.gz", "XBTUSD.zip"):
        (table,) = find([_file(tmp_path, name, (KRAKEN_LINE * 2).rstrip())])
        (day,) = days_of(recognise(table), NOW)
        assert len(day.rows) == 2


def test_rows_of_other_days_than_the_name_says_are_refused(tmp_path: Path) -> None:
    (table,) = find([_file(tmp_path, "BTCUSDT-trades-2023-01-02.csv", TRADE)])
    with pytest.raises(CorruptFile, match="time outside the days"):
        list(days_of(recognise(table), NOW))


def test_candles_are_checked_and_those_without_trades_left_out(tmp_path: Path) -> None:
    lines = [
        "1672531200,1,2,0.5,1.5,10,3",
        "1672531260,1,1,1,1,0,0",
        "1672531321,1,2,0.5,1.5,10,3",
        "1672531380,1,2,1.2,1.5,10,3",
        "1893456000,1,2,0.5,1.5,10,3",
        "1672531440,1,2,0.5,1.5,-1,3",
        "1672531500,1,,0.5,1.5,1,3",
    ]
    (table,) = find([_file(tmp_path, "XBTUSD_1.csv", "".join(f"{line}\n" for line in lines))])
    (day,) = days_of(recognise(table), NOW)
    assert (len(day.rows), day.empty) == (1, 1)
    assert day.rejects["reason"].to_list() == [
        "open time off the grid of the interval",
        "high below or low above another price",
        "candle still running or in the future",
        "volume absent, negative or not finite",
        "price absent or unreadable",
    ]


@pytest.mark.parametrize(
    ("name", "body", "error", "words"),
    [
        ("XBTUSD.csv", b"", UsageError, "is empty"),
        ("XBTUSD.csv", b"\n\n", UsageError, "is empty"),
        ("people.csv", b"name,age\nAda,36\n", UsageError, r"first line is 'name,age'.*kraken-ohlcvt"),
        ("XBTUSD.csv", bytes(range(256)) * 40, UsageError, "of no known format"),
        ("XBTUSD.csv", b"9" * 300, UsageError, "'" + "9" * 80 + "'"),
        ("data.csv", KRAKEN_LINE.encode(), UsageError, "does not say of which market"),
        ("XBTUSD_7.csv", b"1672531200,1,2,0.5,1.5,10,3\n", UsageError, "width of its candles"),
        ("XBTUSD.csv.gz", gzip.compress(KRAKEN_LINE.encode() * 99)[:30], CorruptFile, "is cut"),
        ("XBTUSD.csv.gz", b"no gzip at all", CorruptFile, "is cut"),
        ("BTCUSDT-trades-2023-01-01.zip", b"PK\x03\x04 no zip", CorruptFile, "is cut"),
        ("BTCUSDT_230630-trades-2023-01-01.csv", TRADE.encode(), UsageError, "of which market"),
    ],
    ids=[
        "empty",
        "blank lines",
        "other columns",
        "binary",
        "one long number",
        "no market",
        "no known width",
        "cut gzip",
        "no gzip",
        "no zip",
        "dated future",
    ],
)
def test_a_foreign_file_is_one_clear_error(
    tmp_path: Path, name: str, body: bytes, error: type[MarketDataError], words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(body)
    with pytest.raises(error, match=words) as raised:
        recognise(find([path])[0])
    assert type(raised.value) is error
    assert str(path) in str(raised.value)


def test_paths_without_a_table_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no \.csv, \.csv\.gz, \.zip, .* file in .*empty"):
        find([tmp_path / "empty"])
    with pytest.raises(UsageError, match=r"There is no file .*absent"):
        find([tmp_path / "absent*.csv"])


def test_a_format_must_fit_and_be_known(tmp_path: Path) -> None:
    table = Table(_file(tmp_path, "XBTUSD.csv", KRAKEN_LINE))
    with pytest.raises(UsageError, match="is not binance-trades"):
        recognise(table, format="binance-trades")
    with pytest.raises(UnknownName, match="kraken-trades"):
        recognise(table, format="kraken-trade")


def test_a_zip_cut_in_its_middle_is_reported_when_it_is_read(tmp_path: Path) -> None:
    path = _file(tmp_path, "XBTUSD.zip", "".join(f"{1672531200 + i},1.{i},2.{i}\n" for i in range(20_000)))
    body = bytearray(path.read_bytes())
    middle = len(body) // 2
    body[middle : middle + 60] = bytes(60)
    path.write_bytes(body)
    (table,) = find([path])
    with pytest.raises(CorruptFile, match="cut or not what its name says"):
        list(days_of(recognise(table), NOW))


def test_every_format_gives_rows_of_its_schema_from_no_line() -> None:
    for item in FORMATS.values():
        empty = pl.DataFrame(schema=item.columns)
        assert item.rows(empty).is_empty()
