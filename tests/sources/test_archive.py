"""Binance's public archive: checked by its sha256, resumed at the byte where it stopped."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import polars as pl
import pytest

from marketdata.errors import ChecksumMismatch, CorruptFile, PermanentError, TransientError, UsageError
from marketdata.exchange_sim import RunningExchange
from marketdata.interval import Interval
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources import archive
from marketdata.sources.archive import BinanceArchive
from marketdata.sources.base import CandleSource, TradeSource
from marketdata.sources.pace import Clock

MARKET = Market("binance", "BTC/USDT")
DAY = date(2025, 6, 8)
START, END = day_window(DAY)
FOLDER = "/data/spot/daily/aggTrades/BTCUSDT/"
NAME = "BTCUSDT-aggTrades-2025-06-08"


class Shelf:
    """A web server with files in memory; a path can answer in a way of its own."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, list[Callable[[BaseHTTPRequestHandler], None]]] = {}
        self.asked: list[str] = []
        shelf = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shelf.asked.append(self.path)
                if shelf.answers.get(self.path):
                    shelf.answers[self.path].pop(0)(self)
                elif self.path in shelf.files:
                    self.send(200, shelf.files[self.path])
                else:
                    self.send(404, b"<Error><Code>NoSuchKey</Code></Error>")

            def send(self, status: int, body: bytes, length: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, name: str, body: bytes, *, folder: str = FOLDER, checksum: str | None = None) -> None:
        sha256 = checksum or hashlib.sha256(body).hexdigest()
        self.files[f"{folder}{name}.zip"] = body
        self.files[f"{folder}{name}.zip.CHECKSUM"] = f"{sha256}  {name}.zip\n".encode()


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    thread = Thread(target=shelf.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield shelf
    shelf.server.shutdown()
    thread.join()
    shelf.server.server_close()


def _source(url: str, rest: TradeSource | None = None) -> BinanceArchive:
    settings = Settings(binance_archive_url=url, request_attempts=3, request_timeout_s=60, _env_file=None)
    clock = Clock(sleep=lambda _: None, now=lambda: datetime(2025, 7, 1, tzinfo=UTC))
    return BinanceArchive(settings, rest, clock)


def _line(number: int, time: datetime) -> str:
    us = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return f"{number},100.{number % 90 + 10},0.5,{2 * number},{2 * number + 1},{us},{number % 2 == 0},True\n"


def _zip(text: str, member: str = f"{NAME}.csv") -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo(member), text)
    return body.getvalue()


def _day(rows: int = 1000) -> str:
    return "".join(_line(n, START + timedelta(seconds=60 * n)) for n in range(rows))


def _all(source: BinanceArchive, cursor: str | None = None) -> pl.DataFrame:
    return pl.concat([page.trades for page in source.pages(MARKET, START, END, cursor)])


def test_it_is_a_source_of_trades_and_of_candles() -> None:
    source = _source("http://127.0.0.1:1")
    assert isinstance(source, TradeSource)
    assert isinstance(source, CandleSource)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker,is_best_match\n",
    ],
)
def test_a_day_comes_whole_with_its_checksum_as_evidence(shelf: Shelf, header: str) -> None:
    body = _zip(header + _day())
    shelf.put(NAME, body)
    (page,) = _source(shelf.url).pages(MARKET, START, END)
    assert page.trades["trade_id"].to_list() == list(range(1000))
    assert page.trades.row(2, named=True) == {
        "trade_id": 2,
        "time": START + timedelta(seconds=120),
        "price": 100.12,
        "amount": 0.5,
        "side": "sell",
        "fills": 2,
    }
    assert (page.next_cursor, page.reached, page.previous_id, page.following_id) == (None, END, None, None)
    assert page.evidence["archive_sha256"] == hashlib.sha256(body).hexdigest()
    assert page.evidence["id_space"] == "aggTrade"


