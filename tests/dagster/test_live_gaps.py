"""Holes in the live tables: seen by real ticks, filled from a local exchange, told in the ledger."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from marketdata import sources
from marketdata.exchange_sim import RunningExchange
from marketdata.fold import fold
from marketdata.market import Market
from marketdata.recording import entries
from marketdata.repair.filling import _Filler
from marketdata.repair.live import Kind
from marketdata.repair.watching import Watch
from marketdata.settings import Settings
from marketdata.store.buffer import BufferedWriter
from marketdata.store.candles import STORED_SCHEMA
from marketdata.store.engine import connect
from marketdata.store.reader import StoreReader
from marketdata_dagster.definitions import build
from marketdata_dagster.defs import live_gaps
from tests.dagster.conftest import LTC, NOW, USDT, World, market_file
from tests.dagster.ticks import CLOCK, SteppedPlatform, step, tick
from tests.store.conftest import database, server

__all__ = ["database", "server"]
BEGIN = datetime(2026, 6, 20, tzinfo=UTC)
CLOSED = NOW - timedelta(minutes=2)


@pytest.fixture
def live(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exchange_server: Callable[..., RunningExchange],
    database: str,
) -> Iterator[World]:
    """Twelve hours of two markets in the store, as the streamer would have written them."""
    CLOCK[0] = NOW
    exchange = exchange_server(now=NOW)
    variables = exchange.environment | {
        "MARKETDATA_HOME": str(tmp_path),
        "MARKETDATA_MARKETS": str(market_file(tmp_path)),
        "MARKETDATA_REQUEST_INTERVAL_MS": "0",
        "MARKETDATA_REQUEST_ATTEMPTS": "1",
        "MARKETDATA_DATABASE_URL": database,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    live_gaps._watch.cache_clear()
    with dg.DagsterInstance.ephemeral() as instance:
        settings = Settings.load()
        definitions = build(settings.tracked, store=True)
        with BufferedWriter(database) as writer:
            for market in (USDT, LTC):
                trades = truth(settings, market)
                writer.write(market, trades)
                writer.write_candles(market, streamed(trades))
            writer.flush()
        yield World(definitions, instance, exchange, SteppedPlatform())
    sources.close()


def truth(settings: Settings, market: Market) -> pl.DataFrame:
    """All that the exchange serves of the half day."""
    source = sources.trade_source(market, NOW.date(), settings, NOW)
    return pl.concat([page.trades for page in source.pages(market, BEGIN, NOW)])


def streamed(trades: pl.DataFrame) -> pl.DataFrame:
    """Candles as the streamer writes them."""
    return (
        fold(trades, "1m")
        .with_columns(
            pl.lit(0, pl.Int32).alias("revision"), source=pl.lit("stream"), coverage=pl.lit("complete")
        )
        .select(STORED_SCHEMA.names())
    )


def spoil(database: str, market: Market, start: datetime, end: datetime, *tables: str) -> None:
    """Remove rows of a stretch."""
    with connect(database) as connection:
        for table in tables:
            time = "time" if table == "trade" else "open_time"
            connection.execute(
                f"DELETE FROM {table} USING market WHERE market.market_id = {table}.market_id"
                f" AND exchange = %s AND symbol = %s AND {time} >= %s AND {time} < %s",
                (market.exchange, market.symbol, start, end),
            )


def run(world: World, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        list(world.definitions.assets or ()),  # type: ignore[arg-type]
        instance=world.instance,
        resources={"platform": world.platform},
        selection=list(request.asset_selection or ()),
        tags={"dagster/run_key": str(request.run_key)},
        raise_on_error=False,
    )


def die(world: World, request: dg.RunRequest) -> None:
    """A run that is killed before it could say anything."""
    died = world.instance.create_run_for_job(
        world.definitions.resolve_implicit_global_asset_job_def(),
        status=dg.DagsterRunStatus.STARTED,
        asset_selection=frozenset(request.asset_selection or ()),
        tags={**request.tags, "dagster/run_key": str(request.run_key)},
    )
    world.instance.report_run_failed(died)


def equals_the_exchange(database: str, world: World, market: Market) -> bool:
    """Trades, candles and wider candles of the closed minutes are what the exchange's trades say."""
    expected = truth(world.platform.settings, market).filter(pl.col("time") < CLOSED)
    reader = StoreReader(database)
    reader.open()
    try:
        held = reader.trades(market, BEGIN, CLOSED)
        with connect(database) as connection:
            row = connection.execute(
                "SELECT count(*), sum(volume), sum(trade_count) FROM candle JOIN market USING (market_id)"
                " WHERE exchange = %s AND symbol = %s AND open_time < %s",
                (market.exchange, market.symbol, CLOSED),
            ).fetchone()
            wide = connection.execute(
                "SELECT sum(trade_count) FROM candle_1h JOIN market USING (market_id)"
                " WHERE exchange = %s AND symbol = %s AND open_time < %s",
                (market.exchange, market.symbol, NOW - timedelta(hours=1)),
            ).fetchone()
    finally:
        reader.close()
    candles = fold(expected, "1m")
    assert row is not None
    assert wide is not None
    early = expected.filter(pl.col("time") < NOW - timedelta(hours=1))
    return (
        held["trade_id"].equals(expected.sort("time", "trade_id")["trade_id"])
        and (row[0], row[2]) == (len(candles), candles["trade_count"].sum())
        and row[1] == pytest.approx(candles["volume"].sum())
        and int(wide[0]) == early["fills"].sum()
    )


