"""Misbehaviour of sockets on demand."""

import time
from datetime import timedelta
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from marketdata.exchange_sim import RunningExchange
from marketdata.exchange_sim.faults import GARBAGE
from realtime.frames import read_binance, read_kraken_v2
from tests.exchange_sim.conftest import NOW, get, send
from tests.exchange_sim.streaming import Client, binance, client, kraken

SECOND = timedelta(seconds=1)
AGG = "btcusdt@aggTrade"
UPDATES = "trade update"


def events(server: RunningExchange, seconds: int = 120) -> list[Any]:
    """The aggTrades that the exchange had until then."""
    parameters = {"symbol": "BTCUSDT", "startTime": int(NOW.timestamp() * 1_000), "limit": 1000}
    server.set_clock(NOW + seconds * SECOND)
    server.push()
    rows = get(f"{server.binance}/api/v3/aggTrades", parameters)
    assert isinstance(rows, list)
    return [row["a"] for row in rows]


def heard(stream: Client) -> list[str]:
    """Everything that was sent up to now: answers come behind it."""
    stream.send({"method": "LIST_SUBSCRIPTIONS", "id": 99})
    texts = [stream.text()]
    while not texts[-1].endswith(',"id":99}'):
        texts.append(stream.text())
    return texts[:-1]


def ids(texts: list[str], now: Any = NOW + timedelta(hours=1)) -> list[int]:
    """Ids of the aggTrades in frames, in order of arrival."""
    return [
        trade_id
        for trades in read_binance(texts, now=now).trades.values()
        for trade_id in trades["trade_id"].to_list()
    ]


def test_a_share_of_frames_is_dropped_and_rest_still_has_their_trades(server: RunningExchange) -> None:
    with binance(server.binance_ws, AGG) as stream:
        server.faults([{"kind": "ws_drop", "match": "aggTrade", "probability": 0.3, "seed": 5}])
        served = events(server)
        got = ids(heard(stream))
    assert set(got) < set(served)
    assert 0.5 < len(got) / len(served) < 0.9
    counts = server.fault_counts()[0]
    assert counts["matched"] == len(served)
    assert counts["applied"] == len(served) - len(got)


def test_frames_come_twice(server: RunningExchange) -> None:
    with binance(server.binance_ws, AGG) as stream:
        server.faults([{"kind": "ws_repeat", "match": "aggTrade", "times": 3}])
        served = events(server)
        got = ids(heard(stream))
    assert got == [trade for trade in served[:3] for _ in range(2)] + served[3:]


def test_frames_come_out_of_order_and_none_is_lost(server: RunningExchange) -> None:
    with binance(server.binance_ws, AGG) as stream:
        server.faults([{"kind": "ws_reorder", "match": "aggTrade", "probability": 0.2}])
        served = events(server)
        # The last ones may be held for a while yet.
        got = ids([stream.text() for _ in served])
    assert got != served
    assert sorted(got) == served


def test_cut_frames_are_no_json_and_all_others_are_whole(server: RunningExchange) -> None:
    with binance(server.binance_ws, AGG) as stream:
        server.faults([{"kind": "ws_corrupt", "match": "aggTrade", "probability": 0.1}])
        served = events(server)
        found = read_binance(heard(stream), now=NOW + timedelta(hours=1))
    assert set(found.rejects["reason"]) == {"not JSON"}
    assert len(found.rejects) + sum(map(len, found.trades.values())) == len(served)


@pytest.mark.parametrize("insert", [False, True])
def test_spoiled_trades_come_beside_the_true_ones_or_in_their_place(
    server: RunningExchange, *, insert: bool
) -> None:
    with binance(server.binance_ws, AGG) as stream:
        fault = {"kind": "ws_garbage", "match": "aggTrade", "times": 6, "insert": insert}
        server.faults([fault | {"garbage": ["negative_price", "zero_amount", "wrong_type"]}])
        served = events(server)
        found = read_binance(heard(stream), now=NOW + timedelta(hours=1))
    assert len(found.rejects) == 6
    got = sorted(trade for trades in found.trades.values() for trade in trades["trade_id"])
    assert got == (served if insert else served[6:])


@pytest.mark.parametrize("garbage", GARBAGE)
def test_every_kind_of_garbage_in_a_frame_of_kraken_is_refused(server: RunningExchange, garbage: str) -> None:
    with kraken(server.kraken_ws, "trade") as stream:
        server.faults([{"kind": "ws_garbage", "match": UPDATES, "rows": 2, "garbage": [garbage]}])
        server.set_clock(NOW + 30 * SECOND)
        text = stream.text()
    found = read_kraken_v2([text], now=NOW + 30 * SECOND)
    assert len(found.rejects) == 2


