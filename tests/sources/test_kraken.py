"""Kraken's trades and candles through unmodified ccxt."""

import gzip
import itertools
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from marketdata.candle import CANDLE_SCHEMA, EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import MalformedResponse, UnknownName, UsageError
from marketdata.exchange_sim.listing import kraken_listing
from marketdata.exchange_sim.market import Columns
from marketdata.exchange_sim.tape import FixedTape
from marketdata.fold import fold
from marketdata.interval import INTERVALS, Interval
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.sources import kraken
from marketdata.sources.base import CandleSource, TradeSource
from marketdata.sources.kraken import KrakenCandles, KrakenTrades
from marketdata.trade import TRADE_SCHEMA
from tests.sources.conftest import DAY, Venue, holes, shown, trades_of, truth

LTC = Market("kraken", "LTC/USD")
START, END = day_window(DAY)
DAY_NS = 86_400_000_000_000
START_NS = int(START.timestamp()) * 1_000_000_000


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 100 rows, so that a small day has many boundaries."""
    monkeypatch.setattr(kraken, "PAGE_ROWS", 100)


def tape(*times_ns: int, first_id: int = 1_000) -> FixedTape:
    """A market ``kraken:TAPE/USD`` with one trade at each time after the start of the day."""
    count = len(times_ns)
    clock = START_NS + np.array(times_ns, dtype=np.int64)
    ids = np.arange(first_id, first_id + count)
    same = np.ones(count, dtype=np.int64)
    columns = Columns(ids, clock, clock // 100, same * 5, same * 7, same > 0, same > 0, same, first_fill=ids)
    return FixedTape(kraken_listing("TAPE/USD", 2, 5), columns)


TAPE = Market("kraken", "TAPE/USD")


def test_a_day_is_what_the_exchange_has_row_by_row(venue: Callable[..., Venue]) -> None:
    market = Market("kraken", "SOL/USD")
    pages = list(KrakenTrades(venue().client("kraken")).pages(market, START, END))
    trades = trades_of(pages)
    assert trades.equals(truth(market))
    assert trades.schema == TRADE_SCHEMA
    assert [page.previous_id for page in pages if page.previous_id] == [trades["trade_id"].min() - 1]
    assert [page.following_id for page in pages if page.following_id] == [trades["trade_id"].max() + 1]
    assert len(trades) / 1_000 < len(pages) <= len(trades) / 1_000 + 2
    assert sum(len(page.rejects) for page in pages) == 0


def test_pages_say_how_far_they_reach(venue: Callable[..., Venue], small_pages: None) -> None:
    pages = list(KrakenTrades(venue().client("kraken")).pages(LTC, START, END))
    reached = [page.reached for page in pages]
    assert reached == sorted(reached)
    assert reached[-1] == END
    rows = truth(LTC)
    for count, page in zip(itertools.accumulate(len(page.trades) for page in pages), pages, strict=True):
        so_far = rows.head(count)["trade_id"]
        assert rows.filter(pl.col("time") < page.reached)["trade_id"].is_in(so_far.to_list()).all()


def test_two_days_meet_without_a_hole_or_a_repeat(venue: Callable[..., Venue]) -> None:
    source = KrakenTrades(venue().client("kraken"))
    days = [trades_of(source.pages(LTC, *day_window(DAY + timedelta(days=n)))) for n in range(3)]
    ids = pl.concat(days)["trade_id"]
    assert ids.to_list() == list(range(ids.min(), ids.min() + len(ids)))  # type: ignore[arg-type]


def test_a_fetch_resumes_at_every_page(venue: Callable[..., Venue], small_pages: None) -> None:
    source = KrakenTrades(venue().client("kraken"))
    pages = list(source.pages(LTC, START, END))
    assert len(pages) > 8
    expected = truth(LTC)
    for done in range(1, len(pages), 3):
        cursor = pages[done - 1].next_cursor
        rest = trades_of(source.pages(LTC, START, END, cursor))
        assert pl.concat([trades_of(pages[:done]), rest]).equals(expected), cursor


@pytest.mark.parametrize("page_rows", [2, 3, 4, 7])
def test_a_page_that_ends_inside_an_instant_loses_and_repeats_nothing(
    venue: Callable[..., Venue], monkeypatch: pytest.MonkeyPatch, page_rows: int
) -> None:
    monkeypatch.setattr(kraken, "PAGE_ROWS", page_rows)
    instants = [
        10**9 * second for second, size in enumerate((1, 1, 2, 1, 2, 1, 1, 2, 2, 1)) for _ in range(size)
    ]
    source = KrakenTrades(venue(tapes=(tape(*instants, DAY_NS + 5),)).client("kraken"))
    pages = list(source.pages(TAPE, START, END))
    assert trades_of(pages)["trade_id"].to_list() == list(range(1_000, 1_014))
    assert pages[-1].following_id == 1_014
    for done in range(1, len(pages)):
        rest = source.pages(TAPE, START, END, pages[done - 1].next_cursor)
        ids = trades_of(itertools.chain(pages[:done], rest))["trade_id"].to_list()
        assert ids == list(range(1_000, 1_014))


def test_more_rows_of_one_instant_than_a_page_holds_leave_a_hole_and_no_endless_loop(
    venue: Callable[..., Venue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kraken, "PAGE_ROWS", 3)
    source = KrakenTrades(venue(tapes=(tape(0, *[10**9] * 5, 2 * 10**9, DAY_NS),)).client("kraken"))
    ids = trades_of(source.pages(TAPE, START, END))["trade_id"].to_list()
    assert ids == sorted(set(ids))
    assert {1_000, 1_001, 1_006} < set(ids) < set(range(1_000, 1_007))


@pytest.mark.parametrize(
    ("times", "previous", "following"),
    [
        ((-5 * 10**9, DAY_NS), 1_000, 1_001),
        ((-10 * DAY_NS, 3 * DAY_NS), None, 1_001),
        ((3 * DAY_NS,), None, 1_000),
        ((-5 * 10**9,), 1_000, None),
    ],
)
def test_a_day_without_trades_ends_quickly_and_is_covered(
    venue: Callable[..., Venue], times: tuple[int, ...], previous: int | None, following: int | None
) -> None:
    source = KrakenTrades(venue(tapes=(tape(*times),)).client("kraken"))
    pages = list(source.pages(TAPE, START, END))
    assert trades_of(pages).is_empty()
    assert len(pages) <= 2
    assert pages[-1].reached == END
    assert pages[-1].next_cursor is None
    assert [page.previous_id for page in pages if page.previous_id] == ([previous] if previous else [])
    assert pages[-1].following_id == following


def test_the_last_trades_of_a_market_are_kept_though_none_follows(venue: Callable[..., Venue]) -> None:
    source = KrakenTrades(venue(tapes=(tape(10**9, 2 * 10**9),)).client("kraken"))
    pages = list(source.pages(TAPE, START, END))
    assert trades_of(pages)["trade_id"].to_list() == [1_000, 1_001]
    assert (pages[-1].reached, pages[-1].following_id) == (END, None)


def test_a_trade_whose_shown_time_is_rounded_over_midnight_belongs_to_the_day_it_shows(
    venue: Callable[..., Venue],
) -> None:
    rows = tape(-40, 10**9, DAY_NS - 40, DAY_NS + 10**9)  # 40 ns before midnight, shown as midnight
    rounded = Columns(**{**_fields(rows), "shown": (_fields(rows)["time_ns"] + 50) // 100})
    source = KrakenTrades(venue(tapes=(FixedTape(rows.listing, rounded),)).client("kraken"))
    one, other = (trades_of(source.pages(TAPE, *day_window(day))) for day in (DAY, DAY + timedelta(days=1)))
    assert one["trade_id"].to_list() == [1_000, 1_001]
    assert other["trade_id"].to_list() == [1_002, 1_003]


def _fields(tape: FixedTape) -> dict[str, Any]:
    rows = tape.rows(0, 1_000_000)
    return {name: getattr(rows, name) for name in Columns.__dataclass_fields__}


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "429", "retry_after": 1},
        {"kind": "500"},
        {"kind": "502"},
        {"kind": "html"},
        {"kind": "cut"},
        {"kind": "repeat"},
        {"kind": "shuffle"},
        {"kind": "garbage", "insert": True},
        {"kind": "reply", "body": {"error": [], "result": {"last": "0"}}},
        {"kind": "reply", "body": {"error": [], "result": {"XLTCZUSD": "no", "last": "0"}}},
        {"kind": "reply", "body": {"error": [], "result": {"XLTCZUSD": [[]], "last": "soon"}}},
        {"kind": "reply", "body": {"error": [], "result": {"XLTCZUSD": [], "last": "0"}}, "times": 1},
    ],
    ids=str,
)
def test_a_day_is_whole_though_the_exchange_misbehaves(
    venue: Callable[..., Venue], small_pages: None, fault: dict[str, Any]
) -> None:
    here = venue()
    here.faults({"probability": 0.3, "seed": 3, "match": "Trades", **fault})
    pages = list(KrakenTrades(here.client("kraken", request_attempts=12)).pages(LTC, START, END))
    assert trades_of(pages).sort("time", "trade_id").equals(truth(LTC))
    assert here.applied() > 0
    assert pages[-1].following_id


def test_rows_beside_the_true_ones_are_kept_as_rejects(
    venue: Callable[..., Venue], small_pages: None
) -> None:
    here = venue()
    here.faults({"kind": "garbage", "match": "Trades", "insert": True, "rows": 6})
    pages = list(KrakenTrades(here.client("kraken")).pages(LTC, START, END))
    rejects = pl.concat([page.rejects for page in pages])
    assert trades_of(pages).equals(truth(LTC))
    assert {"price not positive", "trade id absent or unreadable", "time in the future"} <= set(
        rejects["reason"]
    )
    # Those beside rows of the minute before the day or of the next day belong there.
    assert 6 * (len(pages) - 2) < len(rejects) <= 6 * len(pages)
    assert all(json.loads(raw) for raw in rejects["raw"])


def test_a_spoiled_row_is_refused_and_can_be_asked_for_again(
    venue: Callable[..., Venue], small_pages: None
) -> None:
    here = venue()
    here.faults(
        {"kind": "garbage", "match": "Trades", "times": 5, "garbage": ["negative_price", "zero_amount"]}
    )
    source = KrakenTrades(here.client("kraken"))
    expected = truth(LTC)
    pages = list(source.pages(LTC, START, END))
    trades, rejects = trades_of(pages), pl.concat([page.rejects for page in pages])
    assert trades["trade_id"].is_in(rejects["trade_id"].to_list()).sum() == 0
    missing = holes(trades, expected)
    assert len(rejects) >= sum(last - first + 1 for first, last in missing) > 10
    again = [source.refetch(LTC, first, last, (START, END)) for first, last in missing]
    assert pl.concat([trades, *again]).sort("time", "trade_id").equals(expected)


def test_ids_left_out_once_are_served_when_asked_for_again(venue: Callable[..., Venue]) -> None:
    here = venue()
    expected = truth(LTC)
    first, last = expected["trade_id"][700], expected["trade_id"][760]
    here.faults({"kind": "drop", "match": "Trades", "ids": [[first, last]], "once": True})
    source = KrakenTrades(here.client("kraken"))
    trades = trades_of(source.pages(LTC, START, END))
    assert holes(trades, expected) == [(first, last)]
    around = (expected["time"][699], expected["time"][761])
    assert source.refetch(LTC, first, last, around).equals(expected.slice(700, 61))


def test_ids_that_are_served_no_more_come_back_as_nothing(venue: Callable[..., Venue]) -> None:
    here = venue()
    ids = truth(LTC)["trade_id"]
    here.running.hide("kraken:LTC/USD", [(ids[10], ids[20])])
    source = KrakenTrades(here.client("kraken"))
    assert source.refetch(LTC, ids[10], ids[20], (START, END)).is_empty()
    assert source.refetch(LTC, ids[9], ids[21], (START, END))["trade_id"].to_list() == [ids[9], ids[21]]


def test_a_page_that_never_continues_its_cursor_is_an_error(venue: Callable[..., Venue]) -> None:
    here = venue()
    row = ["1.0", "1.0", START.timestamp() - 86_400, "b", "l", "", 5]
    last = str(START_NS - DAY_NS)
    here.faults(
        {
            "kind": "reply",
            "match": "Trades",
            "body": {"error": [], "result": {"XLTCZUSD": [row], "last": last}},
        }
    )
    with pytest.raises(MalformedResponse, match=r"does not continue since=.*Tried 4 times"):
        list(KrakenTrades(here.client("kraken")).pages(LTC, START, END))


def test_an_unknown_symbol_is_an_error_before_the_first_page(venue: Callable[..., Venue]) -> None:
    source = KrakenTrades(venue().client("kraken"))
    with pytest.raises(UnknownName, match="LTC/USD"):
        next(iter(source.pages(Market("kraken", "LTC/UDS"), START, END)))


@pytest.mark.parametrize("cursor", ["", "x", "12:y", "1.5"])
def test_a_foreign_cursor_is_an_error(venue: Callable[..., Venue], cursor: str) -> None:
    with pytest.raises(UsageError, match="no cursor"):
        next(iter(KrakenTrades(venue().client("kraken")).pages(LTC, START, END, cursor)))


def _captured(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


@pytest.mark.fixtures
def test_the_six_captured_pages_come_through_ccxt_with_exactly_their_trades(
    venue: Callable[..., Venue], captures: Path
) -> None:
    here = venue(captures=captures)
    market = Market("kraken", "GRT/ETH")
    start, end = datetime(2021, 3, 28, tzinfo=UTC), datetime(2021, 5, 11, tzinfo=UTC)
    trades = trades_of(KrakenTrades(here.client("kraken")).pages(market, start, end))
    assert len(trades) == 6_000
    assert trades["trade_id"].null_count() == 6_000
    rows = []
    for number in range(1, 7):
        (path,) = (captures / "kraken/rest_grteth").glob(f"page{number}_*")
        rows += _captured(path)["result"]["GRTETH"]
    assert trades["price"].to_list() == [float(row[0]) for row in rows]
    assert trades["amount"].to_list() == [float(row[1]) for row in rows]
    us = [int(Decimal(repr(row[2])) * 1_000_000) for row in rows]
    assert trades["time"].cast(pl.Int64).to_list() == us
    assert trades["side"].to_list() == ["buy" if row[3] == "b" else "sell" for row in rows]


@pytest.mark.fixtures
def test_captured_days_of_grt_eth_add_up_to_the_captured_trades(
    venue: Callable[..., Venue], captures: Path
) -> None:
    source = KrakenTrades(venue(captures=captures).client("kraken"))
    days = [date(2021, 3, 28) + timedelta(days=n) for n in range(44)]
    counts = [len(trades_of(source.pages(Market("kraken", "GRT/ETH"), *day_window(day)))) for day in days]
    assert sum(counts) == 6_000


@pytest.mark.fixtures
@pytest.mark.parametrize(
    ("interval", "file"),
    [("1m", "1M"), ("5m", "5M"), ("15m", "15M"), ("30m", "30M"), ("1h", "1H"), ("4h", "4H"), ("12h", "12H"),
     ("1d", "1D"), ("1w", "1W")],
)  # fmt: skip
def test_candles_of_the_captured_pages_equal_the_captured_candles(
    venue: Callable[..., Venue], captures: Path, interval: str, file: str
) -> None:
    source = KrakenTrades(venue(captures=captures).client("kraken"))
    start, end = datetime(2021, 3, 28, tzinfo=UTC), datetime(2021, 5, 11, tzinfo=UTC)
    trades = trades_of(source.pages(Market("kraken", "GRT/ETH"), start, end))
    ours = fold(
        trades.with_row_index("n").with_columns(trade_id=pl.col("n").cast(pl.Int64)).drop("n"), interval
    )
    theirs = pl.read_csv(captures / f"kraken/rest_grteth/ohlc/GRTETH_{file}.csv.gz")
    opened = pl.col(theirs.columns[0]).str.to_datetime(time_unit="us", time_zone="UTC", strict=True)
    theirs = theirs.select(opened.alias("open_time"), *theirs.columns[1:]).drop_nulls()
    joined = theirs.join(ours, on="open_time", how="left", suffix="_ours", validate="1:1")
    assert len(joined) > 4
    for name in ("open", "high", "low", "close"):
        assert joined[name].to_list() == joined[f"{name}_ours"].to_list(), name
    assert (joined["volume"] - joined["volume_ours"]).abs().max() < 1e-8  # type: ignore[operator]


@pytest.mark.fixtures
def test_captured_rows_with_ids_and_without_are_read(venue: Callable[..., Venue], captures: Path) -> None:
    here = venue()
    market = Market("kraken", "BTC/USD")
    source = KrakenTrades(here.client("kraken"))
    body = _captured(captures / "kraken/rest_async_rs/Trades_XXBTZUSD_2023-11-26.json")
    here.faults({"kind": "reply", "match": "Trades", "body": body})
    start = datetime(2023, 11, 26, 17, 29, 20, tzinfo=UTC)
    (page,) = source.pages(market, start, start + timedelta(seconds=60))
    assert page.trades["trade_id"][0] == 64754585
    assert page.trades["time"][0] == datetime(2023, 11, 26, 17, 29, 31, 38366, tzinfo=UTC)
    assert (
        len(page.trades) + len([1 for row in body["result"]["XXBTZUSD"] if row[2] >= start.timestamp() + 60])
        == 31
    )

    body = _captured(captures / "kraken/rest_xchange/example-trades-data.json")
    here.faults({"kind": "reply", "match": "Trades", "body": body})
    start = datetime(2013, 11, 27, 19, 17, tzinfo=UTC)
    page = next(iter(source.pages(market, start, start + timedelta(hours=1))))
    assert len(page.trades) == 14
    assert page.trades["trade_id"].null_count() == 14
    assert page.next_cursor == "1385579841881785998"


NOW = datetime(2025, 6, 8, 15, 30, 20, tzinfo=UTC)


@pytest.mark.parametrize("interval", KrakenCandles.intervals, ids=str)
def test_candles_are_the_exchanges_own_without_the_running_one(
    venue: Callable[..., Venue], interval: Interval
) -> None:
    here = venue(now=NOW)
    source = KrakenCandles(here.client("kraken"))
    oldest = source.candles_from(interval, NOW)
    assert oldest is not None
    start = max(oldest, START - timedelta(days=1))
    candles = source.candles(LTC, interval, start, NOW + timedelta(days=9))
    assert candles.schema == EXCHANGE_CANDLE_SCHEMA
    rows = pl.concat([truth(LTC, DAY - timedelta(days=n)) for n in (1, 0)])
    # The truth here begins with yesterday; candles that began before have trades of older days.
    ours = fold(rows.filter(pl.col("time") < NOW), interval).filter(pl.col("open_time") >= start)
    final = ours.filter(pl.col("open_time") + interval.width <= NOW)
    same = ["open_time", "open", "high", "low", "close", "trade_count"]
    assert candles.select(same).equals(final.select(same))
    assert (candles["volume"] - final["volume"]).abs().max() < 1e-8  # type: ignore[operator]
    assert candles["quote_volume"].null_count() == len(candles) > 0


def test_the_oldest_candle_promised_is_still_served_five_minutes_later(venue: Callable[..., Venue]) -> None:
    here = venue(now=NOW)
    market = Market("kraken", "BTC/USD")
    source = KrakenCandles(here.client("kraken"))
    minute = Interval.parse("1m")
    oldest = source.candles_from(minute, NOW)
    assert oldest == datetime(2025, 6, 8, 3, 36, tzinfo=UTC)
    opened = [*fold(truth(market), "1m")["open_time"]]
    for late in (0, 5):
        here.running.set_clock(NOW + timedelta(minutes=late))
        candles = source.candles(market, minute, START - timedelta(days=5), NOW + timedelta(days=1))
        newest = datetime(2025, 6, 8, 15, 29, tzinfo=UTC) + timedelta(minutes=late)
        first_served = oldest - timedelta(minutes=5 - late)
        assert candles["open_time"].to_list() == [each for each in opened if first_served <= each <= newest]


@pytest.mark.fixtures
def test_captured_candles_without_trades_and_the_running_one_are_left_out(
    venue: Callable[..., Venue], captures: Path
) -> None:
    here = venue()
    body = _captured(captures / "kraken/rest_xchange/example-ohlc-data.json")
    here.faults({"kind": "reply", "match": "OHLC", "body": body})
    start = datetime(2017, 8, 10, tzinfo=UTC)
    market, minute = Market("kraken", "BTC/USD"), Interval.parse("1m")
    candles = KrakenCandles(here.client("kraken")).candles(market, minute, start, start + timedelta(days=2))
    served = body["result"]["XXBTZUSD"]
    assert len(served) == 720
    assert len(candles) == len([row for row in served[:-1] if row[7] > 0]) == 720 - 1 - 17
    assert candles["open_time"].max() < datetime.fromtimestamp(served[-1][0], UTC)  # type: ignore[operator]


@pytest.mark.parametrize("name", [each.name for each in INTERVALS if each not in KrakenCandles.intervals])
def test_a_width_kraken_has_not_on_our_grid_is_an_unknown_name(
    venue: Callable[..., Venue], name: str
) -> None:
    source = KrakenCandles(venue().client("kraken"))
    with pytest.raises(UnknownName, match=name):
        source.candles(LTC, Interval.parse(name), START, END)


@pytest.mark.parametrize(
    "body",
    [
        {"error": [], "result": {"XLTCZUSD": [[1, "2"]], "last": 1}},
        {"error": [], "result": {"XLTCZUSD": [[1749340800, "x", "1", "1", "1", "1", "1", 1]], "last": 1}},
        {"error": [], "result": []},
        "<html>",
    ],
    ids=str,
)
def test_candles_that_are_none_are_a_malformed_response(venue: Callable[..., Venue], body: Any) -> None:
    here = venue()
    here.faults({"kind": "reply", "match": "OHLC", "body": body})
    with pytest.raises(MalformedResponse, match="Tried 4 times"):
        KrakenCandles(here.client("kraken")).candles(LTC, Interval.parse("1m"), START, END)


def test_the_sources_are_what_the_contract_says(venue: Callable[..., Venue]) -> None:
    client = venue().client("kraken")
    assert isinstance(KrakenTrades(client), TradeSource)
    assert isinstance(KrakenCandles(client), CandleSource)
    assert CANDLE_SCHEMA["open_time"] == EXCHANGE_CANDLE_SCHEMA["open_time"]


def test_the_trades_of_a_tape_are_what_it_shows(venue: Callable[..., Venue]) -> None:
    rows = tape(0, 1_000, 10**9)
    source = KrakenTrades(venue(tapes=(rows,)).client("kraken"))
    assert trades_of(source.pages(TAPE, START, END)).equals(shown(rows.listing, rows.rows(0, 3)))
