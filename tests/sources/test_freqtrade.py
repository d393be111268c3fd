"""freqtrade's files: what their names say, and their rows in any form and any block size."""

import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from pyarrow import feather
from pyarrow import parquet as pq

from marketdata.errors import CorruptFile, UsageError
from marketdata.interval import Interval
from marketdata.manifest import Ids
from marketdata.market import Market
from marketdata.sources import freqtrade, freqtrade_cells
from marketdata.sources.days import days_of
from marketdata.sources.files import Table, find
from marketdata.sources.formats import recognise
from tests.imports import T0, freqtrade_candles, freqtrade_trades

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FORMS = [".feather", ".parquet", ".json", ".json.gz"]
ROWS = [
    (T0 * 1000 + 61 * n, str(100 + n), ("buy", "sell")[n % 2], 100.5 + n / 7, 0.1 + n / 3) for n in range(500)
]


@pytest.mark.parametrize(
    ("path", "market", "interval"),
    [
        ("data/kraken/BTC_USD-trades.feather", "kraken:BTC/USD", None),
        ("data/binance/BTC_USDT-1m.feather", "binance:BTC/USDT", "1m"),
        ("data/binance/futures/BTC_USDT_USDT-1h-futures.feather", "binance:BTC/USDT:USDT", "1h"),
        ("data/binance/futures/BTC_USDT-4h-futures.json.gz", "binance:BTC/USDT:USDT", "4h"),
        ("data/binance/futures/BTC_USDT_USDT-trades.feather", "binance:BTC/USDT:USDT", None),
        ("kraken/2022/XRP_USDT-1d.json", "kraken:XRP/USDT", "1d"),
        ("okx/1INCH_USDC-12h.parquet", "okx:1INCH/USDC", "12h"),
        ("binance/BTC_USDT-1m_2024-07-26_2024-08-25.feather", "binance:BTC/USDT", "1m"),
    ],
)
def test_folder_and_name_say_market_and_content(path: str, market: str, interval: str | None) -> None:
    table = Table(Path(path))
    name = freqtrade.parse_name(table)
    assert str(freqtrade.market_of(table, name)) == market
    assert name.interval == (None if interval is None else Interval.parse(interval))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("kraken/pairs.json", "no name of freqtrade"),
        ("binance/futures/BTC_USDT_USDT-8h-funding_rate.feather", "holds funding_rate"),
        ("binance/futures/BTC_USDT_USDT-1h-mark.feather", "holds mark"),
        ("binance/BTC_USDT-3m.feather", "Unknown interval '3m'"),
    ],
)
def test_what_is_neither_trades_nor_candles_is_named(path: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        freqtrade.parse_name(Table(Path(path)))


def test_no_folder_of_an_exchange_asks_for_the_market(tmp_path: Path) -> None:
    path = freqtrade_trades(tmp_path / "mine" / "BTC_USD-trades.json", ROWS)
    with pytest.raises(UsageError, match=r"No folder above .* is named for an exchange.*kraken:BTC/USD"):
        recognise(Table(path))
    assert recognise(Table(path), market=Market("kraken", "BTC/USD")).market == Market("kraken", "BTC/USD")


@pytest.mark.parametrize("form", FORMS)
def test_trades_are_the_same_in_every_form(tmp_path: Path, form: str) -> None:
    (table,) = find([freqtrade_trades(tmp_path / "kraken" / f"BTC_USD-trades{form}", ROWS)])
    known = recognise(table)
    assert known.format.name == "freqtrade-trades"
    (day,) = days_of(known, NOW)
    assert day.rejects.is_empty()
    assert day.rows["trade_id"].to_list() == [int(row[1] or 0) for row in ROWS]
    assert day.rows["time"].to_physical().to_list() == [row[0] * 1000 for row in ROWS]
    assert day.rows["side"].to_list() == [row[2] for row in ROWS]
    assert day.rows["price"].to_list() == [row[3] for row in ROWS]
    assert day.rows["amount"].to_list() == [row[4] for row in ROWS]


@pytest.mark.parametrize("form", FORMS)
def test_candles_are_the_same_in_every_form(tmp_path: Path, form: str) -> None:
    rows = [[(T0 + 60 * n) * 1000, 1.5, 2.5, 0.5, 1.25, n / 3] for n in range(300)]
    (table,) = find([freqtrade_candles(tmp_path / "binance" / f"ETH_BTC-1m{form}", rows)])
    (day,) = days_of(recognise(table), NOW)
    assert (len(day.rows), day.empty) == (299, 1)
    assert day.rows["volume"].to_list() == [row[5] for row in rows[1:]]
    assert day.rows["quote_volume"].null_count() == 299


@pytest.mark.parametrize("size", [40, 64, 1000, 1 << 20])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("objects", [False, True])
def test_json_is_read_whole_in_blocks_of_any_size(
    tmp_path: Path, size: int, separators: tuple[str, str], objects: bool
) -> None:
    nested = {"info": {"a": 1, "f": 5, "l": 7, "parts": [{"x": 1}, {"x": 2}, {"y": [[1], [2]]}]}}
    rows = [
        {"timestamp": time, "id": number, "side": side, "price": price, "amount": amount, **nested}
        if objects
        else [time, number, None, side, price, amount, 1.0]
        for time, number, side, price, amount in ROWS[:60]
    ]
    path = tmp_path / "XRP_ETH-trades.json"
    path.write_text(json.dumps(rows, separators=separators))
    parts = list(freqtrade_cells.cells(Table(path), freqtrade_cells.TRADE_COLUMNS, size))
    frame = pl.concat([part.frame for part in parts])
    assert frame["id"].to_list() == [int(row[1] or 0) for row in ROWS[:60]]
    assert frame["fills"].to_list() == [3 if objects else None] * 60
    assert [row for part in parts for row in part.raw] == rows


def test_rows_that_are_no_trades_are_refused_with_their_cells(tmp_path: Path) -> None:
    rows = [
        [T0 * 1000, "1", None, "buy", 1.0, 1.0, 1.0],
        [T0 * 1000, "2", None, "buy", "much", 1.0, 1.0],
        [T0 * 1000, "3", None, "buy", 1.0, 0.0, 1.0],
        [T0 * 1000, "4"],
        "rubbish",
        [T0 * 1000 + 1, "5", None, "buy", 1.0, 1.0, 1.0],
    ]
    path = tmp_path / "kraken" / "BTC_USD-trades.json"
    path.parent.mkdir()
    path.write_text(json.dumps(rows))
    (day,) = days_of(recognise(Table(path)), NOW)
    assert day.rows["trade_id"].to_list() == [1, 5]
    assert day.rejects["reason"].to_list() == [
        "price absent or unreadable",
        "amount not positive",
        "time absent or unreadable",
        "time absent or unreadable",
    ]
    assert day.rejects["raw"].to_list()[3] == '"rubbish"'


@pytest.mark.parametrize(
    ("name", "body", "error", "words"),
    [
        ("BTC_USD-trades.json", b"[]", UsageError, "is empty"),
        ("BTC_USD-trades.json", b'{"a": 1}', UsageError, "no JSON array"),
        ("BTC_USD-trades.json", b"[[1,2,3,4,5,6,7],[1,2,", CorruptFile, "is cut"),
        ("BTC_USD-trades.json.gz", gzip.compress(b"[[1,2,3,4,5,6,7]]", mtime=0)[:-4], CorruptFile, "is cut"),
        ("BTC_USD-trades.feather", b"ARROW1 and rubbish", CorruptFile, "is cut"),
        ("BTC_USD-trades.parquet", b"PAR1 and rubbish", CorruptFile, "is cut"),
    ],
    ids=["no row", "no array", "cut json", "cut gzip", "no feather", "no parquet"],
)
def test_a_damaged_file_is_one_clear_error(
    tmp_path: Path, name: str, body: bytes, error: type[Exception], words: str
) -> None:
    path = tmp_path / "kraken" / name
    path.parent.mkdir()
    path.write_bytes(body)
    with pytest.raises(error, match=words) as raised:
        recognise(Table(path))
    assert name in str(raised.value)


def test_a_feather_file_of_other_columns_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kraken" / "BTC_USD-1m.feather"
    path.parent.mkdir()
    pl.DataFrame({"time": [1], "open": [1.0]}).write_ipc(path)
    with pytest.raises(UsageError, match="has no column 'date'"):
        recognise(Table(path))


@pytest.mark.parametrize("form", [".feather", ".parquet"])
@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("id", pa.array([["1"], ["2"]])),
        ("id", pa.array(["1", "2"]).dictionary_encode()),
        ("price", pa.array([{"a": 1.0}, {"a": 2.0}])),
        ("price", pa.array([Decimal("1.5"), Decimal("2.5")], pa.decimal256(40, 2))),
        ("timestamp", pa.array([b"1", b"2"])),
        ("timestamp", pa.array([datetime(2023, 1, 1)] * 2, pa.timestamp("s", "+05:30"))),  # noqa: DTZ001
    ],
    ids=["list", "dictionary", "struct", "wide decimal", "bytes", "offset as zone"],
)
def test_a_column_of_another_type_is_one_clear_error(
    tmp_path: Path, form: str, column: str, cells: pa.Array
) -> None:
    path = freqtrade_trades(tmp_path / "kraken" / f"BTC_USD-trades{form}", ROWS[:2])
    table = feather.read_table(path) if form == ".feather" else pq.read_table(path)
    table = table.set_column(table.schema.get_field_index(column), column, cells)
    if form == ".feather":
        feather.write_feather(table, path)
    else:
        pq.write_table(table, path)
    with pytest.raises(CorruptFile, match=rf"BTC_USD-trades{form}"):
        recognise(Table(path))


