"""The provider over a lake, and what is the same wherever it reads."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import marketdata
from marketdata import AsyncProvider, Provider, reading
from marketdata.candle import CANDLE_SCHEMA
from marketdata.completeness import content_hash
from marketdata.errors import BadRange, NoData, UnknownName, UsageError
from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.manifest import Status
from marketdata.market import Market
from marketdata.settings import Settings
from tests.building import trades_of as rows_of
from tests.conftest import ROOT
from tests.lake.world import BTC, ETH, at, manifest_of, trades_of

MONDAY = date(2025, 6, 2)
NOW = at("2025-06-05 12:30")


def put(
    lake: Lake, market: Market, day: date, trades: pl.DataFrame, status: Status = Status.COMPLETE
) -> None:
    lake.write_trades(market, day, trades, manifest_of(market, day, trades, status))
    lake.write_candles(market, day, "1m", fold(trades), facts={"trades": content_hash(trades)})


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Monday to Thursday of one week; Wednesday is known to be empty."""
    lake = Lake.open(str(tmp_path_factory.mktemp("provider") / "lake"))
    for n in range(4):
        day = MONDAY + timedelta(days=n)
        trades = trades_of(day, 600)
        put(lake, BTC, day, trades.clear() if n == 2 else trades, Status.GAPS if n == 3 else Status.COMPLETE)
    put(lake, ETH, MONDAY, trades_of(MONDAY, 30))
    return lake


@pytest.fixture
def provider(lake: Lake) -> Iterator[Provider]:
    with Provider(lake=lake, clock=lambda: NOW) as provider:
        yield provider


def test_a_call_before_connect_says_how_to_connect(lake: Lake) -> None:
    provider = Provider(lake=lake)
    reads: list[Callable[[], Any]] = [
        lambda: provider.candles(BTC, "1h", "2025-06-02", "2025-06-03"),
        lambda: provider.candles_multi(BTC, ["1h"], "2025-06-02", "2025-06-03"),
        lambda: provider.latest_candles(BTC, "1h"),
        lambda: provider.warmup(BTC, "1h"),
        lambda: provider.trades(BTC, "2025-06-02", "2025-06-03"),
        lambda: provider.data_range(BTC),
        provider.coverage,
        provider.markets,
    ]
    for read in reads:
        with pytest.raises(UsageError, match=r"not connected.*connect\(\).*with Provider\(\)"):
            read()
    assert provider.connect() is provider.connect()
    assert len(provider.markets()) == 2
    provider.close()
    provider.close()
    with pytest.raises(UsageError, match="not connected"):
        provider.markets()


def test_the_asynchronous_provider_says_the_same_before_connect(lake: Lake) -> None:
    async def read() -> None:
        provider = AsyncProvider(lake=lake)
        with pytest.raises(UsageError, match=r"connect\(\).*async with AsyncProvider\(\)"):
            await provider.markets()
        async with provider:
            assert await provider.markets() == [BTC, ETH]
        with pytest.raises(UsageError, match="not connected"):
            await provider.markets()

    asyncio.run(read())


def test_both_providers_have_the_same_calls() -> None:
    names = {name for name in vars(Provider) if not name.startswith("_")}
    assert names <= {name for name in vars(AsyncProvider) if not name.startswith("_")}


@pytest.mark.parametrize(
    "spelling",
    ["kraken:BTC/USD", "kraken:BTC-USD", "kraken:XBT/USD", "kraken:XBTUSD", "kraken:XXBTZUSD", BTC],
)
def test_a_market_may_be_written_in_any_way_its_exchange_does(
    provider: Provider, spelling: str | Market
) -> None:
    assert len(provider.candles(spelling, "1d", "2025-06-02", "2025-06-03")) == 1


def test_a_wrong_name_comes_with_the_nearest(provider: Provider) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'kraken:ETH/USD'") as caught:
        provider.trades("kraken:ETC/USD", "2025-06-02", "2025-06-03")
    assert "marketdata backfill kraken:ETC/USD" in str(caught.value)
    with pytest.raises(UnknownName, match="Did you mean '1h'"):
        provider.candles(BTC, "1hr", "2025-06-02", "2025-06-03")
    with pytest.raises(UsageError, match="does not say exchange and symbol"):
        provider.data_range("BTC/USD")


