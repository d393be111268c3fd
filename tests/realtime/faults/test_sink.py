"""The sink as a process, killed, and its database stopped: the store holds every trade and candle, once."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from marketdata.candle import CANDLE_SCHEMA
from marketdata.fold import fold
from marketdata.provider import Provider
from marketdata.settings import Settings
from marketdata.store.embedded import EmbeddedServer
from marketdata.store.migrate import upgrade
from marketdata.trade import TRADE_SCHEMA
from tests.kafka.broker import Broker
from tests.realtime.faults.conftest import SOAK
from tests.realtime.faults.world import World, pauses
from tests.realtime.test_candles import NOON

KILLS = 50 if SOAK else 2
AWAY_S = 60.0 if SOAK else 4.0
LATER = NOON.replace(day=NOON.day + 1)


@pytest.fixture
def database() -> Iterator[EmbeddedServer]:
    """A server that may be stopped; killed services leave its files in order."""
    with tempfile.TemporaryDirectory(prefix="md-sink-") as folder, ExitStack() as end:
        server = EmbeddedServer(Path(folder), options={"fsync": "off"})
        server.start()
        end.callback(server.stop)
        upgrade(server.url, "head", settings=Settings.load(database_url=server.url))
        yield server


@pytest.fixture
def stored(own_broker: Broker, tmp_path: Path, database: EmbeddedServer) -> Iterator[World]:
    made = World(own_broker.bootstrap, tmp_path, environment={"MARKETDATA_DATABASE_URL": database.url})
    yield made
    made.close()


def check(world: World, database: EmbeddedServer, within_s: float = 400.0) -> None:
    """Wait for every trade and minute, and compare them."""
    until = time.monotonic() + within_s
    with Provider(database_url=database.url) as provider:
        for market, trades in world.trades.items():
            minutes = fold(trades[:-1], "1m")
            while True:
                try:
                    held = provider.trades(market, NOON, LATER)
                    candles = provider.candles(market, "1m", NOON, LATER)
                    # A minute that was closed before all of its trades were sent is corrected later.
                    counted = candles.head(len(minutes))["trade_count"].sum()
                    if len(held) >= len(trades) and counted >= minutes["trade_count"].sum():
                        break
                except Exception:  # nothing is there yet
                    if time.monotonic() > until:
                        raise
                assert time.monotonic() < until, world.log("sink")
                time.sleep(0.3)
            assert_frame_equal(held.select(TRADE_SCHEMA.names()), trades)
            found = candles.select(CANDLE_SCHEMA.names()).head(len(minutes))
            assert_frame_equal(found, minutes, rel_tol=1e-9)


def test_killed_at_random_points_under_load_every_row_is_stored_once(
    stored: World, database: EmbeddedServer
) -> None:
    stored.candles()
    stored.start("sink", "sink", "all")
    with stored.publishing(11, 2_000 * KILLS, pause_s=0.5):
        for pause in pauses(11, KILLS, 1.5, 3.5):
            time.sleep(pause)
            stored.kill("sink")
            stored.start("sink")
    check(stored, database)


def test_a_database_that_is_away_costs_nothing(stored: World, database: EmbeddedServer) -> None:
    stored.candles()
    stored.start("sink", "sink", "all")
    with stored.publishing(12, 4_000, pause_s=0.4):
        time.sleep(2.5)
        database.stop()
        time.sleep(AWAY_S)
        database.start()
    check(stored, database)
