"""``marketdata stream status``: topics, rates and how far each consumer is behind."""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from marketdata.bus.cluster import Cluster
from marketdata.bus.consumer import Place, Position
from marketdata.bus.look import Looker, committed
from marketdata.bus.topics import Topics
from marketdata.cli.output import choose_format, sink
from marketdata.errors import CorruptFile, TransientError
from marketdata.settings import Settings
from realtime.services.checkpoint import Checkpoint

STATUS_SCHEMA = pl.Schema(
    {
        "topic": pl.String(),
        "messages": pl.Int64(),
        "per_second": pl.Float64(),
        "last": pl.Datetime("us", "UTC"),
        "consumer": pl.String(),
        "behind": pl.Int64(),
    }
)
_NO_RATE = "-"


@dataclass
class Watcher:
    """Looks again and again; a rate needs two looks."""

    where: Cluster | str
    topics: Topics
    groups: dict[str, str]  # group by the topic it reads, "group topic" -> topic
    _before: tuple[float, dict[str, int]] | None = field(default=None)

    def look(self) -> pl.DataFrame:
        """STATUS_SCHEMA: a row a topic, or one for each of its consumers.

        Raises:
            TransientError: no broker answers.
        """
        names = [name for _, name in self.topics.roles()]
        with Looker(self.where) as looker:
            bounds = looker.bounds(names)
            last = _last_times(looker, bounds)
        now = time.monotonic()
        ends = {
            name: sum(high for (topic, _), (_, high) in bounds.items() if topic == name) for name in names
        }
        held = {
            name: sum(high - low for (topic, _), (low, high) in bounds.items() if topic == name)
            for name in names
        }
        before, self._before = self._before, (now, ends)
        rows: list[tuple[object, ...]] = []
        for name in names:
            rate = None if before is None else (ends[name] - before[1].get(name, 0)) / (now - before[0])
            topic = (name, held[name], rate, last.get(name))
            consumers = self._consumers(name, bounds)
            rows += [(*topic, *consumer) for consumer in consumers] or [(*topic, None, None)]
        return pl.DataFrame(rows, STATUS_SCHEMA, orient="row")

    def _consumers(self, topic: str, bounds: dict[Place, tuple[int, int]]) -> list[tuple[str, int]]:
        places = {place: ends for place, ends in bounds.items() if place[0] == topic}
        found = []
        for group, read in self.groups.items():
            if read != topic:
                continue
            done = committed(self.where, group.partition(" ")[0], places)
            if done:
                behind = sum(
                    max(0, high - max(low, _handled(done.get(place))))
                    for place, (low, high) in places.items()
                )
                found.append((group.partition(" ")[0], behind))
        return found


def _handled(position: Position | None) -> int:
    """The offset up to which a group has come: the candle service commits one behind that, and says so."""
    if position is None:
        return 0
    try:
        return Checkpoint.parse(position.offset, position.metadata).position
    except CorruptFile:
        return position.offset


def _last_times(looker: Looker, bounds: dict[Place, tuple[int, int]]) -> dict[str, datetime]:
    """When the last message of each topic was sent; of a mark of a transaction behind it nothing is known."""
    stretches = {place: (max(low, high - 2), high) for place, (low, high) in bounds.items() if high > low}
    found: dict[str, datetime] = {}
    for message in looker.messages(stretches):
        sent = datetime.fromtimestamp(message.timestamp()[1] / 1_000, UTC)
        topic = str(message.topic())
        found[topic] = max(found.get(topic, sent), sent)
    return found


def watcher(settings: Settings) -> Watcher:
    """A watcher of the settings' topics and the services' usual groups."""
    topics, prefix = Topics.of(settings), settings.kafka_topic_prefix
    groups = {f"{prefix}.candles": topics.trades}
    for what, names in (
        ("trades", (topics.trades, topics.backfill)),
        ("candles", (topics.candles,)),
        ("all", (topics.trades, topics.backfill, topics.candles)),
    ):
        groups |= {f"{prefix}.sink.{what} {name}": name for name in names}
    return Watcher(Cluster.of(settings), topics, groups)


def run_status(settings: Settings, *, once: bool, every_s: float, format: str | None) -> None:  # noqa: A002
    """Show it, once or until Ctrl-C."""
    watch = watcher(settings)
    if once or format is not None or not sys.stdout.isatty():
        watch.look()
        time.sleep(min(every_s, 1.0))  # a rate needs two looks
        with sink(choose_format(format, None), None) as out:
            out.write(watch.look())
        return
    console = Console()
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            live.update(_shown(watch), refresh=True)
            time.sleep(every_s)


def _shown(watch: Watcher) -> Group:
    try:
        table = drawn(watch.look().iter_rows(named=True), datetime.now(UTC))
    except TransientError as error:
        return Group(Text(str(error), style="red"))
    return Group(table, Text("Ctrl-C ends it.", style="dim"))


def drawn(rows: Iterable[dict[str, object]], now: datetime) -> Table:
    """The rows as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("topic")
    for heading in ("messages", "a second", "last"):
        table.add_column(heading, justify="right")
    table.add_column("consumer")
    table.add_column("behind", justify="right")
    shown = ""
    for row in rows:
        topic, rate, last, behind = (row[name] for name in ("topic", "per_second", "last", "behind"))
        age = f"{(now - last).total_seconds():,.1f} s ago" if isinstance(last, datetime) else ""
        first = ("", "", "", "")
        if topic != shown:
            speed = f"{rate:,.1f}" if isinstance(rate, float) else _NO_RATE
            first = (str(topic), f"{row['messages']:,}", speed, age)
        late = isinstance(behind, int) and behind > 10_000
        shown_behind = Text("" if behind is None else f"{behind:,}", style="red" if late else "")
        table.add_row(*first, str(row["consumer"] or ""), shown_behind)
        shown = str(topic)
    return table
