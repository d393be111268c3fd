"""A day reconciled: lake, store and exchange, and what is left in the ledger."""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata import recording, sources
from marketdata.backfill import backfill, fetch_exchange_candles
from marketdata.candle import CANDLE_SCHEMA, EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import NoData
from marketdata.exchange_sim import RunningExchange
from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.lake import reconciliation as in_lake
from marketdata.ledger import cases
from marketdata.manifest import Ids, Status, day_window
from marketdata.market import Market
from marketdata.reconciliation import REPAIRED, WRONG, Reconciled, known_result, reconcile_day
from marketdata.settings import Settings
from marketdata.store.candles import STORED_SCHEMA, upsert_candles
from marketdata.store.engine import connect
from marketdata.store.load import load_day
from tests.store.conftest import database, server
from tests.store.days import BTC, DAY, held_candles, manifest_of, one, trades_of_day

__all__ = ["database", "server"]
NOW = datetime.fromisoformat("2025-06-09T01:00:00Z")
START, END = day_window(DAY)
TRADES = trades_of_day(14_400)
BATCH = fold(TRADES, "1m")
NAMES = CANDLE_SCHEMA.names()
THEIRS = BATCH.select(EXCHANGE_CANDLE_SCHEMA.names())


class World:
    """A lake with one day, and what can be said of it."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.settings = Settings.load(home=folder, database_url=url, kafka_bootstrap_servers=None)
        self.lake = Lake.open(self.settings.lake_url, settings=self.settings)
        self.hold(TRADES)

    def hold(self, trades: pl.DataFrame, **changed: Any) -> None:
        manifest = manifest_of(trades, **{"ids": Ids.EXCHANGE} | changed)
        self.lake.write_trades(BTC, DAY, trades, manifest)

    def serve(self, candles: pl.DataFrame, since: datetime = START, interval: str = "1m") -> None:
        facts = {"served": "whole" if since == START else "part", "from": since.isoformat(), "source": "x"}
        self.lake.write_candles(BTC, DAY, interval, candles, kind="exchange_candles", facts=facts)

    def stream(self, candles: pl.DataFrame, revision: int = 0) -> None:
        rows = candles.with_columns(
            pl.lit(revision, pl.Int32).alias("revision"),
            pl.lit("stream").alias("source"),
            pl.lit("unknown").alias("coverage"),
        )
        with connect(self.settings) as connection:
            upsert_candles(connection, {BTC: rows.select(STORED_SCHEMA.names())})

    def reconcile(self, *, now: datetime = NOW, **how: Any) -> Reconciled:
        return reconcile_day(self.settings, self.lake, BTC, DAY, now=now, **how)

    def told(self) -> dict[tuple[str, str], str]:
        found = cases(recording.entries(self.settings, self.lake))
        return {
            (subject, reason): state
            for subject, reason, state in found.select("subject", "reason", "state").rows()
        }


@pytest.fixture
def bare(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def world(tmp_path: Path, database: str) -> World:
    return World(tmp_path, database)


def without(*ids: int) -> pl.DataFrame:
    return fold(TRADES.filter(~pl.col("trade_id").is_in(ids)), "1m")


def id_in(minute: int, place: int = 1) -> int:
    """The id of a trade inside a minute that has several."""
    opens = START + timedelta(minutes=minute)
    inside = TRADES.filter(pl.col("time").is_between(opens, opens + timedelta(minutes=1), closed="left"))
    assert len(inside) > 2
    return int(inside["trade_id"][place])


def test_without_a_store_the_batch_is_compared_with_the_exchange_alone(bare: World) -> None:
    bare.serve(THEIRS)
    done = bare.reconcile()
    assert done.settled
    assert list(done.sides) == ["exchange"]
    assert done.sides["exchange"].equal == len(BATCH)
    assert "Nothing was streamed." in done.sentence
    assert bare.told() == {}


def test_without_anything_beside_it_a_day_is_settled_and_that_is_said(bare: World) -> None:
    done = bare.reconcile()
    assert (done.settled, dict(done.sides)) == (True, {})
    assert "not held" in done.sentence


def test_a_day_the_lake_does_not_hold_cannot_be_reconciled(bare: World) -> None:
    with pytest.raises(NoData):
        reconcile_day(bare.settings, bare.lake, BTC, date(2025, 6, 1), now=NOW)


def test_where_ids_prove_ours_the_exchange_differs_and_that_is_information(bare: World) -> None:
    bare.hold(TRADES, ids=Ids.SEQUENTIAL)
    bare.serve(THEIRS.with_columns(pl.col("volume") * 1.5))
    done = bare.reconcile()
    assert done.settled
    assert set(done.differences["state"]) == {"explained"}
    assert "proved" in done.sentence
    assert bare.told() == {("candles", "different volume"): "information"}


def test_a_day_that_is_compared_again_with_nothing_new_adds_nothing(bare: World) -> None:
    bare.hold(TRADES, ids=Ids.SEQUENTIAL)
    bare.serve(THEIRS.with_columns(pl.col("volume") * 1.5))
    first, entries = bare.reconcile(), len(recording.entries(bare.settings, bare.lake))
    again = bare.reconcile(run_id="another")
    assert (first.known, again.known) == (False, True)
    assert_frame_equal(first.differences, again.differences)
    assert (again.sentence, again.sides["exchange"].counts) == (
        first.sentence,
        first.sides["exchange"].counts,
    )
    assert len(recording.entries(bare.settings, bare.lake)) == entries


def test_wider_candles_speak_where_the_exchange_no_longer_serves_minutes(bare: World) -> None:
    bare.hold(TRADES, ids=Ids.SEQUENTIAL)
    noon = START + timedelta(hours=12)
    bare.serve(THEIRS.filter(pl.col("open_time") >= noon), since=noon)
    hours = fold(TRADES, "1h").select(THEIRS.columns)
    bare.serve(
        hours.with_columns(pl.when(pl.col("open_time") == START).then(1.0).otherwise("close").alias("close")),
        interval="1h",
    )
    done = bare.reconcile()
    assert done.sides["exchange"].compared == len(THEIRS.filter(pl.col("open_time") >= noon)) + 24
    assert done.differences.select("interval", "finding").rows() == [("1h", "different price")]


def test_a_damaged_result_is_made_again(bare: World) -> None:
    bare.serve(THEIRS)
    bare.reconcile()
    path = Path(bare.lake.path("reconciliation", BTC, DAY))
    path.write_bytes(path.read_bytes()[:50])
    assert bare.reconcile().settled
    assert known_result(bare.lake, BTC, DAY) is not None


def test_late_trades_are_put_right_in_the_store_and_the_ledger_tells_it(world: World, database: str) -> None:
    minutes = (61, 400, 900)
    world.stream(without(*(id_in(minute) for minute in minutes)))
    world.serve(THEIRS)
    done = world.reconcile(run_id="r1")
    assert done.sides["stream"].counts == {"late trade": 3}
    assert set(done.differences["state"]) == {REPAIRED}
    assert set(done.differences["alone"]) == {"stream"}
    assert done.settled
    held = held_candles(database)
    assert_frame_equal(held.select(NAMES), BATCH, rel_tol=1e-9)
    wrong = held.filter(pl.col("revision") == 1)
    assert wrong["open_time"].to_list() == [START + timedelta(minutes=minute) for minute in minutes]
    assert one(database, "SELECT sum(volume) FROM candle_1d") == pytest.approx(BATCH["volume"].sum())
    found = recording.entries(world.settings, world.lake)
    story = found.filter(pl.col("reason") == "late trade")
    assert story["event"].to_list() == ["finding", "repair", "outcome"]
    assert world.told()["stream", "late trade"] == "repaired"
    row = "SELECT compared, equal, late_trade, wrong FROM v_reconciliation WHERE compared_with = 'stream'"
    with connect(database) as connection:
        assert connection.execute(row).fetchall() == [(len(BATCH), len(BATCH) - 3, 3, 0)]


def test_what_the_stream_had_said_is_compared_although_the_day_was_loaded_before(
    world: World, database: str
) -> None:
    world.stream(without(id_in(61)))
    load_day(database, world.lake, BTC, DAY)
    done = world.reconcile()
    assert done.sides["stream"].counts == {"late trade": 1}
    assert held_candles(database)["revision"].sum() == 1
    load_day(database, world.lake, BTC, DAY)
    assert world.reconcile().known


def test_what_was_put_right_is_told_once_although_the_day_is_compared_anew(world: World) -> None:
    world.stream(without(id_in(61)))
    world.reconcile(run_id="first")
    entries = recording.entries(world.settings, world.lake)
    world.serve(THEIRS)
    done = world.reconcile(run_id="second")
    assert not done.known
    assert done.sides["stream"].counts == {"late trade": 1}
    assert done.sides["exchange"].equal == len(BATCH)
    assert_frame_equal(recording.entries(world.settings, world.lake), entries)


def test_minutes_in_which_the_stream_was_not_there_yet_are_not_missing(world: World) -> None:
    begun = START + timedelta(hours=10)
    hole = pl.col("open_time").is_between(begun + timedelta(minutes=30), begun + timedelta(minutes=34))
    world.stream(BATCH.filter((pl.col("open_time") >= begun) & ~hole))
    done = world.reconcile()
    side = done.sides["stream"]
    assert side.compared == len(BATCH.filter(pl.col("open_time") >= begun))
    assert side.counts == {"missing": 5}


def test_candles_of_trades_that_nobody_has_are_removed_from_the_store(world: World, database: str) -> None:
    quiet = TRADES.filter(
        ~pl.col("time").is_between(
            START + timedelta(minutes=100), START + timedelta(minutes=102), closed="left"
        )
    )
    world.hold(quiet)
    world.stream(BATCH)
    done = world.reconcile()
    assert done.sides["stream"].counts == {"extra": 2}
    assert len(held_candles(database)) == len(BATCH) - 2


def test_a_batch_with_gaps_does_not_replace_candles_of_more_trades(world: World, database: str) -> None:
    less = TRADES.filter(pl.col("trade_id") != id_in(200))
    world.hold(less, covered=[(START, START + timedelta(hours=23))])
    world.stream(without(id_in(61)))
    done = world.reconcile()
    assert not done.settled
    states = dict(done.differences.select("open_time", "state").rows())
    assert states == {
        START + timedelta(minutes=61): REPAIRED,
        START + timedelta(minutes=200): WRONG,
    }
    assert (
        held_candles(database).filter(pl.col("open_time") == START + timedelta(minutes=200))["source"][0]
        == "stream"
    )
    assert "open" in set(world.told().values())
    world.hold(TRADES)
    assert world.reconcile(now=NOW + timedelta(hours=1)).settled
    assert "open" not in set(world.told().values())


def test_what_was_found_of_the_stream_stays_known_when_the_store_has_forgotten(
    world: World, database: str
) -> None:
    world.stream(without(id_in(61)))
    world.reconcile()
    with connect(database, autocommit=True) as connection:
        connection.execute("DELETE FROM candle_streamed")
        connection.execute("UPDATE candle SET source = 'batch'")
    world.serve(THEIRS)
    done = world.reconcile()
    assert done.sides["stream"].counts == {"late trade": 1}
    assert done.sides["exchange"].equal == len(BATCH)
    assert in_lake.differences(world.lake, BTC, DAY)["finding"].to_list() == ["late trade"]


def test_drift_beyond_the_limit_is_told_once(world: World) -> None:
    minute = START + timedelta(minutes=61)
    world.stream(
        BATCH.with_columns(
            pl.when(pl.col("open_time") == minute)
            .then(pl.col("close") * 1.01)
            .otherwise("close")
            .alias("close"),
            pl.col("high") * 1.02,
        )
    )
    done = world.reconcile()
    assert done.sides["stream"].drift.close_max == pytest.approx(1.0)
    assert world.told()["stream", "drift"] == "information"
    calm = world.settings.model_copy(update={"drift_alert_percent": 2.0})
    world.settings = calm
    world.reconcile(again=True, run_id="calm")
    fresh = recording.entries(calm, world.lake).filter(pl.col("run_id") == "calm")
    assert set(fresh["reason"]) == {"different price"}


# -- asking once more ------------------------------------------------------------------------------------

USDT = Market.parse("binance:LTC/USDT")
NOON = datetime.fromisoformat("2026-06-20T12:00:00Z")
THEN = date(2026, 6, 18)


@pytest.fixture
def exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange_server: Callable[..., RunningExchange]
) -> tuple[Settings, Lake]:
    """A day fetched from a local exchange, with its own candles."""
    running = exchange_server(now=NOON)
    for name, value in (running.environment | {"MARKETDATA_REQUEST_INTERVAL_MS": "0"}).items():
        monkeypatch.setenv(name, value)
    settings = Settings.load(home=tmp_path, database_url=None, kafka_bootstrap_servers=None)
    lake = Lake.open(settings.lake_url, settings=settings)
    backfill(lake, [(USDT, THEN)], settings, now=NOON)
    fetch_exchange_candles(lake, sources.candle_source("binance", settings), USDT, THEN, now=NOON)
    return settings, lake


def spoil(lake: Lake) -> None:
    """Half of the trades are gone, and the manifest is sure that there are no more; ids are no proof."""
    trades = lake.read_trades(USDT, *day_window(THEN)).gather_every(2)
    manifest = manifest_of(trades, USDT, THEN, ids=Ids.EXCHANGE)
    assert manifest.status is Status.COMPLETE
    lake.write_trades(USDT, THEN, trades, manifest)


def test_trades_that_do_not_make_the_exchanges_candles_are_asked_for_once_more(
    exchange: tuple[Settings, Lake],
) -> None:
    settings, lake = exchange
    whole = lake.manifest(USDT, THEN)
    assert reconcile_day(settings, lake, USDT, THEN, now=NOON).settled
    assert recording.entries(settings, lake).is_empty()
    spoil(lake)
    done = reconcile_day(settings, lake, USDT, THEN, now=NOON)
    assert done.settled
    assert lake.manifest(USDT, THEN) == whole
    assert set(cases(recording.entries(settings, lake))["state"]) == {"repaired"}


def test_candles_and_trades_of_an_exchange_that_disagree_are_asked_for_once_and_then_said(
    exchange: tuple[Settings, Lake], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, lake = exchange
    asked = []

    def same(*_: object) -> None:
        asked.append(1)

    monkeypatch.setattr("marketdata.reconciliation._ask_again", same)
    spoil(lake)
    done = reconcile_day(settings, lake, USDT, THEN, now=NOON)
    assert (done.settled, len(asked)) == (False, 1)
    assert set(cases(recording.entries(settings, lake))["state"]) >= {"exhausted"}
    assert not reconcile_day(settings, lake, USDT, THEN, now=NOON).settled
    assert len(asked) == 1
