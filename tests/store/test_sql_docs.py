"""What docs/sql.md shows, run as it stands there, beside the same thing computed by polars."""

import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.manifest import Status
from marketdata.market import Market
from marketdata.store import wider
from marketdata.store.engine import connect
from tests.conftest import ROOT
from tests.docs.blocks import Block, blocks
from tests.lake.world import BTC, ETH, at, trades_of
from tests.store.conftest import RunningServer
from tests.store.world import put

PAGE = ROOT / "docs" / "sql.md"
USDT = Market("binance", "BTC/USDT")
DAYS = [date(2025, 6, day) for day in (5, 6, 8, 9)]  # the 7th is missing, the 6th has gaps
SHOWN = [block for block in blocks(PAGE) if block.language == "sql"]


def traded(market: Market) -> dict[date, pl.DataFrame]:
    """Trades by day: quiet from 3 to 5 on the 8th; other prices on other markets."""
    shift = {BTC: 0.0, ETH: -90.0, USDT: 0.5}[market]
    days = {}
    for day in DAYS:
        other = day + timedelta(days=0 if market == BTC else 400 + round(shift))
        moved = trades_of(other, 800, quiet=(3.0, 5.0) if day.day == 8 else None)
        days[day] = moved.with_columns(
            pl.col("time").dt.offset_by(f"{(day - other).days}d"), pl.col("price") + shift
        )
    return days


TRADES = {market: pl.concat(traded(market).values()) for market in (BTC, ETH, USDT)}


def candles(market: Market, interval: str, start: str, end: str = "2025-06-10") -> pl.DataFrame:
    inside = pl.col("open_time").is_between(at(start), at(end), closed="left")
    return fold(TRADES[market], interval).filter(inside)


def last_price() -> pl.DataFrame:
    return pl.DataFrame(
        [
            (market.exchange, market.symbol, TRADES[market]["time"][-1], TRADES[market]["price"][-1])
            for market in (USDT, BTC, ETH)
        ],
        orient="row",
    )


def last_candles() -> pl.DataFrame:
    found = candles(BTC, "5m", "2025-06-09").select("open_time", "open", "high", "low", "close", "volume")
    return found.reverse().head(12)


def volatility() -> pl.DataFrame:
    returns = (pl.col("close") / pl.col("close").shift()).log()
    hours = candles(BTC, "1h", "2025-06-06").with_columns(returns.alias("r")).drop_nulls("r")
    return hours.group_by(pl.col("open_time").dt.date(), maintain_order=True).agg(
        pl.len().cast(pl.Int64), pl.col("r").sum().alias("total"), pl.col("r").std() * (24 * 365) ** 0.5
    )


def vwap_of_days() -> pl.DataFrame:
    trades = TRADES[BTC].filter(pl.col("time") >= at("2025-06-06"))
    amount, value = pl.col("amount").sum(), (pl.col("price") * pl.col("amount")).sum()
    return trades.group_by(pl.col("time").dt.date(), maintain_order=True).agg(
        (value / amount).alias("vwap"), amount.alias("volume")
    )


def vwap_of_an_hour() -> pl.DataFrame:
    minutes = candles(BTC, "1m", "2025-06-08 12:00", "2025-06-08 14:00")
    sums = [pl.col(name).rolling_sum_by("open_time", "1h") for name in ("quote_volume", "volume")]
    return minutes.select("open_time", "close", (sums[0] / sums[1]).alias("vwap"))


def gaps() -> pl.DataFrame:
    minutes = candles(BTC, "1m", "2025-06-05")["open_time"].to_list()
    status = {5: "complete", 6: "gaps", 7: "missing", 8: "complete", 9: "complete"}
    minute = timedelta(minutes=1)
    return pl.DataFrame(
        [
            (before + minute, after, status[(before + minute).day])
            for before, after in pairwise(minutes)
            if after - before - minute >= timedelta(minutes=30)
        ],
        orient="row",
    )


