"""The market under load, and a clock that runs."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from marketdata.errors import UsageError
from marketdata.exchange_sim import SimConfig, create_app
from marketdata.exchange_sim.config import Clock
from marketdata.exchange_sim.listing import LISTINGS, ns_of
from marketdata.exchange_sim.load import LoadTape
from realtime.frames import read_kraken_v2
from tests.exchange_sim.conftest import NOW, get, send
from tests.exchange_sim.streaming import kraken

BEGIN = ns_of(NOW)
SECOND = 1_000_000_000
STANDING = NOW + timedelta(seconds=0.25)


@pytest.mark.parametrize("rate", [0.3, 1, 7, 1_000, 33_333.3, 1_000_000])
def test_a_load_is_spaced_evenly_and_numbered_from_one(rate: float) -> None:
    tape = LoadTape(LISTINGS[0], 7, rate, BEGIN)
    rows = tape.rows(0, 5_000)
    assert rows.id.tolist() == list(range(1, 5_001))
    assert rows.time_ns[0] == BEGIN
    steps = np.diff(rows.time_ns)
    assert steps.min() > 0
    assert steps.max() - steps.min() <= 1_000
    assert tape.after(BEGIN + 1_000 * SECOND) == pytest.approx(1_000 * rate, abs=1)


@pytest.mark.parametrize("rate", [0.3, 1_000, 33_333.3, 1_000_000])
def test_a_position_of_a_load_is_where_its_time_says(rate: float) -> None:
    tape = LoadTape(LISTINGS[0], 7, rate, BEGIN)
    for position in (0, 1, 77, 65_536, 10**9):
        at = int(tape.rows(position, position + 1).time_ns[0])
        assert tape.after(at) == position + 1
        assert tape.after(at - 1) == position


def test_a_load_can_be_read_in_any_pieces() -> None:
    tape = LoadTape(LISTINGS[0], 7, 1_000, BEGIN)
    whole = tape.rows(65_000, 67_000)
    pieces = [tape.rows(at, at + 500) for at in range(65_000, 67_000, 500)]
    assert np.concatenate([piece.ticks for piece in pieces]).tolist() == whole.ticks.tolist()


@pytest.mark.parametrize("load", [0, -1, 2_000_000])
def test_a_load_that_cannot_be_made_is_refused(load: float) -> None:
    with pytest.raises(UsageError, match="load"):
        create_app(SimConfig(load=load))


def test_a_load_continues_its_history(exchange_server: Any) -> None:
    server = exchange_server(now=STANDING, load=1_000)
    with kraken(server.kraken_ws, "trade") as stream:
        history = get(f"{server.kraken}/0/public/Trades", {"pair": "XBTUSD", "since": BEGIN - 1})
        ids = [row[6] for row in history["result"]["XXBTZUSD"]]
        server.advance_clock(timedelta(seconds=1))
        while ids[-1] < 1_251:
            ids += [row["trade_id"] for row in stream.of("trade")["data"]]
    assert ids == list(range(1, 1_252))


def test_candles_of_a_load_count_all_its_trades(exchange_server: Any) -> None:
    server = exchange_server(now=NOW, load=1_000)
    with kraken(server.kraken_ws, "ohlc", interval=1) as stream:
        server.advance_clock(timedelta(seconds=90))
        counts = {}
        while sum(counts.values()) < 90_001:
            for candle in stream.of("ohlc")["data"]:
                counts[candle["interval_begin"]] = candle["trades"]
    # The trade of 12:01:00 sharp begins the second minute.
    assert list(counts.values()) == [60_000, 30_001]


def test_a_load_arrives_as_it_is_asked_for(exchange_server: Any) -> None:
    """A running clock: what arrives in a second is what happened in it, whatever the machine's mood."""
    server = exchange_server(load=5_000)
    texts = []
    with kraken(server.kraken_ws, "trade") as stream:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            texts.append(stream.text())
    trades = next(iter(read_kraken_v2(texts, now=datetime.now(UTC)).trades.values()))
    assert (trades["trade_id"].diff().drop_nulls() == 1).all()
    span = trades["time"][-1] - trades["time"][0]
    assert len(trades) == pytest.approx(span.total_seconds() * 5_000, abs=2)


def test_a_clock_runs_at_the_speed_it_was_given() -> None:
    clock = Clock(NOW, timedelta(0), speed=3_600.0)
    first = clock.now_ns()
    time.sleep(0.05)
    assert 0 <= first - BEGIN < 3_600 * SECOND
    assert clock.now_ns() - first >= 150 * SECOND


def test_a_clock_that_was_given_a_time_stands() -> None:
    clock = Clock(NOW, timedelta(seconds=1))
    time.sleep(0.01)
    assert clock.now_ns() == BEGIN + SECOND


def test_a_clock_of_the_wall_can_run_faster_from_now_on() -> None:
    begin = time.time_ns()
    clock = Clock(None, timedelta(0), speed=1_000.0)
    time.sleep(0.01)
    assert clock.now_ns() - begin >= 10 * SECOND


@pytest.mark.parametrize("speed", [-1.0, 1e9, float("nan")])
def test_a_speed_that_cannot_be_is_refused(speed: float) -> None:
    with pytest.raises(UsageError, match="speed"):
        Clock(NOW, timedelta(0), speed)


def test_the_speed_can_be_set_by_request(exchange_server: Any) -> None:
    server = exchange_server(now=NOW)
    with kraken(server.kraken_ws, "trade") as stream:
        send(f"{server.url}/control/clock", {"now": NOW.isoformat(), "speed": 600})
        assert stream.of("trade")["data"]
