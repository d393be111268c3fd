"""Frames of exchanges' sockets, captured and invented."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from marketdata.fold import fold
from marketdata.market import Market
from marketdata.trade import TRADE_SCHEMA
from realtime.frames import FRAME_REJECT_SCHEMA, captured, read_binance, read_kraken_v1, read_kraken_v2

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BTC_USD = Market("kraken", "BTC/USD")
BTC_USDT = Market("binance", "BTC/USDT")


def texts(path: Path) -> list[str]:
    """The frames of a captured file."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [line.text for line in captured(lines)]


def kraken(**row: Any) -> str:
    """A frame of one Kraken trade, with other values where given."""
    trade = {
        "symbol": "BTC/USD",
        "side": "sell",
        "price": 68466.9,
        "qty": 0.01,
        "ord_type": "market",
        "trade_id": 7,
        "timestamp": "2024-05-27T12:33:10.826003Z",
    } | row
    return orjson.dumps({"channel": "trade", "type": "update", "data": [trade]}).decode()


def binance(**event: Any) -> str:
    """A frame of one aggTrade, with other values where given."""
    trade = {
        "e": "aggTrade",
        "E": 1633998523963,
        "s": "BTCUSDT",
        "a": 5,
        "p": "1.5",
        "q": "2",
        "f": 10,
        "l": 12,
        "T": 1633998523963,
        "m": False,
        "M": True,
    } | event
    return orjson.dumps(trade).decode()


@pytest.mark.fixtures
def test_captured_frames_of_kraken_v2_hold_four_trades_and_one_frame_that_is_no_json(captures: Path) -> None:
    found = read_kraken_v2(texts(captures / "kraken" / "ws_v2_messages.jsonl"), now=NOW)
    assert found.rejects.schema == FRAME_REJECT_SCHEMA
    assert found.rejects.select("reason", "raw", "frame").rows() == [
        ("not JSON", '"CloudFlare WebSocket proxy restarting"', 6)
    ]
    assert found.others == {"subscribe": 4, "ticker": 2, "book": 2, "heartbeat": 1, "status": 1, "ohlc": 1}
    trades = found.trades[BTC_USD]
    assert trades.schema == TRADE_SCHEMA
    assert trades.row(0) == (
        70635251,
        datetime(2024, 5, 27, 12, 33, 10, 826003, tzinfo=UTC),
        68466.9,
        0.01919415,
        "sell",
        1,
    )
    # Two fills of one order have one time and stay two.
    assert trades["trade_id"].to_list() == [70635251, 70635252, 70635299, 70635300]
    assert trades["time"][2] == trades["time"][3]


@pytest.mark.fixtures
def test_captured_frames_of_kraken_v1_hold_ten_trades_of_two_pairs(captures: Path) -> None:
    found = read_kraken_v1(texts(captures / "kraken" / "ws_v1_cryptofeed" / "KRAKEN.ws.48.0"), now=NOW)
    assert {str(market): len(trades) for market, trades in found.trades.items()} == {
        "kraken:XMR/USD": 4,
        "kraken:SC/EUR": 6,
    }
    assert found.others == {"systemStatus": 1, "subscriptionStatus": 10, "heartbeat": 30}
    assert found.rejects.is_empty()
    first = found.trades[Market("kraken", "XMR/USD")].row(0, named=True)
    assert first["time"] == datetime(2021, 4, 17, 16, 49, 2, 557535, tzinfo=UTC)
    assert (first["price"], first["amount"], first["side"]) == (354.11, 0.89594024, "sell")


@pytest.mark.fixtures
def test_a_captured_ticker_feed_of_kraken_v1_holds_no_trades(captures: Path) -> None:
    found = read_kraken_v1(texts(captures / "kraken" / "ws_v1_cryptofeed" / "KRAKEN.ws.49.0"), now=NOW)
    assert not found.trades
    assert found.others == {"systemStatus": 1, "subscriptionStatus": 10, "ticker": 18, "heartbeat": 31}


@pytest.mark.fixtures
def test_captured_trades_of_binance_make_the_candles_that_binance_made(captures: Path) -> None:
    folder = captures / "binance" / "ws_spot_btcusdt"
    frames = [text for name in ("20240808", "20240809") for text in texts(folder / f"btcusdt_{name}.gz")]
    found = read_binance(frames, now=NOW, stream="trade")
    trades = found.trades[BTC_USDT]
    assert len(trades) == 19_904
    assert (trades["trade_id"].diff().drop_nulls() == 1).all()
    assert found.rejects.is_empty()
    assert found.others == {"bookTicker": 73_174, "depthUpdate": 6_495, "unknown": 1}
    theirs = pl.read_ipc(captures / "binance" / "klines" / "BTC_USDT-1m_2024-07-26_2024-08-25.feather")
    ours = fold(trades, "1m")
    both = ours.join(
        theirs.with_columns(pl.col("date").cast(pl.Datetime("us", "UTC")).alias("open_time")), on="open_time"
    )
    whole = both.filter(
        pl.col("open_time").is_between(
            datetime(2024, 8, 8, 23, 55, tzinfo=UTC), datetime(2024, 8, 9, 0, 4, tzinfo=UTC)
        )
    )
    assert len(whole) == 10
    for name in ("open", "high", "low", "close"):
        assert (whole[name] == whole[f"{name}_right"]).all()
    assert ((whole["volume"] - whole["volume_right"]).abs() < 1e-8).all()


