"""Candles as messages, and the JSON Schemas that describe what is written."""

import json
import re
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from polars.testing import assert_frame_equal

from marketdata.bus.messages import (
    ARROW_CANDLES,
    JSON_CANDLES,
    UPDATE_SCHEMA,
    Format,
    Stored,
    decode_candles,
    decode_trades,
    encode_candles,
    encode_trades,
    key_of,
)
from marketdata.bus.topics import Topics, config_of
from marketdata.fold import fold
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.trade import TIME
from realtime.candles import UPDATE_SCHEMA as UPDATES_OF_THE_CORE
from realtime.candles import CandleCore
from tests.anything import JSON_VALUES, column_values
from tests.conftest import ROOT
from tests.kafka.test_messages import BTC, CORRUPTED, ETH, FORMATS, NOW, trade, trades_of


def updates_of(count: int = 3_000, interval: str = "1s") -> pl.DataFrame:
    return (
        fold(trades_of(count), interval)
        .with_columns(
            interval=pl.lit(interval),
            revision=pl.lit(0, pl.Int32),
            final=pl.lit(value=True),
            partial=pl.lit(value=False),
        )
        .select(UPDATE_SCHEMA.names())
    )


def stored(updates: pl.DataFrame, market: Market = BTC, fmt: Format = "json") -> list[Stored]:
    headers = JSON_CANDLES if fmt == "json" else ARROW_CANDLES
    return [Stored(key_of(market), value, headers) for value in encode_candles(updates, fmt)]


def validator(name: str) -> Draft202012Validator:
    text = resources.files("marketdata.bus").joinpath("schemas", f"{name}.json").read_text("utf-8")
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_core_and_the_bus_mean_the_same_by_a_candle() -> None:
    assert UPDATE_SCHEMA == UPDATES_OF_THE_CORE


@pytest.mark.parametrize("fmt", FORMATS)
def test_candles_of_several_intervals_and_markets_come_back_as_they_were(fmt: Format) -> None:
    several = pl.concat([updates_of(), updates_of(interval="1m")])
    again = several.with_columns(revision=pl.lit(1, pl.Int32), final=pl.lit(value=False))
    sent = [*stored(several, fmt=fmt), *stored(again, fmt=fmt), *stored(several, ETH, fmt)]
    decoded = decode_candles(sent)
    assert decoded.rejects == []
    assert [batch.market for batch in decoded.batches] == [BTC, ETH]
    assert_frame_equal(decoded.batches[0].candles, pl.concat([several, again]), check_exact=True)
    assert_frame_equal(decoded.batches[1].candles, several, check_exact=True)
    assert decoded.batches[0].message[-1] == len(sent) - 1 - len(stored(several, ETH, fmt))


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_candle_of_unknown_takers_has_none(fmt: Format) -> None:
    nothing = pl.lit(None, pl.Float64)
    updates = updates_of().with_columns(taker_buy_volume=nothing, taker_buy_quote_volume=nothing)
    assert_frame_equal(decode_candles(stored(updates, fmt=fmt)).batches[0].candles, updates)


def candle(**changes: object) -> bytes:
    body = orjson.loads(encode_candles(updates_of()[:1])[0]) | changes
    return orjson.dumps({name: value for name, value in body.items() if value is not ...})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (candle(high=1.0), "open is not between low and high"),
        (candle(low=-1.0), "low is not above 0"),
        (candle(volume=0.0), "volume is not above 0"),
        (candle(trade_count=0), "trade_count is not above 0"),
        (candle(open_time=1_700_000_000_000_001), "open_time is not on the grid"),
        (candle(interval="2m"), "interval '2m' is none"),
        (candle(revision=-1), "revision is negative"),
        (candle(revision=2**31), "revision out of range"),
        (candle(open="1"), "open absent or of the wrong type"),
        (candle(final=1), "final absent or of the wrong type"),
        (candle(trade_count=True), "trade_count absent or of the wrong type"),
        (candle(close=...), "close absent or of the wrong type"),
        (candle(open_time=None), "open_time absent or of the wrong type"),
        (candle()[:50], "not JSON, or cut"),
        (b"[]", "not a candle object"),
        (b"", "value empty"),
        (None, "value empty"),
    ],
)
def test_a_corrupted_candle_is_refused_and_its_neighbours_count(value: bytes | None, reason: str) -> None:
    good = stored(updates_of())
    bad = Stored(key_of(BTC), value, JSON_CANDLES)
    decoded = decode_candles([*good, bad, *good[:1]])
    assert decoded.rejects[0].index == len(good)
    assert reason in decoded.rejects[0].reason
    assert len(decoded.rejects) == 1
    assert len(decoded.batches[0].candles) == len(good) + 1


