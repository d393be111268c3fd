"""Binance's endpoints, asked by unmodified ccxt."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import ccxt
import orjson
import pytest

from marketdata.exchange_sim import RunningExchange
from marketdata.exchange_sim.listing import LISTINGS, day_number
from marketdata.exchange_sim.market import DAY_NS, trades_of_day
from tests.exchange_sim.conftest import NOW, get

Client = Callable[[RunningExchange], Any]
XRP = next(one for one in LISTINGS if one.market == "binance:XRP/USDT")
DAY = date(2025, 6, 10)
START_MS = int(datetime(2025, 6, 10, tzinfo=UTC).timestamp() * 1_000)


def test_ccxt_lists_the_markets_under_unified_symbols(
    server: RunningExchange, binance_client: Client
) -> None:
    markets = binance_client(server).load_markets()
    assert {"BTC/USDT", "ETH/USDT", "XRP/USDT", "SOL/USDT"} <= set(markets)
    assert markets["BTC/USDT"]["id"] == "BTCUSDT"
    assert markets["BTC/USDT"]["precision"]["price"] == 0.01
    assert markets["BTC/USDT"]["precision"]["amount"] == 0.00001
    assert all(market["spot"] and market["active"] for market in markets.values())


def test_ccxt_fetches_trades_of_an_hour(server: RunningExchange, binance_client: Client) -> None:
    trades = binance_client(server).fetch_trades("XRP/USDT", since=START_MS, limit=1_000)
    assert START_MS <= trades[0]["timestamp"] < START_MS + 3_600_000
    assert int(trades[0]["info"]["a"]) == trades_of_day(7, XRP, day_number(DAY)).id[0]


def test_ccxt_fetches_raw_trades_behind_the_newest_agg_trades(
    server: RunningExchange, binance_client: Client
) -> None:
    client = binance_client(server)
    raw = client.fetch_trades("XRP/USDT", params={"fetchTradesMethod": "publicGetTrades"}, limit=100)
    last = client.publicGetAggTrades({"symbol": "XRPUSDT", "limit": 1})[0]
    ids = [int(trade["id"]) for trade in raw]
    assert ids == list(range(int(last["l"]) - 99, int(last["l"]) + 1))


def test_ccxt_fetches_candles(server: RunningExchange, binance_client: Client) -> None:
    candles = binance_client(server).fetch_ohlcv("ETH/USDT", "1m", since=START_MS, limit=1_000)
    assert [candle[0] for candle in candles] == list(range(START_MS, START_MS + 60_000_000, 60_000))


def test_paging_by_id_gives_every_trade_of_a_day_once(
    server: RunningExchange, binance_client: Client
) -> None:
    client = binance_client(server)
    rows = client.publicGetAggTrades({"symbol": "XRPUSDT", "startTime": START_MS, "limit": 1_000})
    while int(rows[-1]["T"]) < START_MS + 86_400_000:
        after = int(rows[-1]["a"]) + 1
        rows += client.publicGetAggTrades({"symbol": "XRPUSDT", "fromId": after, "limit": 1_000})
    served = [row for row in rows if int(row["T"]) < START_MS + 86_400_000]
    truth = trades_of_day(7, XRP, day_number(DAY))
    assert [int(row["a"]) for row in served] == truth.id.tolist()
    assert [int(row["T"]) for row in served] == (truth.time_ns // 1_000_000).tolist()
    assert [row["p"] for row in served] == [f"{tick / 10**4:.8f}" for tick in truth.ticks.tolist()]
    assert [row["q"] for row in served] == [f"{lot / 10:.8f}" for lot in truth.lots.tolist()]
    assert [row["m"] for row in served] == (~truth.taker_buys).tolist()
    firsts, lasts = ([int(row[name]) for row in rows] for name in ("f", "l"))
    assert firsts[1:] == [last + 1 for last in lasts[:-1]]
    assert sum(lasts) - sum(firsts) + len(rows) > 1.1 * len(rows)


def test_a_window_is_inclusive_on_both_sides(server: RunningExchange) -> None:
    url = f"{server.binance}/api/v3/aggTrades"
    rows = get(url, {"symbol": "XRPUSDT", "startTime": START_MS, "limit": 50})
    at = rows[20]["T"]
    inside = get(url, {"symbol": "XRPUSDT", "startTime": at, "endTime": at})
    assert inside == [row for row in rows if row["T"] == at]


def test_a_window_may_be_longer_than_an_hour_and_a_page_starts_at_its_start(server: RunningExchange) -> None:
    url = f"{server.binance}/api/v3/aggTrades"
    rows = get(url, {"symbol": "XRPUSDT", "startTime": START_MS, "endTime": START_MS + 40_000_000})
    assert len(rows) == 500
    assert rows[0]["a"] == trades_of_day(7, XRP, day_number(DAY)).id[0]


def test_without_a_start_the_newest_before_the_end_are_served(server: RunningExchange) -> None:
    url = f"{server.binance}/api/v3/aggTrades"
    newest = get(url, {"symbol": "XRPUSDT", "limit": 3})
    assert newest[-1]["T"] <= NOW.timestamp() * 1_000
    assert get(url, {"symbol": "XRPUSDT", "fromId": newest[-1]["a"] + 1}) == []
    before = get(url, {"symbol": "XRPUSDT", "endTime": START_MS - 1, "limit": 3})
    assert before[-1]["a"] == trades_of_day(7, XRP, day_number(DAY)).id[0] - 1


def test_times_are_in_microseconds_on_request(server: RunningExchange) -> None:
    url, query = f"{server.binance}/api/v3/aggTrades", {"symbol": "XRPUSDT", "startTime": START_MS}
    micros = get(url, query, {"X-MBX-TIME-UNIT": "MICROSECOND"})
    assert [row["T"] // 1_000 for row in micros] == [row["T"] for row in get(url, query)]
    assert micros[0]["T"] == trades_of_day(7, XRP, day_number(DAY)).time_ns[0] // 1_000
    assert micros[0]["T"] >= START_MS * 1_000 >= day_number(DAY) * DAY_NS // 1_000


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("aggTrades?symbol=NOPE", -1121),
        ("aggTrades", -1102),
        ("aggTrades?symbol=XRPUSDT&fromId=1&startTime=2", -1128),
        ("aggTrades?symbol=XRPUSDT&fromId=x", -1100),
        ("aggTrades?symbol=XRPUSDT&limit=0", -1130),
        ("klines?symbol=XRPUSDT&interval=7m", -1120),
        ("exchangeInfo?symbol=NOPE", -1121),
    ],
)
def test_errors_are_binances_own(server: RunningExchange, query: str, code: int) -> None:
    with pytest.raises(HTTPError) as caught:
        urlopen(f"{server.binance}/api/v3/{query}", timeout=60)
    with caught.value as response:
        assert response.status == 400
        assert orjson.loads(response.read())["code"] == code


def test_ccxt_raises_for_an_unknown_symbol(server: RunningExchange, binance_client: Client) -> None:
    with pytest.raises(ccxt.BadSymbol, match="Invalid symbol"):
        binance_client(server).publicGetAggTrades({"symbol": "NOPE"})


def test_each_answer_says_how_much_weight_is_used(server: RunningExchange) -> None:
    with urlopen(f"{server.binance}/api/v3/ping", timeout=60) as response:
        assert int(response.headers["X-MBX-USED-WEIGHT-1M"]) >= 1
        assert response.read() == b"{}"


def test_time_follows_the_clock(server: RunningExchange, binance_client: Client) -> None:
    assert binance_client(server).fetch_time() == NOW.timestamp() * 1_000
