"""Trades as messages: what is written is read, what is corrupted is refused with its reason."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata.bus.messages import (
    ARROW_TRADES,
    JSON_TRADES,
    DeadLetter,
    Decoded,
    Format,
    Headers,
    Stored,
    decode_trades,
    encode_trades,
    key_of,
)
from marketdata.bus.trade_messages import ARROW_SCHEMA, arrow_bytes
from marketdata.errors import CorruptFile
from marketdata.interval import to_us
from marketdata.market import Market
from marketdata.trade import TRADE_SCHEMA
from tests.anything import JSON_VALUES, column_values

BTC, ETH = Market("kraken", "BTC/USD"), Market("kraken", "ETH/USD")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_US = to_us(NOW)
FORMATS: list[Format] = ["json", "arrow"]


def trades_of(count: int, *, first_id: int = 1) -> pl.DataFrame:
    number = np.arange(count)
    return pl.DataFrame(
        {
            "trade_id": first_id + number,
            "time": NOW_US - 10_000_000 + number * 1_000,
            "price": 105_000.1 + number / 10,
            "amount": 0.01 + number / 1e8,
            "side": [("buy", "sell", None)[n % 3] for n in range(count)],
            "fills": 1 + number % 3,
        }
    ).cast(TRADE_SCHEMA)


def message(value: bytes | None, market: Market = BTC, headers: Headers = JSON_TRADES) -> Stored:
    return Stored(key_of(market), value, headers)


def messages(trades: pl.DataFrame, market: Market = BTC, fmt: Format = "json") -> list[Stored]:
    headers = JSON_TRADES if fmt == "json" else ARROW_TRADES
    return [message(value, market, headers) for value in encode_trades(trades, fmt)]


def decode(given_messages: Sequence[Stored], *, ids: bool = True) -> Decoded:
    return decode_trades(given_messages, now=NOW, ids=ids)


def trade(**changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "trade_id": 7,
        "time": NOW_US,
        "price": 105_000.1,
        "amount": 0.5,
        "side": "buy",
        "fills": 1,
    }
    return {name: value for name, value in (row | changes).items() if value is not ...}


def raw(**changes: object) -> bytes:
    return orjson.dumps(trade(**changes))


# -- what is written is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("count", [1, 20, 256, 257, 30_000])
def test_trades_come_back_as_they_were(fmt: Format, count: int) -> None:
    trades = trades_of(count)
    decoded = decode(messages(trades, fmt=fmt))
    assert decoded.rejects == []
    (batch,) = decoded.batches
    assert batch.market == BTC
    assert_frame_equal(batch.trades, trades)


def test_json_is_one_trade_a_message_and_arrow_ten_thousand() -> None:
    trades = trades_of(25_000)
    assert len(encode_trades(trades, "json")) == 25_000
    assert len(encode_trades(trades, "arrow")) == 3
    assert encode_trades(trades[:0], "json") == encode_trades(trades[:0], "arrow") == []


@pytest.mark.parametrize("fmt", FORMATS)
def test_each_row_says_of_which_message_it_is(fmt: Format) -> None:
    sent = [one for n in (0, 10, 20) for one in messages(trades_of(2, first_id=n), fmt=fmt)]
    (batch,) = decode(sent).batches
    expected = range(6) if fmt == "json" else [0, 0, 1, 1, 2, 2]
    assert batch.message.tolist() == list(expected)


def test_no_messages_hold_no_trades() -> None:
    assert decode([]) == Decoded()


@pytest.mark.parametrize("count", [40, 4_000])
def test_markets_and_formats_that_are_mixed_are_taken_apart_in_their_order(count: int) -> None:
    btc, eth = trades_of(count), trades_of(count, first_id=1_000_000)
    lists = [messages(btc[: count // 2]), messages(btc[count // 2 :], fmt="arrow"), messages(eth, ETH)]
    sent: list[Stored] = []
    while any(lists):
        sent += [one.pop(0) for one in lists if one and (one is not lists[1] or not lists[0])]
    decoded = decode(sent)
    assert decoded.rejects == []
    assert [batch.market for batch in decoded.batches] == [BTC, ETH]
    assert_frame_equal(decoded.batches[0].trades, btc)
    assert_frame_equal(decoded.batches[1].trades, eth)


real_trades = st.builds(
    trade,
    trade_id=st.integers(0, 2**63 - 1),
    time=st.integers(to_us(datetime(2009, 1, 4, tzinfo=UTC)), NOW_US),
    price=st.floats(1e-12, 1e12),
    amount=st.floats(1e-12, 1e12),
    side=st.sampled_from(["buy", "sell", None]),
    fills=st.integers(1, 2**31 - 1),
)


@given(rows=st.lists(real_trades, min_size=1, max_size=5), many=st.booleans())
def test_any_real_trade_comes_back_exactly(rows: list[dict[str, object]], many: bool) -> None:
    trades = pl.DataFrame(rows * (100 if many else 1), TRADE_SCHEMA, strict=False)
    for fmt in FORMATS:
        (batch,) = decode(messages(trades, fmt=fmt)).batches
        assert_frame_equal(batch.trades, trades, check_exact=True)


def test_other_writers_may_space_order_and_extend_as_they_like() -> None:
    value = b'{ "side" : "sell", "amount": 2, "price": 1e2,\n"time": %d, "trade_id": 8, "new": [1] }' % NOW_US
    (batch,) = decode([message(value)]).batches
    assert batch.trades.rows() == [(8, NOW, 100.0, 2.0, "sell", 1)]


def test_an_array_is_several_trades_in_one_message() -> None:
    value = orjson.dumps([trade(trade_id=1), trade(trade_id=2)])
    (batch,) = decode([message(value), message(raw(trade_id=3))]).batches
    assert batch.trades["trade_id"].to_list() == [1, 2, 3]
    assert batch.message.tolist() == [0, 0, 1]


def test_a_side_that_is_not_said_is_not_known() -> None:
    (batch,) = decode([message(raw(side=...)), message(raw(side=None))]).batches
    assert batch.trades["side"].to_list() == [None, None]


def test_headers_of_others_are_left_alone() -> None:
    said = [("schema", b"trade/1"), ("format", b"json")]
    for headers in ([("trace", b"1")], [("trace", b"1"), *said], said):
        assert len(decode([message(raw(), headers=headers)]).batches) == 1


def test_a_trade_without_id_counts_where_its_source_has_none() -> None:
    sent = [message(raw(trade_id=None))]
    assert [reject.reason for reject in decode(sent).rejects] == ["trade id absent or unreadable"]
    (batch,) = decode(sent, ids=False).batches
    assert batch.trades["trade_id"].to_list() == [None]


# -- what is corrupted is refused ----------------------------------------------------------------------

LATER = NOW_US + 301_000_000
CORRUPTED: dict[str, tuple[bytes | None, str]] = {
    "negative price": (raw(price=-1.0), "price not positive"),
    "price zero": (raw(price=0.0), "price not positive"),
    "price minus zero": (raw().replace(b"105000.1", b"-0"), "price not positive"),
    "negative amount": (raw(amount=-0.5), "amount not positive"),
    "amount zero": (raw(amount=0), "amount not positive"),
    "price a text": (raw(price="105000.1"), "price absent or unreadable"),
    "price true": (raw(price=True), "price absent or unreadable"),
    "price a list": (raw(price=[1]), "price absent or unreadable"),
    "price null": (raw(price=None), "price absent or unreadable"),
    "price absent": (raw(price=...), "price absent or unreadable"),
    "amount a text": (raw(amount="much"), "amount absent or unreadable"),
    "amount absent": (raw(amount=...), "amount absent or unreadable"),
    "price giant": (raw(price=1e300, amount=1e-9), "price giant"),
    "amount giant": (raw(price=1e-9, amount=1e300), "amount giant"),
    "both giant": (raw(price=1e300, amount=1e300), "price times amount not finite"),
    "NaN": (raw().replace(b"105000.1", b"NaN"), "not JSON, or cut"),
    "time absent": (raw(time=...), "time absent or unreadable"),
    "time null": (raw(time=None), "time absent or unreadable"),
    "time a text": (raw(time="2025-06-08T00:00:00Z"), "time absent or unreadable"),
    "time with a fraction": (raw(time=NOW_US + 0.5), "time absent or unreadable"),
    "time in milliseconds": (raw(time=NOW_US // 1_000), "time before 2009"),
    "time in nanoseconds": (raw(time=NOW_US * 1_000), "time in the future"),
    "time in the future": (raw(time=LATER), "time in the future"),
    "time negative": (raw(time=-1), "time before 2009"),
    "time giant": (raw().replace(b"%d" % NOW_US, b"9" * 40), "time absent or unreadable"),
    "id a text": (raw(trade_id="7"), "trade id absent or unreadable"),
    "id with a fraction": (raw(trade_id=7.5), "trade id absent or unreadable"),
    "id absent": (raw(trade_id=...), "trade id absent or unreadable"),
    "id negative": (raw(trade_id=-7), "trade id negative"),
    "id giant": (raw(trade_id=2**63), "trade id absent or unreadable"),
    "side unknown": (raw(side="BUY"), "side absent or unreadable"),
    "side a number": (raw(side=1), "side absent or unreadable"),
    "no fill": (raw(fills=0), "fills not positive"),
    "fills giant": (raw(fills=2**31), "fills not positive"),
    "cut": (raw()[:40], "not JSON, or cut"),
    "cut in a number": (raw()[:-1], "not JSON, or cut"),
    "two objects": (raw() + raw(), "not JSON, or cut"),
    "two objects with a comma": (raw() + b"," + raw(), "not JSON, or cut"),
    "empty": (b"", "value empty"),
    "no value": (None, "value empty"),
    "blank": (b" ", "not JSON, or cut"),
    "an empty object": (b"{}", "trade id absent or unreadable"),
    "an empty array": (b"[]", "no trade in it"),
    "a number": (b"5", "not a trade object"),
    "null": (b"null", "not a trade object"),
    "an array of numbers": (b"[1,2]", "not a trade object"),
    "deeper than deep": (b"[" * 100_000, "not JSON, or cut"),
    "no text": (b"\xff\xfe\x00", "not JSON, or cut"),
    "Arrow called JSON": (encode_trades(trades_of(1), "arrow")[0], "not JSON, or cut"),
}


@pytest.mark.parametrize("around", [2, 400], ids=["among few", "among many"])
@pytest.mark.parametrize("name", CORRUPTED)
def test_a_corrupted_message_is_refused_with_its_reason_and_all_others_count(name: str, around: int) -> None:
    value, reason = CORRUPTED[name]
    whole = trades_of(2 * around)
    sent = [*messages(whole[:around]), message(value), *messages(whole[around:])]
    decoded = decode(sent)
    assert [(reject.index, reject.reason) for reject in decoded.rejects] == [(around, reason)]
    (batch,) = decoded.batches
    assert_frame_equal(batch.trades, whole)
    assert batch.message.tolist() == [n for n in range(2 * around + 1) if n != around]


def test_the_time_of_the_check_is_an_argument() -> None:
    sent = [message(raw(time=LATER))]
    assert decode(sent).batches == []
    assert decode_trades(sent, now=NOW + timedelta(minutes=1)).rejects == []


def test_an_infinite_price_of_arrow_is_refused() -> None:
    trades = trades_of(3).with_columns(price=pl.Series([1.0, float("inf"), float("nan")]))
    (value,) = encode_trades(trades, "arrow")
    decoded = decode([message(value, headers=ARROW_TRADES)])
    assert [r.reason for r in decoded.rejects] == ["price not finite (2 of 3 trades)"]
    assert decoded.batches[0].trades["trade_id"].to_list() == [1]


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_message_of_many_is_refused_once_a_reason_and_its_whole_trades_count(fmt: Format) -> None:
    rows = [trade(trade_id=n) for n in range(1, 7)]
    rows[1]["price"] = rows[4]["price"] = -5.0
    rows[2]["amount"] = 0.0
    if fmt == "json":
        sent = [message(orjson.dumps(rows))]
    else:
        (value,) = encode_trades(pl.DataFrame(rows, TRADE_SCHEMA, strict=False), "arrow")
        sent = [message(value, headers=ARROW_TRADES)]
    decoded = decode(sent)
    assert {reject.reason for reject in decoded.rejects} == {
        "price not positive (2 of 6 trades)",
        "amount not positive (1 of 6 trades)",
    }
    assert decoded.batches[0].trades["trade_id"].to_list() == [1, 4, 6]


TABLE = trades_of(3).cast({"side": pl.String}).to_arrow()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "value empty"),
        (b"", "value empty"),
        (raw(), "not an Arrow stream, or cut"),
        (arrow_bytes(TABLE, ARROW_SCHEMA)[:200], "not an Arrow stream, or cut"),
        (arrow_bytes(TABLE[:0], ARROW_SCHEMA), "no trade in it"),
        (arrow_bytes(t := TABLE.drop_columns(["price"]), t.schema), "no column price"),
        (
            arrow_bytes(
                t := TABLE.set_column(2, "price", pa.array(["1", "2", "3"])),
                t.schema,
            ),
            "column price is string, not double",
        ),
        (
            arrow_bytes(
                t := TABLE.set_column(1, "time", TABLE["time"].cast(pa.timestamp("ms", "UTC"), safe=False)),
                t.schema,
            ),
            "column time is timestamp[ms, tz=UTC], not timestamp[us, tz=UTC]",
        ),
        (
            arrow_bytes(t := TABLE.set_column(4, "side", pa.array(["buy", "BUY", None])), t.schema),
            "side absent or unreadable (1 of 3 trades)",
        ),
    ],
)
def test_a_corrupted_arrow_message_is_refused_and_its_neighbours_count(
    value: bytes | None, reason: str
) -> None:
    good = messages(trades_of(5, first_id=100), fmt="arrow")
    decoded = decode([*good, message(value, headers=ARROW_TRADES), *good])
    assert [(reject.index, reject.reason) for reject in decoded.rejects] == [(1, reason)]
    assert (decoded.batches[0].trades["trade_id"] >= 100).sum() == 10


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([("format", b"json")], "schema header absent"),
        ([("schema", b"trade/1")], "format header absent"),
        ([("format", b"json"), ("schema", b"trade/2")], "schema 'trade/2' is not trade/1"),
        ([("format", b"json"), ("schema", b"candle/1")], "schema 'candle/1' is not trade/1"),
        ([("format", b"avro"), ("schema", b"trade/1")], "format 'avro' is not known"),
        ([("format", b"\xff"), ("schema", b"trade/1")], "format '\ufffd' is not known"),
    ],
)
def test_a_message_whose_headers_do_not_tell_how_to_read_it_is_refused(headers: Headers, reason: str) -> None:
    decoded = decode([message(raw(trade_id=1)), message(raw(), headers=headers), message(raw(trade_id=2))])
    assert [(reject.index, reject.reason) for reject in decoded.rejects] == [(1, reason)]
    assert decoded.batches[0].message.tolist() == [0, 2]


@pytest.mark.parametrize("key", [None, b"", b"BTC/USD", b"Kraken:BTC/USD", b"kraken:BTC-USD", b"\xff"])
def test_a_key_that_is_no_market_is_refused(key: bytes | None) -> None:
    decoded = decode([message(raw()), Stored(key, raw(), JSON_TRADES)])
    assert [(reject.index, reject.reason) for reject in decoded.rejects] == [(1, "key is no market")]
    assert len(decoded.batches) == 1


@given(st.lists(st.tuples(st.sampled_from(sorted(CORRUPTED)), st.integers(0, 4)), max_size=12), st.booleans())
def test_any_mixture_is_counted_to_the_last_message(parts: list[tuple[str, int]], many: bool) -> None:
    sent: list[Stored] = messages(trades_of(300)) if many else []
    refused = []
    for name, whole in parts:
        refused.append((len(sent), CORRUPTED[name][1]))
        sent += [message(CORRUPTED[name][0]), *messages(trades_of(whole))]
    decoded = decode(sent)
    assert [(reject.index, reject.reason) for reject in decoded.rejects] == refused
    rows = sum(len(batch.trades) for batch in decoded.batches)
    assert rows + len(refused) == len(sent)


@given(
    st.dictionaries(st.sampled_from(TRADE_SCHEMA.names()), JSON_VALUES, max_size=3), st.sampled_from([0, 300])
)
def test_whatever_a_field_says_a_trade_is_read_or_refused(changes: dict[str, object], others: int) -> None:
    odd = message(json.dumps(trade() | changes).encode())
    read_or_refused([*messages(trades_of(others)), odd])


@given(st.data())
def test_whatever_a_column_holds_a_trade_is_read_or_refused(data: st.DataObject) -> None:
    rows = trades_of(1).cast({"side": pl.String})
    for name in data.draw(st.sets(st.sampled_from(TRADE_SCHEMA.names()), max_size=3)):
        value = data.draw(column_values(rows.schema[name]))
        rows = rows.with_columns(pl.lit(value).cast(rows.schema[name]).alias(name))
    read_or_refused([message(arrow_bytes(rows.to_arrow(), ARROW_SCHEMA), headers=ARROW_TRADES)])


def read_or_refused(sent: list[Stored]) -> None:
    decoded = decode(sent)
    refused = {reject.index for reject in decoded.rejects if reject.reason}
    rows = [row for batch in decoded.batches for row in batch.trades.rows()]  # what is read can be shown
    assert len(rows) + len(refused) == len(sent)


# -- dead letters --------------------------------------------------------------------------------------


def test_a_dead_letter_gives_back_the_message_the_reason_and_the_place() -> None:
    headers = [("trace", b"1"), *JSON_TRADES]
    letter = DeadLetter(
        Stored(b"k", b"\xff cut", headers), "not JSON, or cut", "marketdata.trades", 3, 17, 99
    )
    sent = Stored(letter.message.key(), letter.message.value(), letter.headers())
    assert DeadLetter.read(sent) == letter
    without = DeadLetter(Stored(None, None), "value empty", "marketdata.trades", 0, 1)
    assert DeadLetter.read(Stored(None, None, without.headers())) == without


def test_a_message_that_is_no_dead_letter_is_told() -> None:
    with pytest.raises(CorruptFile, match="does not say where it came from"):
        DeadLetter.read(message(raw()))
