"""``marketdata db load``: days of the lake into real servers."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from marketdata.completeness import content_hash
from marketdata.lake import Lake
from marketdata.lake.paths import Part
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from marketdata.store.contents import contents
from tests.cli.conftest import Command, Result
from tests.cli.lakes import BTC, DAY, ETH, manifest, open_lake, some_trades
from tests.store.conftest import database, server

__all__ = ["database", "server"]
_DAYS = [DAY + timedelta(days=n) for n in range(3)]


@pytest.fixture
def lake(home: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Three days of one market and one of another, and a database without any."""
    monkeypatch.setenv("MARKETDATA_DATABASE_URL", database)
    lake = open_lake(home)
    for day in _DAYS:
        put(lake, BTC, day)
    put(lake, ETH, DAY)
    return lake


def put(lake: Lake, market: Market, day: date, status: Status = Status.COMPLETE) -> None:
    """A day with the content hash that its trades have."""
    trades = some_trades(day)
    fitting = replace(manifest(market, day, trades, status, "Why."), content_hash=content_hash(trades))
    lake.write_trades(market, day, trades, fitting)


def figures(done: Result) -> dict[str, list[str]]:
    """The table: days, loaded, rows, candles, status by market."""
    return {words[0]: words[1:] for line in done.text.splitlines() if (words := line.split())}


def held(database: str, day: date = DAY) -> bool:
    return contents(database, BTC, day).rows > 0


def test_without_a_range_every_day_of_the_lake_is_loaded(
    marketdata: Command, lake: Lake, database: str
) -> None:
    done = marketdata("db", "load")
    assert done.code == 0, done.stderr
    for market, day in [(BTC, day) for day in _DAYS] + [(ETH, DAY)]:
        known = lake.manifest(market, day)
        assert known is not None
        assert contents(database, market, day).content_hash == known.content_hash
    assert figures(done)["total"][:2] == ["4", "4"]


def test_a_second_load_copies_nothing_and_refresh_copies_again(
    marketdata: Command, lake: Lake, database: str
) -> None:
    assert marketdata("db", "load", BTC).code == 0
    again = marketdata("db", "load", BTC)
    assert figures(again)[str(BTC)][:3] == ["3", "0", "0"]
    refreshed = marketdata("db", "load", BTC, "--refresh")
    assert figures(refreshed)[str(BTC)][:2] == ["3", "3"]


def test_a_range_loads_its_days_only(marketdata: Command, lake: Lake, database: str) -> None:
    assert marketdata("db", "load", BTC, "--start", _DAYS[1], "--end", _DAYS[2]).code == 0
    assert [held(database, day) for day in _DAYS] == [False, True, False]


def test_a_damaged_day_fails_alone_and_is_named(marketdata: Command, lake: Lake, database: str) -> None:
    path = lake.storage.local(Part("trades", BTC, _DAYS[1]).key)
    path.write_bytes(path.read_bytes()[:1000])
    done = marketdata("db", "load", BTC)
    assert done.code == 1
    assert f"{BTC} {_DAYS[1]} failed" in done.error
    assert "backfill" in done.error
    assert [held(database, day) for day in _DAYS] == [True, False, True]


def test_trades_that_are_not_those_of_the_manifest_leave_the_store_as_it_was(
    marketdata: Command, lake: Lake, database: str
) -> None:
    trades = lake.read_trades(BTC, *day_window(DAY))
    known = lake.manifest(BTC, DAY)
    assert known is not None
    lake.write_trades(BTC, DAY, trades, replace(known, content_hash="sha256:other"))
    done = marketdata("db", "load", BTC, "--end", _DAYS[1], "--last", "1d")
    assert done.code == 1
    assert "sha256:other" in done.error
    assert not held(database)


def test_a_day_with_gaps_is_loaded_and_said(marketdata: Command, lake: Lake) -> None:
    put(lake, BTC, _DAYS[2] + timedelta(days=1), Status.GAPS)
    done = marketdata("db", "load", BTC)
    assert done.code == 0
    assert "3 complete, 1 gaps" in done.text


def test_a_range_without_a_day_says_what_the_lake_has(marketdata: Command, lake: Lake) -> None:
    done = marketdata("db", "load", "--start", "2024-01-01", "--end", "2024-02-01")
    assert done.code == 1
    assert f"it has {_DAYS[0]} to {_DAYS[2]}" in done.error


def test_without_a_database_the_variable_is_named(marketdata: Command, home: Path) -> None:
    done = marketdata("db", "load")
    assert done.code == 2
    assert "MARKETDATA_DATABASE_URL" in done.error


def test_a_server_that_is_not_there_is_one_line_without_the_password(
    marketdata: Command, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETDATA_DATABASE_URL", "postgresql://someone:Tr0ub4dor@127.0.0.1:1/nothing")
    done = marketdata("db", "load")
    assert done.code == 1
    assert "127.0.0.1:1/nothing" in done.error
    assert "does not answer" in done.error
    assert "Tr0ub4dor" not in done.stderr


def test_a_database_without_the_schema_says_what_to_run(
    marketdata: Command, home: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETDATA_DATABASE_URL", database)
    put(open_lake(home), BTC, DAY)
    assert marketdata("db", "downgrade", "--to", "base", "--yes").code == 0
    done = marketdata("db", "load")
    assert done.code == 2
    assert "marketdata db upgrade" in done.error