GIANT = (1 << 61) // 60_000_000 * 60_000_000


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("giant", [GIANT, -GIANT])
@pytest.mark.parametrize("names", [("open_time",), ("open_time", "first_trade_time", "last_trade_time")])
def test_a_time_that_no_datetime_can_hold_is_refused(fmt: Format, giant: int, names: tuple[str, ...]) -> None:
    updates = updates_of(interval="1m")[:1]
    moved = updates.with_columns(pl.lit(giant).cast(TIME).alias(name) for name in names)
    decoded = decode_candles([*stored(updates, fmt=fmt), *stored(moved, fmt=fmt)])
    assert [reject.index for reject in decoded.rejects] == [1]
    assert decoded.rejects[0].reason.endswith("_time out of range")
    assert_frame_equal(decoded.batches[0].candles, updates)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_candle_of_arrow_that_is_not_finite_is_refused(value: float) -> None:
    every = [name for name, kind in UPDATE_SCHEMA.items() if kind == pl.Float64]
    updates = updates_of()[:1].with_columns(pl.lit(value).alias(name) for name in every)
    (reject,) = decode_candles(stored(updates, fmt="arrow")).rejects
    assert "a value is not finite" in reject.reason


def test_ids_are_those_that_trades_can_have() -> None:
    largest = updates_of()[:1].with_columns(last_trade_id=pl.lit(2**63 - 1))
    assert decode_candles(stored(largest)).rejects == []
    negative = largest.with_columns(first_trade_id=pl.lit(-1))
    assert [r.reason for r in decode_candles(stored(negative)).rejects] == ["first_trade_id out of range"]


@given(st.dictionaries(st.sampled_from(UPDATE_SCHEMA.names()), JSON_VALUES, max_size=3))
def test_whatever_a_field_says_a_candle_is_read_or_refused(changes: dict[str, object]) -> None:
    read_or_refused([Stored(key_of(BTC), json.dumps(CANDLE | changes).encode(), JSON_CANDLES)])


@given(st.data())
def test_whatever_a_column_holds_a_candle_is_read_or_refused(data: st.DataObject) -> None:
    names = data.draw(st.sets(st.sampled_from(UPDATE_SCHEMA.names()), max_size=3))
    changes = [
        pl.lit(data.draw(column_values(UPDATE_SCHEMA[name]))).cast(UPDATE_SCHEMA[name]).alias(name)
        for name in names
    ]
    read_or_refused(stored(updates_of()[:2].with_columns(changes), fmt="arrow"))


CANDLE = json.loads(encode_candles(updates_of()[:1])[0])


def read_or_refused(messages: list[Stored]) -> None:
    decoded = decode_candles(messages)
    refused = {reject.index for reject in decoded.rejects if reject.reason}
    assert len(refused) + sum(len(set(batch.message.tolist())) for batch in decoded.batches) == len(messages)
    for batch in decoded.batches:
        assert batch.candles.rows()  # what is read can be shown


