"""Partitions are days and symbols."""

from datetime import UTC, date, datetime

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

from marketdata.market import Market
from marketdata.settings import Settings
from marketdata_dagster.defs.partitions import RANGE_END, RANGE_START, Job, by_exchange, definition, jobs


@pytest.mark.parametrize("symbol", ["BTC/USD", "$PAC/USDT", "BTC/USDT:USDT", "X-Y/EUR"])
def test_a_key_names_one_day_of_one_market(symbol: str) -> None:
    job = Job(Market("kraken", symbol), date(2025, 6, 8))
    assert Job.of("kraken", job.key) == job
    assert "/" not in job.key


def test_a_day_that_is_still_running_is_no_partition() -> None:
    markets = by_exchange(Settings.load().tracked)["kraken"]
    with partition_loading_context(effective_dt=datetime(2026, 6, 20, 23, 59, tzinfo=UTC)):
        days = definition(markets)
        assert days.has_partition_key("2026-06-19|BTC-USD")
        assert not days.has_partition_key("2026-06-20|BTC-USD")


def test_each_exchange_has_its_own_symbols() -> None:
    grouped = by_exchange(Settings.load().tracked)
    assert [entry.market.symbol for entry in grouped["binance"]] == ["BTC/USDT", "ETH/USDT", "XRP/USDT"]


@pytest.mark.parametrize("tag", ["dagster/partition", "dagster/partition/date"])
def test_a_range_with_a_single_partition_is_refused(tag: str) -> None:
    tags = {RANGE_START: "2025-06-01|BTC-USD", RANGE_END: "2025-06-02|BTC-USD", tag: "2025-06-01"}
    with pytest.raises(dg.Failure, match="range of partitions"):
        jobs("kraken", ["2025-06-01|BTC-USD"], tags)


def test_all_keys_are_those_of_dagster_and_change_at_midnight() -> None:
    markets = by_exchange(Settings.load().tracked)["kraken"]
    ours = definition(markets)
    theirs = dg.MultiPartitionsDefinition({one.name: one.partitions_def for one in ours.partitions_defs})
    evening, night = datetime(2026, 6, 20, 23, 59, tzinfo=UTC), datetime(2026, 6, 21, 0, 1, tzinfo=UTC)
    listed = [ours.get_partition_keys(current_time=at) for at in (evening, evening, night)]
    assert listed[0] is listed[1]
    assert list(listed[0]) == list(theirs.get_partition_keys(current_time=evening))
    assert list(listed[2]) == list(theirs.get_partition_keys(current_time=night))
    assert len(listed[2]) == len(listed[0]) + len(markets)
