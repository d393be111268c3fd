"""Pages of a backfill on the bus: each one, as it is fetched, also when it is killed on the way."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata.backfill import DayReport, Outcome, backfill
from marketdata.bus.consumer import BatchConsumer
from marketdata.bus.messages import decode_trades
from marketdata.bus.topics import Topics, create_topics
from marketdata.coverage_log import CoverageLog
from marketdata.errors import TransientError, UsageError
from marketdata.fetching import DayReport as Report
from marketdata.fetching import Progress, fetch_day
from marketdata.lake import Lake
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources.base import Page
from marketdata.trade import distinct
from tests.kafka.test_bus import eventually
from tests.lake.world import BTC, DAY, ETH, NEXT, NOW, PagedSource, trades_of


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


class Collected:
    """A publisher that keeps what it is given, and breaks when it is told to."""

    def __init__(self, breaks: Callable[[int], BaseException | None] = lambda _page: None) -> None:
        self.pages: list[tuple[Market, pl.DataFrame]] = []
        self.breaks = breaks

    def publish(self, market: Market, trades: pl.DataFrame) -> None:
        if (error := self.breaks(len(self.pages))) is not None:
            raise error
        self.pages.append((market, trades))

    @property
    def trades(self) -> pl.DataFrame:
        return pl.concat([trades for _, trades in self.pages])


def get(lake: Lake, publisher: Collected, source: PagedSource | None = None) -> Report:
    return fetch_day(lake, source or PagedSource(), BTC, DAY, now=NOW, publisher=publisher)


def test_each_page_is_published_as_it_is_fetched(lake: Lake) -> None:
    published = Collected()
    get(lake, published)
    assert len(published.pages) == 30
    assert_frame_equal(distinct(published.trades), trades_of(DAY))


def test_a_complete_day_is_not_published_again(lake: Lake) -> None:
    get(lake, Collected())
    again = Collected()
    get(lake, again)
    assert again.pages == []


def test_a_page_is_staged_only_when_it_has_been_published(lake: Lake) -> None:
    published = Collected(lambda page: TransientError("the broker is away.") if page == 7 else None)
    with pytest.raises(TransientError, match="away"):
        get(lake, published)
    assert len(lake.read_staged(BTC, DAY)) == 700
    rest = Collected()
    assert get(lake, rest).resumed_pages == 7
    assert_frame_equal(distinct(pl.concat([published.trades, rest.trades])), trades_of(DAY))


@pytest.mark.parametrize("page", [0, 1, 15, 29])
def test_a_fetch_killed_between_publishing_and_staging_publishes_the_page_again(
    lake: Lake, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Collected()
    append = type(lake.stage(BTC, DAY, "paged")).append

    def killed(stage: object, one: Page) -> None:
        if len(published.pages) == page + 1:
            raise KeyboardInterrupt
        append(stage, one)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(type(lake.stage(BTC, DAY, "paged")), "append", killed)
        with pytest.raises(KeyboardInterrupt):
            get(lake, published)
    rest = Collected()
    get(lake, rest)
    assert len(published.pages) + len(rest.pages) == 31
    assert_frame_equal(distinct(pl.concat([published.trades, rest.trades])), trades_of(DAY))


def test_trades_that_fill_a_hole_are_published_too(lake: Lake) -> None:
    class Holey(PagedSource):
        def pages(self, *args: object) -> Iterator[Page]:
            for page in super().pages(*args):  # type: ignore[arg-type]
                yield replace(page, trades=page.trades.filter(pl.col("trade_id") % 100 != 50))

    published = Collected()
    get(lake, published, Holey())
    assert len(published.pages) == 31
    assert len(published.pages[-1][1]) == 30
    assert_frame_equal(distinct(published.trades), trades_of(DAY))


# -- through Kafka -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["json", "arrow"])
def test_a_backfill_is_on_the_bus_as_it_is_in_the_lake(
    lake: Lake, tmp_path: Path, broker: str, fmt: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(
        home=tmp_path,
        kafka_bootstrap_servers=broker,
        kafka_topic_prefix=f"backfill-{fmt}-{time.time_ns()}",
        kafka_format=fmt,
        publish_backfill=True,
    )
    topics = Topics.of(settings)
    create_topics(settings, topics, partitions=2)
    jobs = [(market, day) for market in (BTC, ETH) for day in (DAY, NEXT)]
    with caplog.at_level(logging.INFO, "marketdata.backfill"):
        outcomes = backfill(lake, jobs, settings, now=NOW, find_source=lambda *_: PagedSource())
    assert all(isinstance(outcome, DayReport) for outcome in outcomes)
    assert [
        line for line in caplog.messages if line.startswith("kraken:BTC/USD: 6,000 trades, 2 of 2 days, ")
    ]
    found: dict[Market, list[pl.DataFrame]] = {BTC: [], ETH: []}
    with BatchConsumer(broker, [topics.backfill], "g") as consumer:

        def read() -> None:
            decoded = decode_trades(consumer.poll(5_000, 0.1), now=NOW)
            assert decoded.rejects == []
            for batch in decoded.batches:
                found[batch.market].append(batch.trades)

        eventually(lambda: all(sum(map(len, parts)) == 6_000 for parts in found.values()), read)
    for market, parts in found.items():
        held = lake.read_trades(market, day_window(DAY)[0], day_window(NEXT)[1])
        assert_frame_equal(distinct(pl.concat(parts)), held)


def test_a_backfill_that_cannot_publish_says_so_before_it_asks_for_anything(
    lake: Lake, tmp_path: Path, real: str
) -> None:
    asked: list[object] = []

    def run(**more: object) -> list[Outcome]:
        settings = Settings.load(home=tmp_path, publish_backfill=True, **more)
        find = lambda *_: asked.append(1) or PagedSource()  # noqa: E731
        return backfill(lake, [(BTC, DAY)], settings, now=NOW, find_source=find)

    with pytest.raises(UsageError, match="marketdata stream topics"):
        run(kafka_bootstrap_servers=real, kafka_topic_prefix=f"absent-{time.time_ns()}")
    assert asked == []


# -- the log -------------------------------------------------------------------------------------------


def test_the_log_says_rate_and_coverage_of_each_market() -> None:
    now = [0.0]
    lines: list[str] = []
    euro = Market("kraken", "BTC/EUR")
    days = [DAY + timedelta(days=n) for n in range(7)]
    log = CoverageLog([(euro, day) for day in days], lines.append, every_s=5, clock=lambda: now[0])

    def progress(day: date, rows: int, fraction: float) -> Progress:
        return Progress(euro, day, 1, rows, 0, fraction, rows / max(now[0], 1), now[0])

    log.page(progress(days[0], 100, 0.01))
    assert lines == []
    now[0] = 10.0
    log.page(progress(days[0], 9_000, 1.0))
    log.page(progress(days[1], 4_000, 0.8))
    now[0] = 20.0
    log.page(progress(days[2], 2_432, 0.5))
    assert lines == [
        "kraken:BTC/EUR: 9,000 trades, 1 of 7 days, 900 trades/s",
        "kraken:BTC/EUR: 15,432 trades, 2.3 of 7 days, 772 trades/s",
    ]
