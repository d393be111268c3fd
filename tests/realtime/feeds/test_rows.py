"""Rows of sockets: read fast or in full, and as REST's rows are read."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from realtime.feeds import plain
from realtime.feeds.rows import trades_of
from realtime.frames import binance_trades, kraken_v2_trades
from tests.anything import JSON_VALUES

NOW = datetime(2025, 6, 8, 12, tzinfo=UTC)
KRAKEN: dict[str, Any] = {
    "symbol": "BTC/USD",
    "side": "buy",
    "price": 109601.2,
    "qty": 0.04561994,
    "ord_type": "market",
    "trade_id": 83449369,
    "timestamp": "2025-05-27T11:24:03.847761Z",
}
BINANCE: dict[str, Any] = {
    "e": "aggTrade",
    "E": 1672515782136,
    "s": "BNBBTC",
    "a": 12345,
    "p": "0.00100000",
    "q": "100.50000000",
    "f": 100,
    "l": 105,
    "T": 1672515782136,
    "m": True,
    "M": True,
}
ODD: list[Any] = [
    None,
    True,
    [],
    {},
    "",
    "abc",
    "1_000",
    " 1",
    "1e3",
    ".5",
    "5.",
    "-1",
    "0",
    "٣",
    "nan",
    "inf",
]
ODD += [0, -1, 1, 2**63, 2**200, 1e300, -0.0, float("nan"), float("inf"), "buy", "sell", 1672515782136123]
ODD += ["2025-05-27T11:24:03Z", "2099-05-27T11:24:03.847761Z", "2025-05-27 11:24:03.847761Z"]
ODD += ["2025-13-27T11:24:03.847761Z", "2025-W22-2T11:24:03.847761", "2025-05-27T11:24:03.847761+"]


@given(data=st.data())
def test_the_fast_reader_takes_only_what_the_full_one_takes_and_reads_it_alike(data: st.DataObject) -> None:
    of_kraken = data.draw(st.booleans())
    row, full, fast = (
        (KRAKEN, kraken_v2_trades, plain.kraken_v2)
        if of_kraken
        else (BINANCE, binance_trades, plain.binance_agg)
    )
    numbers = st.floats(1e-9, 1e9) if of_kraken else st.decimals(0, 10**9, places=8).map(str)
    rows = []
    for _ in range(data.draw(st.integers(1, 4))):
        changed = row | {key: data.draw(numbers) for key in (("price", "qty") if of_kraken else ("p", "q"))}
        for key in data.draw(st.sets(st.sampled_from(sorted(row)), max_size=2)):
            changed[key] = data.draw(st.sampled_from(ODD))
        rows.append(changed)
    found = fast(rows, now=NOW)
    if found is not None:
        expected = full(rows, now=NOW)
        assert expected.rejected.is_empty()
        assert_frame_equal(found, expected.accepted)


@pytest.mark.parametrize(("exchange", "row"), [("kraken", KRAKEN), ("binance", BINANCE)])
def test_a_row_as_the_exchange_sends_it_is_plain(exchange: str, row: dict[str, Any]) -> None:
    fast = {"kraken": plain.kraken_v2, "binance": plain.binance_agg}[exchange]
    assert fast([row], now=NOW) is not None
    assert trades_of(exchange, [{"info": row, "price": 1.0}], now=NOW).accepted["trade_id"].len() == 1


def test_a_row_that_is_no_trade_is_refused_with_its_reason_and_the_others_are_taken() -> None:
    rows = [{"info": KRAKEN}, {"info": KRAKEN | {"price": -1.0}}, {"info": KRAKEN | {"qty": "abc"}}]
    found = trades_of("kraken", rows, now=NOW)
    assert found.accepted["trade_id"].to_list() == [83449369]
    assert found.rejected["reason"].to_list() == ["price not positive", "amount absent or unreadable"]
    assert orjson.loads(found.rejected["raw"][0])["price"] == -1.0


UNIFIED: dict[str, Any] = {"id": "7", "timestamp": 1748345043847, "price": 1.5, "amount": 2.0, "side": "sell"}


@given(data=st.data(), exchange=st.sampled_from(["kraken", "binance", "coinbase"]), ids=st.booleans())
def test_whatever_a_field_says_a_row_is_a_trade_or_a_reject(
    data: st.DataObject, exchange: str, ids: bool
) -> None:
    usual = {"kraken": KRAKEN, "binance": BINANCE}.get(exchange, UNIFIED)
    odd = usual | data.draw(st.dictionaries(st.sampled_from(sorted(usual)), JSON_VALUES, max_size=3))
    rows = [usual, odd] if exchange == "coinbase" else [{"info": usual}, {"info": odd}]
    found = trades_of(exchange, rows, now=NOW, ids=ids or None)
    assert len(found.accepted.rows()) + len(found.rejected.rows()) == 2
    assert all(reason and raw for reason, _, _, raw in found.rejected.rows())


@pytest.mark.parametrize(
    ("exchange", "row", "reason"),
    [
        ("kraken", KRAKEN | {"trade_id": 2**64}, "trade id absent or unreadable"),
        ("binance", BINANCE | {"a": 2**64}, "trade id absent or unreadable"),
        ("binance", BINANCE | {"T": 2**64}, "time absent or unreadable"),
        ("kraken", KRAKEN | {"timestamp": "0000-01-01T00:00:00.000000Z"}, "time before 2009"),
        ("kraken", KRAKEN | {"side": "\ud800"}, "side absent or unreadable"),
    ],
)
def test_what_no_column_can_hold_is_refused_and_kept(exchange: str, row: dict[str, Any], reason: str) -> None:
    ((said, _, _, raw),) = trades_of(exchange, [{"info": row}], now=NOW).rejected.iter_rows()
    assert said == reason
    assert json.loads(raw) == row


def test_other_exchanges_are_read_as_ccxt_unifies_them() -> None:
    row = {
        "id": "7",
        "timestamp": 1748345043847,
        "price": 1.5,
        "amount": 2.0,
        "side": "sell",
        "info": {"x": 1},
    }
    named = trades_of("coinbase", [row], now=NOW).accepted
    assert named.row(0) == (7, datetime(2025, 5, 27, 11, 24, 3, 847000, tzinfo=UTC), 1.5, 2.0, "sell", 1)
    nameless = trades_of("bybit", [row | {"id": "0ab3-uuid"}], now=NOW).accepted
    assert nameless["trade_id"].to_list() == [None]
    late = trades_of("coinbase", [row | {"id": "0ab3-uuid"}], now=NOW, ids=True)
    assert late.rejected["reason"].to_list() == ["trade id absent or unreadable"]


@pytest.mark.fixtures
def test_captured_binance_rows_of_rest_read_as_events_are_the_same_trades(captures: Path) -> None:
    path = next((captures / "binance" / "aggtrades_xrpeth").glob("*.json.gz"))
    rows = [row["info"] for row in orjson.loads(gzip.decompress(path.read_bytes()))[:150]]
    events = [
        row | {key: int(row[key]) for key in "aflT"} | {"m": row["m"] in {True, "true"}} for row in rows
    ]
    fast = plain.binance_agg(events, now=NOW)
    assert isinstance(fast, pl.DataFrame)
    assert_frame_equal(fast, binance_trades(events, now=NOW).accepted)
