"""Kraken's WebSocket protocol, version 2, as the local exchange speaks it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from marketdata.exchange_sim import RunningExchange
from marketdata.market import Market
from marketdata.sources import rows as read
from realtime.frames import kraken_v2_trades, read_kraken_v2
from tests.exchange_sim.conftest import NOW, get
from tests.exchange_sim.streaming import kraken

MINUTE = timedelta(minutes=1)


def rest_trades(server: RunningExchange, **parameters: Any) -> list[Any]:
    """The rows of one page of REST."""
    url = f"{server.kraken}/0/public/Trades"
    rows = get(url, {"pair": "XBTUSD", **parameters})["result"]["XXBTZUSD"]
    assert isinstance(rows, list)
    return rows


def ns(time: datetime) -> int:
    """Kraken's cursor of a time."""
    return int(time.timestamp()) * 1_000_000_000


def captured(captures: Path) -> list[Any]:
    """The captured frames that are JSON."""
    lines = (captures / "kraken" / "ws_v2_messages.jsonl").read_text().splitlines()
    return [orjson.loads(line) for line in lines if line.startswith("{")]


def test_the_exchange_says_that_it_is_online(server: RunningExchange) -> None:
    with kraken(server.kraken_ws), kraken(server.kraken_ws) as second:
        second.send({"method": "ping", "req_id": 4})
        assert second.next()["method"] == "pong"


