"""Candles of history, then those of the topic as they come: no hole and no repeat between the two.

The order of the steps is what makes it so. First it is noted where the topic ends; then the topic is read
from before history's last candle up to there, and after that history; the two overlap, and of each candle the
latest issue counts. What the topic brings behind the noted end comes last.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event
from typing import Self

import polars as pl

from marketdata.bus.candle_messages import decode_candles
from marketdata.bus.envelope import key_of
from marketdata.bus.follow import Follower, Received
from marketdata.bus.topics import Topics
from marketdata.errors import MarketDataError, NoData, UsageError
from marketdata.interval import INTERVALS, Interval, from_us, to_us
from marketdata.market import Market
from marketdata.provider.arguments import show
from marketdata.provider.growing import BASE_SCHEMA, Growing, history_frame, put_right
from marketdata.provider.readers import Reader
from marketdata.reading import Wanted
from marketdata.settings import Settings

_LOG = logging.getLogger("marketdata.provider.live")
_MINUTE = Interval.parse("1m")
# The topic is read from this long before history's last candle on: a candle is sent when it is over and its
# late trades have come, and clocks differ.
_OVERLAP = timedelta(minutes=10)
# History's last candles may lack trades that are on their way; the topic brings those candles itself.
_SETTLED = timedelta(minutes=1)
# Without a trade a candle is over this long behind its end; the candle service waits six seconds.
_QUIET_US = 15_000_000
_PAGE = 10_000
_GATHERED = 50_000
# Without history the topic is read from as far back as the candles asked for reach, at most.
_LONGEST = timedelta(days=30)
_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Asked:
    """What is followed.

    Attributes:
        start: candles from this time on, else the last ``count``.
        unheld: why history has nothing of the market; raised when the topic has nothing either.
    """

    market: Market
    interval: Interval
    start: datetime | None
    count: int
    running: bool
    unheld: MarketDataError | None = None

    @property
    def base(self) -> Interval:
        """The interval it is made of: the topic has those up to a minute."""
        return min(self.interval, _MINUTE)


class LiveCandles(Iterator[pl.DataFrame]):
    """Frames of candles without end: see :meth:`marketdata.Provider.live`. For one thread."""

    def __init__(
        self, reader: Reader, clock: Callable[[], datetime], settings: Settings, asked: Asked
    ) -> None:
        """Nothing is read before the first frame is asked for.

        Raises:
            UsageError: no Kafka is configured, or its client is not installed.
        """
        if settings.kafka_bootstrap_servers is None:
            msg = "Live candles come through Kafka, and none is configured."
            raise UsageError(
                msg,
                hint="Set MARKETDATA_KAFKA_BOOTSTRAP_SERVERS=HOST:PORT to the one that the streamer uses;"
                " docs/live.md says how to do without a broker.",
            )
        self._reader, self._clock, self._settings, self._asked = reader, clock, settings, asked
        self._stop = Event()
        self._frames = self._read()

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> pl.DataFrame:
        """The next candles, at least one; waits for them.

        Raises:
            TransientError: a broker or the store is gone, or the reader was slower than retention.
            NoData: nothing is held of the market, or what lies between history and the topic is not.
            StopIteration: it was closed.
        """
        return next(self._frames)

    def stop(self) -> None:
        """End it from another thread: who waits for candles is told within a moment that there are none."""
        self._stop.set()

    def close(self) -> None:
        """Disconnect; a second call does nothing."""
        self._stop.set()
        self._frames.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self.close()

    # -- the order of things ------------------------------------------------------------------------

    def _read(self) -> Generator[pl.DataFrame, None, None]:
        topic = Topics.of(self._settings).candles
        follower = Follower(self._settings, topic)
        try:
            last = self._last()
            inbox = Inbox(self._asked, follower, None if last is None else last - _OVERLAP)
            follower.begin(self._since(last))
            while not follower.caught_up and not self._stop.is_set():
                inbox.poll()
            finals, running = inbox.take()
            if self._asked.unheld is not None and inbox.newest_us is None:
                raise self._asked.unheld
            self._require_overlap(inbox, last, topic)
            if not self._stop.is_set():
                yield from self._frames_of(inbox, finals, running, last)
        finally:
            follower.close()

    def _frames_of(
        self, inbox: "Inbox", finals: pl.DataFrame, running: pl.DataFrame, last: datetime | None
    ) -> Iterator[pl.DataFrame]:
        asked, now = self._asked, self._clock()
        begin = None if asked.start is None else asked.interval.ceil(asked.start)
        edges = [
            edge for edge in (inbox.near(finals)["open_time"].min(), last, now) if isinstance(edge, datetime)
        ]
        # From here on history and topic may differ; what is before is history's, but for corrections.
        seam = asked.interval.floor(min(edges))
        if begin is not None:
            seam = max(seam, begin)
            finals = finals.filter(pl.col("open_time") >= begin)
        early, finals = finals.filter(pl.col("open_time") < seam), finals.filter(pl.col("open_time") >= seam)
        growing = Growing(
            asked.base,
            asked.interval,
            told_until=to_us(seam),
            reload=lambda first, end: self._base(from_us(first), from_us(end)),
            running=asked.running,
        )
        growing.know(self._settled(self._base(seam, max(seam, asked.base.ceil(now))), finals, now))
        over = to_us(now) if inbox.newest_us is None else inbox.over_us()
        tail = growing.add(finals, running, over)
        ended = int(tail["final"].sum())
        begun = begin
        for frame in self._before(begin, seam, asked.count - ended, early, growing):
            begun = frame["open_time"][0] if begun is None else begun
            yield frame
        if begin is None and ended > asked.count:
            tail = tail[ended - asked.count :]
        if len(tail):
            begun = tail["open_time"][0] if begun is None else begun
            yield tail
        while not self._stop.is_set():
            came = inbox.poll()
            finals, running = inbox.take()
            if begun is not None:  # what is corrected before the first candle was not asked for
                finals = finals.filter(pl.col("open_time") >= begun)
            found = growing.add(finals, running, 0 if came else inbox.over_us())
            if len(found):
                begun = found["open_time"][0] if begun is None else begun
                yield found

    # -- history ------------------------------------------------------------------------------------

    def _last(self) -> datetime | None:
        """Open time of history's last candle of the interval that is followed."""
        if self._asked.unheld is not None:
            return None
        base = self._asked.base
        until = base.floor(self._clock()) + base.width
        found = self._reader.last(self._asked.market, base, 1, until, details=False)
        return found["open_time"][0] if len(found) else None

    def _since(self, last: datetime | None) -> datetime:
        """From when on messages may be of candles that history lacks."""
        asked, now = self._asked, self._clock()
        first = asked.start
        if first is None:
            first = now - min(asked.count * asked.interval.width, _LONGEST) if last is None else last
        return min(now, first if last is None else max(first, last)) - _OVERLAP

    def _base(self, start: datetime, end: datetime) -> pl.DataFrame:
        """History's candles of the narrower interval with ``open_time`` in ``[start, end)``, BASE_SCHEMA."""
        asked = self._asked
        if asked.unheld is not None or start >= end:
            return BASE_SCHEMA.to_frame()
        wanted = [Wanted(asked.base, start, end)]
        (found,) = self._reader.candles(asked.market, wanted, fill=False, details=True)
        # A lake folds anew, and so does a store below a minute: of these no revision can be told.
        told = self._reader.kind == "store" and asked.base == _MINUTE
        revision = pl.col("revision") if told else pl.lit(None, pl.Int32)
        return found.with_columns(revision.alias("revision"), partial=pl.lit(value=False)).select(
            BASE_SCHEMA.names()
        )

    def _settled(self, base: pl.DataFrame, finals: pl.DataFrame, now: datetime) -> pl.DataFrame:
        """Without the candles that are not over, and those that the topic is about to bring."""
        closes = pl.col("open_time") + self._asked.base.width
        kept = base.filter(closes <= now)
        newest = finals["open_time"].max()
        if newest is None:
            return kept
        return kept.filter((pl.col("open_time") <= newest) | (closes <= now - _SETTLED))

    def _before(
        self, begin: datetime | None, seam: datetime, count: int, early: pl.DataFrame, growing: Growing
    ) -> Iterator[pl.DataFrame]:
        """History's candles before the seam, with what the topic has corrected of them (BASE_SCHEMA)."""
        asked = self._asked
        opens = pl.col("open_time")
        if asked.unheld is not None:
            return
        if begin is None:
            if count > 0:
                found = history_frame(
                    self._reader.last(asked.market, asked.interval, count, seam, details=True)
                )
                if len(found) == count:
                    early = early.filter(opens >= found["open_time"][0])
                found = put_right(found, growing.renew(early)).tail(count)
                if len(found):
                    yield found
            return
        at = begin
        while at < seam and not self._stop.is_set():
            end = min(seam, at + _PAGE * asked.interval.width)
            wanted = [Wanted(asked.interval, at, end)]
            (page,) = self._reader.candles(asked.market, wanted, fill=False, details=True)
            corrected = growing.renew(early.filter(opens.is_between(at, end, closed="left")))
            found = put_right(history_frame(page), corrected)
            if len(found):
                yield found
            at = end

    def _require_overlap(self, inbox: "Inbox", last: datetime | None, topic: str) -> None:
        """Refuse where what lies between history and the oldest message kept is in neither."""
        if last is None or inbox.first is None or inbox.first[0] not in inbox.cut:
            return
        opens = inbox.first[1]
        if opens > last + self._asked.base.width:
            msg = (
                f"History of {self._asked.market} ends at {show(last)}, and {topic} begins at {show(opens)}."
            )
            raise NoData(msg, hint="Load what lies between: marketdata backfill, marketdata db load.")


