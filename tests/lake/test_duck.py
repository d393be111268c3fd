"""SQL over the lake: the same candles, and only the files that are asked for."""

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata.candle import CANDLE_SCHEMA
from marketdata.fold import fold
from marketdata.interval import INTERVALS
from marketdata.lake import Lake
from marketdata.lake.duck import connect
from marketdata.manifest import Status
from marketdata.market import Market
from marketdata.quality import time_gaps
from tests.lake.world import BTC, ETH, NEXT, manifest_of, trades_of

MONDAY = date(2025, 6, 2)
DAYS = [MONDAY + timedelta(days=n) for n in range(14)]
OPTION = Market("binance", "BTC/USD:BTC-250926-60000-C")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two weeks of two markets, and a day of a third whose symbol has hyphens."""
    lake = Lake.open(str(tmp_path_factory.mktemp("duck") / "lake"))
    for market, days in ((BTC, DAYS), (ETH, DAYS), (OPTION, DAYS[:1])):
        for day in days:
            trades = trades_of(day, 600, quiet=(3, 5))
            lake.write_trades(market, day, trades, manifest_of(market, day, trades))
            lake.write_candles(market, day, "1m", fold(trades))
    theirs = fold(trades_of(NEXT, 600), "5m")
    lake.write_candles(BTC, NEXT, "5m", theirs, kind="exchange_candles")
    return lake


@pytest.fixture(scope="module")
def sql(lake: Lake) -> duckdb.DuckDBPyConnection:
    return connect(lake)


def scans(sql: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, str]]:
    """What EXPLAIN ANALYZE says of each scan of files in the plan of a query."""
    plan = json.loads(sql.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}").fetchall()[0][1])
    found: list[dict[str, str]] = []

    def walk(node: dict[str, Any]) -> None:
        if "Filename(s)" in node.get("extra_info", {}):
            found.append(node["extra_info"])
        for child in node.get("children", []):
            walk(child)

    for operator in plan["operator"]:
        walk(operator)
    return found


def scanned(sql: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """Files that a query reads, one entry a scan."""
    return [scan["Filename(s)"] for scan in scans(sql, query)]


def files_read(sql: duckdb.DuckDBPyConnection, query: str) -> int:
    """How many files a query reads."""
    return sum(int(scan["Total Files Read"]) for scan in scans(sql, query))


@pytest.mark.parametrize("interval", [interval.name for interval in INTERVALS])
def test_candles_in_sql_are_the_fold_of_the_trades(sql: duckdb.DuckDBPyConnection, interval: str) -> None:
    ours = fold(pl.concat([trades_of(day, 600, quiet=(3, 5)) for day in DAYS]), interval)
    columns = ", ".join(CANDLE_SCHEMA.names())
    query = f"""
        SELECT {columns} FROM candles
        WHERE exchange = 'kraken' AND symbol = 'BTC/USD' AND interval = '{interval}' ORDER BY open_time
    """
    theirs = sql.sql(query).pl()
    assert_frame_equal(theirs.cast(CANDLE_SCHEMA), ours, rel_tol=1e-9)  # type: ignore[arg-type]


def test_trades_in_sql_have_the_unified_symbol(sql: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT exchange, symbol, count(*) FROM trades GROUP BY ALL ORDER BY ALL"
    rows = len(trades_of(MONDAY, 600, quiet=(3, 5)))
    counts = sql.execute(query).fetchall()
    assert [row[:2] for row in counts] == [
        ("binance", OPTION.symbol),
        ("kraken", "BTC/USD"),
        ("kraken", "ETH/USD"),
    ]
    assert counts[0][2] == rows


@pytest.mark.parametrize("symbol", ["A%2DB/USD", "A-B/USD", "A/B-USD", "A%B/USD", "BTC/USD:USD", "Ä/USD"])
def test_a_symbol_in_sql_is_what_it_is(tmp_path: Path, symbol: str) -> None:
    """Whatever stands for a hyphen or a slash in the path of its files."""
    lake, market = Lake.open(str(tmp_path / "lake")), Market("kraken", symbol)
    trades = trades_of(MONDAY, 10)
    lake.write_trades(market, MONDAY, trades, manifest_of(market, MONDAY, trades))
    sql = connect(lake)
    for view in ("trades", "coverage"):
        assert sql.execute(f"SELECT DISTINCT symbol FROM {view}").fetchall() == [(symbol,)]
    found = sql.execute(f"SELECT sum(amount) FROM trades WHERE symbol = '{symbol}'").fetchall()
    assert found == [(pytest.approx(trades["amount"].sum()),)]


def test_a_query_of_one_day_opens_one_file(sql: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    query = """
        SELECT sum(amount) FROM trades
        WHERE exchange = 'kraken' AND symbol = 'BTC/USD' AND date = '2025-06-09'
    """
    assert scanned(sql, query) == [lake.path("trades", BTC, NEXT)]


@pytest.mark.parametrize(
    ("interval", "kind"), [("1s", "trades"), ("1m", "candles"), ("1h", "candles"), ("1d", "candles")]
)
def test_candles_of_one_day_and_interval_open_one_file(
    sql: duckdb.DuckDBPyConnection, lake: Lake, interval: str, kind: str
) -> None:
    query = f"""
        SELECT sum(volume) FROM candles
        WHERE exchange = 'kraken' AND symbol = 'BTC/USD' AND interval = '{interval}' AND date = '2025-06-09'
    """
    path = lake.path("trades", BTC, NEXT) if kind == "trades" else lake.path("candles", BTC, NEXT, "1m")
    assert scanned(sql, query) == [path]


def test_a_week_opens_the_files_of_its_seven_days(sql: duckdb.DuckDBPyConnection) -> None:
    query = """
        SELECT open_time FROM candles
        WHERE exchange = 'kraken' AND symbol = 'BTC/USD' AND interval = '1w' AND date = '2025-06-09'
    """
    assert files_read(sql, query) == 7


def test_files_of_other_days_are_not_even_opened(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    for day in (MONDAY, NEXT):
        trades = trades_of(day, 100)
        lake.write_trades(BTC, day, trades, manifest_of(BTC, day, trades))
    sql = connect(lake)
    Path(lake.path("trades", BTC, NEXT)).write_bytes(b"damaged")
    query = f"SELECT count(*) FROM trades WHERE date = '{MONDAY}'"
    assert sql.execute(query).fetchall() == [(100,)]


def test_coverage_shows_the_manifests(sql: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    query = "SELECT * FROM coverage ORDER BY exchange, symbol, date"
    found = sql.sql(query).pl()
    manifests = lake.manifests()
    assert found["status"].to_list() == [Status.COMPLETE.value] * 29
    assert list(zip(found["exchange"], found["symbol"], found["date"], strict=True)) == [
        (m.market.exchange, m.market.symbol, m.day) for m in manifests
    ]
    assert found["rows"].to_list() == [m.rows for m in manifests]
    assert found["first_time"].to_list() == [m.first_time for m in manifests]
    assert found["content_hash"].to_list() == [m.content_hash for m in manifests]


def test_exchange_candles_keep_their_interval(sql: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT DISTINCT exchange, symbol, interval, date::VARCHAR FROM exchange_candles"
    assert sql.execute(query).fetchall() == [("kraken", "BTC/USD", "5m", "2025-06-09")]


def test_an_empty_lake_has_empty_views(tmp_path: Path) -> None:
    sql = connect(Lake.open(str(tmp_path / "it's new")))
    for view in ("trades", "candles", "exchange_candles", "coverage"):
        assert sql.execute(f"SELECT count(*) FROM {view}").fetchall() == [(0,)]
    columns = [row[0] for row in sql.execute("DESCRIBE candles").fetchall()]
    assert columns == ["exchange", "symbol", "interval", "date", *CANDLE_SCHEMA.names(), "vwap"]


def test_a_database_file_keeps_the_views_for_any_duckdb(lake: Lake, tmp_path: Path) -> None:
    connect(lake, str(tmp_path / "lake.duckdb")).close()
    with duckdb.connect(str(tmp_path / "lake.duckdb"), read_only=True) as plain:
        counted = plain.execute("SELECT count(*) FROM candles WHERE interval = '1d'").fetchall()
    assert counted == [(29,)]


def test_findings_can_be_asked_for_and_a_lake_that_was_never_looked_at_has_none(
    lake: Lake, tmp_path: Path, sql: duckdb.DuckDBPyConnection
) -> None:
    assert sql.sql("SELECT * FROM findings").fetchall() == []
    other = Lake.open(str(tmp_path / "lake"))
    found = time_gaps(trades_of(MONDAY, quiet=(3, 5)))
    other.write_findings(BTC, MONDAY, found, facts={})
    query = "SELECT exchange, symbol, date, rule, suspicious, time FROM findings"
    expected = [("kraken", "BTC/USD", MONDAY, "gap of 30 s", False, found["time"][0])]
    assert connect(other).sql(query).fetchall() == expected