def test_a_trade_is_pushed_when_the_clock_passes_it(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade") as client:
        assert client.is_quiet(0.1)
        server.set_clock(NOW + MINUTE)
        rows = client.of("trade")["data"]
        assert client.is_quiet(0.1)
    since_now = rest_trades(server, since=ns(NOW))
    assert [row["trade_id"] for row in rows] == [row[6] for row in since_now]
    assert [(row["price"], row["qty"]) for row in rows] == [
        (float(price), float(amount)) for price, amount, *_ in since_now
    ]


def test_pushed_trades_and_those_of_rest_are_the_same_to_the_last_field(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade") as client:
        server.set_clock(NOW + 10 * MINUTE)
        rows = client.all_until_id(rest_trades(server)[-1][6], field="trade_id")
    pushed = kraken_v2_trades(rows, now=NOW + 10 * MINUTE).accepted
    served = rest_trades(server, since=ns(NOW))
    assert pushed["trade_id"].to_list() == [row[6] for row in served]
    assert pushed["time"].to_list() == read.times_from_seconds("time", [row[2] for row in served]).to_list()
    assert pushed["side"].to_list() == [{"b": "buy", "s": "sell"}[row[3]] for row in served]


def test_history_ends_where_the_stream_begins_whenever_one_subscribes(server: RunningExchange) -> None:
    """Twenty subscribers come at different times; each has every trade once, across midnight too."""
    begin = datetime(2025, 6, 11, 23, 55, tzinfo=UTC)
    server.set_clock(begin)
    step = timedelta(seconds=31.4)
    history, streams, clients = [], [], []
    for turn in range(20):
        connection = kraken(server.kraken_ws, "trade", snapshot=True)
        client = connection.__enter__()
        clients.append(connection)
        history.append([row["trade_id"] for row in client.of("trade", "snapshot")["data"]])
        streams.append(client)
        server.set_clock(begin + (turn + 1) * step)
    end = begin + 20 * step
    assert end.day == 12
    last = rest_trades(server)[-1][6]
    for before, client in zip(history, streams, strict=True):
        after = (
            [row["trade_id"] for row in client.all_until_id(last, field="trade_id")]
            if before[-1] < last
            else []
        )
        assert before + after == list(range(before[0], last + 1))
    for connection in clients:
        connection.__exit__(None, None, None)


def test_a_snapshot_holds_the_last_fifty_trades_of_rest(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade", snapshot=True) as client:
        rows = client.of("trade", "snapshot")["data"]
    assert [row["trade_id"] for row in rows] == [row[6] for row in rest_trades(server, count=50)]


def test_trades_that_the_exchange_lost_are_not_pushed_but_counted_in_candles(server: RunningExchange) -> None:
    first = rest_trades(server)[-1][6] + 1
    server.hide("kraken:BTC/USD", [(first, first + 4)])
    try:
        with (
            kraken(server.kraken_ws, "trade") as trades,
            kraken(server.kraken_ws, "ohlc", interval=1, snapshot=False) as candles,
        ):
            server.set_clock(NOW + timedelta(seconds=59))
            rows = trades.of("trade")["data"]
            candle = candles.of("ohlc")["data"][0]
    finally:
        server.hide("kraken:BTC/USD", [])
    assert rows[0]["trade_id"] == first + 5
    assert candle["trades"] == len(rows) + 5


def test_a_clock_put_back_pushes_again_what_it_passes_again(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade") as client:
        server.set_clock(NOW + MINUTE)
        first = client.of("trade")["data"]
        server.set_clock(NOW)
        server.push()
        assert client.is_quiet(0.1)
        server.set_clock(NOW + MINUTE)
        assert client.of("trade")["data"] == first


def test_a_frame_holds_at_most_a_hundred_trades(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade") as client:
        server.set_clock(NOW + 10 * MINUTE)
        assert len(client.of("trade")["data"]) == 100


def test_a_quiet_socket_beats_once_something_was_subscribed(exchange_server: Any) -> None:
    server = exchange_server(now=NOW)
    with kraken(server.kraken_ws) as client:
        assert client.is_quiet(1.3)
    with kraken(server.kraken_ws, "trade") as client:
        assert client.next() == {"channel": "heartbeat"}


def test_candles_are_pushed_with_each_trade_and_agree_with_rest(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "ohlc", interval=1) as client:
        candles = {row["interval_begin"]: row for row in client.of("ohlc", "snapshot")["data"]}
        assert len(candles) == 10
        for seconds in range(7, 190, 7):
            server.set_clock(NOW + timedelta(seconds=seconds))
            server.push()
        server.set_clock(NOW + 4 * MINUTE)
        theirs = {}
        url = f"{server.kraken}/0/public/OHLC"
        for opened, *row in get(url, {"pair": "XBTUSD", "interval": 1})["result"]["XXBTZUSD"]:
            theirs[f"{datetime.fromtimestamp(opened, UTC):%Y-%m-%dT%H:%M:%S}.000000000Z"] = row
        last = max(opened for opened, row in theirs.items() if row[6])
        while candles.get(last, {}).get("trades") != theirs[last][6]:
            candles |= {row["interval_begin"]: row for row in client.of("ohlc")["data"]}
    assert len(candles) >= 13
    for opened, ours in candles.items():
        *ohlc, vwap, volume, count = theirs[opened]
        assert [ours[name] for name in ("open", "high", "low", "close")] == [float(text) for text in ohlc]
        assert (ours["vwap"], ours["volume"], ours["trades"]) == (float(vwap), float(volume), count)


def test_wide_candles_go_on_from_history(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "ohlc", interval=1440) as client:
        before = client.of("ohlc", "snapshot")["data"]
        server.set_clock(NOW + MINUTE)
        after = client.of("ohlc")["data"][0]
    assert len(before) == 10
    assert after["interval_begin"] == before[-1]["interval_begin"] == "2025-06-11T00:00:00.000000000Z"
    assert after["trades"] > before[-1]["trades"] > 10_000


def test_who_unsubscribes_hears_no_more(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade") as client:
        params = {"channel": "trade", "symbol": ["BTC/USD"]}
        client.send({"method": "unsubscribe", "params": params, "req_id": 9})
        answer = client.next()
        assert (answer["method"], answer["success"], answer["req_id"]) == ("unsubscribe", True, 9)
        server.set_clock(NOW + MINUTE)
        assert client.is_quiet()
        client.send({"method": "unsubscribe", "params": params})
        assert client.next()["error"] == "Subscription Not Found"


def test_each_symbol_of_a_subscription_is_answered(server: RunningExchange) -> None:
    with kraken(server.kraken_ws) as client:
        params = {"channel": "trade", "symbol": ["BTC/USD", "XBT/USD", "ETH/USD"]}
        client.send({"method": "subscribe", "params": params, "req_id": 3})
        answers = [client.next() for _ in range(3)]
    assert [answer["success"] for answer in answers] == [True, False, True]
    assert answers[1]["error"] == "Currency pair not supported XBT/USD"
    assert {answer["req_id"] for answer in answers} == {3}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ("no json", "Malformed request"),
        ("[]", "Malformed request"),
        ({"method": "subscribe"}, "Malformed request"),
        ({"method": "subscribe", "params": {"channel": "trade", "symbol": 5}}, "Malformed request"),
        ({"method": "dance"}, "Method not found: 'dance'"),
        (
            {"method": "subscribe", "params": {"channel": "book", "symbol": ["BTC/USD"]}},
            "Channel not supported: book",
        ),
        (
            {"method": "subscribe", "params": {"channel": "ohlc", "symbol": ["BTC/USD"], "interval": 2}},
            "Subscription ohlc interval not supported",
        ),
        (
            {"method": "subscribe", "params": {"channel": "trade", "symbol": ["BTC/USD"]}},
            "Already subscribed",
        ),
    ],
)
def test_a_wrong_request_is_answered_with_an_error(
    server: RunningExchange, request_: Any, error: str
) -> None:
    with kraken(server.kraken_ws, "trade") as client:
        client.send(request_)
        answer = client.until(lambda frame: "error" in frame)
        assert answer["error"] == error
        assert not answer["success"]


@pytest.mark.fixtures
def test_its_frames_have_the_fields_of_captured_ones(server: RunningExchange, captures: Path) -> None:
    real = {}
    for frame in captured(captures):
        key = (frame.get("channel") or frame.get("result", {}).get("channel"), frame.get("type"))
        real.setdefault(key, frame)
    with kraken(server.kraken_ws) as client:
        client.send(
            {
                "method": "subscribe",
                "params": {"channel": "trade", "symbol": ["BTC/USD"], "snapshot": True},
                "req_id": 0,
            }
        )
        ours = {("trade", None): client.next(), ("trade", "snapshot"): client.next()}
        client.send(
            {"method": "subscribe", "params": {"channel": "ohlc", "symbol": ["BTC/USD"]}, "req_id": 1}
        )
        ours |= {("ohlc", None): client.next(), ("ohlc", "snapshot"): client.next()}
        server.set_clock(NOW + timedelta(seconds=20))
        ours[("trade", "update")] = client.of("trade")
    for key, frame in ours.items():
        assert set(frame) == set(real[key]), key
        for part in ("result", "data"):
            if part in frame:
                mine, theirs = (f[part][0] if part == "data" else f[part] for f in (frame, real[key]))
                assert list(mine) == list(theirs), key
                assert {type(value) for value in mine.values()} == {type(value) for value in theirs.values()}


def test_its_frames_parse_to_trades(server: RunningExchange) -> None:
    with kraken(server.kraken_ws, "trade", symbol="ETH/USD") as client:
        server.set_clock(NOW + MINUTE)
        text = client.text()
    found = read_kraken_v2([text], now=NOW + MINUTE)
    assert found.rejects.is_empty()
    assert list(found.trades) == [Market("kraken", "ETH/USD")]
