"""Captured files, served as they were."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ccxt
import pytest

from marketdata.errors import UsageError
from marketdata.exchange_sim import RunningExchange
from marketdata.exchange_sim.capture import binance_tape, kraken_tape
from marketdata.exchange_sim.capture_frames import captured_tapes
from tests.exchange_sim.conftest import get, get_bytes

fixtures = pytest.mark.fixtures


def pages(captures: Path) -> list[tuple[str, bytes]]:
    found = []
    for path in sorted((captures / "kraken" / "rest_grteth").glob("page*.json.gz")):
        match = re.search(r"since_(\d+)", path.name)
        assert match is not None
        found.append((match[1], gzip.decompress(path.read_bytes())))
    assert len(found) == 6
    return found


@fixtures
def test_each_captured_page_is_served_byte_for_byte_at_its_cursor(
    exchange_server: Callable[..., RunningExchange], captures: Path
) -> None:
    server = exchange_server(captures=captures)
    for since, body in pages(captures):
        assert get_bytes(f"{server.kraken}/0/public/Trades?pair=GRTETH&since={since}") == body.strip()


@fixtures
def test_following_last_through_ccxt_gives_exactly_the_six_thousand_trades(
    exchange_server: Callable[..., RunningExchange], captures: Path, kraken_client: Callable[..., Any]
) -> None:
    client = kraken_client(exchange_server(captures=captures))
    assert "GRT/ETH" in client.load_markets()
    rows: list[Any] = []
    cursor = str(1_616_889_600 * 10**9 - 1)
    while True:
        result = client.publicGetTrades({"pair": "GRTETH", "since": cursor, "count": 1_000})["result"]
        if not result["GRTETH"]:
            break
        rows += result["GRTETH"]
        cursor = result["last"]
    assert rows == [row for _, body in pages(captures) for row in json.loads(body)["result"]["GRTETH"]]
    assert len(rows) == 6_000


@fixtures
@pytest.mark.parametrize("count", [7, 333])
def test_pages_of_another_size_lose_and_repeat_nothing(
    exchange_server: Callable[..., RunningExchange], captures: Path, count: int
) -> None:
    server = exchange_server(captures=captures)
    url, rows, cursor = f"{server.kraken}/0/public/Trades", [], "0"
    for _ in range(2_000 // count):
        result = get(url, {"pair": "GRTETH", "since": cursor, "count": count})["result"]
        rows += result["GRTETH"]
        cursor = result["last"]
    truth = [row for _, body in pages(captures) for row in json.loads(body)["result"]["GRTETH"]]
    assert rows == truth[: len(rows)]


@fixtures
def test_captured_agg_trades_are_served_as_binance_served_them(
    exchange_server: Callable[..., RunningExchange], captures: Path, binance_client: Callable[..., Any]
) -> None:
    client = binance_client(exchange_server(captures=captures))
    trades = json.loads(
        gzip.decompress((captures / "binance/aggtrades_xrpeth/XRP_OLD-trades.json.gz").read_bytes())
    )
    rows: list[Any] = []
    next_id = trades[0]["info"]["a"]
    while page := client.publicGetAggTrades({"symbol": "XRPETH", "fromId": next_id, "limit": 1_000}):
        rows += page
        next_id = int(page[-1]["a"]) + 1
    as_text = [{name: str(value) for name, value in row.items()} for row in rows]
    assert as_text == [{name: str(value) for name, value in row["info"].items()} for row in trades]
    assert "XRP/ETH" in client.load_markets()


def test_rows_that_are_given_are_served(exchange_server: Callable[..., RunningExchange]) -> None:
    page = {
        "error": [],
        "result": {
            "XBTEUR": [
                ["100.5", "0.25000000", 1616889746.5, "b", "l", "", 41],
                ["100.4", "1.00000000", 1616889746.5, "s", "m", "", 42],
            ],
            "last": "1616889746500000001",
        },
    }
    server = exchange_server(tapes=(kraken_tape([page]),))
    url = f"{server.kraken}/0/public/Trades"
    assert get(url, {"pair": "XBTEUR", "since": 1616889746}) == page
    assert get(url, {"pair": "XBTEUR", "since": 0, "count": 1})["result"]["last"] == "1616889746500000000"


def test_a_foreign_file_is_not_taken_for_a_capture(tmp_path: Path) -> None:
    (tmp_path / "page1_since_5.json").write_text('{"error": []}')
    with pytest.raises(UsageError, match="not an answer of Kraken"):
        captured_tapes(tmp_path)
    (tmp_path / "page1_since_5.json").write_text("<html>")
    with pytest.raises(UsageError, match="cannot be read"):
        captured_tapes(tmp_path)
    with pytest.raises(UsageError, match="aggTrades"):
        binance_tape([{"symbol": "XRP/ETH", "id": 1}])


def test_an_empty_folder_of_captures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No captured market"):
        captured_tapes(tmp_path)


@fixtures
def test_a_market_that_is_not_captured_stays_unknown_to_ccxt(
    exchange_server: Callable[..., RunningExchange], captures: Path, kraken_client: Callable[..., Any]
) -> None:
    with pytest.raises(ccxt.BadSymbol):
        kraken_client(exchange_server(captures=captures)).fetch_trades("GRT/XYZ")
