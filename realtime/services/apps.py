"""The services put together: what a command runs."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import structlog

from marketdata.bus.cluster import Cluster
from marketdata.bus.consumer import BatchConsumer
from marketdata.bus.producer import LIVE_LINGER_MS, Producer
from marketdata.bus.topics import Topics, create_topics
from marketdata.cli.times import Asked, time_range
from marketdata.errors import UnknownName
from marketdata.market import Market
from marketdata.settings import Settings
from realtime.candles import CandleCore, Rules
from realtime.health import Health, served
from realtime.metrics import Metrics
from realtime.services import letters, resuming
from realtime.services.candle_service import CandleService
from realtime.services.clock import SteadyClock
from realtime.services.history import History, LakeThenExchange
from realtime.services.runtime import forever, stopped_by_signals
from realtime.services.supervisor import supervise
from realtime.services.wire import CandleOutbox, StoreInbox, TradeInbox

_LOG = structlog.stdlib.get_logger(__name__)
SINKS = ("trades", "candles", "all")


def make_topics(settings: Settings) -> Iterator[str]:
    """Create the topics that are absent; a line for each."""
    cluster = Cluster.of(settings)
    for report in create_topics(cluster, Topics.of(settings), partitions=settings.kafka_partitions):
        yield f"{report.state}: {report.name}" + (f" ({report.detail})" if report.detail else "")


def run_candles(
    settings: Settings,
    intervals: Sequence[str],
    *,
    delay_ms: int = 500,
    grace_s: float = 30.0,
    group: str | None = None,
    instance: str | None = None,
    port: int | None = None,
    until_end: bool = False,
    history: History | None = None,
    stop: threading.Event | None = None,
) -> None:
    """The candle service, until it is stopped."""
    # Messages live for a moment and have no cycles: looking for cycles costs a third of the reading.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    cluster, topics = Cluster.of(settings), Topics.of(settings)
    rules = Rules(delay=timedelta(milliseconds=delay_ms), grace=timedelta(seconds=grace_s))
    CandleCore(intervals, rules)  # so that a wrong interval is told before anything begins
    metrics, health = Metrics("candles"), Health()
    name = group or f"{settings.kafka_topic_prefix}.candles"
    inbox = TradeInbox(cluster, topics, name, **_member(instance))
    outbox = CandleOutbox(cluster, topics, inbox.consumer)
    service = CandleService(
        inbox,
        outbox,
        lambda: CandleCore(intervals, rules),
        history or LakeThenExchange(settings),
        SteadyClock(),
        topic=topics.trades,
        metrics=metrics,
        health=health,
    )
    inbox.tell(service)
    with ExitStack() as end:
        stopping = stop or end.enter_context(stopped_by_signals())
        _serve(end, metrics, health, port, settings.metrics_host)
        end.callback(outbox.close)
        end.callback(inbox.consumer.close)
        end.callback(service.close)  # first: it commits what is due while the group is not left yet
        turn = _until_end(service.turn, inbox, service.idle, stopping) if until_end else service.turn
        forever(turn, stopping, health)
    _LOG.info("ended")


def run_sink(
    settings: Settings,
    what: str = "all",
    *,
    group: str | None = None,
    instance: str | None = None,
    port: int | None = None,
    until_end: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """The sinks, until they are stopped.

    Raises:
        UnknownName: ``what`` is none of :data:`SINKS`.
    """
    if what not in SINKS:
        raise UnknownName(what, kind="sink", known=SINKS)
    from marketdata.store.buffer import BufferedWriter  # noqa: PLC0415 - an extra
    from marketdata.store.engine import database_url  # noqa: PLC0415
    from realtime.services.sink import SinkService  # noqa: PLC0415

    cluster, topics, url = Cluster.of(settings), Topics.of(settings), database_url(settings)
    names = {
        "trades": [topics.trades, topics.backfill],
        "candles": [topics.candles],
        "all": [topics.trades, topics.backfill, topics.candles],
    }[what]
    metrics, health = Metrics("sink"), Health()
    name = group or f"{settings.kafka_topic_prefix}.sink.{what}"
    inbox = StoreInbox(cluster, topics, names, name, **_member(instance))
    with ExitStack() as end:
        stopping = stop or end.enter_context(stopped_by_signals())
        _serve(end, metrics, health, port, settings.metrics_host)
        writer = end.enter_context(BufferedWriter(url))
        service = SinkService(inbox, writer, SteadyClock(), metrics=metrics, health=health)
        inbox.tell(service)
        end.callback(inbox.close)
        end.callback(service.close)
        turn = _until_end(service.turn, inbox, service.idle, stopping) if until_end else service.turn
        forever(turn, stopping, health)
    _LOG.info("ended")


def run_replay(settings: Settings, source: str, asked: Asked, speed: float) -> int:
    """Trades that were into Kafka; returns how many.

    Raises:
        NoData: the lake has none of the range.
        UsageError: it is neither a market nor a captured file.
    """
    from marketdata.lake import Lake  # noqa: PLC0415
    from realtime.feeds.replay import CaptureReplay, LakeReplay  # noqa: PLC0415
    from realtime.services.feed_service import FeedService  # noqa: PLC0415

    cluster, topics = Cluster.of(settings), Topics.of(settings)
    feed: CaptureReplay | LakeReplay
    if (path := Path(source)).is_file():
        feed = CaptureReplay(path, speed=speed)
    else:
        market = Market.parse(source)
        start, end = time_range(asked, datetime.now(UTC))
        lake = Lake.open(settings.lake_url, settings=settings)
        feed = LakeReplay(lake, [market], start, end, speed=speed)
    producer = Producer(cluster)
    try:
        service = FeedService([feed], producer, topics, fmt=settings.kafka_format)
        with stopped_by_signals() as stop:
            asyncio.run(service.run(stop))
        return service.sent
    finally:
        producer.close()


def run_poll(
    settings: Settings, names: Sequence[str], *, port: int | None = None, stop: threading.Event | None = None
) -> None:
    """Candles that exchanges serve into the store, until it is stopped."""
    from marketdata.store.buffer import BufferedWriter  # noqa: PLC0415
    from marketdata.store.engine import database_url  # noqa: PLC0415
    from realtime.services.poll_service import polled  # noqa: PLC0415

    markets = [Market.parse(name) for name in names] or [tracked.market for tracked in settings.tracked]
    metrics, health = Metrics("poll"), Health()
    with ExitStack() as end:
        stopping = stop or end.enter_context(stopped_by_signals())
        _serve(end, metrics, health, port, settings.metrics_host)
        writer = end.enter_context(BufferedWriter(database_url(settings)))
        held = resuming.candles(settings, markets, datetime.now(UTC))
        asyncio.run(
            polled(settings, markets, writer, stopping, metrics=metrics, health=health, resume_from=held)
        )


def _member(instance: str | None) -> dict[str, Any]:
    """A member with a name has its partitions back at once when it is started again."""
    return {} if instance is None else {"group_instance_id": instance}


class _Waiting(Protocol):
    consumer: BatchConsumer


def _until_end(
    turn: Callable[[], int], inbox: _Waiting, idle: Callable[[], bool], stop: threading.Event
) -> Callable[[], None]:
    """A turn that stops the service once nothing waits in any of its partitions, and all is written."""

    def once() -> None:
        came = turn()
        places = inbox.consumer.assignment()
        lag = inbox.consumer.lag()
        if places and not came and all(lag.get(place) == 0 for place in places) and idle():
            stop.set()

    return once


def run_feed(
    settings: Settings,
    names: Sequence[str],
    *,
    port: int | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Trades of markets into Kafka, until it is stopped; a market begins behind its last trade there.

    Raises:
        UsageError: a market cannot be followed.
    """
    # ccxt takes a second to import.
    from marketdata.lake import Lake  # noqa: PLC0415
    from realtime.feeds.websocket import WebSocketFeed  # noqa: PLC0415
    from realtime.services.feed_service import FeedService, positions, published  # noqa: PLC0415
    from realtime.services.feed_watch import FeedWatch  # noqa: PLC0415

    cluster, topics = Cluster.of(settings), Topics.of(settings)
    markets = [Market.parse(name) for name in names] or [tracked.market for tracked in settings.tracked]
    known = positions(cluster, topics, markets)
    # A topic that is new, or has kept nothing: the store knows how far the market came.
    absent = [market for market in markets if market not in known]
    known |= resuming.trades(settings, absent, datetime.now(UTC))
    for market, position in known.items():
        _LOG.info("goes on behind", market=str(market), trade_id=position.trade_id, time=str(position.time))
    metrics, health = Metrics("feed"), Health()
    with ExitStack() as end:
        stopping = stop or end.enter_context(stopped_by_signals())
        _serve(end, metrics, health, port, settings.metrics_host)
        producer = Producer(cluster, linger_ms=LIVE_LINGER_MS)
        end.callback(producer.close)
        clock = SteadyClock()
        feeds = [
            WebSocketFeed(
                exchange,
                [market for market in markets if market.exchange == exchange],
                settings,
                resume_from={market: at for market, at in known.items() if market.exchange == exchange},
                clock=clock,
            )
            for exchange in dict.fromkeys(market.exchange for market in markets)
        ]
        watch = FeedWatch(settings, Lake.open(settings.lake_url, settings=settings), feeds, clock=clock)
        end.callback(watch.close)
        service = FeedService(
            feeds,
            producer,
            topics,
            fmt=settings.kafka_format,
            metrics=metrics,
            health=health,
            watch=watch,
        )
        asyncio.run(published(service, stopping))


