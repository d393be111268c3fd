"""Candles of exchanges on their way into the store."""

import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.fold import fold
from marketdata.store.candles import STORED_SCHEMA
from realtime.services.poll_service import Issues
from tests.realtime.test_candles import BTC, trades


def test_a_candle_that_the_exchange_has_corrected_has_a_higher_revision() -> None:
    issues = Issues()
    first = fold(trades((1, 3, 5), (2, 65, 6)), "1m").select(EXCHANGE_CANDLE_SCHEMA.names())
    stored = issues.stored(BTC, first)
    assert stored.schema == STORED_SCHEMA
    assert stored["revision"].to_list() == [0, 0]
    assert stored["source"].unique().to_list() == ["exchange"]
    assert stored["first_trade_id"].null_count() == 2
    again = issues.stored(BTC, first.tail(1).with_columns(pl.col("volume") + 1))
    assert again["revision"].to_list() == [1]
