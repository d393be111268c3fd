"""Whatever batches, order of arrival, repeats and restarts: final candles are those of the batch."""

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata.candle import CANDLE_SCHEMA
from marketdata.fold import fold_many
from marketdata.interval import Interval, to_us
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


def began(batches: list[pl.DataFrame], interval: str) -> int:
    """The window of the first trade that came: what opened before it is not the stream's."""
    return Interval.parse(interval).floor_us(to_us(batches[0]["time"].min()))  # type: ignore[arg-type]


def none_too_late(late: pl.DataFrame, batches: list[pl.DataFrame]) -> bool:
    """Whether late trades are only those that were before the stream began."""
    return bool((late["time"].cast(pl.Int64) < began(batches, INTERVALS[0])).all())


def check(delivery: tuple[pl.DataFrame, list[pl.DataFrame]], found: list[pl.DataFrame]) -> None:
    trades, batches = delivery
    everything = pl.concat(found).filter("final")
    once = everything.group_by("interval", "open_time", "revision").len()
    assert once["len"].max() == 1
    opens = pl.col("open_time").cast(pl.Int64)
    for interval, batch in fold_many(trades, INTERVALS).items():
        last = last_revisions(found, interval)
        ours = opens >= began(batches, interval)
        assert_frame_equal(last.filter(ours).select(CANDLE_SCHEMA.names()), batch.filter(ours), rel_tol=1e-9)
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
        assert none_too_late(update.late, batches)
        assert update.refused.is_empty()
        repeated += update.repeated
        found.append(update.candles)
    found += [update.candles for update in core.tick(now + timedelta(minutes=5), [BTC])]
    assert repeated == sum(map(len, batches)) - len(trades)
    check(delivery, found)


@given(deliveries(), st.lists(st.integers(0, 40), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_a_restart_anywhere_changes_no_candle_and_repeats_no_final_one(
    delivery: tuple[pl.DataFrame, list[pl.DataFrame]], stops: list[int]
) -> None:
    batches = delivery[1]
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
        assert none_too_late(update.late, batches)
        found.append(update.candles)
    found += [update.candles for update in core.tick(now + timedelta(minutes=5), [BTC])]
    check(delivery, found)


@given(deliveries(), st.integers(0, 20), st.lists(st.integers(1, 9), max_size=3), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_a_stream_that_begins_in_the_middle_is_whole_by_its_history_also_after_restarts(
    delivery: tuple[pl.DataFrame, list[pl.DataFrame]], hidden: int, stops: list[int], patience: int
) -> None:
    """History has every trade there was; it comes soon or late, and is asked for again after a restart."""
    trades, batches = delivery
    batches = [batch.filter(pl.col("trade_id") >= 1_000 + hidden) for batch in batches]
    batches = [batch for batch in batches if len(batch)]
    assume(batches)
    core, now, found, waited = CandleCore(INTERVALS, RULES), START, [], 0

    def complete() -> None:
        start, seen = core.wants_history_from(BTC), core.first_seen(BTC)
        if start is not None and seen is not None:
            time = pl.col("time").cast(pl.Int64)
            found.append(core.complete(BTC, trades.filter(time.is_between(start, seen)), now).candles)

    for offset, batch in enumerate(batches):
        if offset in stops and offset > 0:
            state, needed = core.state(BTC), core.needed_offset(BTC)
            core, waited = CandleCore(INTERVALS, RULES), 0
            core.resume(BTC, state)
            for again in range(offset if needed is None else needed, offset):
                assert core.add(BTC, batches[again], now, offset=again, replay=True).is_empty
        now += timedelta(milliseconds=50)
        found.append(core.add(BTC, batch, now, offset=offset).candles)
        waited += 1
        if waited > patience:
            complete()
    complete()
    found += [update.candles for update in core.tick(now + timedelta(minutes=5), [BTC])]
    check((trades, batches), found)
    for interval in INTERVALS:
        last = last_revisions(found, interval)
        assert not last.filter(pl.col("open_time").cast(pl.Int64) >= began(batches, interval))[
            "partial"
        ].any()


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