class Inbox:
    """Candles of one market and interval out of the topic, gathered until they are taken."""

    def __init__(self, asked: Asked, follower: Follower, near: datetime | None) -> None:
        """Nothing has come.

        Args:
            near: candles that open before this are corrections of long ago, which do not say how far back
                the topic reaches, nor when the market was last traded; ``None``: there are none.
        """
        self._follower, self._market, self._base, self._near = follower, asked.market, asked.base, near
        self._key = key_of(asked.market)
        # Messages of other intervals, as this project writes them, are not worth decoding.
        others = (interval.name for interval in INTERVALS if interval != asked.base)
        self._others = tuple(f'{{"interval":"{name}"'.encode() for name in others)
        self._finals: list[pl.DataFrame] = []
        self._running: list[pl.DataFrame] = []
        self._gathered = 0
        self.newest_us: int | None = None
        self._newest_at = 0.0
        self.first: tuple[int, datetime] | None = None

    @property
    def cut(self) -> set[int]:
        """Partitions that are read from their oldest message, others having been dropped."""
        return self._follower.cut

    def poll(self) -> bool:
        """Wait a moment for messages; whether some of the market came."""
        found = self._follower.poll(_WAIT_S)
        mine = [message for message in found if message.key() == self._key and self._wanted(message)]
        if not mine:
            return False
        decoded = decode_candles(mine)
        for reject in decoded.rejects:
            place = mine[reject.index]
            _LOG.warning(
                "%s[%s] offset %s is left out: %s",
                place.topic(),
                place.partition(),
                place.offset(),
                reject.reason,
            )
        for batch in decoded.batches:
            candles = batch.candles.filter(pl.col("interval") == self._base.name)
            if len(candles):
                self._gather(candles, mine)
        return True

    def _wanted(self, message: Received) -> bool:
        value = message.value()
        return not (isinstance(value, bytes) and value.startswith(self._others))

    def near(self, candles: pl.DataFrame) -> pl.DataFrame:
        """Without corrections of long ago."""
        return candles if self._near is None else candles.filter(pl.col("open_time") >= self._near)

    def _gather(self, candles: pl.DataFrame, messages: list[Received]) -> None:
        finals = candles.filter("final").select(BASE_SCHEMA.names())
        if len(finals):
            self._finals.append(finals)
        running = candles.filter(~pl.col("final")).select(BASE_SCHEMA.names())
        if len(running):
            self._running.append(running)
        if self.first is None and len(near := self.near(finals)):
            self.first = (int(messages[0].partition() or 0), near["open_time"][0])
        newest = self.near(candles)["last_trade_time"].to_physical().max()
        if isinstance(newest, int) and newest >= (self.newest_us or newest):
            self.newest_us, self._newest_at = newest, messages[-1].timestamp()[1] / 1000
        self._gathered += len(candles)
        if self._gathered > _GATHERED:
            self._finals, self._running = [_latest(self._finals)], [_newest(self._running)]
            self._gathered = 0

    def over_us(self) -> int:
        """Until when candles are over: the newest trade ages with the clock; microseconds."""
        if self.newest_us is None:
            return 0
        return self.newest_us + int(max(0.0, time.time() - self._newest_at) * 1e6) - _QUIET_US

    def take(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The latest final and the newest running issue of each candle since the last call, BASE_SCHEMA."""
        found = _latest(self._finals), _newest(self._running)
        self._finals, self._running, self._gathered = [], [], 0
        return found


def _latest(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    found = pl.concat([BASE_SCHEMA.to_frame(), *parts])
    if len(found) < 2:
        return found
    return found.sort("open_time", "revision", maintain_order=True).unique(
        "open_time", keep="last", maintain_order=True
    )


def _newest(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    found = pl.concat([BASE_SCHEMA.to_frame(), *parts])
    return found if len(found) < 2 else found.unique("open_time", keep="last", maintain_order=True)
