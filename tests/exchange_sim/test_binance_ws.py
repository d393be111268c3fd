"""Binance's WebSocket streams as the local exchange speaks them."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from marketdata.exchange_sim import RunningExchange
from tests.exchange_sim.conftest import NOW, get
from tests.exchange_sim.streaming import Client, binance, client

MINUTE = timedelta(minutes=1)
AGG = "btcusdt@aggTrade"


def rest(server: RunningExchange, name: str, **parameters: Any) -> list[Any]:
    """What a REST endpoint of BTCUSDT answers."""
    answer = get(f"{server.binance}/api/v3/{name}", {"symbol": "BTCUSDT", **parameters})
    assert isinstance(answer, list)
    return answer


def ms(time: datetime) -> int:
    """Binance's time."""
    return int(time.timestamp() * 1_000)


def until_id(stream: Client, last_id: int, field: str = "a") -> list[Any]:
    """Events up to that id."""
    events = [stream.next()]
    while events[-1][field] != last_id:
        events.append(stream.next())
    return events


def test_aggregate_trades_are_those_of_rest(server: RunningExchange) -> None:
    with binance(server.binance_ws, AGG) as stream:
        server.set_clock(NOW + MINUTE)
        served = rest(server, "aggTrades", startTime=ms(NOW), limit=1000)
        events = until_id(stream, served[-1]["a"])
        assert stream.is_quiet(0.1)
    names = list(served[0])
    assert [{name: event[name] for name in names} for event in events] == served
    assert {(event["e"], event["s"], event["E"]) for event in events} == {
        ("aggTrade", "BTCUSDT", ms(NOW + MINUTE))
    }


def test_raw_trades_are_those_of_rest(server: RunningExchange) -> None:
    with binance(server.binance_ws, "btcusdt@trade") as stream:
        server.set_clock(NOW + MINUTE)
        served = [row for row in rest(server, "trades", limit=1000) if row["time"] > ms(NOW)]
        events = until_id(stream, served[-1]["id"], "t")
    assert [(event["t"], event["p"], event["q"], event["T"], event["m"]) for event in events] == [
        (row["id"], row["price"], row["qty"], row["time"], row["isBuyerMaker"]) for row in served
    ]


def test_history_ends_where_the_stream_begins_while_the_clock_runs(server: RunningExchange) -> None:
    """Ten subscribers come while a minute passes each second; REST and stream share not one trade."""
    server.set_clock(NOW, speed=60.0)
    for _ in range(10):
        with binance(server.binance_ws, AGG) as stream:
            first = stream.next()["a"]
            # What REST shows now goes on from there without a hole.
            ids = [row["a"] for row in rest(server, "aggTrades", fromId=first - 5)]
            assert ids == list(range(first - 5, first - 5 + len(ids)))
            assert len(ids) > 5
            following = stream.next()["a"]
            assert following == first + 1


def test_closed_candles_are_those_of_rest(server: RunningExchange) -> None:
    end = NOW + 5 * MINUTE
    with binance(server.binance_ws, "btcusdt@kline_1m") as stream:
        for seconds in range(13, 300, 13):
            server.set_clock(NOW + timedelta(seconds=seconds))
            server.push()
        server.set_clock(end)
        closed = []
        while len(closed) < 5:
            kline = stream.next()["k"]
            if kline["x"]:
                closed.append(kline)
    served = rest(server, "klines", interval="1m", startTime=ms(NOW), endTime=ms(end) - 1)
    names = ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q", "B")
    assert [[kline[name] for name in names] for kline in closed] == served
    fills = [kline for kline in closed if kline["n"]]
    assert all(kline["L"] - kline["f"] + 1 == kline["n"] for kline in fills)


def test_a_running_candle_is_pushed_at_most_every_two_seconds(server: RunningExchange) -> None:
    with binance(server.binance_ws, "btcusdt@kline_1m") as stream:
        for tenths in range(1, 590):
            server.set_clock(NOW + timedelta(seconds=tenths / 10))
            server.push()
        server.set_clock(NOW + MINUTE)
        events = [stream.next()]
        while not events[-1]["k"]["x"]:
            events.append(stream.next())
    times = [event["E"] for event in events[:-1]]
    assert 10 < len(times) <= 30
    assert all(later - earlier >= 2_000 for earlier, later in pairwise(times))


def test_a_minute_without_a_trade_closes_flat(server: RunningExchange) -> None:
    with binance(server.binance_ws, "btceur@kline_1m") as stream:
        server.set_clock(NOW + 30 * MINUTE)
        closed = [kline for _ in range(30) if (kline := stream.next()["k"])["x"]]
    assert [kline["t"] for kline in closed] == [ms(NOW + n * MINUTE) for n in range(30)]
    empty = [at for at, kline in enumerate(closed) if kline["n"] == 0 and at]
    assert empty
    for at in empty:
        assert closed[at]["o"] == closed[at]["c"] == closed[at - 1]["c"]
        assert (closed[at]["f"], closed[at]["L"], closed[at]["v"]) == (-1, -1, "0.00000000")


