"""The provider over a store: what it gives is what the lake gives."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import polars as pl
import psycopg
import pytest
from polars.testing import assert_frame_equal

from marketdata import AsyncProvider, Provider
from marketdata.cli.main import main
from marketdata.errors import NoData, TransientError, UnknownName, UsageError
from marketdata.interval import INTERVALS
from marketdata.lake import Lake
from marketdata.manifest import Status
from marketdata.provider.arguments import instant
from marketdata.settings import Settings
from marketdata.store import queries, wider
from marketdata.store.engine import connect
from tests.lake.world import BTC, ETH, at, trades_of
from tests.store.conftest import RunningServer
from tests.store.world import build, day_of, put

NOW = at("2025-06-12 00:00")
ALL = [interval.name for interval in INTERVALS]


def clock() -> datetime:
    return NOW


@pytest.fixture(scope="module")
def both(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lake, str]]:
    """A lake and the URL of a store that hold the same days; wider candles are materialised."""
    name = server.migrated()
    lake, url = Lake.open(str(tmp_path_factory.mktemp("provider") / "lake")), server.url_of(name)
    build(lake, url)
    wider.refresh(url)
    yield lake, url
    server.drop(name)


@pytest.fixture(scope="module")
def lake(both: tuple[Lake, str]) -> Iterator[Provider]:
    with Provider(lake=both[0], clock=clock) as provider:
        yield provider


@pytest.fixture(scope="module")
def store(both: tuple[Lake, str]) -> Iterator[Provider]:
    with Provider(database_url=both[1], clock=clock) as provider:
        yield provider


EXACT = ["open_time", "open", "high", "low", "close", "trade_count", "first_trade_id", "last_trade_time"]


@pytest.mark.parametrize("fill", [None, "previous"])
@pytest.mark.parametrize("interval", ALL)
def test_lake_and_store_give_the_same_candles_cell_by_cell(
    lake: Provider, store: Provider, interval: str, fill: Literal["previous"] | None
) -> None:
    whole = ("2025-05-30", "2025-06-16")
    # Every second of two weeks would be a million rows.
    ranges = [
        ("2025-06-02T03:59:30Z", "2025-06-03"),
        ("2025-06-04", "2025-06-05") if interval == "1s" else whole,
    ]
    rows = 0
    for start, end in ranges:
        ours = store.candles(BTC, interval, start, end, fill, details=True)
        theirs = lake.candles(BTC, interval, start, end, fill, details=True)
        assert_frame_equal(ours, theirs, rel_tol=1e-9)
        assert ours.select(EXACT).equals(theirs.select(EXACT))
        rows += len(ours)
    assert rows > 0


def test_details_are_left_out_unless_asked_for(store: Provider, lake: Provider) -> None:
    plain = store.candles(BTC, "1h", "2025-06-02", "2025-06-04")
    assert plain.schema == lake.candles(BTC, "1h", "2025-06-02", "2025-06-04").schema
    detailed = store.candles(BTC, "1h", "2025-06-02", "2025-06-04", details=True)
    assert detailed.drop("revision", "source", "coverage").equals(plain)


def test_lake_and_store_give_the_same_trades(lake: Provider, store: Provider) -> None:
    for start, end in (("2025-06-01", "2025-06-15"), ("2025-06-07T10:00Z", "2025-06-07T11:00Z")):
        ours = store.trades(BTC, start, end)
        assert ours.equals(lake.trades(BTC, start, end))
        assert len(ours) > 10
    assert ours["side"].null_count() > 0


@pytest.mark.parametrize("interval", ["10s", "1m", "15m", "4h", "1d", "1w"])
def test_lake_and_store_give_the_same_latest_candles(lake: Provider, store: Provider, interval: str) -> None:
    for count in (1, 5, 2_000):
        ours = store.latest_candles(BTC, interval, count)
        assert_frame_equal(ours, lake.latest_candles(BTC, interval, count), rel_tol=1e-9)
        assert 0 < len(ours) <= count


@pytest.mark.parametrize(("interval", "count"), [("10s", 30), ("1m", 500), ("1h", 60), ("1d", 4)])
def test_a_warm_up_reaches_over_quiet_days(
    lake: Provider, store: Provider, interval: str, count: int
) -> None:
    before = "2025-06-09T02:30Z"  # the day before is empty, and so is the one two days earlier
    ours = store.warmup(BTC, interval, count, before)
    assert_frame_equal(ours, lake.warmup(BTC, interval, count, before), rel_tol=1e-9)
    assert len(ours) == count
    assert ours["open_time"][-1] < at("2025-06-09 02:30")


def test_too_few_candles_are_counted_alike(lake: Provider, store: Provider) -> None:
    messages = []
    for provider in (lake, store):
        with pytest.raises(NoData, match="Only 3 full 1d candles of kraken:BTC/USD") as caught:
            provider.warmup(BTC, "1d", 10, "2025-06-06")
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "2025-06-02T00:00:00Z" in messages[0]


@pytest.mark.parametrize("status", [Status.UNKNOWN, Status.GAPS, Status.COMPLETE])
def test_a_first_day_that_is_not_whole_is_not_counted_alike(
    database: str, tmp_path: Path, status: Status
) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    late = trades_of(day_of(0), 2_000).filter(pl.col("time") >= at("2025-06-02 15:27"))
    put(lake, database, BTC, day_of(-1), late.clear(), status=Status.UNKNOWN)
    put(lake, database, BTC, day_of(0), late, status=status)
    put(lake, database, BTC, day_of(1), trades_of(day_of(1), 2_000))
    said = []
    for provider in (Provider(lake=lake, clock=clock), Provider(database_url=database, clock=clock)):
        with provider:
            for interval in ("10s", "1m", "1h", "4h", "1d", "1w"):
                with pytest.raises(NoData, match="Only") as caught:
                    provider.warmup(BTC, interval, 50_000, "2025-06-04")
                said.append(str(caught.value))
    assert said[:6] == said[6:]
    hour, day = ("02T15", "02T00") if status is Status.COMPLETE else ("02T16", "03T00")
    assert f"opens at 2025-06-{hour}:00:00Z" in said[2]
    assert f"opens at 2025-06-{day}:00:00Z" in said[4]


def test_what_a_stream_wrote_before_the_first_day_is_counted(database: str, tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    put(lake, database, BTC, day_of(1), trades_of(day_of(1), 300), status=Status.UNKNOWN)
    with connect(database) as connection:
        connection.execute(
            "INSERT INTO candle (market_id, open_time, open, high, low, close, volume, source, coverage) "
            "SELECT market_id, %s, 10, 12, 9, 11, 5, 'stream', 'complete' FROM market",
            (at("2025-06-02 22:00"),),
        )
    with Provider(database_url=database, clock=clock) as store:
        hours = store.latest_candles(BTC, "1h", 100)
        assert hours["open_time"][0] == at("2025-06-02 22:00")
        assert store.warmup(BTC, "1h", len(hours)).equals(hours)


def test_what_is_held_is_said_alike(lake: Provider, store: Provider) -> None:
    assert lake.markets() == store.markets() == [BTC, ETH]
    for market in (BTC, ETH):
        assert lake.data_range(market) == store.data_range(market)
    assert lake.coverage().equals(store.coverage())
    for arguments in ((BTC,), (BTC, "2025-06-03", "2025-06-06"), (None, "2025-06-03T12:00Z", None)):
        ours = store.coverage(*arguments)
        assert ours.equals(lake.coverage(*arguments))
        assert len(ours) > 0


def test_several_intervals_are_those_of_single_calls(store: Provider) -> None:
    start, end = "2025-06-02T01:00Z", "2025-06-05"
    several = store.candles_multi(BTC, ["1d", "1m", "10s", "5m", "1h"], start, end)
    assert list(several) == ["1d", "1m", "10s", "5m", "1h"]
    for interval, frame in several.items():
        assert frame.equals(store.candles(BTC, interval, start, end))


def test_a_range_longer_than_a_page_is_read_whole(
    store: Provider, lake: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketdata.store.reader.PAGE", 97)
    for interval in ("1s", "1m", "5m"):
        ours = store.candles(BTC, interval, "2025-06-01", "2025-06-08")
        assert_frame_equal(ours, lake.candles(BTC, interval, "2025-06-01", "2025-06-08"), rel_tol=1e-9)
    trades = store.trades(BTC, "2025-06-01", "2025-06-08")
    assert trades.equals(lake.trades(BTC, "2025-06-01", "2025-06-08"))


def test_a_day_that_is_loaded_again_is_seen_by_all_intervals_at_once(
    server: RunningServer, database: str, tmp_path: Path
) -> None:
    """Also before the wider candles of TimescaleDB are refreshed, and when the loader dies in between."""
    lake = Lake.open(str(tmp_path / "lake"))
    for number in (0, 1, 2):
        put(lake, database, BTC, day_of(number), trades_of(day_of(number), 300))
    wider.refresh(database)
    with (
        Provider(database_url=database, clock=clock) as store,
        Provider(lake=lake, clock=clock) as files,
    ):
        before = store.candles(BTC, "1d", "2025-06-02", "2025-06-06")
        more = trades_of(day_of(1), 900)
        put(lake, database, BTC, day_of(1), more)
        for interval in ALL[2:]:
            ours = store.candles(BTC, interval, "2025-06-01", "2025-06-06")
            theirs = files.candles(BTC, interval, "2025-06-01", "2025-06-06")
            assert_frame_equal(ours, theirs, rel_tol=1e-9)
            latest = store.latest_candles(BTC, interval, 20)
            assert_frame_equal(latest, files.latest_candles(BTC, interval, 20), rel_tol=1e-9)
        assert not ours.equals(before)
        detailed = store.candles(BTC, "1d", "2025-06-01", "2025-06-06", details=True)
        wider.refresh(database)
        assert_frame_equal(
            store.candles(BTC, "1d", "2025-06-01", "2025-06-06", details=True), detailed, rel_tol=1e-9
        )


def test_the_range_of_a_market_grows_with_it(database: str, tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    with Provider(database_url=database, clock=clock) as store:
        put(lake, database, BTC, day_of(3), trades_of(day_of(3), 300))
        first = store.data_range(BTC)
        assert first is not None
        for number in (5, 0):
            put(lake, database, BTC, day_of(number), trades_of(day_of(number), 300))
            trades = lake.read_trades(BTC, at("2025-01-01"), at("2026-01-01"))["time"]
            found = store.data_range(BTC)
            assert found is not None
            assert found.trades == (trades[0], trades[-1])
            assert store.latest_candles(BTC, "1m", 1)["last_trade_time"][0] == trades[-1]
        with connect(database) as connection:
            connection.execute(
                "INSERT INTO trade SELECT market_id, %s, 1, 1, 1, 'buy', 1 FROM market", (NOW,)
            )
        found = store.data_range(BTC)
        assert found is not None
        assert found.trades is not None
        assert found.trades[1] == NOW


def test_trades_that_are_no_longer_kept_are_not_taken_for_none(database: str, tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    for number in (0, 1):
        put(lake, database, BTC, day_of(number), trades_of(day_of(number), 300))
    with connect(database) as connection:
        connection.execute("DELETE FROM trade WHERE time < %s", (at("2025-06-03"),))
    with Provider(database_url=database, clock=clock) as store:
        assert len(store.candles(BTC, "1m", "2025-06-02", "2025-06-03")) > 100
        for end in ("2025-06-03", "2025-06-04"):
            with pytest.raises(NoData, match="of trades it holds"):
                store.trades(BTC, "2025-06-02", end)
            with pytest.raises(NoData, match=r"Provider\(lake="):
                store.candles(BTC, "10s", "2025-06-02", end)
        assert len(store.trades(BTC, "2025-06-03", "2025-06-04")) == 300
        assert len(store.latest_candles(BTC, "10s", 50)) == 50
        found = store.data_range(BTC)
        assert found is not None
        assert found.trades is not None
        assert found.trades[0] >= at("2025-06-03")


def retain(url: str, until: datetime) -> None:
    """Remove one-minute candles as retention does, and keep what is made of them."""
    with connect(url) as connection:
        if wider.is_timescale(connection):
            connection.execute("SELECT drop_chunks('candle', older_than => %s)", (until,))
        else:
            connection.execute("ALTER TABLE candle DISABLE TRIGGER USER")
            connection.execute("DELETE FROM candle WHERE open_time < %s", (until,))
            connection.execute("ALTER TABLE candle ENABLE TRIGGER USER")
        connection.execute("UPDATE store_state SET candles_dropped_before = %s", (until,))


def test_candles_that_are_no_longer_kept_are_not_taken_for_none(database: str, tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    for number in (0, 1, 60):
        put(lake, database, BTC, day_of(number), trades_of(day_of(number), 300))
    wider.refresh(database)
    with Provider(database_url=database, clock=lambda: at("2025-08-15")) as store:
        before = {width: store.candles(BTC, width, "2025-06-01", "2025-08-10") for width in ALL[3:]}
        filled = store.candles(BTC, "5m", "2025-06-03", "2025-06-04", "previous")
        with connect(database) as connection:
            row = connection.execute("SELECT max(open_time) FROM candle").fetchone()
            assert row is not None
        retain(database, at("2025-07-07"))
        for fill in (None, "previous"):
            for end in ("2025-06-04", "2025-08-10"):
                with pytest.raises(NoData, match="only wider ones from before"):
                    store.candles(BTC, "1m", "2025-06-02", end, fill)
        assert len(store.candles(BTC, "1m", "2025-07-10", "2025-08-10")) > 100
        assert store.candles(BTC, "1m", "2025-05-01", "2025-06-01").is_empty()
        for width, frame in before.items():
            assert store.candles(BTC, width, "2025-06-01", "2025-08-10").equals(frame)
            assert store.latest_candles(BTC, width, 10_000).equals(frame)
        assert store.candles(BTC, "5m", "2025-06-03", "2025-06-04", "previous").equals(filled)
        assert len(store.warmup(BTC, "1d", 3)) == 3
        with connect(database) as connection:
            connection.execute("DELETE FROM trade WHERE time < %s", (at("2025-07-07"),))
        for end in ("2025-06-04", "2025-08-10"):
            with pytest.raises(NoData, match="of trades it holds"):
                store.trades(BTC, "2025-06-02", end)


def test_a_market_of_which_only_old_candles_are_left_has_its_latest(database: str, tmp_path: Path) -> None:
    """One that is no longer traded, after retention."""
    lake = Lake.open(str(tmp_path / "lake"))
    for number in (0, 1):
        put(lake, database, BTC, day_of(number), trades_of(day_of(number), 300))
    wider.refresh(database)
    with connect(database) as connection:
        connection.execute("DELETE FROM trade")
        connection.execute("DELETE FROM coverage")
    retain(database, at("2025-07-07"))
    with Provider(database_url=database, clock=lambda: at("2025-08-15")) as store:
        assert store.data_range(BTC) is None
        days = store.latest_candles(BTC, "1d", 5)
        assert days["open_time"].to_list() == [at("2025-06-02"), at("2025-06-03")]
        assert store.warmup(BTC, "4h", 12).equals(store.latest_candles(BTC, "4h", 12))
        assert store.latest_candles(BTC, "1m", 5).is_empty()


def test_a_range_that_is_far_longer_than_the_data_is_cut_to_it(store: Provider, lake: Provider) -> None:
    for interval in ("10s", "1m", "5m", "1w"):
        ours = store.candles(BTC, interval, "0001-01-01", "9999-12-31")
        assert_frame_equal(ours, lake.candles(BTC, interval, "0001-01-01", "9999-12-31"), rel_tol=1e-9)
        assert_frame_equal(ours, store.candles(BTC, interval, "2025-05-26", "2025-06-16"))
    assert store.trades(BTC, "0001-01-01", "9999-12-31").equals(lake.trades(BTC, "2025-01-01", "2026-01-01"))


DAWN, DUSK = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
A_DAY = timedelta(days=1)


@pytest.mark.parametrize("interval", ALL)
@pytest.mark.parametrize(
    ("start", "end"),
    [(DAWN, DAWN + A_DAY), (DUSK - A_DAY, DUSK), (DUSK, DUSK), ("2025-06-10", DUSK), (DAWN, "2025-06-03")],
)
def test_a_range_may_reach_to_either_end_of_the_calendar(
    store: Provider, lake: Provider, interval: str, start: datetime | str, end: datetime | str
) -> None:
    for fill in (None, "previous"):
        if fill and (interval, start, end) == ("1s", "2025-06-10", DUSK):
            continue  # every second of days would be a million rows
        ours = store.candles(BTC, interval, start, end, fill, details=True)
        assert_frame_equal(ours, lake.candles(BTC, interval, start, end, fill, details=True), rel_tol=1e-9)
        inside = lake.candles(BTC, interval, "2025-05-26", "2025-06-16").filter(
            (pl.col("open_time") >= instant(start, "start")) & (pl.col("open_time") < instant(end, "end"))
        )
        assert set(inside["open_time"]) <= set(ours["open_time"])
        assert fill or len(ours) == len(inside)
    for provider in (store, lake):
        days = provider.coverage(BTC, start, end)["day"].to_list()
        first, last = instant(start, "start").date(), instant(end, "end").date()
        assert days == [day for day in provider.coverage(BTC)["day"] if first <= day < last]
        assert len(provider.trades(BTC, start, end)) >= 0


def test_candles_without_trades_of_their_own_come_with_nulls(database: str) -> None:
    """Those that an exchange served have no ids, no times and sometimes no count."""
    with connect(database) as connection:
        connection.execute("INSERT INTO market (exchange, symbol) VALUES ('kraken', 'BTC/USD')")
        connection.execute(
            "INSERT INTO candle (market_id, open_time, open, high, low, close, volume, source, coverage) "
            "SELECT market_id, %s + n * interval '1 minute', 10, 12, 9, 11, 5, 'exchange', 'unknown' "
            "FROM market, generate_series(0, 9) n",
            (at("2025-06-02"),),
        )
    with Provider(database_url=database, clock=clock) as store:
        for interval in ("1m", "5m"):
            frame = store.candles(BTC, interval, "2025-06-02", "2025-06-03", details=True)
            nulls = ["quote_volume", "trade_count", "taker_buy_volume", "first_trade_id", "last_trade_time"]
            assert [frame[name].null_count() for name in nulls] == [len(frame)] * len(nulls)
            assert set(frame["source"]) == {"exchange"}
            assert frame["close"].to_list() == [11.0] * len(frame)


def test_a_running_candle_is_counted_only_when_asked_for(both: tuple[Lake, str]) -> None:
    with Provider(database_url=both[1], clock=lambda: at("2025-06-11 12:30")) as store:
        closed = store.latest_candles(BTC, "1h", 3)
        assert closed["open_time"][-1] == at("2025-06-11 11:00")
        running = store.latest_candles(BTC, "1h", 3, running=True)
        assert running["open_time"].to_list() == [at(f"2025-06-11 {hour}:00") for hour in (10, 11, 12)]


def test_a_market_the_store_does_not_know_is_named_with_the_nearest(store: Provider) -> None:
    with pytest.raises(UnknownName, match="kraken:BTC/USD"):
        store.candles("kraken:BTC/USDT", "1m", "2025-06-02", "2025-06-03")
    for spelling in ("kraken:XBT/USD", "kraken:XXBTZUSD", "kraken:BTC-USD"):
        assert len(store.candles(spelling, "1d", "2025-06-02", "2025-06-03")) == 1


def test_a_market_without_data_says_so(database: str) -> None:
    with Provider(database_url=database) as store:
        with pytest.raises(NoData, match="is empty"):
            store.candles(BTC, "1m", "2025-06-02", "2025-06-03")
        with connect(database) as connection:
            connection.execute("INSERT INTO market (exchange, symbol) VALUES ('kraken', 'BTC/USD')")
        assert store.data_range(BTC) is None
        for read in (
            lambda: store.candles(BTC, "1m", "2025-06-02", "2025-06-03"),
            lambda: store.candles(BTC, "10s", "2025-06-02", "2025-06-03"),
            lambda: store.trades(BTC, "2025-06-02", "2025-06-03"),
            lambda: store.latest_candles(BTC, "1h"),
            lambda: store.latest_candles(BTC, "1s"),
            lambda: store.warmup(BTC, "1h"),
        ):
            with pytest.raises(NoData, match="holds no data of kraken:BTC/USD"):
                read()


def test_a_database_without_the_tables_says_how_to_make_them(empty_database: str) -> None:
    with pytest.raises(UsageError, match="marketdata db upgrade"):
        Provider(database_url=empty_database).connect()


def test_a_lost_connection_is_replaced_without_a_word(both: tuple[Lake, str], server: RunningServer) -> None:
    with Provider(database_url=both[1], clock=clock) as store:
        before = store.latest_candles(BTC, "1h", 5)
        for _ in range(3):
            with connect(both[1], autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'marketdata reader' AND datname = current_database()"
                )
            assert store.latest_candles(BTC, "1h", 5).equals(before)


def test_a_server_that_is_gone_is_one_line_without_the_password(
    server: RunningServer, both: tuple[Lake, str]
) -> None:
    url = "postgresql://reader:s3cret@127.0.0.1:1/marketdata"
    provider = Provider(database_url=url)
    assert "s3cret" not in repr(provider)
    with pytest.raises(TransientError) as caught:
        provider.connect()
    assert "127.0.0.1:1/marketdata" in str(caught.value)
    assert "s3cret" not in str(caught.value) + repr(caught.value)
    if server.embedded is not None:
        with Provider(database_url=both[1], clock=clock) as store:
            server.kill()
            try:
                with pytest.raises(TransientError):
                    store.latest_candles(BTC, "1h", 5)
            finally:
                server.start()
            assert len(store.latest_candles(BTC, "1h", 5)) == 5


def test_many_threads_share_ten_connections(both: tuple[Lake, str], store: Provider) -> None:
    expected = store.latest_candles(BTC, "1m", 50)
    wrong: list[pl.DataFrame] = []

    def read() -> None:
        found = [store.latest_candles(BTC, "1m", 50) for _ in range(5)]
        wrong.extend(frame for frame in found if not frame.equals(expected))

    threads = [threading.Thread(target=read) for _ in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    with connect(both[1]) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE application_name = 'marketdata reader' AND datname = current_database()"
        ).fetchone()
    assert row is not None
    assert 2 <= row[0] <= 10


def test_the_asynchronous_provider_gives_the_same(both: tuple[Lake, str], store: Provider) -> None:
    async def read() -> None:
        async with AsyncProvider(database_url=both[1], clock=clock) as provider:
            start, end = "2025-06-02", "2025-06-05"
            hours, several, latest, trades = await asyncio.gather(
                provider.candles(BTC, "1h", start, end),
                provider.candles_multi(BTC, ["1m", "1d"], start, end),
                provider.latest_candles(BTC, "5m", 20),
                provider.trades(BTC, start, end),
            )
            assert hours.equals(store.candles(BTC, "1h", start, end))
            assert several["1d"].equals(store.candles(BTC, "1d", start, end))
            assert latest.equals(store.latest_candles(BTC, "5m", 20))
            assert trades.equals(store.trades(BTC, start, end))
            assert (await provider.warmup(BTC, "1h", 10)).equals(store.warmup(BTC, "1h", 10))
            assert await provider.data_range(BTC) == store.data_range(BTC)
            assert (await provider.coverage(BTC)).equals(store.coverage(BTC))
            assert await provider.markets() == [BTC, ETH]

    asyncio.run(read())


def test_a_call_that_is_cancelled_ends_its_query(
    both: tuple[Lake, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "COVERED_DAYS", "SELECT pg_sleep(60), %(market)s")

    async def read() -> float:
        async with AsyncProvider(database_url=both[1], clock=clock) as provider:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(provider.data_range(BTC), 0.5)
            assert len(await provider.markets()) == 2
            with connect(both[1], autocommit=True) as connection:
                while _sleepers(connection):
                    await asyncio.sleep(0.05)
            return time.monotonic() - began

    assert asyncio.run(read()) < 50


def _sleepers(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_the_store_is_read_where_its_url_is_set(
    both: tuple[Lake, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKETDATA_DATABASE_URL", both[1])
    with Provider() as provider:
        assert provider.source == "store"
        assert provider.markets() == [BTC, ETH]
    assert Provider(lake=str(tmp_path)).source == "lake"
    monkeypatch.delenv("MARKETDATA_DATABASE_URL")
    assert Provider(Settings.load()).source == "lake"


def test_times_come_back_in_utc(store: Provider) -> None:
    found = store.data_range(BTC)
    assert found is not None
    assert found.candles is not None
    assert found.candles[0].tzinfo is UTC
    frame = store.candles(BTC, "1h", "2025-06-02", "2025-06-03")
    assert frame.schema["open_time"] == pl.Datetime("us", "UTC")
    assert frame["open_time"][1] - frame["open_time"][0] == timedelta(hours=1)


def test_the_commands_print_the_same_from_lake_and_store(
    both: tuple[Lake, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKETDATA_LAKE", both[0].url)
    arguments = [str(BTC), "--start", "2025-06-02", "--end", "2025-06-06T12:00"]
    outputs: list[list[bytes]] = []
    for url in ("", both[1]):
        monkeypatch.setenv("MARKETDATA_DATABASE_URL", url)
        files = [tmp_path / f"{len(outputs)}-{name}.csv" for name in ("candles", "filled", "trades")]
        assert main(["candles", *arguments, "-o", str(files[0])]) == 0
        assert main(["candles", *arguments, "-i", "10s", "--fill", "previous", "-o", str(files[1])]) == 0
        assert main(["trades", *arguments, "-o", str(files[2])]) == 0
        outputs.append([file.read_bytes() for file in files])
        warnings = capsys.readouterr().err
        kind = "store" if url else "lake"
        assert f"not in the {kind}: kraken:BTC/USD 2025-06-03 (1 day)" in warnings
        assert "2025-06-05 has status gaps: by the test" in warnings
    assert outputs[0] == outputs[1]
    assert min(map(len, outputs[0])) > 10_000


def test_the_commands_say_what_the_store_lacks(
    both: tuple[Lake, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKETDATA_DATABASE_URL", both[1])
    assert main(["candles", str(BTC), "--start", "2025-05-01", "--end", "2025-05-03"]) == 1
    complaint = capsys.readouterr().err
    assert "it has 2025-06-02 to 2025-06-11" in complaint
    assert "marketdata db load kraken:BTC/USD --start 2025-05-01 --end 2025-05-03" in complaint
    assert main(["trades", "kraken:BTC/USDT", "--start", "2025-06-02", "--end", "2025-06-03"]) == 2
    assert "Did you mean 'kraken:BTC/USD'" in capsys.readouterr().err
