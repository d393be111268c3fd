"""Captured frames of sockets: as markets, and sent again."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedOK, InvalidStatus

from marketdata.exchange_sim.capture_frames import captured_tapes, read_frames
from marketdata.market import Market
from realtime.frames import read_binance, read_kraken_v2
from tests.exchange_sim.conftest import get
from tests.exchange_sim.streaming import Client, binance, client, kraken

LATER = datetime(2026, 1, 1, tzinfo=UTC)
KRAKEN_V2 = "kraken/ws_v2_messages.jsonl"
BINANCE = "binance/ws_spot_btcusdt/btcusdt_20240808.gz"


def everything(stream: Client) -> list[str]:
    """All frames until the exchange closes."""
    texts = []
    try:
        while True:
            texts.append(stream.text())
    except ConnectionClosedOK:
        return texts


@pytest.mark.fixtures
def test_a_captured_file_is_sent_again_byte_for_byte_stray_frame_included(
    exchange_server: Any, captures: Path
) -> None:
    server = exchange_server(captures=captures)
    address = f"{server.kraken_ws.removesuffix('/kraken/v2')}/capture"
    with client(f"{address}/{KRAKEN_V2}") as stream:
        texts = everything(stream)
    assert texts == (captures / KRAKEN_V2).read_text().splitlines()
    assert read_kraken_v2(texts, now=LATER).rejects["reason"].to_list() == ["not JSON"]
    with client(f"{address}/{BINANCE}?speed=0") as stream:
        texts = everything(stream)
    assert texts == [text for _, text in read_frames(captures / BINANCE)]
    assert len(read_binance(texts, now=LATER, stream="trade").trades[Market("binance", "BTC/USDT")]) == 9_757


@pytest.mark.parametrize(
    ("path", "status"), [("nothing.gz", 404), ("../secret", 404), ("ws_a.txt?speed=fast", 400)]
)
def test_what_is_no_capture_is_not_sent(exchange_server: Any, tmp_path: Path, path: str, status: int) -> None:
    folder = tmp_path / "kraken"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "ws_a.txt").write_text('[1,[["1.5","2.0","1618678142.5","s","l",""]],"trade","XMR/USD"]\n')
    server = exchange_server(captures=folder)
    address = f"{server.kraken_ws.removesuffix('/kraken/v2')}/capture"
    with pytest.raises(InvalidStatus, match=str(status)), client(f"{address}/{path}"):
        pass


def test_a_captured_file_is_sent_at_the_pace_it_came_times_the_speed(
    exchange_server: Any, tmp_path: Path
) -> None:
    lines = [f"{1618678142 + n}.5: [{n}]" for n in range(5)]
    trade = '1618678150.5: [1,[["1.5","2.0","1618678142.5","s","l",""]],"trade","XMR/USD"]'
    (tmp_path / "KRAKEN.ws.1.0").write_text("\n".join([*lines, trade]))
    server = exchange_server(captures=tmp_path)
    address = f"{server.kraken_ws.removesuffix('/kraken/v2')}/capture/KRAKEN.ws.1.0?speed=4"
    begun = datetime.now(UTC)
    with client(address) as stream:
        texts = everything(stream)
    assert texts[:5] == [f"[{n}]" for n in range(5)]
    assert datetime.now(UTC) - begun >= timedelta(seconds=2)


@pytest.mark.fixtures
def test_trades_of_captured_frames_are_markets(captures: Path) -> None:
    tapes = {tape.listing.market: tape for tape in captured_tapes(captures)}
    assert {market: len(tape.rows(0, 10**6)) for market, tape in tapes.items()} == {
        "binance:BTC/USDT": 19_904,
        "binance:LRC/BTC": 1,
        "binance:NKN/USDT": 1,
        "binance:XRP/ETH": 12_477,
        "kraken:BTC/USD": 4,
        "kraken:GRT/ETH": 6_000,
        "kraken:SC/EUR": 6,
        "kraken:XMR/USD": 4,
    }


@pytest.mark.fixtures
def test_a_captured_market_streams_on_from_its_history(exchange_server: Any, captures: Path) -> None:
    seam = datetime(2024, 8, 9, tzinfo=UTC)
    server = exchange_server(captures=captures / "binance" / "ws_spot_btcusdt", now=seam)
    with binance(server.binance_ws, "btcusdt@aggTrade") as stream:
        newest = get(f"{server.binance}/api/v3/aggTrades", {"symbol": "BTCUSDT", "limit": 1})[0]
        server.set_clock(seam + timedelta(seconds=2))
        events = [stream.next() for _ in range(19)]
    with gzip.open(captures / BINANCE, "rt") as lines:
        real = [line for line in lines if '@trade"' in line][-19:]
    assert events[0]["a"] == newest["a"] + 1
    theirs = read_binance([line.split(" ", 1)[1] for line in real], now=LATER, stream="trade")
    trades = theirs.trades[Market("binance", "BTC/USDT")]
    assert [event["a"] for event in events] == trades["trade_id"].to_list()
    assert [float(event["p"]) for event in events] == trades["price"].to_list()


@pytest.mark.fixtures
def test_trades_captured_from_kraken_are_streamed_with_their_own_ids(
    exchange_server: Any, captures: Path
) -> None:
    seam = datetime(2024, 5, 27, 12, 40, tzinfo=UTC)
    server = exchange_server(captures=captures, now=seam)
    with kraken(server.kraken_ws, "trade", snapshot=True) as stream:
        before = stream.of("trade", "snapshot")["data"]
        server.set_clock(seam + timedelta(hours=1))
        after = stream.of("trade")["data"]
    real = read_kraken_v2((captures / KRAKEN_V2).read_text().splitlines(), now=LATER)
    rows = real.trades[Market("kraken", "BTC/USD")]
    assert [row["trade_id"] for row in before + after] == rows["trade_id"].to_list()
    assert [row["price"] for row in before + after] == rows["price"].to_list()
    assert [row["timestamp"] for row in after] == ["2024-05-27T12:43:11.798009Z"] * 2
