"""The synthetic market as a pure function."""

from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.exchange_sim import market as synthetic
from marketdata.exchange_sim.cache import SizedCache
from marketdata.exchange_sim.listing import LISTINGS, Listing, day_number
from marketdata.exchange_sim.market import DAY_NS, Columns, fills_before, rows_before, trades_of_day
from marketdata.exchange_sim.tape import SyntheticTape
from marketdata.settings import Settings

SEED = 7
DAY = day_number(date(2025, 6, 10))
BY_MARKET = {listing.market: listing for listing in LISTINGS}
KRAKEN_BTC, KRAKEN_SOL = BY_MARKET["kraken:BTC/USD"], BY_MARKET["kraken:SOL/USD"]
BINANCE_BTC = BY_MARKET["binance:BTC/USDT"]
MINUTE_NS = 60_000_000_000


def tracked() -> list[Listing]:
    return [BY_MARKET[str(tracked.market)] for tracked in Settings(markets=None, _env_file=None).tracked]


def same(left: Columns, right: Columns) -> bool:
    names = Columns.__dataclass_fields__
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in names)


@pytest.mark.parametrize("monday", [date(2024, 1, 1), date(2025, 6, 9), date(2026, 11, 16)])
def test_seven_days_of_the_six_tracked_markets_hold_about_two_million_rows(monday: date) -> None:
    first = day_number(monday)
    rows = sum(rows_before(SEED, one, first + 7) - rows_before(SEED, one, first) for one in tracked())
    assert 1_800_000 <= rows <= 2_200_000


@settings(max_examples=60, deadline=None)
@given(
    listing=st.sampled_from([one for one in LISTINGS if one.rate <= 2_000]),
    day=st.dates(date(2020, 1, 1), date(2035, 1, 1)).map(day_number),
    seed=st.integers(0, 2**31),
)
def test_the_ids_of_any_day_begin_where_the_day_before_ended(listing: Listing, day: int, seed: int) -> None:
    today, tomorrow = trades_of_day(seed, listing, day), trades_of_day(seed, listing, day + 1)
    assert today.id[0] == rows_before(seed, listing, day) + 1
    assert np.array_equal(np.diff(today.id), np.ones(len(today) - 1))
    assert tomorrow.id[0] == today.id[-1] + 1
    assert np.array_equal(today.first_fill[1:], (today.first_fill + today.fills)[:-1])
    assert tomorrow.first_fill[0] == today.first_fill[-1] + today.fills[-1]
    assert today.first_fill[0] == fills_before(seed, listing, day) + 1


@settings(max_examples=40, deadline=None)
@given(
    listing=st.sampled_from([one for one in LISTINGS if one.rate <= 2_000]),
    day=st.dates(date(2020, 1, 1), date(2035, 1, 1)).map(day_number),
)
def test_every_row_lies_inside_its_day_in_order_and_is_a_trade(listing: Listing, day: int) -> None:
    rows = trades_of_day(SEED, listing, day)
    assert rows.time_ns[0] >= day * DAY_NS
    assert rows.time_ns[-1] < (day + 1) * DAY_NS
    assert (np.diff(rows.time_ns) >= 0).all()
    assert (rows.ticks > 0).all()
    assert (rows.lots >= rows.fills).all()


def test_days_are_the_same_whatever_was_asked_before() -> None:
    forward = [trades_of_day(SEED, KRAKEN_SOL, DAY + n) for n in range(3)]
    backward = [trades_of_day(SEED, KRAKEN_SOL, DAY + n) for n in reversed(range(3))]
    assert all(same(one, other) for one, other in zip(forward, reversed(backward), strict=True))


def test_another_seed_is_another_market() -> None:
    assert not same(trades_of_day(1, KRAKEN_SOL, DAY), trades_of_day(2, KRAKEN_SOL, DAY))


