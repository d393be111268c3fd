"""The laws of folding, for all trades: any split, shuffle, duplication or replay gives the batch result."""

from datetime import UTC, datetime

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata.candle import CANDLE_SCHEMA, broken
from marketdata.fold import fold, fold_many, merge, widen
from marketdata.interval import INTERVALS, Interval, to_us
from marketdata.trade import TRADE_SCHEMA, distinct

DAY = to_us(datetime(2025, 6, 8, tzinfo=UTC))
DAY_US = 86_400_000_000
# Sums differ in their order; what is selected must be the same to the bit.
SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
SELECTED = tuple(name for name in CANDLE_SCHEMA if name not in SUMS)

# Half of the times lie in one minute and often coincide, the rest anywhere in the day.
TIMES = st.one_of(
    st.integers(0, 20).map(lambda n: DAY + 3_600_000_000 + 3_000_000 * n), st.integers(DAY, DAY + DAY_US - 1)
)
PRICES = st.floats(1e-8, 1e8, allow_subnormal=False)
AMOUNTS = st.floats(1e-8, 1e6, allow_subnormal=False)


@st.composite
def days(draw: st.DrawFn, known_sides: bool | None = None) -> pl.DataFrame:
    """Up to 60 trades of a day, unique ids, in order of arrival (any)."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 2**62),
                TIMES,
                PRICES,
                AMOUNTS,
                st.sampled_from(["buy", "sell"] if known_sides else ["buy", "sell", None]),
                st.integers(1, 50),
            ),
            min_size=1,
            max_size=60,
            unique_by=lambda row: row[0],
        )
    )
    schema = {**TRADE_SCHEMA, "time": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row").cast(TRADE_SCHEMA)  # type: ignore[arg-type]


def assert_same(a: pl.DataFrame, b: pl.DataFrame) -> None:
    """Equal candles: selected values to the bit, sums to 1e-9."""
    assert_frame_equal(a.select(SELECTED), b.select(SELECTED), check_exact=True)
    assert_frame_equal(a.select(SUMS), b.select(SUMS), rel_tol=1e-9, abs_tol=0)


def parts_of(data: st.DataObject, trades: pl.DataFrame, most: int = 5) -> list[pl.DataFrame]:
    """The trades dealt into parts at random; some may be empty."""
    part = data.draw(st.lists(st.integers(0, most - 1), min_size=len(trades), max_size=len(trades)))
    return [trades.filter(pl.Series(part) == number) for number in range(most)]


def by_hand(trades: pl.DataFrame, interval: Interval) -> list[tuple[object, ...]]:
    """Candles in plain Python, straight from the definition: what the fold is held against."""
    groups: dict[int, list[dict[str, object]]] = {}
    for row in trades.with_columns(pl.col("time").cast(pl.Int64)).sort("time", "trade_id").rows(named=True):
        groups.setdefault(interval.floor_us(row["time"]), []).append(row)
    candles: list[tuple[object, ...]] = []
    for opened, rows in sorted(groups.items()):
        prices = [row["price"] for row in rows]
        buys = [row for row in rows if row["side"] == "buy"]
        known = all(row["side"] is not None for row in rows)
        candles.append(
            (
                opened,
                prices[0],
                max(prices),
                min(prices),
                prices[-1],
                sum(row["amount"] for row in rows),
                sum(row["price"] * row["amount"] for row in rows),
                sum(row["fills"] for row in rows),
                sum((row["amount"] for row in buys), 0.0) if known else None,
                sum((row["price"] * row["amount"] for row in buys), 0.0) if known else None,
                rows[0]["trade_id"],
                rows[-1]["trade_id"],
                rows[0]["time"],
                rows[-1]["time"],
            )
        )
    return candles


@settings(max_examples=60)
@given(days())
def test_the_fold_is_the_definition_written_out(trades: pl.DataFrame) -> None:
    for name, candles in fold_many(trades, INTERVALS).items():
        whole = {key: pl.Int64 if dtype == pl.Datetime else dtype for key, dtype in CANDLE_SCHEMA.items()}
        expected = pl.DataFrame(by_hand(trades, Interval.parse(name)), schema=whole, orient="row")
        assert_same(candles, expected.cast(CANDLE_SCHEMA))  # type: ignore[arg-type]
        assert broken(candles, name).is_empty()


@given(st.data(), days())
def test_the_order_of_arrival_does_not_matter(data: st.DataObject, trades: pl.DataFrame) -> None:
    shuffled = trades[data.draw(st.permutations(range(len(trades))))]
    batch = fold_many(trades, INTERVALS)
    for name, candles in fold_many(shuffled, INTERVALS).items():
        assert_frame_equal(candles, batch[name], check_exact=True)


@settings(max_examples=60)
@given(st.data(), days())
def test_any_split_merged_is_the_batch(data: st.DataObject, trades: pl.DataFrame) -> None:
    parts = parts_of(data, trades)
    for interval in INTERVALS:
        assert_same(merge(*[fold(part, interval) for part in parts]), fold(trades, interval))


@given(st.data(), days())
def test_any_replay_without_its_duplicates_is_the_batch(data: st.DataObject, trades: pl.DataFrame) -> None:
    again = data.draw(st.lists(st.integers(0, len(trades) - 1), max_size=40))
    replayed = distinct(
        pl.concat([trades, trades[again]])[data.draw(st.permutations(range(len(trades) + len(again))))]
    )
    batch = fold_many(trades, INTERVALS)
    for name, candles in fold_many(replayed, INTERVALS).items():
        assert_frame_equal(candles, batch[name], check_exact=True)


@given(st.data(), days())
def test_a_stream_that_starts_again_from_any_trade_gives_the_batch(
    data: st.DataObject, trades: pl.DataFrame
) -> None:
    """Micro-batches merged one by one; after a restart the stream goes back and skips what it has."""
    ordered = trades.sort("time", "trade_id")
    seen, candles, at = ordered.clear(), fold(ordered.clear()), 0
    restarts = data.draw(st.integers(0, 2))
    while at < len(ordered):
        size = data.draw(st.integers(1, 20))
        fresh = ordered.slice(at, size).join(seen, on=["time", "trade_id"], how="anti")
        candles, seen, at = merge(candles, fold(fresh)), pl.concat([seen, fresh]), at + size
        if restarts and data.draw(st.booleans()):
            at, restarts = data.draw(st.integers(0, min(at, len(ordered)))), restarts - 1
    assert_same(candles, fold(trades))


@given(st.data(), days())
def test_merging_is_commutative_and_associative(data: st.DataObject, trades: pl.DataFrame) -> None:
    interval = data.draw(st.sampled_from(INTERVALS))
    a, b, c = (fold(part, interval) for part in parts_of(data, trades, most=3))
    assert_same(merge(a, b), merge(b, a))
    assert_same(merge(merge(a, b), c), merge(a, merge(b, c)))
    assert_same(merge(a, b, c), merge(c, merge(b, a)))


@given(st.data(), days())
def test_an_empty_part_and_a_part_alone_change_nothing(data: st.DataObject, trades: pl.DataFrame) -> None:
    candles = fold(trades, data.draw(st.sampled_from(INTERVALS)))
    assert_frame_equal(merge(candles), candles, check_exact=True)
    assert_frame_equal(merge(candles, candles.clear()), candles, check_exact=True)


@settings(max_examples=40)
@given(days())
def test_wider_candles_of_narrower_ones_are_those_of_the_trades(trades: pl.DataFrame) -> None:
    for narrow in INTERVALS:
        candles = fold(trades, narrow)
        for wide in INTERVALS:
            if narrow <= wide:
                assert_same(widen(candles, wide), fold(trades, wide))


@given(st.data(), days())
def test_widening_and_merging_may_change_places(data: st.DataObject, trades: pl.DataFrame) -> None:
    narrow, wide = sorted(data.draw(st.tuples(st.sampled_from(INTERVALS), st.sampled_from(INTERVALS))))
    parts = [fold(part, narrow) for part in parts_of(data, trades)]
    assert_same(merge(*[widen(part, wide) for part in parts]), widen(merge(*parts), wide))


@given(st.data(), days())
def test_the_order_of_narrow_candles_does_not_matter(data: st.DataObject, trades: pl.DataFrame) -> None:
    candles = fold(trades, "1s")
    shuffled = candles[data.draw(st.permutations(range(len(candles))))]
    assert_frame_equal(widen(shuffled, "5m"), widen(candles, "5m"), check_exact=True)


@settings(max_examples=30)
@given(days(known_sides=True))
def test_volumes_and_counts_of_all_intervals_add_up_to_the_day(trades: pl.DataFrame) -> None:
    for candles in fold_many(trades, INTERVALS).values():
        assert candles["trade_count"].sum() == trades["fills"].sum()
        volume, bought = trades["amount"].sum(), trades.filter(pl.col("side") == "buy")["amount"].sum()
        assert abs(candles["volume"].sum() - volume) <= 1e-9 * volume
        assert abs(candles["taker_buy_volume"].sum() - bought) <= 1e-9 * volume