def test_an_empty_lake_says_how_to_fill_it(tmp_path: Path) -> None:
    with Provider(lake=str(tmp_path)) as provider, pytest.raises(NoData, match="marketdata backfill kraken"):
        provider.latest_candles("kraken:BTC/USD", "1h")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2025-06-02", "2025-06-03"),
        (date(2025, 6, 2), date(2025, 6, 3)),
        (at("2025-06-02"), at("2025-06-03")),
        ("2025-06-02T00:00Z", "2025-06-03T00:00:00+00:00"),
        ("2025-06-02T02:00+02:00", at("2025-06-03").astimezone(timezone(timedelta(hours=9)))),
    ],
)
def test_a_time_may_be_a_date_an_aware_time_or_text(provider: Provider, start: Any, end: Any) -> None:
    assert provider.candles(BTC, "1h", start, end)["open_time"].to_list() == [
        at(f"2025-06-02 {hour:02}:00") for hour in range(24)
    ]


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (datetime(2025, 6, 2), "2025-06-03", "start = 2025-06-02T00:00:00 has no zone"),  # noqa: DTZ001
        ("2025-06-02", "2025-06-02T12:00", "end = 2025-06-02T12:00:00 has no zone"),
        ("June", "2025-06-02", "start = 'June' is not a date"),
        ("2025-06-02", 1748822400, "end = 1748822400 is no time"),
        ("0001-01-01T00:00+02:00", "2025-06-02", "start = 0001-01-01T00:00:00.* is out of range in UTC"),
        ("2025-06-03", "2025-06-02", "reversed"),
    ],
)
def test_a_time_that_could_mean_two_things_is_refused(
    provider: Provider, start: Any, end: Any, words: str
) -> None:
    with pytest.raises(BadRange, match=words):
        provider.candles(BTC, "1h", start, end)
    with pytest.raises(BadRange, match=words):
        provider.trades(BTC, start, end)


def test_a_range_without_trades_is_an_empty_frame(provider: Provider) -> None:
    frame = provider.candles(BTC, "1m", "2025-06-04", "2025-06-05")
    assert frame.is_empty()
    assert frame.schema == CANDLE_SCHEMA
    assert provider.candles(BTC, "1m", "2030-06-04", "2030-06-05", details=True).is_empty()
    assert provider.candles_multi(BTC, [], "2025-06-02", "2025-06-03") == {}


def test_latest_candles_are_those_that_are_over(provider: Provider) -> None:
    hours = provider.latest_candles(BTC, "1h", 3)
    assert hours["open_time"].to_list() == [at(f"2025-06-05 {hour}:00") for hour in ("09", 10, 11)]
    running = provider.latest_candles(BTC, "1h", 3, running=True)
    assert running["open_time"][-1] == at("2025-06-05 12:00")
    days = provider.latest_candles(BTC, "1d", 10)
    assert days["open_time"].to_list() == [at("2025-06-02"), at("2025-06-03")]
    with pytest.raises(UsageError, match="n = 0"):
        provider.latest_candles(BTC, "1h", 0)


def test_brokers_without_a_port_are_refused_at_once(lake: Lake) -> None:
    with pytest.raises(UsageError, match="kafka = 'somewhere' is no list of brokers"):
        Provider(lake=lake, kafka="somewhere")


def test_a_warm_up_is_whole_or_refused(provider: Provider) -> None:
    hours = provider.warmup(BTC, "1h", 20, "2025-06-05T05:30Z")
    assert len(hours) == 20
    assert hours["open_time"][-1] == at("2025-06-05 04:00")
    assert hours["open_time"][-6] == at("2025-06-03 23:00")  # over a day without a trade
    with pytest.raises(NoData, match=r"Only 2 full 1d candles .* first opens at 2025-06-02.*: 3 are needed"):
        provider.warmup(BTC, "1d", 3)
    with pytest.raises(NoData, match="Only 0 full 1h candles of kraken:BTC/USD were over at 2025-06-01"):
        provider.warmup(BTC, "1h", 1, "2025-06-01")


def test_a_candle_that_began_before_the_data_is_not_full(lake: Lake, tmp_path: Path) -> None:
    """A week of which the lake has Wednesday to Sunday."""
    other = Lake.open(str(tmp_path / "lake"))
    for n in range(2, 14):
        day = MONDAY + timedelta(days=n)
        put(other, BTC, day, trades_of(day, 20))
    with Provider(lake=other, clock=lambda: at("2025-06-20")) as provider:
        assert len(provider.latest_candles(BTC, "1w", 5)) == 2
        assert provider.warmup(BTC, "1w", 1)["open_time"].to_list() == [at("2025-06-09")]
        with pytest.raises(NoData, match="Only 1 full 1w candle of"):
            provider.warmup(BTC, "1w", 2)