def told(world: World) -> list[tuple[str, str]]:
    ledger = entries(world.platform.settings, world.lake).filter(subject="store")
    return list(zip(ledger["event"], ledger["state"], strict=True))


def comes_back(live: World) -> None:
    """The exchange answers again; after the pause of a failed attempt the hole is filled."""
    live.exchange.faults([])
    step(timedelta(minutes=1))
    assert tick(live, "live_gaps") == []
    step(timedelta(minutes=5))
    (again,) = tick(live, "live_gaps")
    assert run(live, again).success
    assert told(live)[-1] == ("outcome", "repaired")


def test_a_whole_table_asks_for_nothing(live: World) -> None:
    assert tick(live, "live_gaps") == []
    sensor = live.definitions.resolve_sensor_def("live_gaps")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_dropped_trades_are_fetched_and_their_candles_made_anew(live: World, database: str) -> None:
    spoil(database, USDT, NOW - timedelta(hours=3), NOW - timedelta(hours=2), "trade")
    spoil(database, LTC, NOW - timedelta(hours=5), NOW - timedelta(hours=4), "trade", "candle")
    requests = tick(live, "live_gaps")
    assert {(r.asset_selection or ())[0].path[0] for r in requests} == {"binance", "kraken"}
    for request in requests:
        assert run(live, request).success
    assert equals_the_exchange(database, live, USDT)
    assert equals_the_exchange(database, live, LTC)
    assert tick(live, "live_gaps") == []
    assert set(told(live)) == {("finding", "open"), ("repair", "open"), ("outcome", "repaired")}


def test_a_candle_made_of_trades_wins_over_the_exchanges_own(live: World, database: str) -> None:
    spoil(database, USDT, NOW - timedelta(hours=3), NOW - timedelta(hours=2), "trade", "candle")
    (request,) = tick(live, "live_gaps")
    result = run(live, request)
    assert result.success
    with connect(database) as connection:
        rows = connection.execute(
            "SELECT DISTINCT source, coverage, revision > 0 FROM candle WHERE open_time >= %s"
            " AND open_time < %s AND source <> 'stream'",
            (NOW - timedelta(hours=3), NOW - timedelta(hours=2)),
        ).fetchall()
    assert rows == [("repair", "complete", True)]


