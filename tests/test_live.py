"""Live candles of the provider: history, the topic, and the seam between them, on a real broker."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from polars.testing import assert_frame_equal

from examples.crossings import crossings
from marketdata import AsyncProvider, Provider
from marketdata.bus.look import Looker
from marketdata.bus.messages import ARROW_CANDLES, JSON_CANDLES, UPDATE_SCHEMA, encode_candles, key_of
from marketdata.bus.producer import Producer
from marketdata.bus.topics import Topics, create_topics
from marketdata.candle import CANDLE_SCHEMA
from marketdata.completeness import content_hash
from marketdata.errors import NoData, UnknownName, UsageError
from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.manifest import Status
from marketdata.market import Market
from marketdata.provider.growing import LIVE_SCHEMA
from marketdata.provider.live import LiveCandles
from marketdata.settings import Settings
from tests.kafka.broker import Broker
from tests.kafka.patience import patiently
from tests.lake.world import BTC, ETH, at, manifest_of, trades_of

NUMBERS = count(1)
MONDAY = at("2025-06-02").date()
NOON = at("2025-06-02 12:00")
NAMES = CANDLE_SCHEMA.names()


class World:
    """Trades of a Monday, part of them in a lake, candles of them in a topic."""

    def __init__(self, broker: str, folder: Path) -> None:
        self.settings = Settings.load(
            kafka_bootstrap_servers=broker,
            kafka_topic_prefix=f"live{time.monotonic_ns()}-{next(NUMBERS)}",
            home=folder,
            database_url=None,
        )
        self.topics = Topics.of(self.settings)
        create_topics(self.settings, self.topics, partitions=2)
        self.lake = Lake.open(str(folder / "lake"))
        self.producer = Producer(self.settings)
        self.trades = {BTC: trades_of(MONDAY, 40_000), ETH: trades_of(MONDAY, 30_000)}
        self.now = NOON
        self.opened: list[LiveCandles] = []

    def close(self) -> None:
        for live in self.opened:
            live.close()
        self.producer.close()

    def hold(self, until: datetime, market: Market = BTC) -> None:
        """History has the trades before ``until``."""
        held = self.trades[market].filter(pl.col("time") < until)
        self.lake.write_trades(market, MONDAY, held, manifest_of(market, MONDAY, held, Status.GAPS))
        facts = {"trades": content_hash(held)}
        self.lake.write_candles(market, MONDAY, "1m", fold(held), facts=facts)

    def candles(self, interval: str, start: datetime, end: datetime, market: Market = BTC) -> pl.DataFrame:
        """What the trades of the whole day say."""
        opens = pl.col("open_time").is_between(start, end, closed="left")
        return fold(self.trades[market], interval).filter(opens)

    def say(
        self,
        candles: pl.DataFrame,
        interval: str = "1m",
        market: Market = BTC,
        *,
        revision: int = 0,
        final: bool = True,
        partial: bool = False,
        arrow: bool = False,
    ) -> None:
        """Put candles on the topic."""
        updates = candles.with_columns(
            pl.lit(interval).alias("interval"),
            pl.lit(revision, pl.Int32).alias("revision"),
            pl.lit(final).alias("final"),
            pl.lit(partial).alias("partial"),
        ).select(UPDATE_SCHEMA.names())
        headers = ARROW_CANDLES if arrow else JSON_CANDLES
        values = encode_candles(updates, "arrow" if arrow else "json")
        self.producer.send(self.topics.candles, key_of(market), values, headers)
        self.producer.flush()

    def provider(self) -> Provider:
        return Provider(self.settings, lake=self.lake, clock=lambda: self.now).connect()

    def live(
        self,
        interval: str = "1m",
        market: Market = BTC,
        n: int = 200,
        *,
        start: datetime | None = None,
        running: bool = False,
    ) -> LiveCandles:
        live = self.provider().live(market, interval, n, start=start, running=running)
        self.opened.append(live)
        return live


@pytest.fixture
def world(broker: str, tmp_path: Path) -> Iterator[World]:
    made = World(broker, tmp_path)
    yield made
    made.close()


def take(live: LiveCandles, rows: int) -> pl.DataFrame:
    """The next so many candles, all frames together."""
    frames: list[pl.DataFrame] = []
    guard = threading.Timer(240, live.stop)
    guard.start()
    try:
        while sum(map(len, frames)) < rows:
            frames.append(next(live))
            assert frames[-1].schema == LIVE_SCHEMA
    finally:
        guard.cancel()
    return pl.concat(frames)


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    assert_frame_equal(found.select(NAMES), wanted.select(NAMES), rel_tol=1e-9)


@pytest.mark.parametrize("arrow", [False, True])
def test_candles_that_history_and_the_stream_both_have_come_once(world: World, arrow: bool) -> None:
    world.hold(NOON)
    world.say(world.candles("1m", NOON - minutes(30), NOON + minutes(5)), arrow=arrow)
    world.now = NOON + minutes(5)
    live = world.live(start=NOON - minutes(120))
    found = take(live, 125)
    world.say(world.candles("1m", NOON + minutes(5), NOON + minutes(8)), arrow=arrow)
    found = pl.concat([found, take(live, 3)])
    same(found, world.candles("1m", NOON - minutes(120), NOON + minutes(8)))
    assert found["final"].all()
    assert not found["correction"].any()


def test_history_that_is_minutes_behind_is_made_up_for_by_the_stream(world: World) -> None:
    world.hold(NOON - minutes(25))
    world.say(world.candles("1m", NOON - minutes(26), NOON))
    found = take(world.live(n=60), 60)
    same(found, world.candles("1m", NOON - minutes(60), NOON))


def test_a_minute_that_history_has_in_part_comes_whole(world: World) -> None:
    world.hold(NOON - minutes(0.5))
    world.say(world.candles("1m", NOON - minutes(5), NOON))
    found = take(world.live(n=10), 10)
    same(found, world.candles("1m", NOON - minutes(10), NOON))
    assert not found["correction"].any()


def test_the_higher_revision_wins_at_the_seam_and_comes_later_as_a_correction(world: World) -> None:
    world.hold(NOON - minutes(3))
    early = world.candles("1m", NOON - minutes(3), NOON)
    less = early.with_columns(pl.col("trade_count") - 1)
    world.say(less)
    world.say(early[:1], revision=1)
    live = world.live(n=5)
    first = take(live, 5)
    same(first, pl.concat([world.candles("1m", NOON - minutes(5), NOON - minutes(2)), less[1:]]))
    assert first["revision"].to_list() == [0, 0, 1, 0, 0]
    world.say(early[1:2], revision=1)
    world.say(early[1:2], revision=1)
    world.say(world.candles("1m", NOON, NOON + minutes(1)))
    after = take(live, 2)
    same(after, pl.concat([early[1:2], world.candles("1m", NOON, NOON + minutes(1))]))
    assert after["revision"].to_list() == [1, 0]
    assert after["correction"].to_list() == [True, False]


def test_each_market_comes_alone(world: World) -> None:
    world.hold(NOON)
    world.hold(NOON, ETH)
    for market in (ETH, BTC):
        world.say(world.candles("1m", NOON, NOON + minutes(3), market), market=market)
    world.now = NOON + minutes(3)
    for market in (BTC, ETH):
        same(
            take(world.live(market=market, n=10), 10),
            world.candles("1m", NOON - minutes(7), NOON + minutes(3), market),
        )


@pytest.mark.parametrize("interval", ["5m", "1h"])
def test_wider_candles_are_made_of_minutes_and_come_when_they_are_over(world: World, interval: str) -> None:
    width = minutes(5) if interval == "5m" else minutes(60)
    world.hold(NOON - minutes(3))
    world.say(world.candles("1m", NOON - minutes(10), NOON + minutes(2)))
    world.now = NOON + minutes(2)
    live = world.live(interval, n=6)
    found = take(live, 6)
    same(found, world.candles(interval, NOON - 6 * width, NOON))
    for at_minute in range(2, 122, 40):
        world.say(world.candles("1m", NOON + minutes(at_minute), NOON + minutes(at_minute + 40)))
    later = 24 if interval == "5m" else 2
    after = take(live, later)
    same(after, world.candles(interval, NOON, NOON + later * width))
    assert not after["correction"].any()


def test_a_late_minute_corrects_the_wider_candle_once(world: World) -> None:
    world.hold(NOON)
    whole = world.candles("1m", NOON, NOON + minutes(10))
    less = whole.with_columns(
        pl.col("volume") * 0.5, pl.col("quote_volume") * 0.5, pl.lit(1, pl.Int64).alias("trade_count")
    )
    less = less.with_columns(taker_buy_volume=0.0, taker_buy_quote_volume=0.0)
    world.say(pl.concat([whole[:2], less[2:3], whole[3:]]))
    world.now = NOON + minutes(10)
    live = world.live("5m", n=2)
    first = take(live, 2)
    assert first["trade_count"][0] < world.candles("5m", NOON, NOON + minutes(5))["trade_count"][0]
    world.say(whole[2:3], revision=1)
    found = take(live, 1)
    same(found, world.candles("5m", NOON, NOON + minutes(5)))
    assert found.select("revision", "final", "correction").row(0) == (1, True, True)


def test_a_correction_of_an_hour_long_past_is_made_with_what_history_has(world: World) -> None:
    world.hold(NOON)
    world.say(world.candles("1m", NOON, NOON + minutes(1)))
    live = world.live("1h", start=NOON - minutes(600))
    assert len(take(live, 10)) == 10
    old = world.candles("1m", NOON - minutes(500), NOON - minutes(499))
    more = old.with_columns(pl.col("high") + 50, pl.col("trade_count") + 1)
    world.say(more, revision=1)
    found = take(live, 1)
    hour = world.candles("1h", NOON - minutes(540), NOON - minutes(480))
    same(found, hour.with_columns(high=more["high"], trade_count=pl.col("trade_count") + 1))
    assert found["correction"].all()


@pytest.mark.parametrize("of_last", [True, False])
@pytest.mark.parametrize("interval", ["1m", "1h"])
def test_what_the_topic_has_corrected_long_ago_comes_right_with_history(
    world: World, interval: str, of_last: bool
) -> None:
    world.hold(NOON)
    old = world.candles("1m", NOON - minutes(500), NOON - minutes(499))
    more = old.with_columns(pl.col("high") + 50, pl.col("trade_count") + 1)
    world.say(more, revision=1)
    world.say(world.candles("1m", NOON, NOON + minutes(1)))
    world.now = NOON + minutes(1)
    held = world.candles(interval, NOON - minutes(540), NOON)
    held = pl.concat([held, *([world.candles("1m", NOON, world.now)] if interval == "1m" else [])])
    inside = pl.col("open_time") == (old["open_time"][0] if interval == "1m" else NOON - minutes(540))
    wanted = held.with_columns(
        high=pl.when(inside).then(more["high"][0]).otherwise("high"),
        trade_count=pl.col("trade_count") + inside.cast(pl.Int64),
    )
    n, start = (len(held), None) if of_last else (1, NOON - minutes(540))
    live = world.live(interval, n=n, start=start)
    found = take(live, len(held))
    same(found, wanted)
    assert found.filter(inside)["revision"].to_list() == [1]
    assert not found["correction"].any()
    world.say(more, revision=1)  # is known
    world.say(more.with_columns(pl.col("trade_count") + 1), revision=2)
    after = take(live, 1)
    same(after, wanted.filter(inside).with_columns(pl.col("trade_count") + 1))
    assert after.select("revision", "correction").row(0) == (2, True)


def test_a_correction_of_long_ago_does_not_have_all_of_history_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hold(NOON)
    world.say(world.candles("1m", NOON - minutes(600), NOON - minutes(599)), revision=1)
    world.say(world.candles("1m", NOON, NOON + minutes(1)))
    world.now = NOON + minutes(1)
    live = world.live(n=5)
    read: list[int] = []
    ask = live._reader.candles

    def counting(*args: Any, **options: Any) -> list[pl.DataFrame]:
        found = ask(*args, **options)
        read.extend(map(len, found))
        return found

    monkeypatch.setattr(live._reader, "candles", counting)
    same(take(live, 5), world.candles("1m", NOON - minutes(4), NOON + minutes(1)))
    assert sum(read) < 20


def test_running_candles_come_when_they_are_asked_for_and_give_way_to_the_final_one(world: World) -> None:
    world.hold(NOON)
    live, quiet = world.live("5m", n=1, running=True), world.live("5m", n=1)
    assert len(take(live, 1)) == len(take(quiet, 1)) == 1
    whole = world.candles("1m", NOON, NOON + minutes(5))
    less = whole[1:2].with_columns(pl.lit(1, pl.Int64).alias("trade_count"))
    world.say(whole[:1])
    world.say(less, final=False)
    found = take(live, 1)
    assert found["final"].to_list() == [False] * len(found)
    assert found["trade_count"][-1] in (1, whole["trade_count"][0] + 1)
    world.say(whole[1:])
    finals = take(live, 1)
    while not finals["final"].any():
        finals = take(live, 1)
    same(finals, world.candles("5m", NOON, NOON + minutes(5)))
    same(take(quiet, 1), finals)


def test_a_stream_that_was_closed_goes_on_where_another_begins(world: World) -> None:
    world.hold(NOON)
    world.say(world.candles("1m", NOON, NOON + minutes(3)))
    world.now = NOON + minutes(3)
    first = world.live(n=5)
    before = take(first, 5)
    first.close()
    first.close()
    with pytest.raises(StopIteration):
        next(first)
    world.say(world.candles("1m", NOON + minutes(3), NOON + minutes(9)))
    world.now = NOON + minutes(9)
    after = take(world.live(start=before["open_time"][-1] + minutes(1)), 6)
    same(pl.concat([before, after]), world.candles("1m", NOON - minutes(2), NOON + minutes(9)))


def test_seconds_come_of_the_stream_as_they_are(world: World) -> None:
    world.hold(NOON)
    world.say(world.candles("10s", NOON - minutes(2), NOON + minutes(1)), "10s")
    world.say(world.candles("1m", NOON - minutes(2), NOON + minutes(1)), "1m")
    world.now = NOON + minutes(1)
    wanted = world.candles("10s", NOON - minutes(5), NOON + minutes(1))
    same(take(world.live("10s", start=NOON - minutes(5)), len(wanted)), wanted)


def test_a_message_that_is_no_candle_is_left_out_and_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.hold(NOON)
    good = world.candles("1m", NOON, NOON + minutes(2))
    world.say(good[:1])
    world.producer.send(world.topics.candles, key_of(BTC), [b'{"interval":"1m"'], JSON_CANDLES)
    world.say(good[1:])
    world.now = NOON + minutes(2)
    same(take(world.live(n=2), 2), good)
    assert "is left out: not JSON, or cut" in caplog.text


def test_a_market_without_history_begins_with_the_stream(world: World) -> None:
    world.hold(NOON)
    world.say(world.candles("1m", NOON, NOON + minutes(2), ETH), market=ETH)
    world.now = NOON + minutes(2)
    same(take(world.live(market=ETH), 2), world.candles("1m", NOON, NOON + minutes(2), ETH))


def test_a_market_that_is_nowhere_is_refused_with_the_nearest(world: World) -> None:
    world.hold(NOON)
    with pytest.raises(UnknownName, match="kraken:BTC/USD"):
        next(world.live(market=Market("kraken", "BTC/USC")))


def test_without_kafka_it_is_said_what_to_set(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    world.hold(NOON)
    bare = Settings.load(home=tmp_path, database_url=None)
    with Provider(bare, lake=world.lake) as provider:
        with pytest.raises(UsageError, match="MARKETDATA_KAFKA_BOOTSTRAP_SERVERS"):
            provider.live(BTC, "1m")
        with pytest.raises(UsageError, match="Did you mean"):
            provider.live(BTC, "1mm")


def test_a_topic_that_is_not_there_is_an_error_that_says_how_to_create_it(world: World) -> None:
    world.hold(NOON)
    other = world.settings.model_copy(update={"kafka_topic_prefix": "nothing-of-this-name"})
    with Provider(other, lake=world.lake) as provider, pytest.raises(UsageError, match="stream topics"):
        next(provider.live(BTC, "1m"))


def test_a_hole_between_history_and_what_the_topic_has_kept_is_refused(
    own_broker: Broker, tmp_path: Path
) -> None:
    world = World(own_broker.bootstrap, tmp_path)
    world.hold(NOON)
    world.say(world.candles("1m", NOON, NOON + minutes(20)))
    world.say(
        world.candles("1m", NOON - minutes(300), NOON - minutes(299)), revision=1
    )  # tells nothing of it
    world.say(world.candles("1m", NOON + minutes(20), NOON + minutes(30)))
    with Looker(world.settings) as looker:
        ends = patiently(lambda: looker.bounds([world.topics.candles]))
    dropped = [TopicPartition(*place, max(0, end - 11)) for place, (_, end) in ends.items()]
    admin = AdminClient({"bootstrap.servers": own_broker.bootstrap})
    for done in admin.delete_records(dropped).values():
        done.result(240)
    with pytest.raises(NoData, match=r"ends at 2025-06-02T11:59:00Z, .* begins at 2025-06-02T12:20:00Z"):
        next(world.live())
    world.hold(NOON + minutes(21))
    world.now = NOON + minutes(30)
    same(take(world.live(n=40), 40), world.candles("1m", NOON - minutes(10), NOON + minutes(30)))
    world.close()


def test_a_broker_that_comes_back_goes_on_where_it_was(own_broker: Broker, tmp_path: Path) -> None:
    world = World(own_broker.bootstrap, tmp_path)
    world.hold(NOON)
    world.say(world.candles("1m", NOON, NOON + minutes(1)))
    world.now = NOON + minutes(1)
    live = world.live(n=5)
    before = take(live, 5)
    own_broker.stop()
    own_broker.start()
    world.say(world.candles("1m", NOON + minutes(1), NOON + minutes(4)))
    same(pl.concat([before, take(live, 3)]), world.candles("1m", NOON - minutes(4), NOON + minutes(4)))
    world.close()


def test_the_asynchronous_stream_gives_the_same_and_loses_nothing_to_a_timeout(world: World) -> None:
    world.hold(NOON)
    world.say(world.candles("1m", NOON, NOON + minutes(2)))
    world.now = NOON + minutes(2)

    async def read() -> pl.DataFrame:
        frames: list[pl.DataFrame] = []
        async with (
            AsyncProvider(world.settings, lake=world.lake, clock=lambda: world.now) as provider,
            provider.live(BTC, "1m", 10) as live,
        ):
            while sum(map(len, frames)) < 10:
                frames.append(await anext(live))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(live), 0.3)
            await asyncio.to_thread(world.say, world.candles("1m", NOON + minutes(2), NOON + minutes(5)))
            async for candles in live:
                frames.append(candles)
                if sum(map(len, frames)) >= 13:
                    break
        with pytest.raises(StopAsyncIteration):
            await anext(live)
        return pl.concat(frames)

    same(asyncio.run(read()), world.candles("1m", NOON - minutes(8), NOON + minutes(5)))


def test_a_strategy_gives_the_same_signals_on_history_and_live(world: World) -> None:
    world.hold(NOON)
    whole = world.candles("1m", NOON, NOON + minutes(120))
    world.say(whole[:60])
    live = world.live(start=NOON - minutes(240))

    def said() -> Iterator[pl.DataFrame]:
        rows = 0
        for candles in live:
            yield candles
            before, rows = rows, rows + len(candles)
            if before < 300 <= rows:
                world.say(whole[60:])
            if rows >= 360:
                return

    found = list(crossings(said()))
    world.hold(NOON + minutes(120))
    world.now = NOON + minutes(120)
    with world.provider() as provider:
        history = provider.candles(BTC, "1m", NOON - minutes(240), NOON + minutes(120))
    assert found == list(crossings([history]))
    assert len(found) > 5
