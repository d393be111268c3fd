"""The assets of the store, run in this process against a local exchange and real servers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor

from marketdata import sources
from marketdata.backfill import backfill
from marketdata.errors import StorageError
from marketdata.exchange_sim import RunningExchange
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from marketdata.repair.days import needs
from marketdata.settings import Settings
from marketdata.store import candles as candle_rows
from marketdata.store.contents import contents
from marketdata.store.engine import connect
from marketdata.store.load import load_day
from marketdata.trade import TRADE_SCHEMA
from marketdata_dagster.checks import STORED
from marketdata_dagster.definitions import build
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.storing import the_store_equals_the_lake
from tests.dagster.conftest import DAYS, DOT, LTC, NOW, FixedPlatform, World, market_file
from tests.store.conftest import database, server

__all__ = ["database", "server"]
STORE = ("store_trades", "store_candles")
EVERY = ("trades", "candles", *STORE)


@pytest.fixture
def stored(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exchange_server: Callable[..., RunningExchange],
    database: str,
) -> Iterator[World]:
    """A code location with a database, and nothing in lake or store."""
    exchange = exchange_server(now=NOW)
    variables = exchange.environment | {
        "MARKETDATA_HOME": str(tmp_path),
        "MARKETDATA_MARKETS": str(market_file(tmp_path)),
        "MARKETDATA_REQUEST_INTERVAL_MS": "0",
        "MARKETDATA_DATABASE_URL": database,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.ephemeral() as instance:
        definitions = build(Settings.load().tracked, store=True)
        yield World(definitions, instance, exchange, FixedPlatform())
    sources.close()


def rows_of(database: str, market: Market, day: date, table: str, time: str) -> int:
    with connect(database) as connection:
        found = connection.execute(
            f"SELECT count(*) FROM {table} JOIN market USING (market_id)"
            f" WHERE exchange = %s AND symbol = %s AND {time} >= %s AND {time} < %s",
            (market.exchange, market.symbol, *day_window(day)),
        ).fetchone()
    assert found is not None
    return int(found[0])


def test_without_a_database_there_are_no_assets_of_the_store(world: World) -> None:
    names = {key.path[-1] for asset in world.definitions.assets or () for key in asset.keys}  # type: ignore[union-attr]
    assert not names & set(STORE)
    sensors = {sensor.name for sensor in world.definitions.sensors or ()}
    assert not sensors & {"lake_into_store", "live_gaps"}


def test_a_run_over_days_brings_each_into_the_store_with_metadata_and_check(
    stored: World, database: str
) -> None:
    assert stored.run(Job(DOT, DAYS[0]), Job(DOT, DAYS[-1]), assets=EVERY).success
    evaluations = stored.evaluations(DOT, STORED, "store_trades")
    assert set(evaluations) == {Job(DOT, day).key for day in DAYS}
    assert all(each.passed and each.blocking for each in evaluations.values())
    for day in DAYS:
        manifest = stored.lake.manifest(DOT, day)
        assert manifest is not None
        assert rows_of(database, DOT, day, "trade", "time") == manifest.rows
        candles = stored.lake.read_candles(DOT, "1m", *day_window(day))
        assert rows_of(database, DOT, day, "candle", "open_time") == len(candles)
        seen = stored.metadata(Job(DOT, day), "store_trades")
        assert seen["dagster/row_count"] == seen["rows copied"] == manifest.rows
        assert seen["content hash"] == manifest.content_hash
        assert seen["rows per second"] > 0
        assert seen["file"] == stored.lake.path("trades", DOT, day)
        assert stored.metadata(Job(DOT, day), "store_candles")["dagster/row_count"] == len(candles)


def test_no_password_of_the_database_is_shown(stored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored.run(Job(DOT, DAYS[0]), assets=("trades", "store_trades")).success
    secret = "postgresql://someone:Tr0ub4dor@127.0.0.1:1/nothing"
    monkeypatch.setenv("MARKETDATA_DATABASE_URL", secret)
    monkeypatch.setattr("marketdata_dagster.settle._MAX_RETRIES", 0)
    stored.platform = FixedPlatform()
    result = stored.run(Job(DOT, DAYS[0]), assets=("store_trades",))
    assert not result.success
    said = "\n".join(str(event) for event in result.all_events)
    assert "does not answer" in said
    assert "Tr0ub4dor" not in said


def test_a_day_that_the_store_holds_is_not_copied_again_unless_asked_for(stored: World) -> None:
    job = Job(DOT, DAYS[0])
    assert stored.run(job, assets=EVERY).success
    assert stored.run(job, assets=STORE).success
    assert stored.metadata(job, "store_trades")["rows copied"] == 0
    assert stored.metadata(job, "store_candles")["candles new or changed"] == 0
    config = {"ops": {"kraken__store_trades": {"config": {"refresh": True}}}}
    assert stored.run(job, assets=("store_trades",), run_config=config).success
    assert stored.metadata(job, "store_trades")["rows copied"] > 0


def test_a_store_with_other_rows_than_the_lake_fails_its_check(stored: World, database: str) -> None:
    job = Job(DOT, DAYS[0])
    assert stored.run(job, assets=EVERY).success
    with connect(database, autocommit=True) as connection:
        connection.execute(
            "UPDATE trade SET price = price + 1 WHERE trade_id = (SELECT max(trade_id) FROM trade)"
        )
    check = stored.run(job, assets=("store_trades",))
    assert not check.success
    evaluation = stored.evaluations(DOT, STORED, "store_trades")[job.key]
    assert not evaluation.passed
    assert evaluation.description is not None
    assert "say something else" in evaluation.description


def test_of_a_day_that_is_not_complete_the_store_may_hold_more_than_the_lake(
    stored: World, database: str
) -> None:
    job = Job(DOT, DAYS[0])
    assert stored.run(job, assets=EVERY).success
    manifest = stored.lake.manifest(job.market, job.day)
    assert manifest is not None
    trades = stored.lake.read_trades(job.market, *day_window(job.day))
    unknown = replace(manifest, status=Status.UNKNOWN)
    stored.lake.write_trades(job.market, job.day, trades.select(TRADE_SCHEMA.names()), unknown)
    with connect(database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO trade SELECT market_id, time, trade_id + 1, 1, 1, NULL, 1 FROM trade"
            " ORDER BY time DESC, trade_id DESC LIMIT 1"
        )
        more = the_store_equals_the_lake(stored.platform, job)
        assert more.passed
        assert more.sentence.endswith(" and 1 that the lake does not have yet.")
        connection.execute("DELETE FROM trade WHERE trade_id < (SELECT min(trade_id) + 2 FROM trade)")
        assert not the_store_equals_the_lake(stored.platform, job).passed


def test_a_day_that_the_lake_lacks_fails_alone(stored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketdata_dagster.settle._MAX_RETRIES", 0)
    assert stored.run(Job(DOT, DAYS[0]), Job(DOT, DAYS[1]), assets=("trades", "candles")).success
    result = stored.run(Job(DOT, DAYS[0]), Job(DOT, DAYS[2]), assets=("store_trades",))
    assert not result.success
    known = stored.instance.get_materialized_partitions(dg.AssetKey(["kraken", "store_trades"]))
    assert known == {Job(DOT, day).key for day in DAYS[:2]}


def test_the_daily_schedule_takes_the_store_along(stored: World) -> None:
    schedule = stored.definitions.resolve_schedule_def("kraken_daily")
    job = stored.definitions.resolve_job_def(schedule.job_name)
    chosen = {key.path[-1] for key in job.asset_layer.selected_asset_keys}
    assert set(STORE) <= chosen


def test_a_day_that_came_into_the_lake_by_itself_goes_on_into_the_store(stored: World) -> None:
    def asked_for(cursor: object = None) -> dg.EvaluateAutomationConditionsResult:
        return dg.evaluate_automation_conditions(stored.definitions, stored.instance, cursor=cursor)  # type: ignore[arg-type]

    before = asked_for()
    assert before.total_requested == 0
    assert stored.run(Job(DOT, DAYS[0]), Job(LTC, DAYS[0]), assets=("trades", "candles")).success
    after = asked_for(before.cursor)
    wanted = {Job(market, DAYS[0]).key for market in (DOT, LTC)}
    for asset in STORE:
        assert after.get_requested_partitions(dg.AssetKey(["kraken", asset])) == wanted


def test_a_run_that_makes_lake_and_store_asks_for_no_other(stored: World) -> None:
    before = dg.evaluate_automation_conditions(stored.definitions, stored.instance)
    assert stored.run(Job(DOT, DAYS[0]), assets=EVERY).success
    after = dg.evaluate_automation_conditions(stored.definitions, stored.instance, cursor=before.cursor)
    assert after.total_requested == 0


def test_candles_that_did_not_come_into_the_store_with_their_trades_are_asked_for_again(
    stored: World, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gap sensor, which looks at the trades, sees nothing that is wrong with the day."""

    def full(*_: object) -> None:
        msg = "the disk is full"
        raise StorageError(msg, hint="Make room.")

    def asked_for(at: datetime, cursor: AssetDaemonCursor | None) -> dg.EvaluateAutomationConditionsResult:
        return dg.evaluate_automation_conditions(
            stored.definitions, stored.instance, cursor=cursor, evaluation_time=at
        )

    def wanted(result: dg.EvaluateAutomationConditionsResult) -> set[str]:
        return result.get_requested_partitions(dg.AssetKey(["kraken", "store_candles"])) - {None}

    job = Job(DOT, DAYS[-1])
    found = asked_for(NOW, None)
    with monkeypatch.context() as patched:
        patched.setattr(candle_rows, "replace_day", full)
        assert not stored.run(job, assets=EVERY).success
        found = asked_for(NOW + timedelta(minutes=1), found.cursor)
        assert wanted(found) == {job.key}  # the lake has a new day
        assert not stored.run(job, assets=("store_candles",)).success
        found = asked_for(NOW + timedelta(minutes=2), found.cursor)
        assert wanted(found) == set()
    settings = stored.platform.settings
    assert needs(stored.lake, settings, settings.tracked, NOW + timedelta(hours=1)) == []
    assert rows_of(database, DOT, DAYS[-1], "candle", "open_time") == 0
    found = asked_for(NOW + timedelta(hours=6, minutes=31), found.cursor)
    assert wanted(found) == {job.key}
    assert stored.run(job, assets=("store_candles",)).success
    assert rows_of(database, DOT, DAYS[-1], "candle", "open_time") > 0
    found = asked_for(NOW + timedelta(hours=13), found.cursor)
    assert wanted(found) == set()


def test_what_is_counted_in_the_store_is_what_the_manifest_says(stored: World, database: str) -> None:
    jobs = [(DOT, DAYS[0]), (LTC, DAYS[0])]
    assert all(
        not isinstance(outcome, tuple)
        for outcome in backfill(stored.lake, jobs, stored.platform.settings, now=NOW)
    )
    nothing = contents(database, *jobs[0])
    assert (nothing.rows, nothing.candles) == (0, 0)
    for market, day in jobs:
        manifest = load_day(database, stored.lake, market, day).manifest
        held = contents(database, market, day)
        assert (held.rows, held.content_hash) == (manifest.rows, manifest.content_hash)
        assert held.trade_count == manifest.fills
