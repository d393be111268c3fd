"""How the demo judges live candles."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.request import urlopen

import polars as pl
import pytest

from marketdata import sources
from marketdata.bus.messages import UPDATE_SCHEMA
from marketdata.exchange_sim import RunningExchange
from marketdata.fold import fold
from marketdata.market import Market
from marketdata.ports import free_port
from marketdata_dagster import demo_live
from tests.realtime.feeds.following import BINANCE, KRAKEN, settings_for

MIDNIGHT = datetime(2025, 6, 9, tzinfo=UTC)


@pytest.mark.parametrize("market", [KRAKEN, BINANCE], ids=str)
def test_candles_of_a_stream_that_ran_over_midnight_are_held_against_both_days(
    exchange_server: Callable[..., RunningExchange], market: Market
) -> None:
    settings = settings_for(exchange_server(now=MIDNIGHT + timedelta(hours=1), archive_delay=timedelta()))
    now = datetime.now(UTC)
    start, end = MIDNIGHT - timedelta(minutes=2), MIDNIGHT + timedelta(minutes=2)
    try:
        pages = sources.trade_source(market, now.date(), settings, now).pages(market, start, end)
        trades = pl.concat([page.trades for page in pages])
        finals = pl.concat(
            fold(trades, name).with_columns(interval=pl.lit(name), revision=0, final=True, partial=False)
            for name in ("1s", "10s", "1m")
        ).select(pl.col(name).cast(kind) for name, kind in UPDATE_SCHEMA.items())
        found = demo_live.agreement(market, finals, settings)
        assert (found.counts[2], found.equal, found.different) == (4, len(finals), 0)
        wrong = finals.with_columns(volume=pl.when(pl.int_range(pl.len()) == 0).then(0.0).otherwise("volume"))
        found = demo_live.agreement(market, wrong, settings)
        assert (found.equal, found.different, len(found.findings)) == (len(finals) - 1, 1, 1)
    finally:
        sources.close()


def test_an_exchange_that_does_not_answer_has_not_done_all_yet() -> None:
    assert "it does not say" in demo_live._left(f"http://127.0.0.1:{free_port()}")


def test_an_exchange_has_done_all_when_what_is_counted_has_come(
    exchange_server: Callable[..., RunningExchange],
) -> None:
    exchange = exchange_server(now=MIDNIGHT)
    exchange.faults([{"kind": "latency", "match": "Time", "seconds": 0, "times": 1}])
    assert demo_live._left(exchange.url) == "latency of Time"
    with urlopen(f"{exchange.kraken}/0/public/Time", timeout=60) as answer:
        answer.read()
    assert demo_live._left(exchange.url) == ""
