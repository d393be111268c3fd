"""Binance's aggTrades and klines through unmodified ccxt."""

import gzip
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import MalformedResponse, RateLimited, UnknownName, UsageError
from marketdata.exchange_sim.listing import binance_listing
from marketdata.exchange_sim.market import Columns
from marketdata.exchange_sim.tape import FixedTape
from marketdata.fold import fold
from marketdata.interval import Interval
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.sources import binance
from marketdata.sources.base import CandleSource, TradeSource
from marketdata.sources.binance import BinanceCandles, BinanceTrades
from marketdata.trade import TRADE_SCHEMA
from tests.sources.conftest import DAY, Venue, holes, trades_of, truth

LTC = Market("binance", "LTC/USDT")
TAPE = Market("binance", "TAPE/USDT")
START, END = day_window(DAY)
START_NS = int(START.timestamp()) * 1_000_000_000
HOUR = 3_600
SECONDS = 1_000_000_000
LATER = {"garbage": ["future_time"]}


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 100 rows, so that a small day has many boundaries."""
    monkeypatch.setattr(binance, "PAGE_ROWS", 100)


def tape(*seconds: float, first_id: int = 1_000, void: tuple[int, ...] = ()) -> FixedTape:
    """A market with one row at each second after the start of the day; ``void`` rows have no price."""
    count = len(seconds)
    clock = START_NS + np.array([int(each * SECONDS) for each in seconds], dtype=np.int64)
    ids = np.arange(first_id, first_id + count)
    ones = np.ones(count, dtype=np.int64)
    worth = np.array([0 if each in void else 5 for each in range(count)], dtype=np.int64)
    columns = Columns(ids, clock, clock // 100, worth, worth, ones > 0, ones > 0, ones, first_fill=ids)
    return FixedTape(binance_listing("TAPE/USDT", 2, 5), columns)


def source_of(here: Venue, **changes: Any) -> BinanceTrades:
    return BinanceTrades(here.client("binance", **changes))


@pytest.mark.parametrize("symbol", ["LTC/USDT", "XRP/USDT", "BTC/EUR"])
def test_a_day_is_what_the_exchange_has_row_by_row(venue: Callable[..., Venue], symbol: str) -> None:
    market = Market("binance", symbol)
    pages = list(source_of(venue()).pages(market, START, END))
    trades = trades_of(pages)
    assert trades.equals(truth(market))
    assert trades.schema == TRADE_SCHEMA
    assert pages[0].previous_id == trades["trade_id"][0] - 1
    assert pages[-1].following_id == trades["trade_id"][-1] + 1
    assert pages[-1].reached == END
    assert trades["fills"].max() > 1  # type: ignore[operator]


def test_a_fetch_resumes_at_every_page(venue: Callable[..., Venue], small_pages: None) -> None:
    source = source_of(venue())
    pages = list(source.pages(LTC, START, END))
    assert len(pages) > 8
    assert [page.reached for page in pages] == sorted(page.reached for page in pages)
    for done in range(1, len(pages), 3):
        cursor = pages[done - 1].next_cursor
        rest = trades_of(source.pages(LTC, START, END, cursor))
        assert pl.concat([trades_of(pages[:done]), rest]).equals(truth(LTC)), cursor


def test_a_cursor_is_the_next_id(venue: Callable[..., Venue], small_pages: None) -> None:
    first, *_ = source_of(venue()).pages(LTC, START, END)
    assert first.next_cursor == str(first.trades["trade_id"].max() + 1)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("seconds", "ids", "previous", "following"),
    [
        ((5 * HOUR, 5 * HOUR + 1, 23 * HOUR, 30 * HOUR), [1_000, 1_001, 1_002], None, 1_003),
        ((-1, 0, 86_399.999, 86_400), [1_001, 1_002], 1_000, 1_003),
        ((-9 * HOUR, 22 * HOUR), [1_001], 1_000, None),
        ((-1,), [], None, None),
        ((86_400,), [], None, None),
    ],
)
def test_quiet_hours_are_not_the_end(
    venue: Callable[..., Venue],
    seconds: tuple[float, ...],
    ids: list[int],
    previous: int | None,
    following: int | None,
) -> None:
    pages = list(source_of(venue(tapes=(tape(*seconds),))).pages(TAPE, START, END))
    assert trades_of(pages)["trade_id"].to_list() == ids
    assert pages[-1].reached == END
    assert pages[-1].next_cursor is None
    assert (pages[0].previous_id, pages[-1].following_id) == (previous, following)


def test_trades_of_one_millisecond_across_pages_are_all_there(
    venue: Callable[..., Venue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binance, "PAGE_ROWS", 3)
    source = source_of(venue(tapes=(tape(-1, *[5] * 10, 86_400),)))
    pages = list(source.pages(TAPE, START, END))
    assert trades_of(pages)["trade_id"].to_list() == list(range(1_001, 1_011))


def test_a_market_whose_first_trade_ever_is_inside_the_window_starts_there(
    venue: Callable[..., Venue],
) -> None:
    source = source_of(venue(tapes=(tape(1, 2, 86_400, first_id=0),)))
    pages = list(source.pages(TAPE, START, END))
    assert trades_of(pages)["trade_id"].to_list() == [0, 1]
    assert pages[0].previous_id is None


def test_a_wrong_answer_to_the_search_by_time_loses_nothing(
    venue: Callable[..., Venue], small_pages: None
) -> None:
    here = venue()
    expected = truth(LTC)
    late = expected["trade_id"][500]
    row = {"a": late, "p": "1", "q": "1", "f": 1, "l": 1, "T": int(START.timestamp()) * 1000 + 5, "m": True}
    here.faults({"kind": "reply", "match": "startTime", "times": 1, "body": [row]})
    pages = list(source_of(here).pages(LTC, START, END))
    assert trades_of(pages).equals(expected)
    assert [page.previous_id for page in pages if page.previous_id] == [expected["trade_id"][0] - 1]


def test_rows_with_a_later_time_inside_the_day_do_not_end_it(
    venue: Callable[..., Venue], small_pages: None
) -> None:
    here = venue(now=END + timedelta(days=2))
    here.faults({"kind": "garbage", "match": "fromId", "skip": 4, "times": 6, "rows": 1, **LATER})
    pages = list(source_of(here).pages(LTC, START, END))
    expected = truth(LTC)
    lost = holes(trades_of(pages), expected)
    assert 0 < len(lost) <= 6
    assert all(first == last for first, last in lost)
    assert pages[-1].following_id == expected["trade_id"][-1] + 1


def test_one_empty_answer_is_not_the_end_of_the_day(venue: Callable[..., Venue], small_pages: None) -> None:
    here = venue()
    here.faults({"kind": "reply", "match": "fromId", "skip": 6, "times": 1, "body": []})
    pages = list(source_of(here).pages(LTC, START, END))
    assert here.applied() == 1
    assert trades_of(pages).equals(truth(LTC))


def test_the_trade_before_the_day_is_shown_past_ids_that_are_not_served(venue: Callable[..., Venue]) -> None:
    here = venue()
    first = truth(LTC)["trade_id"][0]
    here.running.hide(str(LTC), [(first - 1_500, first + 4)])
    pages = list(source_of(here).pages(LTC, START, END))
    assert trades_of(pages)["trade_id"][0] == first + 5
    assert [page.previous_id for page in pages if page.previous_id] == [first - 1_501]


def test_void_rows_are_refused_with_their_id_and_the_fetch_goes_on(venue: Callable[..., Venue]) -> None:
    source = source_of(venue(tapes=(tape(-1, 0, 1, 2, 3, 86_400, void=(1, 3)),)))
    pages = list(source.pages(TAPE, START, END))
    assert trades_of(pages)["trade_id"].to_list() == [1_002, 1_004]
    rejects = pl.concat([page.rejects for page in pages])
    assert rejects["trade_id"].to_list() == [1_001, 1_003]
    assert set(rejects["reason"]) == {"price not positive"}


def test_a_page_of_void_rows_only_is_passed(
    venue: Callable[..., Venue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binance, "PAGE_ROWS", 2)
    source = source_of(venue(tapes=(tape(-1, 0, 1, 2, 3, 4, 86_400, void=(2, 3, 4)),)))
    pages = list(source.pages(TAPE, START, END))
    assert trades_of(pages)["trade_id"].to_list() == [1_001, 1_005]
    assert sum(len(page.rejects) for page in pages) == 3


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "429", "retry_after": 1},
        {"kind": "418", "retry_after": 1},
        {"kind": "500"},
        {"kind": "502"},
        {"kind": "html"},
        {"kind": "cut"},
        {"kind": "repeat"},
        {"kind": "shuffle"},
        {"kind": "garbage", "insert": True},
        {"kind": "reply", "body": {"msg": "?"}},
        {"kind": "reply", "body": ["?"]},
        {"kind": "reply", "body": [{"a": 5}]},
    ],
    ids=str,
)
def test_a_day_is_whole_though_the_exchange_misbehaves(
    venue: Callable[..., Venue], small_pages: None, fault: dict[str, Any]
) -> None:
    here = venue()
    here.faults({"probability": 0.3, "seed": 3, "match": "aggTrades", **fault})
    pages = list(source_of(here, request_attempts=12).pages(LTC, START, END))
    assert trades_of(pages).sort("time", "trade_id").equals(truth(LTC))
    assert here.applied() > 0
    assert pages[-1].following_id


def test_spoiled_rows_are_refused_and_can_be_asked_for_again(
    venue: Callable[..., Venue], small_pages: None
) -> None:
    here = venue()
    here.faults({"kind": "garbage", "match": "fromId", "times": 6})
    source = source_of(here)
    expected = truth(LTC)
    pages = list(source.pages(LTC, START, END))
    trades = trades_of(pages)
    missing = holes(trades, expected)
    assert missing
    again = [source.refetch(LTC, first, last, (START, END)) for first, last in missing]
    assert pl.concat([trades, *again]).sort("time", "trade_id").equals(expected)


def test_ids_left_out_once_are_served_when_asked_for_again(venue: Callable[..., Venue]) -> None:
    here = venue()
    expected = truth(LTC)
    first, last = expected["trade_id"][200], expected["trade_id"][260]
    here.faults({"kind": "drop", "match": "aggTrades", "ids": [[first, last]], "once": True})
    source = source_of(here)
    assert holes(trades_of(source.pages(LTC, START, END)), expected) == [(first, last)]
    assert source.refetch(LTC, first, last, (START, END)).equals(expected.slice(200, 61))


def test_ids_that_are_served_no_more_come_back_as_nothing(venue: Callable[..., Venue]) -> None:
    here = venue()
    ids = truth(LTC)["trade_id"]
    here.running.hide("binance:LTC/USDT", [(ids[10], ids[40])])
    source = source_of(here)
    assert source.refetch(LTC, ids[10], ids[40], (START, END)).is_empty()
    assert source.refetch(LTC, ids[9], ids[41], (START, END))["trade_id"].to_list() == [ids[9], ids[41]]
    assert source.refetch(LTC, 10**15, 10**15 + 5, (START, END)).is_empty()


def test_a_page_of_other_ids_than_asked_for_is_an_error(venue: Callable[..., Venue]) -> None:
    here = venue()
    row = {"a": 1, "p": "1", "q": "1", "f": 1, "l": 1, "T": 1_749_340_800_000, "m": True}
    here.faults({"kind": "reply", "match": "fromId", "body": [row]})
    with pytest.raises(MalformedResponse, match=r"does not continue fromId=.*Tried 4 times"):
        list(source_of(here).pages(LTC, START, END))


def test_a_ban_ends_the_fetch_with_its_length(venue: Callable[..., Venue]) -> None:
    here = venue()
    here.faults({"kind": "418", "match": "aggTrades", "retry_after": 600})
    with pytest.raises(RateLimited, match="600 s"):
        list(source_of(here).pages(LTC, START, END))


def test_a_symbol_that_is_not_listed_is_an_error_before_the_first_page(venue: Callable[..., Venue]) -> None:
    with pytest.raises(UnknownName, match="BTC/USDT"):
        next(iter(source_of(venue()).pages(Market("binance", "BTC/UDST"), START, END)))


@pytest.mark.parametrize("cursor", ["", "-5", "1.5", "archive:2025-06-08:-:0"])
def test_a_foreign_cursor_is_an_error(venue: Callable[..., Venue], cursor: str) -> None:
    with pytest.raises(UsageError, match="no cursor"):
        next(iter(source_of(venue()).pages(LTC, START, END, cursor)))


@pytest.mark.fixtures
def test_captured_aggtrades_come_through_ccxt_as_they_were_served(
    venue: Callable[..., Venue], captures: Path
) -> None:
    source = source_of(venue(captures=captures))
    start, end = datetime(2019, 10, 11, tzinfo=UTC), datetime(2019, 10, 14, tzinfo=UTC)
    pages = list(source.pages(Market("binance", "XRP/ETH"), start, end))
    trades = trades_of(pages)
    rows = json.loads(
        gzip.decompress((captures / "binance/aggtrades_xrpeth/XRP_OLD-trades.json.gz").read_bytes())
    )
    served = [row["info"] for row in rows]
    assert len(trades) == 12_477
    assert trades["fills"].sum() == 14_672
    assert trades["trade_id"].to_list() == [int(row["a"]) for row in served]
    assert trades["price"].to_list() == [float(row["p"]) for row in served]
    assert (trades["time"].cast(pl.Int64) // 1000).to_list() == [int(row["T"]) for row in served]
    assert trades["side"].to_list() == ["sell" if row["m"] else "buy" for row in served]


@pytest.mark.fixtures
@pytest.mark.parametrize(("interval", "count"), [("1m", 2469), ("5m", 706)])
def test_candles_of_the_captured_aggtrades_equal_the_captured_candles(
    venue: Callable[..., Venue], captures: Path, interval: str, count: int
) -> None:
    source = source_of(venue(captures=captures))
    start, end = datetime(2019, 10, 11, tzinfo=UTC), datetime(2019, 10, 14, tzinfo=UTC)
    ours = fold(trades_of(source.pages(Market("binance", "XRP/ETH"), start, end)), interval)
    theirs = pl.read_ipc(captures / f"binance/aggtrades_xrpeth/XRP_ETH-{interval}.feather")
    theirs = theirs.with_columns(pl.col("date").dt.cast_time_unit("us").alias("open_time"))
    joined = theirs.join(ours, on="open_time", suffix="_ours")
    assert len(joined) == len(ours) == count
    for name in ("open", "high", "low", "close"):
        assert joined[name].to_list() == joined[f"{name}_ours"].to_list()
    assert (joined["volume"] - joined["volume_ours"]).abs().max() < 1e-6  # type: ignore[operator]


@pytest.mark.fixtures
def test_rows_in_microseconds_are_the_same_rows(venue: Callable[..., Venue], captures: Path) -> None:
    body = json.loads(
        (captures / "binance/rest_btcusdt_2021-10-22/http_spot_market_agg_trades.json").read_text()
    )
    found = []
    for factor in (1, 1000):
        here = venue()
        here.faults(
            {"kind": "reply", "match": "aggTrades", "body": [row | {"T": row["T"] * factor} for row in body]}
        )
        first, last = body[0]["a"], body[-1]["a"]
        found.append(source_of(here).refetch(Market("binance", "BTC/USDT"), first, last, (START, END)))
    assert len(found[0]) == 10
    assert found[0].equals(found[1])
    assert found[0]["time"][0] == datetime(2021, 10, 22, 23, 8, 16, 633000, tzinfo=UTC)


NOW = datetime(2025, 6, 8, 15, 30, 20, tzinfo=UTC)


@pytest.mark.parametrize("interval", BinanceCandles.intervals, ids=str)
def test_candles_are_the_exchanges_own_without_empty_ones(
    venue: Callable[..., Venue], interval: Interval
) -> None:
    market = Market("binance", "BTC/EUR")
    source = BinanceCandles(venue().client("binance"))
    start = datetime(2025, 6, 2, tzinfo=UTC)  # a Monday
    days = 7 if interval.name in {"1w", "1d"} else 1
    end = start + timedelta(days=days)
    candles = source.candles(market, interval, start, end)
    trades = pl.concat([truth(market, start.date() + timedelta(days=n)) for n in range(days)])
    ours = fold(trades, interval)
    assert candles.schema == EXCHANGE_CANDLE_SCHEMA
    exact = ["open_time", "open", "high", "low", "close", "trade_count"]
    assert candles.select(exact).equals(ours.select(exact))
    for name in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"):
        assert (candles[name] - ours[name]).abs().max() < 1e-6, name  # type: ignore[operator]
    assert source.candles_from(interval, NOW) is None


def test_the_running_candle_is_left_out(venue: Callable[..., Venue]) -> None:
    now = datetime.now(UTC)
    candles = BinanceCandles(venue().client("binance")).candles(
        Market("binance", "BTC/USDT"),
        Interval.parse("1m"),
        now - timedelta(minutes=90),
        now + timedelta(hours=1),
    )
    assert len(candles) > 80
    assert candles["open_time"].max() <= datetime.now(UTC) - timedelta(minutes=1)  # type: ignore[operator]


@pytest.mark.fixtures
def test_captured_klines_are_read_whole(venue: Callable[..., Venue], captures: Path) -> None:
    here = venue()
    body = json.loads((captures / "binance/rest_btcusdt_2021-10-22/http_spot_market_klines.json").read_text())
    here.faults({"kind": "reply", "match": "klines", "body": body, "times": 1})
    start = datetime(2021, 10, 22, 23, 3, tzinfo=UTC)
    market = Market("binance", "BTC/USDT")
    candles = BinanceCandles(here.client("binance")).candles(
        market, Interval.parse("1m"), start, start + timedelta(minutes=10)
    )
    prices = (60685.22, 60729.84, 60670.9, 60719.27)
    assert candles.row(0) == (start, *prices, 21.63272, 1313200.0134041, 617, 12.28492, 745719.4102284)
    assert len(candles) == 10


def test_a_width_binance_has_not_is_an_unknown_name(venue: Callable[..., Venue]) -> None:
    with pytest.raises(UnknownName, match="10s"):
        BinanceCandles(venue().client("binance")).candles(LTC, Interval.parse("10s"), START, END)


@pytest.mark.parametrize(
    "body", [{"no": 1}, [[1]], [["x"] * 12], [[1_600_000_000_000, *["1"] * 11]], "<html>"], ids=str
)
def test_candles_that_are_none_are_a_malformed_response(venue: Callable[..., Venue], body: Any) -> None:
    here = venue()
    here.faults({"kind": "reply", "match": "klines", "body": body})
    with pytest.raises(MalformedResponse, match="Tried 4 times"):
        BinanceCandles(here.client("binance")).candles(LTC, Interval.parse("1m"), START, END)


def test_the_sources_are_what_the_contract_says(venue: Callable[..., Venue]) -> None:
    client = venue().client("binance")
    assert isinstance(BinanceTrades(client), TradeSource)
    assert isinstance(BinanceCandles(client), CandleSource)


def test_two_days_meet_without_a_hole_or_a_repeat(venue: Callable[..., Venue]) -> None:
    source = source_of(venue())
    days = [source.pages(LTC, *day_window(DAY + timedelta(days=n))) for n in range(3)]
    ids = trades_of(itertools.chain(*days))["trade_id"].to_list()
    assert ids == list(range(ids[0], ids[0] + len(ids)))