def test_while_trades_cannot_be_had_the_exchanges_candles_stand_in_and_the_next_try_waits(
    live: World, database: str
) -> None:
    spoil(database, USDT, NOW - timedelta(hours=3), NOW - timedelta(hours=2), "trade", "candle")
    live.exchange.faults([{"kind": "502", "match": "aggTrades"}])
    (request,) = tick(live, "live_gaps")
    assert not run(live, request).success
    with connect(database) as connection:
        found = connection.execute(
            "SELECT count(*), min(coverage) FROM candle WHERE source = 'exchange' AND open_time >= %s",
            (NOW - timedelta(hours=3),),
        ).fetchone()
    assert found is not None
    assert found[0] > 10
    assert found[1] == "partial"
    assert told(live)[-1] == ("outcome", "failed")
    comes_back(live)
    assert equals_the_exchange(database, live, USDT)


def test_trades_without_candles_are_folded(live: World, database: str) -> None:
    spoil(database, LTC, NOW - timedelta(hours=2), NOW - timedelta(hours=1), "candle")
    live.exchange.faults([{"kind": "502"}])  # nobody is asked
    (request,) = tick(live, "live_gaps")
    assert run(live, request).success
    live.exchange.faults([])
    assert equals_the_exchange(database, live, LTC)


def test_what_the_exchange_does_not_serve_is_told_once(live: World, database: str) -> None:
    ids = truth(live.platform.settings, USDT)["trade_id"]
    live.exchange.hide(str(USDT), [(ids[100], ids[104])])
    with connect(database) as connection:
        connection.execute("DELETE FROM trade WHERE trade_id BETWEEN %s AND %s", (ids[100], ids[104]))
    (request,) = tick(live, "live_gaps")
    assert run(live, request).success
    assert told(live)[-1] == ("outcome", "not served")
    for _ in range(3):
        step(timedelta(minutes=10))
        assert tick(live, "live_gaps") == []


def test_a_hole_is_seen_until_it_is_filled_whatever_else_was_looked_at(live: World, database: str) -> None:
    ids = truth(live.platform.settings, USDT)["trade_id"]
    watch = Watch()

    def seen() -> list[tuple[int | None, int | None]]:
        found = watch.holes(live.platform.settings, [USDT], CLOCK[0], ids=["binance"])
        return [(hole.first_id, hole.last_id) for hole in found]

    assert seen() == []
    with connect(database) as connection:
        connection.execute("CREATE TABLE gone AS SELECT * FROM trade WHERE trade_id = %s", (ids[-5],))
        connection.execute("DELETE FROM trade WHERE trade_id = %s", (ids[-5],))
    for _ in range(3):
        step(timedelta(minutes=3))
        assert seen() == [(ids[-5], ids[-5])]
    with connect(database) as connection:
        connection.execute("INSERT INTO trade SELECT * FROM gone")
    assert seen() == []


def test_a_stream_that_has_stopped_is_filled_up_to_the_running_minutes(live: World, database: str) -> None:
    spoil(database, LTC, NOW - timedelta(hours=4), NOW, "trade", "candle")
    (request,) = tick(live, "live_gaps")
    assert run(live, request).success
    assert equals_the_exchange(database, live, LTC)
    assert told(live)[-1] == ("outcome", "repaired")


def test_a_silence_is_looked_at_again_when_the_exchange_could_not_be_asked(
    live: World, database: str
) -> None:
    spoil(database, LTC, NOW - timedelta(hours=4), NOW, "trade", "candle")
    live.exchange.faults([{"kind": "502"}])
    (request,) = tick(live, "live_gaps")
    assert not run(live, request).success
    assert told(live) == [("finding", "open"), ("repair", "open"), ("outcome", "failed")]
    comes_back(live)
    assert equals_the_exchange(database, live, LTC)


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No exchange's ids count up, so only silences show what is missing."""
    monkeypatch.setattr(live_gaps, "_counts", lambda *_: False)