@pytest.mark.parametrize(
    ("status", "first"), [(Status.UNKNOWN, "2025-06-02 16:00"), (Status.COMPLETE, "2025-06-02 15:00")]
)
def test_a_day_that_the_data_does_not_begin_with_is_not_full(
    tmp_path: Path, status: Status, first: str
) -> None:
    """Trades from 15:27 on: only where the day is complete there were none before."""
    other = Lake.open(str(tmp_path / "lake"))
    trades = trades_of(MONDAY, 2_000).filter(pl.col("time") >= at("2025-06-02 15:27"))
    put(other, BTC, MONDAY - timedelta(days=1), trades.clear(), status=Status.UNKNOWN)
    put(other, BTC, MONDAY, trades, status=status)
    put(other, BTC, MONDAY + timedelta(days=1), trades_of(MONDAY + timedelta(days=1), 2_000))
    with Provider(lake=other, clock=lambda: at("2025-06-04")) as provider:
        hours = provider.latest_candles(BTC, "1h", 100)
        assert hours["open_time"][0] == at("2025-06-02 15:00")
        full = hours.filter(pl.col("open_time") >= at(first))
        assert provider.warmup(BTC, "1h", len(full)).equals(full)
        with pytest.raises(NoData, match=f"Only {len(full)} full 1h candles"):
            provider.warmup(BTC, "1h", len(full) + 1)
        days = 2 if status is Status.COMPLETE else 1
        assert len(provider.warmup(BTC, "1d", days)) == days
        with pytest.raises(NoData, match=f"Only {days} full 1d"):
            provider.warmup(BTC, "1d", days + 1)


def test_the_data_range_is_of_trades_and_of_candles(provider: Provider, lake: Lake) -> None:
    found = provider.data_range(BTC)
    assert found is not None
    times = lake.read_trades(BTC, at("2025-01-01"), at("2026-01-01"))["time"]
    assert found.trades == (times[0], times[-1])
    minutes = [time.replace(second=0, microsecond=0) for time in (times[0], times[-1])]
    assert found.candles == tuple(minutes)
    assert found.trades[0].tzinfo is UTC


def test_coverage_is_a_row_a_day(provider: Provider) -> None:
    frame = provider.coverage("kraken:BTC/USD", "2025-06-03")
    assert frame.select("day", "status", "rows").rows() == [
        (date(2025, 6, 3), "complete", 600),
        (date(2025, 6, 4), "complete", 0),
        (date(2025, 6, 5), "gaps", 600),
    ]
    assert len(provider.coverage()) == 5
    assert len(provider.coverage(None, "2025-06-03", "2025-06-04")) == 1


def test_details_say_what_stands_behind_a_candle(provider: Provider) -> None:
    days = provider.candles(BTC, "1d", "2025-06-02", "2025-06-06", "previous", details=True)
    assert days.select("revision", "source", "coverage", "filled").rows() == [
        (0, "batch", "complete", False),
        (0, "batch", "complete", False),
        (None, None, None, True),
        (0, "batch", "gaps", False),
    ]


def test_a_filled_candle_knows_nothing_of_what_comes_after_it(tmp_path: Path) -> None:
    """The minute goes on: its close is not yet known ten seconds into it."""
    lake = Lake.open(str(tmp_path / "lake"))
    rows = [(1, 5.0, 100.0, 1.0, "buy", 1), (2, 15.0, 101.0, 1.0, "buy", 1), (3, 55.0, 200.0, 1.0, "buy", 1)]
    put(lake, BTC, date(2025, 6, 9), rows_of(rows))
    start = at("2025-06-09 00:00")
    with Provider(lake=lake) as provider:
        frame = provider.candles(
            BTC, "10s", start + timedelta(seconds=20), start + timedelta(seconds=60), "previous"
        )
    assert frame.select("close", "filled").rows() == [(101.0, True)] * 3 + [(200.0, False)]