def _serve(end: ExitStack, metrics: Metrics, health: Health, port: int | None, host: str) -> None:
    taken = end.enter_context(served(metrics, health, port, host))
    if taken is not None:
        _LOG.info("serving /metrics, /healthz and /readyz", port=taken)


def show_dead_letters(settings: Settings, rows: int, *, format: str | None, output: Path | None) -> None:  # noqa: A002
    """Print the most recent dead letters."""
    from marketdata.cli.output import choose_format, sink  # noqa: PLC0415

    chosen = choose_format(format, output)
    found = letters.latest(Cluster.of(settings), Topics.of(settings), rows)
    with sink(chosen, output, rows=rows) as out:
        out.write(found)


def replay_dead_letters(settings: Settings) -> letters.Replayed:
    """Send dead letters again that can be read now."""
    group = f"{settings.kafka_topic_prefix}.dead-letters"
    return letters.replay(Cluster.of(settings), Topics.of(settings), group, datetime.now(UTC))


def run_up(settings: Settings, markets: Sequence[str], *, instances: int, port: int | None) -> int:
    """Feed, candle service and sink as processes, until Ctrl-C."""
    for line in make_topics(settings):
        _LOG.info(line)
    services = [("feed", ["feed", *markets])]
    services += [(f"candles {n + 1}", ["candles"]) for n in range(instances)]
    if settings.database_url is not None:
        services.append(("sink", ["sink", "all"]))
    if port is not None:
        services = [(name, [*said, "--port", str(port + n)]) for n, (name, said) in enumerate(services)]
    with stopped_by_signals() as stop:
        return supervise(services, stop)