@pytest.mark.fixtures
def test_captured_combined_streams_of_binance_hold_two_aggregate_trades(captures: Path) -> None:
    found = read_binance(texts(captures / "binance" / "ws_cryptofeed" / "BINANCE.ws.1.0"), now=NOW)
    assert {str(market): trades["trade_id"].to_list() for market, trades in found.trades.items()} == {
        "binance:NKN/USDT": [15683430],
        "binance:LRC/BTC": [9213679],
    }
    assert found.others["kline"] == 2


@pytest.mark.fixtures
def test_a_captured_line_says_when_its_frame_was_received(captures: Path) -> None:
    with gzip.open(captures / "binance" / "ws_spot_btcusdt" / "btcusdt_20240808.gz", "rt") as lines:
        first = next(captured(lines))
    assert first.received == datetime(2024, 8, 8, 23, 54, 13, 937085, tzinfo=UTC)
    assert first.text.startswith('{"stream":"btcusdt@depth')


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"price": -1.0}, "price not positive"),
        ({"price": 0}, "price not positive"),
        ({"price": None}, "price absent or unreadable"),
        ({"price": [1]}, "price absent or unreadable"),
        ({"qty": 0.0}, "amount not positive"),
        ({"qty": 1e308, "price": 1e308}, "price times amount not finite"),
        ({"trade_id": None}, "trade id absent or unreadable"),
        ({"trade_id": 1.5}, "trade id absent or unreadable"),
        ({"timestamp": 1716813190}, "time absent or unreadable"),
        ({"timestamp": "yesterday"}, "time absent or unreadable"),
        ({"timestamp": "2030-01-01T00:00:00.000000Z"}, "time in the future"),
        ({"side": "hold"}, "side absent or unreadable"),
        ({"symbol": 5}, "symbol absent or unreadable"),
        ({"symbol": "BTC"}, "symbol unknown"),
    ],
)
def test_a_row_that_is_no_trade_is_refused_with_its_reason_and_its_frame(
    changed: dict[str, Any], reason: str
) -> None:
    found = read_kraken_v2([kraken(), kraken(**changed), kraken(trade_id=8)], now=NOW)
    assert found.rejects.select("reason", "frame").rows() == [(reason, 1)]
    assert orjson.loads(found.rejects["raw"][0]) == orjson.loads(kraken(**changed))["data"][0]
    assert found.trades[BTC_USD]["trade_id"].to_list() == [7, 8]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("", "not JSON"),
        (kraken()[:-20], "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ('{"channel":"trade","data":5}', "frame of trades without a list of them"),
        ('{"channel":"trade","data":[5]}', "symbol absent or unreadable"),
    ],
)
def test_a_frame_that_holds_no_trades_where_it_should_is_refused(frame: str | bytes, reason: str) -> None:
    found = read_kraken_v2([frame], now=NOW)
    assert found.rejects["reason"].to_list() == [reason]
    assert not found.trades


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("[1, 2]", "frame without channel name and pair"),
        ('[1,5,"trade","XMR/USD"]', "frame of trades without a list of them"),
        ('[1,[["1"]],"trade","XMR/USD"]', "time absent or unreadable"),
    ],
)
def test_a_frame_of_kraken_v1_that_is_no_trade_is_refused(frame: str, reason: str) -> None:
    assert read_kraken_v1([frame], now=NOW).rejects["reason"].to_list() == [reason]


def test_the_fills_of_an_aggregate_trade_are_counted() -> None:
    trades = read_binance([binance()], now=NOW).trades[BTC_USDT]
    assert trades.select("trade_id", "fills", "side").rows() == [(5, 3, "buy")]


def test_an_aggregate_trade_whose_fills_run_backwards_is_refused() -> None:
    found = read_binance([binance(f=12, l=10)], now=NOW)
    assert found.rejects["reason"].to_list() == ["fills not positive"]


def test_trades_under_other_ids_do_not_mix_with_aggregate_trades() -> None:
    raw = binance(e="trade", t=99)
    assert read_binance([raw, binance()], now=NOW).others == {"trade": 1}
    assert read_binance([raw, binance()], now=NOW, stream="trade").trades[BTC_USDT]["trade_id"].to_list() == [
        99
    ]


def test_times_of_binance_are_read_in_milliseconds_and_in_microseconds() -> None:
    frames = [binance(), binance(a=6, T=1633998523963000)]
    assert read_binance(frames, now=NOW).trades[BTC_USDT]["time"].n_unique() == 1


def test_the_answer_to_a_subscription_is_no_trade() -> None:
    assert read_binance(['{"result":null,"id":1}'], now=NOW).others == {"answer": 1}


def test_the_future_begins_five_minutes_after_now() -> None:
    soon = datetime(2024, 5, 27, 12, 33, 10, tzinfo=UTC)
    assert read_kraken_v2([kraken()], now=soon).rejects.is_empty()
    assert len(read_kraken_v2([kraken()], now=soon - timedelta(minutes=6)).rejects) == 1
