"""Trades that were, once more: of the lake or of a captured file, at any speed."""

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import orjson
import polars as pl

from marketdata.errors import BadRange, NoData, UsageError
from marketdata.interval import to_us
from marketdata.lake import Lake
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.trade import REJECT_SCHEMA, in_order
from realtime import frames
from realtime.feeds.base import FeedEvents, Out, Refused
from realtime.feeds.merge import Pace, Slice, merged
from realtime.feeds.overlap import Overlap

_LINES_AT_ONCE = 2_000

Reader = Callable[[Sequence[str | bytes]], frames.Read]


class LakeReplay:
    """Trades of the lake, several markets in one order of time; ends at the end of the range."""

    def __init__(
        self, lake: Lake, markets: Iterable[Market], start: datetime, end: datetime, *, speed: float = 0.0
    ) -> None:
        """Replay ``[start, end)``; ``speed`` 1: as it was, 60: a minute a second, 0: as fast as it goes.

        Raises:
            BadRange: the range is empty.
            UsageError: the speed is negative, or no market is named.
            NoData: the lake has nothing of a market in this range.
        """
        self._lake, self._start, self._end = lake, start, end
        self.markets, self._pace = tuple(dict.fromkeys(markets)), _pace(speed)
        if start >= end:
            msg = f"From {start} to {end} is no range."
            raise BadRange(msg, hint="The end is later than the start.")
        if not self.markets:
            msg = "No market is named."
            raise UsageError(msg, hint="Name one, such as kraken:BTC/USD.")
        self._days = {market: self._held(market) for market in self.markets}
        self.events = FeedEvents()

    async def run(self, out: Out, refused: Refused | None = None) -> None:  # noqa: ARG002
        """See :class:`realtime.feeds.base.Feed`; a lake has only accepted trades."""
        streams = {market: self._frames(market) for market in self.markets}
        await _paced(merged(streams, self._pace.slice_us), self._pace, self.events, out)

    def _held(self, market: Market) -> list[datetime]:
        starts = [day_window(day) for day in self._lake.days(market).get(market, [])]
        days = [opens for opens, closes in starts if opens < self._end and closes > self._start]
        if not days:
            msg = f"The lake has no trades of {market} from {self._start} to {self._end}."
            raise NoData(msg, hint=f"Fetch them: marketdata backfill {market}")
        return days

    def _frames(self, market: Market) -> Iterator[pl.DataFrame]:
        """A frame a row group: a day of a busy market is not held."""
        for opens in self._days[market]:
            with self._lake.stream_trades(market, opens.date()) as (_, parts):
                for part in parts:
                    inside = part.filter(pl.col("time").is_between(self._start, self._end, closed="left"))
                    if len(inside):
                        yield inside