def test_a_fetch_resumes_after_any_page(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_PAGE_BYTES", 7_000)
    shelf.put(NAME, _zip(_day()))
    source = _source(shelf.url)
    pages = list(source.pages(MARKET, START, END))
    assert len(pages) > 5
    assert [page.reached for page in pages] == sorted(page.reached for page in pages)
    whole = pl.concat([page.trades for page in pages])
    assert whole["trade_id"].to_list() == list(range(1000))
    for number, page in enumerate(pages[:-1]):
        rest = _all(source, page.next_cursor)
        assert rest.equals(pl.concat([page.trades for page in pages[number + 1 :]]))


def test_a_zip_published_anew_is_not_mixed_with_the_pages_of_the_old_one(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_PAGE_BYTES", 7_000)
    shelf.put(NAME, _zip(_day()))
    source = _source(shelf.url)
    first = next(source.pages(MARKET, START, END))
    shelf.put(NAME, _zip(_day(900)))
    with pytest.raises(ChecksumMismatch, match="published anew"):
        _all(source, first.next_cursor)


def test_several_days_run_on_and_only_the_window_is_given(shelf: Shelf) -> None:
    shelf.put(NAME, _zip(_day(1440)))
    next_day = "".join(_line(1440 + n, END + timedelta(seconds=60 * n)) for n in range(100))
    shelf.put("BTCUSDT-aggTrades-2025-06-09", _zip(next_day, "BTCUSDT-aggTrades-2025-06-09.csv"))
    window = (START + timedelta(hours=1), END + timedelta(minutes=10))
    source = _source(shelf.url)
    pages = list(source.pages(MARKET, *window))
    assert pl.concat([page.trades for page in pages])["trade_id"].to_list() == list(range(60, 1450))
    again = list(source.pages(MARKET, *window, pages[0].next_cursor))
    assert again[0].trades["trade_id"].to_list() == list(range(1440, 1450))


def test_rows_of_other_days_and_garbage_are_refused_not_dropped(shelf: Shelf) -> None:
    text = (
        _line(1, START) + "x,y\n" + _line(2, END) + _line(3, START + timedelta(seconds=1)).replace("0.5", "0")
    )
    shelf.put(NAME, _zip(text))
    (page,) = _source(shelf.url).pages(MARKET, START, END)
    assert page.trades["trade_id"].to_list() == [1]
    assert sorted(page.rejects["reason"].to_list()) == [
        "amount not positive",
        "time outside the days the file's name says",
        "trade id absent or unreadable",
    ]


def test_a_day_without_trades_is_one_empty_page(shelf: Shelf) -> None:
    shelf.put(NAME, _zip(""))
    (page,) = _source(shelf.url).pages(MARKET, START, END)
    assert page.trades.is_empty()
    assert page.reached == END


def test_has_day_asks_for_the_checksum_alone(shelf: Shelf) -> None:
    shelf.put(NAME, _zip(_day()))
    source = _source(shelf.url)
    assert source.has_day(MARKET, DAY)
    assert not source.has_day(MARKET, DAY + timedelta(days=1))
    assert all(path.endswith(".CHECKSUM") for path in shelf.asked)
    assert not source.has_day(MARKET, date(2025, 7, 1))  # still running
    assert not source.has_day(Market("binance", "BTC/USDT:USDT"), DAY)  # no spot market
    assert len(shelf.asked) == 2


def test_has_day_does_not_take_an_error_for_an_absent_day(shelf: Shelf) -> None:
    path = f"{FOLDER}{NAME}.zip.CHECKSUM"
    shelf.answers[path] = [lambda handler: handler.send(500, b"")] * 3  # type: ignore[attr-defined]
    with pytest.raises(TransientError, match=r"status 500.*Tried 3 times"):
        _source(shelf.url).has_day(MARKET, DAY)
    shelf.answers[path] = [lambda handler: handler.send(403, b"")]  # type: ignore[attr-defined]
    with pytest.raises(PermanentError, match="status 403"):
        _source(shelf.url).has_day(MARKET, DAY)


def test_a_cut_download_is_asked_again(shelf: Shelf) -> None:
    body = _zip(_day())
    shelf.put(NAME, body)
    path = f"{FOLDER}{NAME}.zip"
    shelf.answers[path] = [lambda handler: handler.send(200, body[:500], len(body))]  # type: ignore[attr-defined]
    assert len(_all(_source(shelf.url))) == 1000
    assert shelf.asked.count(path) == 2


def test_bytes_that_do_not_fit_the_checksum_are_asked_for_once_more(shelf: Shelf) -> None:
    shelf.put(NAME, _zip(_day()))
    path = f"{FOLDER}{NAME}.zip"
    shelf.answers[path] = [lambda handler: handler.send(200, b"half a file")]  # type: ignore[attr-defined]
    assert len(_all(_source(shelf.url))) == 1000


def test_a_wrong_checksum_names_the_file_and_both_sums(shelf: Shelf) -> None:
    body = _zip(_day())
    shelf.put(NAME, body, checksum="0" * 64)
    with pytest.raises(ChecksumMismatch) as raised:
        _all(_source(shelf.url))
    for part in (NAME, "0" * 64, hashlib.sha256(body).hexdigest()):
        assert part in str(raised.value)
    assert shelf.asked.count(f"{FOLDER}{NAME}.zip") == 2


@pytest.mark.parametrize(
    "body",
    [
        b"<html>maintenance</html>",
        _zip(_day())[:-30],
        _zip("a,b\n1,2\n"),
        _zip(_day(), "other.csv"),
        _zip("500,0.1,2,0.2,1749340800000,True,True\n"),
    ],
    ids=["html", "cut", "foreign columns", "another member", "another kind"],
)
def test_a_zip_that_is_not_what_its_name_says_is_corrupt(shelf: Shelf, body: bytes) -> None:
    shelf.put(NAME, body)
    with pytest.raises(CorruptFile, match=NAME):
        _all(_source(shelf.url))


def test_a_first_row_that_cannot_be_read_is_refused_like_any_other(shelf: Shelf) -> None:
    first, rest = _day().split("\n", 1)
    cells = first.split(",")
    shelf.put(NAME, _zip(",".join([cells[0], "abc", *cells[2:]]) + "\n" + rest))
    pages = list(_source(shelf.url).pages(MARKET, START, END))
    assert [reason for page in pages for reason in page.rejects["reason"]] == ["price absent or unreadable"]
    assert sum(len(page.trades) for page in pages) == rest.count("\n")


def test_a_checksum_file_that_is_none_is_asked_for_again_and_never_taken_for_a_day(shelf: Shelf) -> None:
    shelf.put(NAME, _zip(_day()))
    shelf.files[f"{FOLDER}{NAME}.zip.CHECKSUM"] = b"<html>"
    source = _source(shelf.url)
    for ask in (lambda: _all(source), lambda: source.has_day(MARKET, DAY)):
        with pytest.raises(TransientError, match=r"CHECKSUM is not what it should be: '<html>'\. Tried"):
            ask()


def test_a_day_the_archive_lacks_is_said_so(shelf: Shelf) -> None:
    with pytest.raises(PermanentError, match="has no trades of binance:BTC/USDT on 2025-06-08"):
        _all(_source(shelf.url))


def test_a_foreign_cursor_is_refused() -> None:
    with pytest.raises(UsageError, match="'1234' is no cursor"):
        _all(_source("http://127.0.0.1:1"), "1234")


def test_a_server_that_is_away_is_transient() -> None:
    with pytest.raises(TransientError, match="could not be reached"):
        _source("http://127.0.0.1:1").has_day(MARKET, DAY)


def test_ids_that_a_zip_lacks_are_asked_of_rest() -> None:
    class Rest:
        name, exchange, sequential_ids = "rest", "binance", True

        def pages(self, *args: object) -> Iterator[object]:
            raise AssertionError

        def refetch(
            self, market: Market, first_id: int, last_id: int, around: tuple[datetime, datetime]
        ) -> pl.DataFrame:
            return pl.DataFrame({"asked": [first_id, last_id]})

    source = _source("http://127.0.0.1:1", Rest())  # type: ignore[arg-type]
    assert source.refetch(MARKET, 5, 9, (START, END))["asked"].to_list() == [5, 9]
    assert _source("http://127.0.0.1:1").refetch(MARKET, 5, 9, (START, END)).is_empty()


@pytest.mark.fixtures
def test_captured_klines_come_as_the_exchanges_candles(shelf: Shelf, captures) -> None:  # type: ignore[no-untyped-def]
    name = "ETHUSDT-1m-2022-08-14"
    body = (captures / "binance" / "klines_vision" / "spot" / f"{name}.zip").read_bytes()
    shelf.put(name, body, folder="/data/spot/daily/klines/ETHUSDT/1m/")
    start, end = datetime(2022, 8, 13, 23, tzinfo=UTC), datetime(2022, 8, 15, tzinfo=UTC)
    candles = _source(shelf.url).candles(Market("binance", "ETH/USDT"), Interval.parse("1m"), start, end)
    assert len(candles) == 1440
    assert candles.row(0)[:6] == (
        datetime(2022, 8, 14, tzinfo=UTC),
        1983.55,
        1983.9,
        1982.14,
        1982.29,
        205.131,
    )
    assert candles["trade_count"][0] == 288


def test_the_local_exchange_serves_what_the_archive_source_reads(
    exchange_server: Callable[..., RunningExchange],
) -> None:
    server = exchange_server(now=datetime(2025, 6, 12, tzinfo=UTC))
    settings = Settings(binance_archive_url=server.archive, _env_file=None)
    clock = Clock(now=lambda: datetime(2025, 6, 12, tzinfo=UTC))
    source = BinanceArchive(settings, clock=clock)
    assert source.has_day(MARKET, DAY)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: _all(source), range(2))
    assert one.equals(two)
    ids = one["trade_id"]
    assert len(one) > 1000
    assert ids[-1] - ids[0] + 1 == ids.n_unique() == len(one)
    candles = source.candles(MARKET, Interval.parse("1m"), START, END)
    assert candles["trade_count"].sum() == one["fills"].sum()