@pytest.mark.parametrize("form", FORMS)
def test_endings_may_be_written_large(tmp_path: Path, form: str) -> None:
    path = freqtrade_trades(tmp_path / "kraken" / f"BTC_USD-trades{form}", ROWS[:10])
    (table,) = find([path.rename(path.with_name(f"BTC_USD-trades{form.upper()}"))])
    (day,) = days_of(recognise(table), NOW)
    assert len(day.rows) == 10


def test_ids_prove_what_the_exchange_numbers_one_after_the_other() -> None:
    rows = pl.DataFrame({"trade_id": [1, 2]})
    without = pl.DataFrame({"trade_id": [1, None]})
    binance, kraken, okx = (Market(name, "BTC/USDT") for name in ("binance", "kraken", "okx"))
    nothing = (None, None)
    assert freqtrade.day_ids(binance, rows, nothing, whole=True) == (Ids.SEQUENTIAL, "aggTrade")
    assert freqtrade.day_ids(binance, rows, nothing, whole=False)[0] is Ids.SEQUENTIAL
    assert freqtrade.day_ids(kraken, rows, nothing, whole=False) == (Ids.SEQUENTIAL, "trade, freqtrade")
    assert freqtrade.day_ids(okx, rows, nothing, whole=False)[0] is Ids.EXCHANGE
    assert freqtrade.day_ids(kraken, without, nothing, whole=False)[0] is Ids.FINGERPRINT
