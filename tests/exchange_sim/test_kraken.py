"""Kraken's endpoints, asked by unmodified ccxt."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import ccxt
import pytest

from marketdata.exchange_sim import RunningExchange
from marketdata.exchange_sim.listing import LISTINGS, day_number
from marketdata.exchange_sim.market import DAY_NS, trades_of_day
from tests.exchange_sim.conftest import NOW, get

Client = Callable[[RunningExchange], Any]
SOL = next(one for one in LISTINGS if one.market == "kraken:SOL/USD")
DAY = date(2025, 6, 10)
START_NS = day_number(DAY) * DAY_NS


def test_ccxt_lists_the_markets_under_unified_symbols(server: RunningExchange, kraken_client: Client) -> None:
    markets = kraken_client(server).load_markets()
    assert {"BTC/USD", "ETH/USD", "SOL/USD", "DOGE/USD", "ETH/BTC", "BTC/EUR"} <= set(markets)
    assert markets["BTC/USD"]["id"] == "XXBTZUSD"
    assert markets["BTC/USD"]["precision"]["price"] == 0.1
    assert markets["DOGE/USD"]["info"]["wsname"] == "XDG/USD"
    assert all(market["active"] for market in markets.values())


def test_ccxt_fetches_the_newest_trades(server: RunningExchange, kraken_client: Client) -> None:
    trades = kraken_client(server).fetch_trades("BTC/USD")
    assert len(trades) == 1_000
    assert trades[-1]["timestamp"] <= NOW.timestamp() * 1_000
    assert {trade["side"] for trade in trades} == {"buy", "sell"}
    assert all(trade["price"] > 0 and trade["amount"] > 0 for trade in trades)


def test_ccxt_fetches_candles_and_the_last_is_running(server: RunningExchange, kraken_client: Client) -> None:
    candles = kraken_client(server).fetch_ohlcv("ETH/USD", "5m")
    assert len(candles) == 720
    assert candles[-1][0] == NOW.timestamp() * 1_000


def test_following_last_gives_every_trade_of_a_day_once(
    server: RunningExchange, kraken_client: Client
) -> None:
    client = kraken_client(server)
    rows: list[Any] = []
    cursor = str(START_NS - 1)
    while not rows or rows[-1][2] < (START_NS + DAY_NS) / 1e9:
        result = client.publicGetTrades({"pair": "SOLUSD", "since": cursor, "count": 1_000})["result"]
        rows += result["SOLUSD"]
        cursor = result["last"]
    served = [row for row in rows if row[2] < (START_NS + DAY_NS) / 1e9]
    truth = trades_of_day(7, SOL, day_number(DAY))
    assert [row[6] for row in served] == truth.id.tolist()
    assert [Decimal(row[0]) for row in served] == [Decimal(tick).scaleb(-2) for tick in truth.ticks.tolist()]
    assert [Decimal(row[1]) for row in served] == [Decimal(lot).scaleb(-8) for lot in truth.lots.tolist()]
    assert [Decimal(repr(row[2])) for row in served] == [
        Decimal(shown).scaleb(-7) for shown in truth.shown.tolist()
    ]
    assert [row[3] == "b" for row in served] == truth.taker_buys.tolist()
    assert rows[len(served)][6] == served[-1][6] + 1


def test_a_page_may_end_inside_rows_of_one_time_and_the_next_goes_on_there(server: RunningExchange) -> None:
    shared = Counter(trades_of_day(7, SOL, day_number(DAY)).shown[:2_000].tolist())
    shown, size = shared.most_common(1)[0]
    cursor, ids, times = str(shown * 100 - 1), [], []
    for _ in range(size):
        result = get(f"{server.kraken}/0/public/Trades", {"pair": "SOLUSD", "since": cursor, "count": 1})
        (row,) = result["result"]["SOLUSD"]
        ids.append(row[6])
        times.append(row[2])
        cursor = result["result"]["last"]
    assert size > 2
    assert len(set(times)) == 1
    assert ids == list(range(ids[0], ids[0] + size))


def test_the_cursor_is_exclusive(server: RunningExchange) -> None:
    first = get(f"{server.kraken}/0/public/Trades", {"pair": "SOLUSD", "since": START_NS, "count": 1})
    at = first["result"]["last"]
    again = get(f"{server.kraken}/0/public/Trades", {"pair": "SOLUSD", "since": at, "count": 1})
    assert again["result"]["SOLUSD"][0][6] == first["result"]["SOLUSD"][0][6] + 1


@pytest.mark.parametrize("name", ["XXBTZUSD", "XBTUSD", "XBT/USD", "BTC/USD"])
def test_answers_use_the_canonical_name_whichever_was_asked(server: RunningExchange, name: str) -> None:
    result = get(f"{server.kraken}/0/public/Trades", {"pair": name, "count": 2})["result"]
    assert list(result) == ["XXBTZUSD", "last"]
    assert len(result["XXBTZUSD"]) == 2


def test_since_may_be_in_seconds(server: RunningExchange) -> None:
    url = f"{server.kraken}/0/public/Trades"
    seconds = START_NS // 1_000_000_000 + 60
    assert (
        get(url, {"pair": "SOLUSD", "since": seconds})["result"]
        == get(url, {"pair": "SOLUSD", "since": seconds * 1_000_000_000})["result"]
    )


def test_nothing_after_now_is_served_and_the_cursor_stays(server: RunningExchange) -> None:
    cursor = str(int(NOW.timestamp()) * 1_000_000_000)
    result = get(f"{server.kraken}/0/public/Trades", {"pair": "XBTUSD", "since": cursor})["result"]
    assert result == {"XXBTZUSD": [], "last": cursor}


def test_the_clock_brings_new_trades(server: RunningExchange) -> None:
    url, cursor = f"{server.kraken}/0/public/Trades", str(int(NOW.timestamp()) * 1_000_000_000)
    server.set_clock(NOW + timedelta(minutes=5))
    rows = get(url, {"pair": "XBTUSD", "since": cursor})["result"]["XXBTZUSD"]
    assert rows
    assert rows[-1][2] <= (NOW + timedelta(minutes=5)).timestamp()


def test_parameters_may_come_in_a_form(server: RunningExchange) -> None:
    url, form = f"{server.kraken}/0/public/Trades", {"pair": "SOLUSD", "since": str(START_NS), "count": "5"}
    with urlopen(url, data=urlencode(form).encode(), timeout=60) as response:
        assert response.read() == urlopen_bytes(f"{url}?{urlencode(form)}")


def urlopen_bytes(url: str) -> bytes:
    with urlopen(url, timeout=60) as response:
        return bytes(response.read())


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("Trades?pair=NOPE", "EQuery:Unknown asset pair"),
        ("Trades", "EGeneral:Invalid arguments"),
        ("Trades?pair=SOLUSD&since=yesterday", "EGeneral:Invalid arguments"),
        ("OHLC?pair=SOLUSD&interval=7", "EGeneral:Invalid arguments"),
        ("Assets?asset=NOPE", "EQuery:Unknown asset"),
        ("Nope", "EGeneral:Unknown method"),
    ],
)
def test_errors_are_krakens_own(server: RunningExchange, query: str, error: str) -> None:
    assert get(f"{server.kraken}/0/public/{query}") == {"error": [error]}


def test_ccxt_raises_for_an_unknown_pair(server: RunningExchange, kraken_client: Client) -> None:
    with pytest.raises(ccxt.ExchangeError, match="Unknown asset pair"):
        kraken_client(server).publicGetTrades({"pair": "NOPE"})


def test_time_and_status_follow_the_clock(server: RunningExchange, kraken_client: Client) -> None:
    assert get(f"{server.kraken}/0/public/Time")["result"]["unixtime"] == NOW.timestamp()
    status = get(f"{server.kraken}/0/public/SystemStatus")["result"]
    assert status == {"status": "online", "timestamp": "2025-06-11T12:00:00Z"}
    assert kraken_client(server).fetch_status()["status"] == "ok"


def test_ids_go_on_over_midnight(server: RunningExchange) -> None:
    before = (START_NS + DAY_NS) - 60_000_000_000
    rows = get(f"{server.kraken}/0/public/Trades", {"pair": "XBTUSD", "since": before})["result"]["XXBTZUSD"]
    days = {datetime.fromtimestamp(row[2], UTC).date() for row in rows}
    assert len(days) == 2
    assert [row[6] for row in rows] == list(range(rows[0][6], rows[0][6] + 1_000))