@pytest.mark.usefixtures("uncounted")
def test_a_silence_that_has_ended_is_looked_at_again_when_the_exchange_could_not_be_asked(
    live: World, database: str
) -> None:
    spoil(database, LTC, NOW - timedelta(hours=8), NOW - timedelta(hours=4), "trade", "candle")
    live.exchange.faults([{"kind": "502"}])
    (request,) = tick(live, "live_gaps")
    assert not run(live, request).success
    live.exchange.faults([])
    step(timedelta(minutes=6))
    live_gaps._watch.cache_clear()  # what has ended is looked for once an hour, and after a restart
    (again,) = tick(live, "live_gaps")
    assert run(live, again).success
    assert told(live)[-1] == ("outcome", "repaired")
    assert equals_the_exchange(database, live, LTC)


@pytest.mark.usefixtures("uncounted")
def test_a_silence_is_looked_at_again_when_the_run_died_before_it_could_say_anything(
    live: World, database: str
) -> None:
    """What a run has not written down changes no key; Dagster would take the request for one it has had."""
    spoil(database, LTC, NOW - timedelta(hours=8), NOW - timedelta(hours=4), "trade", "candle")
    (request,) = tick(live, "live_gaps")
    die(live, request)
    live_gaps._watch.cache_clear()
    (again,) = tick(live, "live_gaps")
    assert run(live, again).success
    assert told(live)[-1] == ("outcome", "repaired")
    assert equals_the_exchange(database, live, LTC)


def test_runs_that_die_over_a_silence_again_and_again_come_to_an_end(live: World, database: str) -> None:
    spoil(database, LTC, NOW - timedelta(hours=4), NOW, "trade", "candle")
    asked = 0
    while requests := tick(live, "live_gaps"):
        asked += 1
        assert asked <= live.platform.settings.repair_attempts
        for request in requests:
            die(live, request)
    assert asked == live.platform.settings.repair_attempts


def test_a_silence_that_turns_out_to_be_a_quiet_market_is_closed(
    live: World, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(database, LTC, NOW - timedelta(hours=4), NOW, "trade", "candle")
    live.exchange.faults([{"kind": "502"}])
    (request,) = tick(live, "live_gaps")
    assert not run(live, request).success
    live.exchange.faults([])
    monkeypatch.setattr(_Filler, "_contradicted", lambda *_: False)
    step(timedelta(minutes=6))
    (again,) = tick(live, "live_gaps")
    assert run(live, again).success
    assert told(live)[-1] == ("outcome", "information")
    step(timedelta(minutes=30))
    assert tick(live, "live_gaps") == []
    step(timedelta(hours=4))  # twice as long
    assert "kraken" in {(r.asset_selection or ())[0].path[0] for r in tick(live, "live_gaps")}


def test_a_minute_that_a_later_look_begins_in_lacks_no_candle(live: World, database: str) -> None:
    spoil(database, LTC, NOW - timedelta(hours=4), NOW, "trade", "candle")
    watch = Watch()
    for _ in range(2):
        (hole,) = watch.holes(live.platform.settings, [LTC], CLOCK[0], ids=["kraken"])
        assert hole.kind is Kind.SILENCE
        step(timedelta(minutes=1))


def test_what_is_younger_than_two_minutes_is_no_gap(live: World, database: str) -> None:
    spoil(database, USDT, NOW - timedelta(minutes=2), NOW, "trade", "candle")
    assert tick(live, "live_gaps") == []


def test_a_market_that_only_batch_has_filled_is_not_live(live: World, database: str) -> None:
    with connect(database) as connection:
        connection.execute("DELETE FROM trade")
    assert tick(live, "live_gaps") == []


def test_nothing_is_asked_for_while_holes_are_being_filled(live: World, database: str) -> None:
    spoil(database, USDT, NOW - timedelta(hours=3), NOW - timedelta(hours=2), "trade")
    going_on = live.instance.create_run_for_job(
        live.definitions.resolve_implicit_global_asset_job_def(),
        status=dg.DagsterRunStatus.STARTED,
        asset_selection=frozenset({dg.AssetKey(["binance", "live_repair"])}),
    )
    assert tick(live, "live_gaps") == []
    live.instance.report_run_canceled(going_on)
    assert len(tick(live, "live_gaps")) == 1