def test_streams_can_be_named_in_the_address(server: RunningExchange) -> None:
    with client(f"{server.binance_ws}/{AGG}/ethusdt@aggTrade") as stream:
        stream.send({"method": "LIST_SUBSCRIPTIONS", "id": 3})
        assert stream.next() == {"result": [AGG, "ethusdt@aggTrade"], "id": 3}
        server.set_clock(NOW + MINUTE)
        assert stream.until(lambda event: event["s"] == "ETHUSDT")["e"] == "aggTrade"


def test_combined_streams_say_which_stream_an_event_is_of(server: RunningExchange) -> None:
    address = server.binance_ws.removesuffix("/ws") + f"/stream?streams={AGG}/btcusdt@trade"
    with client(address) as stream:
        stream.send({"method": "GET_PROPERTY", "params": ["combined"], "id": 1})
        assert stream.next() == {"result": True, "id": 1}
        server.set_clock(NOW + MINUTE)
        event = stream.next()
        assert event["stream"].endswith(event["data"]["e"])
        stream.until(lambda event: event["stream"] == "btcusdt@trade")


def test_a_connection_can_ask_for_combined_events(server: RunningExchange) -> None:
    with binance(server.binance_ws, AGG) as stream:
        stream.send({"method": "SET_PROPERTY", "params": ["combined", True], "id": 2})
        assert stream.next() == {"result": None, "id": 2}
        server.set_clock(NOW + MINUTE)
        assert stream.next()["stream"] == AGG


def test_times_come_in_microseconds_to_who_asks_for_them(server: RunningExchange) -> None:
    with client(f"{server.binance_ws}/{AGG}?timeUnit=MICROSECOND") as stream:
        stream.send({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        stream.next()
        server.set_clock(NOW + MINUTE)
        event = stream.next()
    assert datetime.fromtimestamp(event["T"] / 1e6, UTC) - NOW < MINUTE
    assert event["E"] == ms(NOW + MINUTE) * 1_000


def test_who_unsubscribes_hears_no_more(server: RunningExchange) -> None:
    with binance(server.binance_ws, AGG, "ethusdt@aggTrade") as stream:
        stream.send({"method": "UNSUBSCRIBE", "params": [AGG], "id": 312})
        assert stream.next() == {"result": None, "id": 312}
        server.set_clock(NOW + MINUTE)
        assert {stream.next()["s"] for _ in range(10)} == {"ETHUSDT"}


def test_a_stream_that_does_not_exist_is_ignored(server: RunningExchange) -> None:
    names = ["nothing@trade", "btcusdt@depth", "btcusdt@kline_7m", AGG]
    with binance(server.binance_ws, *names) as stream:
        stream.send({"method": "LIST_SUBSCRIPTIONS", "id": 3})
        assert stream.next()["result"] == [AGG]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ("no json", 3),
        ([], 2),
        ({"id": 1}, 2),
        ({"method": "DANCE", "id": 1}, 2),
        ({"method": "SUBSCRIBE", "params": AGG, "id": 1}, 2),
        ({"method": "SUBSCRIBE", "params": [5], "id": 1}, 2),
        ({"method": "SET_PROPERTY", "params": ["speed", True], "id": 1}, 0),
    ],
)
def test_a_wrong_request_is_answered_with_an_error(server: RunningExchange, request_: Any, code: int) -> None:
    with client(server.binance_ws) as stream:
        stream.send(request_)
        assert stream.next()["error"]["code"] == code


@pytest.mark.fixtures
def test_its_events_have_the_fields_of_captured_ones(server: RunningExchange, captures: Path) -> None:
    real = {}
    lines = (captures / "binance" / "ws_cryptofeed" / "BINANCE.ws.1.0").read_text().splitlines()
    trade = '{"e":"trade","E":1,"s":"A","t":1,"p":"1.00000000","q":"1.00000000","T":1,"m":true,"M":true}'
    for event in [orjson.loads(line.partition(": ")[2]) for line in lines if '"e":' in line]:
        real.setdefault(event["data"]["e"], event["data"])
    # As in the other capture, ws_spot_btcusdt.
    real["trade"] = orjson.loads(trade)
    with binance(server.binance_ws, AGG, "btcusdt@trade", "btcusdt@kline_1m") as stream:
        server.set_clock(NOW + MINUTE)
        ours: dict[str, Any] = {}
        while len(ours) < 3:
            event = stream.next()
            ours.setdefault(event["e"], event)
    for name, event in ours.items():
        assert list(event) == list(real[name])
        assert [type(value) for value in event.values()] == [type(value) for value in real[name].values()]
    theirs = real["kline"]["k"]
    assert list(ours["kline"]["k"]) == list(theirs)
    assert [type(value) for value in ours["kline"]["k"].values()] == [type(v) for v in theirs.values()]