def test_a_proxy_on_the_way_says_something(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade") as stream:
        server.faults([{"kind": "ws_stray", "match": UPDATES, "times": 1}])
        server.set_clock(NOW + 30 * SECOND)
        assert stream.text() == "CloudFlare WebSocket proxy restarting"
        assert stream.of("trade")["data"]


def test_a_stalled_socket_is_silent_and_then_says_what_it_kept_back(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade") as stream:
        server.faults([{"kind": "ws_stall", "match": UPDATES, "times": 1, "seconds": 12}])
        server.set_clock(NOW + 30 * SECOND)
        server.push()
        stream.send({"method": "ping"})
        assert stream.is_quiet(0.5)
        assert not stream.connection.ping().wait(0.1)
        assert stream.of("trade")["data"]
        assert stream.until(lambda frame: frame.get("method") == "pong")


def test_what_a_stalled_socket_kept_back_can_be_lost(server: RunningExchange) -> None:
    with binance(server.binance_ws, AGG) as stream:
        server.faults([{"kind": "ws_stall", "match": AGG[8:], "times": 1, "seconds": 3, "lost": True}])
        lost = events(server, 60)
        time.sleep(3.5)
        served = events(server, 120)
        assert ids(heard(stream)) == served[len(lost) :]


def test_a_connection_is_cut_without_a_word(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade") as stream:
        server.faults([{"kind": "ws_cut", "match": UPDATES, "skip": 1}])
        server.set_clock(NOW + timedelta(minutes=10))
        assert len(stream.of("trade")["data"]) == 100
        with pytest.raises(ConnectionClosed) as closed:
            stream.next()
    assert closed.value.rcvd is None


def test_a_connection_is_cut_with_a_close_code(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade") as stream:
        server.faults([{"kind": "ws_cut", "match": UPDATES, "code": 1013}])
        server.set_clock(NOW + timedelta(minutes=1))
        with pytest.raises(ConnectionClosed) as closed:
            stream.next()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013


def test_connections_are_cut_at_once_on_command(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade") as first, binance(server.binance_ws, AGG) as second:
        assert send(f"{server.url}/control/sockets?match=/kraken", None, "DELETE") == {"cut": 1}
        with pytest.raises(ConnectionClosed):
            first.next()
        server.cut_sockets()
        with pytest.raises(ConnectionClosed):
            second.next()


def test_a_connection_is_refused(server: RunningExchange) -> None:
    server.faults([{"kind": "ws_refuse", "match": "/kraken", "times": 1}])
    with pytest.raises(InvalidStatus, match="503"), client(server.kraken_ws):
        pass
    with kraken(server.kraken_ws):
        pass


def test_faults_of_frames_leave_rest_alone_and_those_of_rest_leave_frames_alone(
    server: RunningExchange,
) -> None:
    server.faults([{"kind": "ws_drop"}, {"kind": "500"}])
    with kraken(server.kraken_ws, "trade") as stream:
        server.set_clock(NOW + 30 * SECOND)
        assert stream.is_quiet()
        server.faults([{"kind": "500"}])
        server.set_clock(NOW + 60 * SECOND)
        assert stream.of("trade")["data"]
    server.faults([{"kind": "ws_drop"}])
    assert get(f"{server.kraken}/0/public/Time")["error"] == []


def test_a_reader_that_is_too_slow_is_cut_off(exchange_server: Any) -> None:
    server = exchange_server(now=NOW, load=1_000, socket_bytes=100_000)
    with binance(server.binance_ws, AGG) as stream:
        # Far more than the buffers of the system hold, and nobody reads.
        server.advance_clock(300 * SECOND)
        deadline = time.monotonic() + 120
        while server.sockets()["connections"] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.sockets()["connections"] == 0
        del stream


def test_what_sockets_were_sent_is_counted(server: RunningExchange) -> None:
    before = server.sockets()["markets"].get("binance:ETH/USDT", {"pushed": 0})["pushed"]
    with binance(server.binance_ws, "ethusdt@aggTrade") as stream:
        server.set_clock(NOW + 60 * SECOND)
        server.push()
        got = ids(heard(stream))
        counts = get(f"{server.url}/control/sockets")
    assert counts["connections"] == 1
    market = counts["markets"]["binance:ETH/USDT"]
    assert (market["pushed"] - before, market["last_id"]) == (len(got), got[-1])
