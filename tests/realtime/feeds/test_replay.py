"""Replay of the lake and of captured files."""

import asyncio
import gzip
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata.errors import BadRange, NoData, UsageError
from marketdata.lake import Lake
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.trade import TRADE_SCHEMA, empty_trades
from realtime.feeds.base import Feed
from realtime.feeds.merge import Pace, merged
from realtime.feeds.replay import CaptureReplay, LakeReplay
from realtime.frames import captured, read_kraken_v1
from tests.lake.world import manifest_of

DAY = date(2025, 6, 8)
START = datetime(2025, 6, 8, tzinfo=UTC)
BTC, ETH = Market.parse("kraken:BTC/USD"), Market.parse("kraken:ETH/USD")


def trades(*seconds: float, first_id: int = 1) -> pl.DataFrame:
    rows = [(first_id + n, START + timedelta(seconds=at), 1.0, 1.0, "buy", 1) for n, at in enumerate(seconds)]
    return pl.DataFrame(rows, schema=TRADE_SCHEMA, orient="row")


class Taken:
    def __init__(self) -> None:
        self.frames: list[tuple[Market, pl.DataFrame]] = []
        self.rejects: list[tuple[Market | None, pl.DataFrame]] = []

    async def take(self, market: Market, found: pl.DataFrame, received: datetime) -> None:
        assert received.tzinfo is not None
        self.frames.append((market, found))

    async def keep(self, market: Market | None, rejects: pl.DataFrame) -> None:
        self.rejects.append((market, rejects))

    def of(self, market: Market) -> pl.DataFrame:
        return pl.concat([empty_trades(), *[found for each, found in self.frames if each == market]])

    def run(self, feed: Feed) -> "Taken":
        asyncio.run(feed.run(self.take, self.keep))
        return self


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.open(str(tmp_path), settings=Settings())
    for market, rows in (
        (BTC, trades(1, 2, 2, 3, 90_000 - 4_000)),
        (ETH, trades(0.5, 2.5, 3.5, first_id=70)),
    ):
        lake.write_trades(market, DAY, rows, manifest_of(market, DAY, rows))
    return lake


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, 30), max_size=20), min_size=1, max_size=4),
    st.integers(1, 8),
    st.integers(1, 10_000_000),
)
def test_merged_streams_keep_every_trade_and_no_stretch_goes_back(
    markets: list[list[int]], frame_rows: int, slice_us: int
) -> None:
    named = {Market("kraken", f"M{n}/USD"): trades(*sorted(times)) for n, times in enumerate(markets)}
    streams = {
        market: iter([rows[at : at + frame_rows] for at in range(0, len(rows), frame_rows)])
        for market, rows in named.items()
    }
    slices = list(merged(streams, slice_us))
    for market, rows in named.items():
        found = [part for each in slices for which, part in each.trades if which == market]
        assert_frame_equal(pl.concat([empty_trades(), *found]), rows)
    newest = -1
    for each in slices:
        for _, part in each.trades:
            times = part["time"].to_physical()
            assert times[0] >= newest
            assert each.start_us <= times[0]
            assert times[-1] < each.end_us
        newest = each.end_us


def test_a_replay_at_a_speed_is_due_when_the_trades_were() -> None:
    assert Pace(1.0).due(0, 5_000_000) == 5.0
    assert Pace(60.0).due(0, 60_000_000) == 1.0
    assert Pace(0.0).due(0, 60_000_000) == 0.0


def test_markets_of_the_lake_come_in_one_order_of_time(lake: Lake) -> None:
    taken = Taken().run(LakeReplay(lake, [BTC, ETH], START, START + timedelta(seconds=10)))
    assert_frame_equal(taken.of(BTC), trades(1, 2, 2, 3))
    assert_frame_equal(taken.of(ETH), trades(0.5, 2.5, 3.5, first_id=70))
    assert [market for market, _ in taken.frames] == [ETH, BTC, BTC, ETH, BTC, ETH]