def test_what_is_no_interval_market_or_number_is_named(provider: Provider) -> None:
    start, end = "2025-06-02", "2025-06-03"
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: provider.candles(BTC, None, start, end), "interval = None"),  # type: ignore[arg-type]
        (lambda: provider.candles(BTC, ["1h"], start, end), "interval = .'1h'."),  # type: ignore[arg-type]
        (lambda: provider.candles_multi(BTC, "1h", start, end), "intervals = '1h'.*Give a list"),
        (lambda: provider.candles_multi(BTC, 3600, start, end), "intervals = 3600"),  # type: ignore[arg-type]
        (lambda: provider.candles(None, "1h", start, end), "market = None"),  # type: ignore[arg-type]
        (lambda: provider.latest_candles(BTC, "1h", 2.5), "n = 2.5"),  # type: ignore[arg-type]
        (lambda: provider.latest_candles(BTC, "1h", 10**9), "n = 1000000000"),
        (lambda: provider.warmup(BTC, "1h", -1), "n = -1"),
        (lambda: provider.warmup(BTC, "1h", True), "n = True"),
        (lambda: provider.latest_candles(BTC, "1h", "3"), "n = '3'"),  # type: ignore[arg-type]
        (lambda: provider.latest_candles(BTC, "1h", np.int64(0)), "n = .*0.* is no number"),  # type: ignore[arg-type]
    ]
    for read, words in wrong:
        with pytest.raises(UsageError, match=words):
            read()


def test_a_number_of_candles_may_be_an_integer_of_numpy(provider: Provider) -> None:
    for n in (np.int64(3), np.uint8(3)):
        assert provider.latest_candles(BTC, "1h", n).equals(provider.latest_candles(BTC, "1h", 3))  # type: ignore[arg-type]
        assert len(provider.warmup(BTC, "1h", n)) == 3  # type: ignore[arg-type]


def test_a_range_may_be_all_of_the_calendar(provider: Provider) -> None:
    for interval in ("10s", "1m", "1d", "1w"):
        whole = provider.candles(BTC, interval, "0001-01-01", "9999-12-31")
        assert whole.equals(provider.candles(BTC, interval, "2025-06-02", "2025-06-06"))
    assert len(provider.latest_candles(BTC, "1w", 10_000_000)) == 0
    assert len(provider.latest_candles(BTC, "1d", 10_000_000)) == 2


def test_what_cannot_be_filled_with_is_refused(provider: Provider) -> None:
    with pytest.raises(UsageError, match="forward"):
        provider.candles(BTC, "1h", "2025-06-02", "2025-06-03", "forward")  # type: ignore[arg-type]


def test_the_provider_and_the_lakes_own_reading_agree(provider: Provider, lake: Lake) -> None:
    start, end = at("2025-06-02"), at("2025-06-06")
    assert provider.trades(BTC, start, end).equals(reading.trades(lake, BTC, start, end))
    several = provider.candles_multi(BTC, ["1w", "1m", "10s"], start, end, "previous")
    for interval, frame in several.items():
        assert frame.equals(reading.candles(lake, BTC, interval, start, end, fill="previous"))


def test_a_store_and_a_lake_at_once_are_refused(lake: Lake) -> None:
    with pytest.raises(UsageError, match="database_url or lake"):
        Provider(database_url="postgresql://a@b/c", lake=lake)


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKETDATA_DATABASE_URL", "postgresql://me:s3cret@127.0.0.1:1/data")
    for provider in (Provider(), AsyncProvider(), Provider(Settings.load())):
        assert "127.0.0.1:1/data" in repr(provider)
        assert "not connected" in repr(provider)
        assert "s3cret" not in repr(provider) + str(vars(provider))


def test_the_lake_is_read_without_the_packages_of_the_store(tmp_path: Path) -> None:
    """And a store that is configured names what has to be installed."""
    program = """
import sys
for name in ("psycopg", "psycopg_pool", "sqlalchemy", "alembic", "adbc_driver_postgresql"):
    sys.modules[name] = None
from marketdata import Provider
from marketdata.errors import UsageError
with Provider(lake="lake") as provider:
    print(provider.markets())
try:
    Provider(database_url="postgresql://a@b/c")
except UsageError as error:
    print(error)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MARKETDATA_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    empty, refused = done.stdout.splitlines()
    assert empty == "[]"
    assert "'psycopg' is missing" in refused
    assert "pip install 'marketdata[store]'" in refused


def test_importing_the_library_does_not_bring_the_provider_along() -> None:
    program = "import sys, marketdata; print('polars' in sys.modules, marketdata.Provider.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.split() == ["False", "Provider"]
    with pytest.raises(AttributeError, match="Providers"):
        _ = marketdata.Providers
