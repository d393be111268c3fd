"""Dead feeds: one case from the last frame to the next one, told once each way, also across a restart."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from marketdata.lake import Lake, ledger
from marketdata.ledger import cases, still_open
from marketdata.market import Market
from marketdata.settings import Settings
from realtime.feeds.base import FeedEvents
from realtime.feeds.watch import Watch
from realtime.services.feed_watch import FeedWatch
from tests.webhook import Webhook

BTC, ETH, LTC = (Market.parse(name) for name in ("kraken:BTC/USD", "kraken:ETH/USD", "binance:LTC/USDT"))
START = datetime(2026, 6, 20, 12, tzinfo=UTC)
FEEDS = {"kraken": [BTC, ETH], "binance": [LTC]}
MINUTE = timedelta(minutes=1)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_a_feed_that_receives_nothing_is_dead_after_a_while_and_back_with_the_next_frame() -> None:
    watch = Watch(FEEDS, MINUTE, START)
    frames: dict[str, datetime | None] = {"kraken": after(5), "binance": after(60)}
    assert watch.look(frames, after(64)) == []
    found = watch.look(frames, after(65))
    assert [(entry.market, entry.state, entry.start) for entry in found] == [
        (BTC, "open", after(5)),
        (ETH, "open", after(5)),
    ]
    assert watch.look(frames | {"binance": after(70)}, after(80)) == []
    back = watch.look({"kraken": after(90), "binance": after(90)}, after(91))
    assert [(entry.market, entry.state) for entry in back] == [(BTC, "repaired"), (ETH, "repaired")]
    assert [entry.case for entry in back] == [entry.case for entry in found]
    assert back[0].detail == "Frames come again, after 85 s."


def test_a_feed_that_never_received_anything_is_dead_too() -> None:
    watch = Watch(FEEDS, MINUTE, START)
    assert {entry.market for entry in watch.look({}, after(60))} == {BTC, ETH, LTC}
    assert watch.look({}, after(600)) == []


def test_a_feed_that_was_dead_when_the_service_ended_is_said_to_be_back_by_the_next_one() -> None:
    known = {"kraken": [after(-300)]}
    watch = Watch(FEEDS, MINUTE, START, known=known)
    assert watch.look({"kraken": None, "binance": after(599)}, after(600)) == []
    back = watch.look({"kraken": after(601), "binance": after(601)}, after(602))
    assert {(entry.market, entry.start, entry.state) for entry in back} == {
        (BTC, after(-300), "repaired"),
        (ETH, after(-300), "repaired"),
    }


def test_a_feed_that_was_heard_before_the_clock_was_set_back_is_dead_in_time() -> None:
    watch = Watch(FEEDS, MINUTE, START)
    frames = {"kraken": after(3_600), "binance": after(3_600)}
    assert watch.look(frames, after(3_600)) == []
    assert watch.look(frames, after(10)) == []
    heard = {"kraken": after(11), "binance": after(70)}
    assert watch.look(heard, after(70)) == []
    dead = watch.look(heard, after(71))
    assert {(entry.market.exchange, entry.start) for entry in dead} == {("kraken", after(11))}


@dataclass
class Feed:
    """A feed of which only its events are looked at."""

    exchange: str
    markets: list[Market]
    events: FeedEvents = field(default_factory=FeedEvents)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(_env_file=None, home=tmp_path)


def test_a_dead_feed_is_in_the_ledger_and_goes_out_once_for_all_its_markets(
    settings: Settings, webhook: Webhook
) -> None:
    clock = Clock()
    settings = settings.model_copy(update={"alert_webhook": SecretStr(webhook.url)})
    lake = Lake.open(settings.lake_url, settings=settings)
    feed = Feed("kraken", [BTC, ETH])
    first = FeedWatch(settings, lake, [feed], clock=clock)
    clock.now = after(61)
    first.look()
    first.close()
    assert len(still_open(ledger.read(lake))) == 2
    second = FeedWatch(settings, lake, [feed], clock=clock)
    clock.now = feed.events.last_frame = after(90)
    second.look()
    second.look()
    second.close()
    assert [text.partition(":")[0] for text in webhook.texts] == ["ERROR kraken", "INFO kraken"]
    assert set(cases(ledger.read(lake))["state"]) == {"repaired"}


def test_a_lake_that_cannot_be_written_loses_no_entry_and_stops_no_feed(
    settings: Settings, tmp_path: Path
) -> None:
    clock = Clock()
    lake = Lake.open(settings.lake_url, settings=settings)
    watch = FeedWatch(settings, lake, [Feed("kraken", [BTC])], clock=clock)
    blocked = tmp_path / "lake"
    blocked.write_text("a file where a folder should be")
    clock.now = after(61)
    watch.look()
    assert watch._writing is not None
    with pytest.raises(Exception, match="cannot be"):
        watch._writing.result(240)
    blocked.unlink()
    watch.look()
    watch.close()
    assert len(ledger.read(lake)) == 1
