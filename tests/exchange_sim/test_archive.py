"""Binance's public archive."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from urllib.error import HTTPError

import pytest

from marketdata.exchange_sim import RunningExchange
from marketdata.exchange_sim.listing import LISTINGS, day_number
from marketdata.exchange_sim.market import Columns, trades_of_day
from tests.exchange_sim.conftest import NOW, get, get_bytes

XRP = next(one for one in LISTINGS if one.market == "binance:XRP/USDT")


def path(kind: str, day: date, symbol: str = "XRPUSDT") -> str:
    folder = f"klines/{symbol}/1m" if kind == "1m" else f"{kind}/{symbol}"
    return f"data/spot/daily/{folder}/{symbol}-{kind}-{day}.zip"


def rows_of(body: bytes) -> list[list[str]]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        (name,) = archive.namelist()
        return [line.split(",") for line in archive.read(name).decode().splitlines()]


def truth(day: date) -> Columns:
    return trades_of_day(7, XRP, day_number(day))


def test_the_agg_trades_of_a_day_are_the_rows_that_rest_serves(server: RunningExchange) -> None:
    day = date(2025, 6, 9)
    rows = rows_of(get_bytes(f"{server.archive}/{path('aggTrades', day)}"))
    start = int(datetime(2025, 6, 9, tzinfo=UTC).timestamp() * 1_000)
    query = {"symbol": "XRPUSDT", "startTime": start, "limit": 1_000}
    page = get(f"{server.binance}/api/v3/aggTrades", query, {"X-MBX-TIME-UNIT": "MICROSECOND"})
    fields = ("a", "p", "q", "f", "l", "T", "m", "M")
    assert rows[:1_000] == [[str(row[name]) for name in fields] for row in page]
    assert [int(row[0]) for row in rows] == truth(day).id.tolist()


def test_raw_trades_sum_to_their_agg_trades(server: RunningExchange) -> None:
    day = date(2025, 6, 9)
    raw = rows_of(get_bytes(f"{server.archive}/{path('trades', day)}"))
    rows = truth(day)
    first = int(rows.first_fill[0])
    assert [int(row[0]) for row in raw] == list(range(first, first + int(rows.fills.sum())))
    assert sum(round(float(row[2]) * 10) for row in raw) == rows.lots.sum()
    assert all(float(row[2]) > 0 for row in raw)
    assert float(raw[0][3]) == pytest.approx(float(raw[0][1]) * float(raw[0][2]))
    assert {row[6] for row in raw} == {"True"}


def test_minute_candles_are_those_that_rest_serves(server: RunningExchange) -> None:
    rows = rows_of(get_bytes(f"{server.archive}/{path('1m', date(2025, 6, 9))}"))
    start = int(datetime(2025, 6, 9, tzinfo=UTC).timestamp() * 1_000)
    query = {"symbol": "XRPUSDT", "interval": "1m", "startTime": start, "limit": 1_000}
    klines = get(f"{server.binance}/api/v3/klines", query, {"X-MBX-TIME-UNIT": "MICROSECOND"})
    assert len(rows) == 1_440
    assert rows[:1_000] == [[str(value) for value in kline] for kline in klines]


@pytest.mark.parametrize("kind", ["aggTrades", "trades", "1m"])
def test_the_checksum_is_that_of_the_zip(server: RunningExchange, kind: str) -> None:
    url = f"{server.archive}/{path(kind, date(2025, 6, 9))}"
    digest, name = get_bytes(f"{url}.CHECKSUM").decode().split()
    assert digest == hashlib.sha256(get_bytes(url)).hexdigest()
    assert name == url.rpartition("/")[2]


@pytest.mark.parametrize(("day", "digits"), [(date(2024, 12, 31), 13), (date(2025, 1, 1), 16)])
def test_times_are_milliseconds_until_2024_and_microseconds_after(
    server: RunningExchange, day: date, digits: int
) -> None:
    rows = rows_of(get_bytes(f"{server.archive}/{path('aggTrades', day)}"))
    assert {len(row[5]) for row in rows} == {digits}


def test_spot_files_have_no_header_row(server: RunningExchange) -> None:
    assert rows_of(get_bytes(f"{server.archive}/{path('aggTrades', date(2025, 6, 9))}"))[0][0].isdigit()


@pytest.mark.parametrize("day", [NOW.date(), NOW.date() - timedelta(days=1), date(2019, 12, 31)])
def test_a_day_appears_a_day_after_its_end(server: RunningExchange, day: date) -> None:
    with pytest.raises(HTTPError) as caught:
        get_bytes(f"{server.archive}/{path('aggTrades', day)}")
    with caught.value as response:
        assert response.status == 404
        assert b"NoSuchKey" in response.read()


def test_when_a_day_appears_can_be_set(exchange_server: Callable[..., RunningExchange]) -> None:
    server = exchange_server(now=NOW, archive_delay=timedelta(hours=3))
    assert rows_of(get_bytes(f"{server.archive}/{path('aggTrades', NOW.date() - timedelta(days=1))}"))


@pytest.mark.parametrize("name", ["NOPEUSDT", "../XRPUSDT"])
def test_an_unknown_symbol_has_no_files(server: RunningExchange, name: str) -> None:
    with pytest.raises(HTTPError, match="404") as caught:
        get_bytes(f"{server.archive}/{path('aggTrades', date(2025, 6, 9), name)}")
    caught.value.close()


def test_a_file_has_the_same_bytes_from_any_exchange_of_the_same_seed(
    exchange_server: Callable[..., RunningExchange],
) -> None:
    one, other = exchange_server(now=NOW), exchange_server(now=NOW + timedelta(days=90))
    name = path("aggTrades", date(2025, 6, 9))
    get_bytes(f"{other.archive}/{path('aggTrades', date(2025, 6, 1))}")
    assert get_bytes(f"{one.archive}/{name}") == get_bytes(f"{other.archive}/{name}")


def test_a_busy_day_is_zipped_the_same_each_time(server: RunningExchange) -> None:
    url = f"{server.archive}/{path('aggTrades', date(2025, 6, 4), 'BTCUSDT')}"
    body = get_bytes(url)
    assert get_bytes(url) == body