def coverage() -> pl.DataFrame:
    ends = DAYS[0], DAYS[-1]
    return pl.DataFrame(
        [
            (market.exchange, market.symbol, *ends, 1, complete, 4 - complete, 0, len(TRADES[market]))
            for market, complete in ((USDT, 4), (BTC, 3), (ETH, 4))
        ],
        orient="row",
    )


def days_not_complete() -> pl.DataFrame:
    return pl.DataFrame(
        [(date(2025, 6, 6), "gaps", "by the test"), (date(2025, 6, 7), "missing", None)], orient="row"
    )


def other_interval() -> pl.DataFrame:
    trades = TRADES[BTC].filter(pl.col("time").is_between(at("2025-06-08"), at("2025-06-09"), closed="left"))
    return bucketed(trades, "45m")


def ten_seconds() -> pl.DataFrame:
    hour = (at("2025-06-08 12:00"), at("2025-06-08 13:00"))
    return bucketed(TRADES[BTC].filter(pl.col("time").is_between(*hour, closed="left")), "10s")


def bucketed(trades: pl.DataFrame, width: str) -> pl.DataFrame:
    price = pl.col("price")
    return trades.group_by_dynamic("time", every=width).agg(
        price.first().alias("open"),
        price.max().alias("high"),
        price.min().alias("low"),
        price.last().alias("close"),
        pl.col("amount").sum(),
        pl.col("fills").sum().cast(pl.Int64),
    )


def every_minute() -> pl.DataFrame:
    minutes = candles(BTC, "1m", "2025-06-08", "2025-06-08 05:30").select("open_time", "close")
    first = at("2025-06-08 02:30")
    grid = pl.DataFrame({"minute": [first + timedelta(minutes=n) for n in range(180)]}).cast(
        {"minute": minutes.schema["open_time"]}
    )
    joined = grid.join_asof(minutes, left_on="minute", right_on="open_time", coalesce=False)
    return joined.select("minute", "close", filled=pl.col("open_time") < pl.col("minute"))