class CaptureReplay:
    """Trades of a captured file of frames; ends with the file.

    Kraken v2, Kraken v1 and Binance, in the layouts that ``docs/local-exchange.md`` shows, gzip or plain.
    Trades come in the order of the file, each once; what is missing in the file stays missing.
    """

    def __init__(self, path: Path, *, markets: Iterable[Market] | None = None, speed: float = 0.0) -> None:
        """Replay ``path``, of ``markets`` only if any are named; ``speed`` as for the lake.

        A file that does not say when its frames were received goes by the times of the trades.

        Raises:
            UsageError: the speed is negative, or the file cannot be read or has no frames of trades.
        """
        self._path, self._pace = path, _pace(speed)
        self._markets = None if markets is None else frozenset(markets)
        self._read, self._numbered = _reader(path)
        self._trackers: dict[Market, Overlap] = {}
        self.events = FeedEvents()

    async def run(self, out: Out, refused: Refused | None = None) -> None:
        """See :class:`realtime.feeds.base.Feed`."""
        rejects: list[tuple[Market | None, pl.DataFrame]] = []
        async for part in _in_time(self._slices(rejects), self._pace):
            await _hand_on(part, self.events, out)
            for market, rejected in rejects:
                self.events.rejected.update(rejected["reason"].to_list())
                if refused is not None:
                    await refused(market, rejected)
            rejects.clear()

    def _slices(self, rejects: list[tuple[Market | None, pl.DataFrame]]) -> Iterator[Slice]:
        lines = frames.captured(_lines(self._path))
        for texts, end in _stretches(lines, self._pace.slice_us):
            found = self._read(texts)
            rejects += _rejects(found.rejects)
            wanted = {
                market: self._fresh(market, rows)
                for market, rows in found.trades.items()
                if self._markets is None or market in self._markets
            }
            trades = [(market, rows) for market, rows in wanted.items() if len(rows)]
            times = [int(rows["time"].to_physical()[0]) for _, rows in trades]
            until = end if end is not None else max(times, default=0)
            yield Slice(min(times, default=until), until, trades)

    def _fresh(self, market: Market, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows that had not come; where the exchange gives no ids, with ids that fit those before."""
        tracker = self._trackers.setdefault(market, Overlap())
        if not self._numbered:
            rows = rows.with_columns(pl.lit(None, pl.Int64).alias("trade_id"))
        repeats = tracker.repeats
        fresh = in_order(tracker.add(rows, 0.0))
        self.events.repeats += tracker.repeats - repeats
        return fresh


def _pace(speed: float) -> Pace:
    if not speed >= 0:
        msg = f"A replay at {speed!r} times the speed cannot be."
        raise UsageError(msg, hint="1: as it was, 60: a minute a second, 0: as fast as it goes.")
    return Pace(speed)


async def _paced(slices: Iterator[Slice], pace: Pace, events: FeedEvents, out: Out) -> None:
    async for part in _in_time(slices, pace):
        await _hand_on(part, events, out)


async def _in_time(slices: Iterator[Slice], pace: Pace) -> AsyncIterator[Slice]:
    """Each slice when it is due; what is late is not waited for."""
    loop = asyncio.get_running_loop()
    began, first_us = loop.time(), None
    while (part := await asyncio.to_thread(next, slices, None)) is not None:
        if first_us is None and part.trades:
            first_us, began = part.start_us, loop.time()
        if first_us is not None:
            await asyncio.sleep(max(0.0, began + pace.due(first_us, part.end_us) - loop.time()))
        yield part


async def _hand_on(part: Slice, events: FeedEvents, out: Out) -> None:
    for market, trades in part.trades:
        await out(market, trades, datetime.now(UTC))
        events.trades += len(trades)
        events.last_trade[market] = trades["time"][-1]


def _lines(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", errors="replace") as lines:
        yield from lines


def _stretches(
    lines: Iterator[frames.Captured], slice_us: int
) -> Iterator[tuple[list[str | bytes], int | None]]:
    """Frames that came within one stretch of time, and its end; without times so many at once."""
    texts: list[str | bytes] = []
    end: int | None = None
    for line in lines:
        at = None if line.received is None else to_us(line.received)
        over = at is not None and end is not None and at >= end
        if texts and (over or (at is None and len(texts) >= _LINES_AT_ONCE)):
            yield texts, end
            texts = []
        if at is not None and (over or end is None):
            end = at // slice_us * slice_us + slice_us
        texts.append(line.text)
    if texts:
        yield texts, end


def _reader(path: Path) -> tuple[Reader, bool]:
    """How to read a file, by its first frames; and whether its trades are numbered."""
    try:
        head = [line.text for line in islice(frames.captured(_lines(path)), _LINES_AT_ONCE)]
    except (OSError, EOFError) as error:
        msg = f"The captured file {str(path)!r} cannot be read: {error}."
        raise UsageError(msg) from error
    far = datetime.now(UTC) + timedelta(days=1)
    kinds = Counter(_kind(text) for text in head)
    if kinds["kraken v2"]:
        return (lambda texts: frames.read_kraken_v2(texts, now=far)), True
    if kinds["kraken v1"]:
        return (lambda texts: frames.read_kraken_v1(texts, now=far)), False
    if kinds["aggTrade"]:
        return (lambda texts: frames.read_binance(texts, now=far)), True
    if kinds["trade"]:
        return (lambda texts: frames.read_binance(texts, now=far, stream="trade")), True
    msg = f"There are no frames of trades at the head of {str(path)!r}."
    raise UsageError(msg, hint="Frames of Kraken (v1, v2) and Binance can be replayed.")


def _kind(text: str) -> str:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return "none"
    if isinstance(value, list):
        return "kraken v1" if len(value) >= 4 and value[-2] == "trade" else "none"
    if not isinstance(value, dict):
        return "none"
    if value.get("channel") == "trade":
        return "kraken v2"
    event = value.get("data", value)
    return str(event.get("e", "none")) if isinstance(event, dict) else "none"


def _rejects(found: pl.DataFrame) -> list[tuple[Market | None, pl.DataFrame]]:
    return [
        (None if name is None else Market.parse(name), rows.select(REJECT_SCHEMA.names()))
        for (name,), rows in found.partition_by("market", as_dict=True, maintain_order=True).items()
    ]
