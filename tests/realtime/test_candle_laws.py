"""Whatever batches, order of arrival, repeats and restarts: final candles are those of the batch."""

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata.candle import CANDLE_SCHEMA
from marketdata.fold import fold_many
from marketdata.interval import to_us
from marketdata.market import Market
from marketdata.trade import TRADE_SCHEMA
from realtime.candles import CandleCore, Rules

BTC = Market.parse("kraken:BTC/USD")
START = datetime(2025, 6, 8, 11, 59, 50, tzinfo=UTC)
INTERVALS = ("1s", "10s", "1m")
RULES = Rules(delay=timedelta(seconds=1), grace=timedelta(seconds=20), history=timedelta(hours=1))
# A trade that is this late is still inside the grace of its window.
LATEST_MS = 21_000


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Trades of a few minutes, and the batches they arrive in: late, out of order, some of them twice."""
    steps = draw(st.lists(st.integers(0, 9_000), min_size=1, max_size=60))
    prices = draw(st.lists(st.integers(1, 50), min_size=len(steps), max_size=len(steps)))
    time, rows = to_us(START), []
    for n, (step, price) in enumerate(zip(steps, prices, strict=True)):
        time += step * 1_000
        rows.append(
            (1_000 + n, time, 100.0 + price, price / 8, "buy" if price % 2 else "sell", 1 + price % 3)
        )
    trades = pl.DataFrame(rows, schema=TRADE_SCHEMA.names(), orient="row").cast(dict(TRADE_SCHEMA))
    arrivals = [(row, row[1] // 1_000 + draw(st.integers(0, LATEST_MS))) for row in rows]
    arrivals += [
        (row, at + draw(st.integers(0, 60_000))) for row, at in arrivals if draw(st.integers(0, 9)) == 0
    ]
    arrivals.sort(key=lambda one: one[1])
    batches, at = [], 0
    while at < len(arrivals):
        size = draw(st.integers(1, 12))
        part = [row for row, _ in arrivals[at : at + size]]
        batches.append(pl.DataFrame(part, schema=TRADE_SCHEMA.names(), orient="row").cast(dict(TRADE_SCHEMA)))
        at += size
    return trades, batches


def last_revisions(found: list[pl.DataFrame], interval: str) -> pl.DataFrame:
    """The highest revision of each final candle."""
    finals = pl.concat(found).filter(pl.col("final") & (pl.col("interval") == interval))
    return finals.sort("open_time", "revision").group_by("open_time", maintain_order=True).last()


def check(trades: pl.DataFrame, found: list[pl.DataFrame]) -> None:
    batch = fold_many(trades, INTERVALS)
    everything = pl.concat(found).filter("final")
    once = everything.group_by("interval", "open_time", "revision").len()
    assert once["len"].max() == 1
    for interval in INTERVALS:
        last = last_revisions(found, interval)
        assert_frame_equal(last.select(CANDLE_SCHEMA.names()), batch[interval], rel_tol=1e-9)
        # Revisions count on from 0, one by one.
        counts = (
            everything.filter(pl.col("interval") == interval).group_by("open_time").len().sort("open_time")
        )
        assert (counts["len"] == last.sort("open_time")["revision"] + 1).all()


@given(deliveries())
@settings(max_examples=150, deadline=None)
def test_any_batches_disorder_and_repeats_end_in_the_candles_of_the_batch(
    delivery: tuple[pl.DataFrame, list[pl.DataFrame]],
) -> None:
    trades, batches = delivery
    core, now, found, repeated = CandleCore(INTERVALS, RULES), START, [], 0
    for batch in batches:
        now += timedelta(milliseconds=50)
        update = core.add(BTC, batch, now)
        assert update.late.is_empty()
        assert update.refused.is_empty()
        repeated += update.repeated
        found.append(update.candles)
    found += [update.candles for update in core.tick(now + timedelta(minutes=5), [BTC])]
    assert repeated == sum(map(len, batches)) - len(trades)
    check(trades, found)


@given(deliveries(), st.lists(st.integers(0, 40), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_a_restart_anywhere_changes_no_candle_and_repeats_no_final_one(
    delivery: tuple[pl.DataFrame, list[pl.DataFrame]], stops: list[int]
) -> None:
    trades, batches = delivery
    core, now, found = CandleCore(INTERVALS, RULES), START, []
    for offset, batch in enumerate(batches):
        if offset in stops and offset > 0:
            state, needed = core.state(BTC), core.needed_offset(BTC)
            core = CandleCore(INTERVALS, RULES)
            core.resume(BTC, state)
            for again in range(offset if needed is None else needed, offset):
                assert core.add(BTC, batches[again], now, offset=again, replay=True).is_empty
        now += timedelta(milliseconds=50)
        update = core.add(BTC, batch, now, offset=offset)
        assert update.late.is_empty()
        found.append(update.candles)
    found += [update.candles for update in core.tick(now + timedelta(minutes=5), [BTC])]
    check(trades, found)


@given(deliveries(), st.integers(1, 59))
@settings(max_examples=100, deadline=None)
def test_what_comes_too_late_goes_out_as_late_and_no_trade_is_lost(
    delivery: tuple[pl.DataFrame, list[pl.DataFrame]], seconds: int
) -> None:
    """With hardly any grace: each narrowest candle and the late trades together are all trades, once."""
    trades, batches = delivery
    rules = Rules(delay=timedelta(0), grace=timedelta(milliseconds=seconds * 20), history=timedelta(0))
    core, now, found, late = CandleCore(["1s"], rules), START, [], []
    for batch in batches:
        now += timedelta(milliseconds=50)
        update = core.add(BTC, batch, now)
        found.append(update.candles)
        late.append(update.late)
    found += [update.candles for update in core.tick(now + timedelta(minutes=5), [BTC])]
    counted = last_revisions(found, "1s")["trade_count"].sum()
    assert counted + pl.concat(late)["fills"].sum() == trades["fills"].sum()
