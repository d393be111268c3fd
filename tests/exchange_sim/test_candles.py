"""The exchange's own candles against a plain count over the trades it serves."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from marketdata.exchange_sim import RunningExchange
from tests.exchange_sim.conftest import NOW, get

NOW_S = int(NOW.timestamp())


def kraken_trades(
    server: RunningExchange, pair: str, since_ns: int
) -> list[tuple[Decimal, Decimal, Decimal]]:
    trades, cursor = [], str(since_ns - 1)
    while True:
        result = get(f"{server.kraken}/0/public/Trades", {"pair": pair, "since": cursor})["result"]
        rows, cursor = result[pair], result["last"]
        if not rows:
            return trades
        trades += [(Decimal(repr(row[2])), Decimal(row[0]), Decimal(row[1])) for row in rows]


@pytest.mark.parametrize(("pair", "minutes"), [("SOLUSD", 1), ("DOTUSD", 15), ("DOTUSD", 240)])
def test_kraken_candles_equal_a_plain_count_over_its_trades(
    server: RunningExchange, pair: str, minutes: int
) -> None:
    width = 60 * minutes
    answer = get(f"{server.kraken}/0/public/OHLC", {"pair": pair, "interval": minutes})["result"]
    candles = answer[pair]
    assert len(candles) == 720
    assert [candle[0] for candle in candles] == list(range(candles[-1][0] - 719 * width, NOW_S + 1, width))
    assert candles[-1][0] == NOW_S // width * width
    assert answer["last"] == candles[-2][0]
    trades = kraken_trades(server, pair, candles[0][0] * 1_000_000_000)
    by_open: dict[int, list[tuple[Decimal, Decimal]]] = {}
    for time, price, amount in trades:
        by_open.setdefault(int(time // width) * width, []).append((price, amount))
    close = None
    for opened, first, high, low, last, vwap, volume, count in candles:
        inside = by_open.pop(opened, [])
        assert count == len(inside)
        if not inside:
            assert len({first, high, low, last}) == 1
            assert close is None or Decimal(first) == close
            assert (Decimal(vwap), volume) == (0, "0.00000000")
            continue
        prices, total = [price for price, _ in inside], sum(amount for _, amount in inside)
        assert [Decimal(value) for value in (first, high, low, last)] == [
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
        ]
        assert Decimal(volume) == total
        places = Decimal(1).scaleb(-len(vwap.partition(".")[2]))
        assert abs(Decimal(vwap) - sum(price * amount for price, amount in inside) / total) <= places
        close = prices[-1]
    assert not by_open


def test_kraken_serves_candles_that_opened_after_since(server: RunningExchange) -> None:
    url, since = f"{server.kraken}/0/public/OHLC", NOW_S - 600
    rows = get(url, {"pair": "SOLUSD", "interval": 1, "since": since})["result"]["SOLUSD"]
    assert [row[0] for row in rows] == list(range(since + 60, NOW_S + 1, 60))
    future = get(url, {"pair": "SOLUSD", "interval": 1, "since": NOW_S + 600})["result"]["SOLUSD"]
    assert [row[0] for row in future] == [NOW_S]


def binance_trades(server: RunningExchange, symbol: str, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
    url = f"{server.binance}/api/v3/aggTrades"
    rows = get(url, {"symbol": symbol, "startTime": start_ms, "limit": 1_000})
    while rows[-1]["T"] <= end_ms:
        page = get(url, {"symbol": symbol, "fromId": rows[-1]["a"] + 1, "limit": 1_000})
        if not page:
            break
        rows += page
    return [row for row in rows if row["T"] <= end_ms]


@pytest.mark.parametrize(
    ("symbol", "interval", "width"),
    [("XRPUSDT", "1m", 60), ("BTCEUR", "30m", 1_800), ("BTCEUR", "1d", 86_400)],
)
def test_binance_klines_equal_a_plain_count_over_its_trades(
    server: RunningExchange, symbol: str, interval: str, width: int
) -> None:
    start = int(datetime(2025, 6, 10, tzinfo=UTC).timestamp())
    end = min(start + 60 * width, NOW_S)
    klines = get(
        f"{server.binance}/api/v3/klines",
        {"symbol": symbol, "interval": interval, "startTime": start * 1_000, "endTime": end * 1_000 - 1},
    )
    assert [kline[0] for kline in klines] == [second * 1_000 for second in range(start, end, width)]
    by_open: dict[int, list[dict[str, Any]]] = {}
    for row in binance_trades(server, symbol, start * 1_000, end * 1_000 - 1):
        by_open.setdefault(row["T"] // (width * 1_000) * width * 1_000, []).append(row)
    for opened, first, high, low, last, volume, closed, quote, count, buys, buy_quote, ignored in klines:
        rows = by_open.pop(opened, [])
        assert closed == opened + width * 1_000 - 1
        assert ignored == "0"
        prices = [Decimal(row["p"]) for row in rows]
        bought = [row for row in rows if not row["m"]]
        if rows:
            assert [Decimal(value) for value in (first, high, low, last)] == [
                prices[0],
                max(prices),
                min(prices),
                prices[-1],
            ]
        assert Decimal(volume) == sum(Decimal(row["q"]) for row in rows)
        assert Decimal(buys) == sum(Decimal(row["q"]) for row in bought)
        assert float(quote) == pytest.approx(
            float(sum(Decimal(row["p"]) * Decimal(row["q"]) for row in rows)), rel=1e-12
        )
        assert float(buy_quote) == pytest.approx(
            float(sum(Decimal(row["p"]) * Decimal(row["q"]) for row in bought)), rel=1e-12
        )
        assert count == sum(row["l"] - row["f"] + 1 for row in rows)
    assert not by_open


def test_binance_weeks_open_on_monday(server: RunningExchange) -> None:
    klines = get(f"{server.binance}/api/v3/klines", {"symbol": "BTCEUR", "interval": "1w", "limit": 3})
    days = [datetime.fromtimestamp(kline[0] / 1_000, UTC) for kline in klines]
    assert [day.weekday() for day in days] == [0, 0, 0]
    assert days[-1] == datetime(2025, 6, 9, tzinfo=UTC)


def test_wider_candles_hold_what_the_narrower_hold(server: RunningExchange) -> None:
    url, start = f"{server.binance}/api/v3/klines", int(datetime(2025, 6, 2, tzinfo=UTC).timestamp()) * 1_000
    (week,) = get(url, {"symbol": "BTCEUR", "interval": "1w", "startTime": start, "limit": 1})
    days = get(url, {"symbol": "BTCEUR", "interval": "1d", "startTime": start, "limit": 7})
    assert week[1] == days[0][1]
    assert week[4] == days[-1][4]
    assert Decimal(week[2]) == max(Decimal(day[2]) for day in days)
    assert Decimal(week[3]) == min(Decimal(day[3]) for day in days)
    assert Decimal(week[5]) == sum(Decimal(day[5]) for day in days)
    assert week[8] == sum(day[8] for day in days)


def test_candles_of_the_same_day_are_the_same_later(
    exchange_server: Callable[..., RunningExchange],
) -> None:
    early, late = exchange_server(now=NOW), exchange_server(now=NOW.replace(day=20))
    query = {"symbol": "XRPUSDT", "interval": "5m", "startTime": 1_749_513_600_000, "limit": 288}
    assert get(f"{early.binance}/api/v3/klines", query) == get(f"{late.binance}/api/v3/klines", query)