def profile() -> pl.DataFrame:
    amount = pl.col("amount")
    day = TRADES[BTC].filter(pl.col("time").is_between(at("2025-06-08"), at("2025-06-09"), closed="left"))
    return (
        day.group_by(((pl.col("price") * 100).round().cast(pl.Int64) // 5 * 0.05).alias("price"))
        .agg(amount.sum(), amount.filter(pl.col("side") == "buy").sum().alias("b") / amount.sum())
        .with_columns(pl.when(pl.col("b") > 0).then("b").alias("b"))
        .sort("price")
    )


def buyers() -> pl.DataFrame:
    bought, volume = pl.col("taker_buy_volume"), pl.col("volume")
    return candles(BTC, "4h", "2025-06-08").select(
        "open_time", bought, (volume - bought).alias("sold"), (2 * bought / volume - 1).alias("imbalance")
    )


def busiest() -> pl.DataFrame:
    found = candles(BTC, "1m", "2025-06-06").sort("volume", descending=True).head(10)
    return found.select("open_time", "volume", "trade_count", (pl.col("high") - pl.col("low")).alias("range"))


def two_exchanges() -> pl.DataFrame:
    here, there = (candles(market, "1m", "2025-06-08", "2025-06-09") for market in (BTC, USDT))
    both = here.join(there, on="open_time").with_columns(r=pl.col("close") / pl.col("close_right") - 1)
    found = both.sort(pl.col("r").abs(), "open_time", descending=[True, False]).head(5)
    return found.select("open_time", "close", "close_right", pl.col("r") * 10_000)


def two_markets() -> pl.DataFrame:
    eth, btc = (candles(market, "1h", "2025-06-08") for market in (ETH, BTC))
    both = eth.join(btc, on="open_time", maintain_order="left").with_columns(
        e=(pl.col("close") / pl.col("close").shift()).log(),
        b=(pl.col("close_right") / pl.col("close_right").shift()).log(),
        ratio=pl.col("close") / pl.col("close_right"),
    )
    return both.group_by(pl.col("open_time").dt.date(), maintain_order=True).agg(
        pl.len().cast(pl.Int64), pl.corr("e", "b"), pl.col("ratio").last()
    )


def not_proved() -> pl.DataFrame:
    minutes = candles(BTC, "1m", "2025-06-06", "2025-06-07").head(20)
    names = [pl.lit(text).alias(name) for name, text in (("exchange", "kraken"), ("symbol", "BTC/USD"))]
    facts = [pl.lit(0).alias("revision"), pl.lit("batch").alias("source"), pl.lit("gaps").alias("coverage")]
    return minutes.select(*names, "open_time", *facts)


# In the order of the page.
EXPECTED: list[Callable[[], pl.DataFrame]] = [
    last_price, last_candles, volatility, vwap_of_days, vwap_of_an_hour, gaps, coverage, days_not_complete,
    other_interval, ten_seconds, every_minute, profile, buyers, busiest, two_exchanges, two_markets,
    not_proved,
]  # fmt: skip


@pytest.fixture(scope="module")
def url(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store with three markets; wider candles are materialised."""
    name = server.migrated()
    lake, url = Lake.open(str(tmp_path_factory.mktemp("sql") / "lake")), server.url_of(name)
    for market in (BTC, ETH, USDT):
        for day, trades in traded(market).items():
            status = Status.GAPS if (market, day.day) == (BTC, 6) else Status.COMPLETE
            put(lake, url, market, day, trades, status=status)
    wider.refresh(url)
    yield url
    server.drop(name)


def test_every_query_of_the_page_has_its_result_here() -> None:
    assert len(SHOWN) == len(EXPECTED)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        pytest.param(block, expected, id=expected.__name__)
        for block, expected in zip(SHOWN, EXPECTED, strict=False)
    ],
)
def test_a_query_of_the_page_gives_what_polars_gives(
    url: str, block: Block, expected: Callable[[], pl.DataFrame]
) -> None:
    with connect(url) as connection:
        cursor = connection.execute(block.text)
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        rows = cursor.fetchall()
    theirs = expected()
    theirs.columns = names
    ours = pl.DataFrame([_plain(row) for row in rows], schema=theirs.schema, orient="row")
    assert len(ours) > 0
    assert_frame_equal(ours, theirs, rel_tol=1e-9, abs_tol=1e-9)


def _plain(row: tuple[object, ...]) -> tuple[object, ...]:
    """Numbers of arbitrary precision as floats."""
    return tuple(float(value) if type(value).__name__ == "Decimal" else value for value in row)


def test_a_range_of_time_leaves_out_chunks_and_a_computed_one_does_not(url: str, timescale: str) -> None:
    def chunks(condition: str) -> int:
        with connect(url) as connection:
            lines = connection.execute(
                "EXPLAIN SELECT price FROM v_trade WHERE exchange = 'kraken' AND symbol = 'BTC/USD' AND "
                + condition
            ).fetchall()
        return len(set(re.findall(r"_hyper_\d+_\d+_chunk", "\n".join(line for (line,) in lines))))

    assert chunks("time >= '2025-06-08' AND time < '2025-06-09'") == 1
    assert chunks("time::date = '2025-06-08'") == len(DAYS)
    assert chunks("time > now() - INTERVAL '1 day'") == 0


def test_every_view_named_on_the_page_is_there(url: str) -> None:
    text = PAGE.read_text("utf-8")
    named = set(re.findall(r"\bv_\w+\b", text))
    with connect(url) as connection:
        held = {name for (name,) in connection.execute("SELECT relname FROM pg_class WHERE relkind = 'v'")}
    assert {"v_trade", "v_coverage", "v_candle_1h"} <= named <= held


def test_times_of_the_page_are_those_of_a_session_in_utc(url: str) -> None:
    with connect(url) as connection:
        row = connection.execute("SELECT current_setting('timezone'), '2025-06-08'::timestamptz").fetchone()
    assert row is not None
    assert row[0] == "UTC"
    assert isinstance(row[1], datetime)
    assert row[1] == at("2025-06-08")