def test_a_replay_at_a_speed_takes_its_time(lake: Lake) -> None:
    feed = LakeReplay(lake, [BTC], START, START + timedelta(seconds=10), speed=10.0)
    waits: list[float] = []

    async def run() -> None:
        began = asyncio.get_running_loop().time()

        async def take(_: Market, found: pl.DataFrame, __: datetime) -> None:
            waits.extend([asyncio.get_running_loop().time() - began] * len(found))

        await feed.run(take)

    asyncio.run(run())
    assert waits[-1] - waits[0] >= 0.15, "two seconds at ten times the speed"


def test_a_market_or_range_that_the_lake_has_not_is_refused(lake: Lake) -> None:
    with pytest.raises(NoData, match="BTC/EUR"):
        LakeReplay(lake, [Market.parse("kraken:BTC/EUR")], START, START + timedelta(days=1))
    with pytest.raises(BadRange):
        LakeReplay(lake, [BTC], START, START)
    with pytest.raises(UsageError, match="speed"):
        LakeReplay(lake, [BTC], START, START + timedelta(days=1), speed=-1.0)


def frame(trade_id: int, second: int, price: float = 1.5) -> str:
    row = {"symbol": "BTC/USD", "side": "buy", "price": price, "qty": 2.0, "ord_type": "limit"}
    row |= {"trade_id": trade_id, "timestamp": f"2025-06-08T00:00:{second:02}.000000Z"}
    return orjson.dumps({"channel": "trade", "type": "update", "data": [row]}).decode()


def test_frames_that_cannot_be_read_are_kept_and_repeats_go_on_once(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl.gz"
    lines = [
        frame(1, 1),
        "CloudFlare WebSocket proxy restarting",
        frame(2, 2),
        frame(2, 2),
        frame(3, 3, -1.0),
    ]
    path.write_bytes(gzip.compress("\n".join([*lines, frame(4, 4)]).encode()))
    feed = CaptureReplay(path)
    taken = Taken().run(feed)
    assert taken.of(BTC)["trade_id"].to_list() == [1, 2, 4]
    reasons = [reason for _, rejects in taken.rejects for reason in rejects["reason"]]
    assert sorted(reasons) == ["not JSON", "price not positive"]
    assert feed.events.rejected.total() == 2
    assert feed.events.repeats == 1


def test_a_file_without_frames_of_trades_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl"
    path.write_text('{"channel":"heartbeat"}\n')
    with pytest.raises(UsageError, match="no frames of trades"):
        CaptureReplay(path)
    with pytest.raises(UsageError, match="cannot be read"):
        CaptureReplay(tmp_path / "absent")


@pytest.mark.fixtures
@pytest.mark.parametrize("speed", [0.0, 3_600.0])
def test_the_captured_binance_trades_come_each_once_in_order(captures: Path, speed: float) -> None:
    path = captures / "binance" / "ws_spot_btcusdt" / "btcusdt_20240808.gz"
    found = Taken().run(CaptureReplay(path, speed=speed)).of(Market.parse("binance:BTC/USDT"))
    assert (found["trade_id"].diff().drop_nulls() == 1).all()
    assert len(found) > 5_000


@pytest.mark.fixtures
def test_the_captured_kraken_frames_of_both_versions_are_replayed(captures: Path) -> None:
    second = Taken().run(CaptureReplay(captures / "kraken" / "ws_v2_messages.jsonl"))
    assert sum(len(found) for _, found in second.frames) > 0
    assert [reason for _, rejects in second.rejects for reason in rejects["reason"]] == ["not JSON"]
    path = next(path for path in (captures / "kraken" / "ws_v1_cryptofeed").iterdir() if ".ws." in path.name)
    first = Taken().run(CaptureReplay(path))
    texts = [line.text for line in captured(path.read_text().splitlines())]
    whole = read_kraken_v1(texts, now=datetime.now(UTC)).trades
    assert {market: len(first.of(market)) for market in whole} == {m: len(rows) for m, rows in whole.items()}
    assert all(first.of(market)["trade_id"].is_unique().all() for market in whole)