def test_a_row_count_ten_years_ahead_makes_no_trades(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(synthetic, "trades_of_day", lambda *args: made.append(args))
    counts = [rows_before(SEED, BINANCE_BTC, day) for day in (DAY, DAY + 3_650)]
    assert 0 < counts[0] < counts[1]
    assert not made, "counting makes no trades"


def test_day_counts_vary() -> None:
    counts = np.diff([rows_before(SEED, KRAKEN_BTC, DAY + n) for n in range(30)])
    assert counts.min() > 0
    assert counts.max() > 1.3 * counts.min()


def test_a_thin_market_has_quiet_minutes() -> None:
    rows = trades_of_day(SEED, KRAKEN_SOL, DAY)
    assert 10 < 1_440 - len(np.unique(rows.time_ns // MINUTE_NS)) < 700


def test_rows_of_one_kraken_order_show_one_time_and_have_a_clock_of_their_own() -> None:
    rows = trades_of_day(SEED, KRAKEN_BTC, DAY)
    assert len(rows) - len(np.unique(rows.shown)) > len(rows) / 5
    assert (np.diff(rows.time_ns) > 0).all()
    assert np.array_equal(rows.time_ns // 100, rows.shown)


def test_bursts_cross_the_boundaries_of_pages() -> None:
    rows = trades_of_day(SEED, KRAKEN_BTC, DAY)
    boundaries = np.arange(1_000, len(rows), 1_000)
    assert (rows.shown[boundaries] == rows.shown[boundaries - 1]).any()


def test_the_time_shown_is_the_shortest_text_of_a_float() -> None:
    for shown in trades_of_day(SEED, KRAKEN_BTC, DAY).shown[:5_000].tolist():
        seconds, rest = divmod(shown, 10_000_000)
        assert Decimal(repr(seconds + rest / 1e7)) == Decimal(shown).scaleb(-7)


def test_rows_of_one_binance_order_have_prices_of_their_own() -> None:
    rows = trades_of_day(SEED, BINANCE_BTC, DAY)
    together = np.diff(rows.time_ns) == 0
    assert together.sum() > len(rows) / 5
    assert (np.diff(rows.ticks)[together] != 0).all()
    assert rows.fills.max() > 3


def test_prices_go_on_across_midnight() -> None:
    for listing in tracked():
        evening, morning = (trades_of_day(SEED, listing, day) for day in (DAY, DAY + 1))
        assert abs(morning.ticks[0] / evening.ticks[-1] - 1) < 0.01


def test_prices_move_within_a_day_and_stay_near_their_level() -> None:
    for listing in tracked():
        level = listing.base.level / listing.quote.level
        for day in range(DAY, DAY + 365, 61):
            prices = trades_of_day(SEED, listing, day).ticks / 10**listing.tick
            assert prices.max() / prices.min() > 1.005
            assert 0.4 < prices.mean() / level < 2.5


def test_the_same_asset_costs_about_the_same_on_both_exchanges() -> None:
    kraken, binance = (trades_of_day(SEED, one, DAY) for one in (KRAKEN_BTC, BINANCE_BTC))
    assert kraken.ticks.mean() / 10**KRAKEN_BTC.tick == pytest.approx(
        binance.ticks.mean() / 10**BINANCE_BTC.tick, rel=0.02
    )


def test_taker_sides_come_in_runs() -> None:
    rows = trades_of_day(SEED, KRAKEN_BTC, DAY)
    assert 0.4 < rows.taker_buys.mean() < 0.6
    assert np.corrcoef(rows.taker_buys[1:], rows.taker_buys[:-1])[0, 1] > 0.3


def test_there_is_no_trade_before_a_market_was_listed() -> None:
    assert len(trades_of_day(SEED, KRAKEN_BTC, KRAKEN_BTC.first_day - 1)) == 0
    assert rows_before(SEED, KRAKEN_BTC, KRAKEN_BTC.first_day) == 0
    assert len(trades_of_day(SEED, KRAKEN_BTC, KRAKEN_BTC.first_day)) > 0


def test_positions_of_a_tape_span_days() -> None:
    tape = SyntheticTape(KRAKEN_SOL, SEED, SizedCache(10**6, len))
    midnight = (DAY + 1) * DAY_NS
    position = tape.after(midnight - 1)
    rows = tape.rows(position - 3, position + 3)
    assert rows.id.tolist() == list(range(position - 2, position + 4))
    assert (rows.time_ns < midnight).tolist() == [True, True, True, False, False, False]


def test_a_cache_keeps_what_was_used_last_within_its_limit() -> None:
    made: list[str] = []
    cache: SizedCache[str] = SizedCache(10, len)

    def value(key: str) -> str:
        made.append(key)
        return key * 4

    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, lambda key=key: value(key))  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]
    assert cache.used <= 10


def test_a_year_can_be_walked_without_keeping_it() -> None:
    cache: SizedCache[Columns] = SizedCache(50_000, len)
    tape = SyntheticTape(KRAKEN_SOL, SEED, cache)
    first = date(2025, 1, 1)
    for n in range(0, 365, 30):
        tape.day(day_number(first + timedelta(days=n)))
    assert cache.used <= 50_000
