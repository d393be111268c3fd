"""The same lake on S3, spoken to over HTTP."""

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata import reading
from marketdata.errors import CorruptFile, StorageError, TransientError, UsageError
from marketdata.fetching import fetch_day
from marketdata.fold import fold
from marketdata.lake import Lake, ledger, paths
from marketdata.lake.duck import connect
from marketdata.ledger import to_frame
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources.base import Page
from tests.lake.world import BTC, DAY, ETH, NEXT, NOW, PagedSource, manifest_of, trades_of
from tests.test_ledger import a_case, finding


@pytest.fixture
def lake(s3_settings: Settings, request: pytest.FixtureRequest) -> Lake:
    return Lake.open(f"s3://market/{request.node.name}", settings=s3_settings)


def put(lake: Lake, market: Market = BTC, day=DAY) -> pl.DataFrame:
    trades = trades_of(day)
    lake.write_trades(market, day, trades, manifest_of(market, day, trades))
    lake.write_candles(market, day, "1m", fold(trades))
    return trades


def test_days_on_s3_come_back_as_they_were_written(lake: Lake, tmp_path: Path) -> None:
    trades = pl.concat([put(lake), put(lake, day=NEXT)])
    put(lake, ETH)
    start, end = day_window(DAY)[0], day_window(NEXT)[1]
    assert_frame_equal(lake.read_trades(BTC, start, end), trades)
    assert_frame_equal(reading.candles(lake, BTC, "1h", start, end), fold(trades, "1h"))
    assert lake.days() == {BTC: [DAY, NEXT], ETH: [DAY]}
    assert [m.rows for m in lake.manifests()] == [3000] * 3
    assert len(lake.scan_trades(None, start, end).collect()) == 9000
    local = Lake.open(str(tmp_path / "lake"))
    put(local)
    assert lake.size("trades", BTC, DAY) == local.size("trades", BTC, DAY)
    assert lake.path("trades", BTC, DAY).startswith("s3://market/")


def test_a_fetch_into_s3_is_staged_and_resumed(lake: Lake) -> None:
    class Breaking(PagedSource):
        def pages(self, *args) -> Iterator[Page]:
            for number, page in enumerate(super().pages(*args)):
                if number == 2:
                    msg = "gone."
                    raise TransientError(msg)
                yield page

    with pytest.raises(TransientError):
        fetch_day(lake, Breaking(page_rows=500), BTC, DAY, now=NOW)
    assert len(lake.read_staged(BTC, DAY)) == 1000
    source = PagedSource(page_rows=500)
    report = fetch_day(lake, source, BTC, DAY, now=NOW)
    assert (report.resumed_pages, source.asked) == (2, [2, 3, 4, 5])
    assert_frame_equal(lake.read_trades(BTC, *day_window(DAY)), trades_of(DAY))
    assert lake.storage.files("_staging") == []


def test_the_ledger_on_s3_is_merged_and_reads_as_it_was_written(lake: Lake) -> None:
    story = a_case()
    for entry in story:
        ledger.append(lake, [entry])
    tomorrow = finding(at=story[0].at + timedelta(days=1))
    ledger.append(lake, [tomorrow])
    assert len(lake.storage.files(paths.LEDGER)) == 2
    assert_frame_equal(ledger.read(lake), to_frame([*story, tomorrow]).unique("entry_id").sort("at"))


def test_sql_over_s3_opens_only_the_files_it_needs(lake: Lake) -> None:
    put(lake), put(lake, day=NEXT), put(lake, ETH)
    with connect(lake) as sql:
        where = "exchange = 'kraken' AND symbol = 'BTC/USD' AND date = '2025-06-09'"
        plan = sql.execute(f"EXPLAIN SELECT sum(amount) FROM trades WHERE {where}").fetchall()[0][1]
        assert "Scanning Files: 1/3" in plan
        candles = sql.sql(f"SELECT * FROM candles WHERE interval = '1h' AND {where} ORDER BY open_time").pl()
        assert candles["trade_count"].to_list() == fold(trades_of(NEXT), "1h")["trade_count"].to_list()
        assert sql.execute("SELECT count(*), sum(rows) FROM coverage").fetchall() == [(3, 9000)]


def test_a_cut_file_on_s3_is_named(lake: Lake) -> None:
    put(lake)
    key = lake.storage.full("trades/exchange=kraken/symbol=BTC-USD/date=2025-06-08/part-0.parquet")
    with lake.storage.fs.open_output_stream(key) as stream:
        stream.write(b"PAR1 and then nothing")
    with pytest.raises(CorruptFile, match=r"s3://market/.*part-0\.parquet"):
        lake.manifest(BTC, DAY)
    with pytest.raises(CorruptFile, match=r"s3://market/.*part-0\.parquet"):
        lake.read_trades(BTC, *day_window(DAY))


def test_a_write_that_fails_half_way_publishes_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(frame: pl.DataFrame, metadata: object, stream) -> None:
        stream.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("marketdata.lake.parquet.write", fails)
    with pytest.raises(StorageError):
        put(lake)
    assert lake.storage.files("") == []


def test_a_missing_bucket_is_named(s3_settings: Settings) -> None:
    with pytest.raises(StorageError, match=r"'s3://nowhere/lake'.*the bucket does not exist"):
        Lake.open("s3://nowhere/lake", settings=s3_settings)


def test_a_store_that_does_not_answer_is_named(s3_settings: Settings) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        silent = s3_settings.model_copy(update={"s3_endpoint_url": url})
        with pytest.raises(StorageError, match="MARKETDATA_S3_ENDPOINT_URL"):
            Lake.open("s3://market/lake", settings=silent)


class _Refusing(BaseHTTPRequestHandler):
    """Every request is refused, as S3 does with a wrong or missing key."""

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_a_refused_key_is_named_with_the_settings_to_set(s3_settings: Settings) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            with pytest.raises(StorageError, match="the bucket refuses the key") as caught:
                Lake.open(
                    "s3://market/lake", settings=s3_settings.model_copy(update={"s3_endpoint_url": url})
                )
        finally:
            server.shutdown()
            thread.join()
    assert "MARKETDATA_S3_ACCESS_KEY_ID" in str(caught.value)


def test_half_a_key_is_refused() -> None:
    with pytest.raises(UsageError, match="MARKETDATA_S3_SECRET_ACCESS_KEY"):
        Lake.open("s3://market/lake", settings=Settings(s3_access_key_id="key"))
