"""Frames through binary COPY are what comes back."""

import polars as pl
import psycopg
import pytest
from polars.testing import assert_frame_equal

from marketdata.store.copy import Kinds, copy_in, encode
from tests.store.days import held_trades, trades_of_day

KINDS: Kinds = {"market_id": "int2", "time": "timestamptz", "trade_id": "int8", "price": "float8"}


def test_a_row_is_the_bytes_postgresql_documents() -> None:
    frame = pl.DataFrame(
        {"a": [1], "b": ["hi"], "c": [None]}, schema={"a": pl.Int16, "b": pl.String, "c": pl.Int64}
    )
    data = bytes(encode(frame, {"a": "int2", "b": "label", "c": "int8"}))
    assert data.hex(" ") == "00 03 00 00 00 02 00 01 00 00 00 02 68 69 ff ff ff ff"


def test_trades_come_back_bit_for_bit(database: str) -> None:
    trades = trades_of_day(5_000).with_columns(
        pl.when(pl.col("trade_id") == 1_003).then(5e-324).otherwise("price").alias("price")
    )
    kinds: Kinds = {**KINDS, "amount": "float8", "side": "label", "fills": "int4"}
    with psycopg.connect(database) as connection:
        frames = trades.with_columns(pl.lit(1, pl.Int16).alias("market_id")).iter_slices(777)
        assert copy_in(connection.cursor(), "trade", kinds, frames) == len(trades)
    assert_frame_equal(held_trades(database), trades, check_exact=True)


def test_labels_of_every_length_and_nulls_come_back(database: str) -> None:
    frame = pl.DataFrame(
        {
            "word": ["", "a", "zwölf", None, "ein langes Wort", "a"],
            "number": [1, None, -3, None, 2**62, 6],
            "float": [None, 0.1, float("nan"), float("inf"), -0.0, 1e300],
        }
    )
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TEMP TABLE t (word text, number bigint, float double precision)")
        kinds: Kinds = {"word": "label", "number": "int8", "float": "float8"}
        copy_in(connection.cursor(), "t", kinds, [frame, frame.clear(), frame.head(1)])
        rows = connection.execute("SELECT * FROM t").fetchall()
    got = pl.DataFrame(rows, schema=frame.schema, orient="row")
    assert_frame_equal(got, pl.concat([frame, frame.head(1)]), check_exact=True)


def test_an_error_of_the_reading_ends_the_copy_and_is_passed_on(database: str) -> None:
    trades = trades_of_day(10).with_columns(pl.lit(1, pl.Int16).alias("market_id"))

    def frames():  # type: ignore[no-untyped-def]
        yield trades
        raise ZeroDivisionError

    with psycopg.connect(database) as connection:
        with pytest.raises(ZeroDivisionError):
            copy_in(connection.cursor(), "trade", {**KINDS, "amount": "float8", "fills": "int4"}, frames())
        connection.rollback()
    assert held_trades(database).is_empty()