def test_a_message_of_trades_is_no_candle() -> None:
    (reject,) = decode_candles(
        [Stored(key_of(BTC), b"{}", [("format", b"json"), ("schema", b"trade/1")])]
    ).rejects
    assert reject.reason == "schema 'trade/1' is not candle/1"
    (reject,) = decode_candles([Stored(b"?", candle(), JSON_CANDLES)]).rejects
    assert reject.reason == "key is no market"
    (arrow,) = encode_trades(trades_of(2), "arrow")
    (reject,) = decode_candles([Stored(key_of(BTC), arrow, ARROW_CANDLES)]).rejects
    assert reject.reason == "no column interval"


def test_no_candles_are_no_messages() -> None:
    empty = UPDATE_SCHEMA.to_frame()
    assert encode_candles(empty) == encode_candles(empty, "arrow") == []
    assert decode_candles([]).batches == []


# -- JSON Schema ---------------------------------------------------------------------------------------


def test_every_trade_that_is_written_satisfies_the_schema_of_trades() -> None:
    schema = validator("trade-1")
    for value in encode_trades(trades_of(300)):
        schema.validate(json.loads(value))
    schema.validate([trade(), trade(trade_id=8)])


def test_every_candle_the_core_makes_satisfies_the_schema_of_candles() -> None:
    schema = validator("candle-1")
    core = CandleCore()
    count = 0
    for at in range(0, 3_000, 500):
        update = core.add(BTC, trades_of(3_000)[at : at + 500], NOW + timedelta(seconds=at))
        for value in encode_candles(update.candles):
            schema.validate(json.loads(value))
            count += 1
    assert count > 3
    assert set(schema.schema["properties"]) == set(UPDATE_SCHEMA) == set(schema.schema["required"])


# JSON Schema knows no clock.
TIMELESS = [name for name, (_, reason) in CORRUPTED.items() if "future" not in reason]


@pytest.mark.parametrize("name", TIMELESS)
def test_what_is_refused_does_not_satisfy_the_schema_of_trades(name: str) -> None:
    value, _ = CORRUPTED[name]
    try:
        body: Any = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return  # not even JSON
    one_sided = {"both giant"}
    assert not validator("trade-1").is_valid(body), name not in one_sided


def test_a_time_of_the_schema_is_in_microseconds() -> None:
    (value,) = encode_trades(trades_of(1))
    assert datetime.fromtimestamp(json.loads(value)["time"] / 1e6, UTC) == trades_of(1)["time"][0]


# -- docs/kafka.md -------------------------------------------------------------------------------------

DOCUMENT = (ROOT / "docs" / "kafka.md").read_text("utf-8")


def test_the_trade_in_the_document_is_one() -> None:
    (example,) = re.findall(r"^```json\n(.*?)\n```$", DOCUMENT, re.MULTILINE)
    validator("trade-1").validate(json.loads(example))
    (batch,) = decode_trades([Stored(key_of(BTC), example.encode())], now=NOW).batches
    assert encode_trades(batch.trades) == [example.encode()]


def test_the_document_lists_every_topic_and_how_long_it_is_kept() -> None:
    rows = re.findall(r"^\| `(marketdata\.[a-z.-]+)` \|.*\| (\d+) days \| (\d)", DOCUMENT, re.MULTILINE)
    expected = []
    for role, name in Topics().roles():
        days = int(config_of(role, 1)["retention.ms"]) // 86_400_000
        expected.append((name, str(days), "1" if role == "dead_letter" else str(Settings().kafka_partitions)))
    assert rows == expected


def test_the_document_names_every_reason_that_a_corrupted_trade_is_given() -> None:
    section = DOCUMENT.partition("## What is refused")[2].partition("\n## ")[0]
    told = set(re.findall(r"`([^`]+)`", section))
    # "also `amount`": what is said of one field holds for the others of its row.
    fields = ("amount", "time", "trade id", "side")
    told |= {told_of.replace("price", field, 1) for told_of in told for field in fields}
    assert {reason for _, reason in CORRUPTED.values()} - told == set()
