"""What is compared of a day: what was streamed, what its trades say, and the exchange's own candles."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl

from marketdata import fold as folding
from marketdata.backfill import fold_day
from marketdata.candle import CANDLE_SCHEMA, EXCHANGE_CANDLE_SCHEMA, hash_of_cells
from marketdata.errors import CorruptFile, NoData
from marketdata.interval import INTERVALS, Interval, to_us
from marketdata.lake import Lake
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata.market import Market
from marketdata.reading import DETAILS
from marketdata.reconcile import CLASSES, EXCHANGE, Drift, Side, Window, classify, three_way
from marketdata.settings import Settings

_MINUTE, _DAY = Interval.parse("1m"), Interval.parse("1d")
_WIDER = tuple(interval for interval in INTERVALS if _MINUTE < interval <= _DAY)
# A stream that said something this long before midnight was there at midnight.
_AROUND = timedelta(hours=1)
_SAID = [*CANDLE_SCHEMA, "revision"]
_NONE_SERVED = EXCHANGE_CANDLE_SCHEMA.to_frame()
_NOTHING = pl.Schema({**CANDLE_SCHEMA, **DETAILS}).to_frame()


@dataclass(frozen=True, slots=True)
class Held:
    """What there is to compare of a day, before it is read.

    Attributes:
        stream: what was streamed of the day; ``streamed``: the stretch of it in which the stream was there.
        served: by interval, the stretch of which the exchange's own candles speak; ``None``: that is known
            when they are read.
        inputs: the same as long as all of this is.
    """

    manifest: Manifest
    stream: pl.DataFrame
    streamed: Window
    served: Mapping[Interval, Window | None]
    inputs: str


@dataclass(frozen=True, slots=True)
class Compared:
    """How a day compares.

    Attributes:
        batch: the candles of the lake's trades, CANDLE_SCHEMA.
        stream, exchange: the two comparisons, with nothing compared where there was nothing.
    """

    manifest: Manifest
    batch: pl.DataFrame
    stream: Side
    exchange: Side
    inputs: str


def said(settings: Settings, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
    """What was streamed of ``[start, end)`` and an hour around it; nothing without a store.

    Returns:
        CANDLE_SCHEMA with ``revision``, ``source`` and ``coverage``.

    Raises:
        TransientError, UsageError: the store cannot be reached, or its schema is older.
    """
    if settings.database_url is None:
        return _NOTHING
    from marketdata.store import streamed  # the store is an optional part  # noqa: PLC0415

    return streamed.read(settings, market, start - _AROUND, end + _AROUND)


def held(lake: Lake, market: Market, day: date, streamed: pl.DataFrame) -> Held:
    """What there is to compare of a day now.

    Args:
        streamed: as :func:`said` gives it for this day or more.

    Raises:
        NoData: the lake does not hold the day.
        CorruptFile, StorageError: from the lake.
    """
    manifest = lake.manifest(market, day)
    if manifest is None:
        msg = f"The lake holds no trades of {market} on {day}."
        raise NoData(msg, hint=f"Run: marketdata backfill {market} --start {day} --end ...")
    stream, stretch = _of_day(streamed, *day_window(day))
    served, contents = _served(lake, market, day)
    parts = [manifest.content_hash, manifest.status.value, str(stretch), *contents]
    if len(stream):
        parts.append(hash_of_cells(stream[_SAID]))
    inputs = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Held(manifest, stream, stretch, served, inputs)


def compare_sides(lake: Lake, there: Held) -> Compared:
    """Read and compare a day; candles that are not of the day's trades are made of them first.

    Raises:
        CorruptFile, StorageError: from the lake.
    """
    manifest = there.manifest
    market, (start, end) = manifest.market, day_window(manifest.day)
    batch = _batch(lake, manifest)
    minutes, window = _NONE_SERVED, (start, start)
    wider: list[tuple[Interval, pl.DataFrame, Window]] = []
    for interval, known in there.served.items():
        candles = lake.read_candles(market, interval, start, end, kind="exchange_candles")
        if known is None and candles.is_empty():
            continue
        # Imported ones speak of what lies between the first and the last.
        speaks = known or (candles["open_time"][0], candles["open_time"][-1] + interval.width)
        if interval == _MINUTE:
            minutes, window = candles, speaks
        else:
            wider.append((interval, candles, speaks))
    stream, exchange = three_way(there.stream, batch, minutes, streamed=there.streamed, served=window)
    for interval, candles, speaks in wider:
        wide = folding.widen(batch, interval)
        more = classify(wide, candles, *speaks, compared_with=EXCHANGE, interval=interval.name)
        exchange = _together(exchange, more)
    return Compared(manifest, batch, stream, exchange, there.inputs)


def _batch(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """The candles of exactly these trades; folded where the lake has others or none."""
    market, day = manifest.market, manifest.day
    try:
        facts = lake.read_facts("candles", market, day, _MINUTE) or {}
        if facts.get("trades") == manifest.content_hash:
            return lake.read_candles(market, _MINUTE, *day_window(day))
    except CorruptFile:
        pass  # what is made of trades is made again
    return fold_day(lake, market, day)


def _served(lake: Lake, market: Market, day: date) -> tuple[dict[Interval, Window | None], list[str]]:
    """By interval the stretch the exchange's own candles speak of, and what tells that they have changed."""
    start, end = day_window(day)
    found: dict[Interval, Window | None] = {}
    contents: list[str] = []
    for interval in (_MINUTE, *_WIDER):
        facts = lake.read_facts("exchange_candles", market, day, interval)
        if facts is None:
            continue
        contents.append(f"{interval} {facts.get('served')} {facts.get('from')} {facts.get('content')}")
        if facts.get("served") == "none":
            continue
        since = facts.get("from")
        found[interval] = None if since is None else (max(start, datetime.fromisoformat(since)), end)
        if found[interval] == (start, end):
            break  # wider ones say nothing that these do not
    return found, contents


def _of_day(streamed: pl.DataFrame, start: datetime, end: datetime) -> tuple[pl.DataFrame, Window]:
    """What was streamed of a day, and the part of the day in which the stream was there.

    That is all of the day, or from its first to its last candle.
    """
    opens = streamed["open_time"].to_numpy().view(np.int64)
    around = int(_AROUND.total_seconds() * 1e6)
    first, last = to_us(start), to_us(end)
    edges = np.searchsorted(opens, [first - around, first, last, last + around])
    before, low, high, after = (int(edge) for edge in edges)
    mine = streamed[low:high]
    if mine.is_empty():
        return mine, (start, start)
    since = start if before < low else mine["open_time"][0]
    return mine, (since, end if high < after else mine["open_time"][-1] + _MINUTE.width)


def _together(left: Side, right: Side) -> Side:
    """Two comparisons with the exchange, of two intervals; the drift is that of the one that drifts more."""
    counts = {name: left.counts.get(name, 0) + right.counts.get(name, 0) for name in CLASSES}
    pairs = zip(asdict(left.drift).items(), asdict(right.drift).values(), strict=True)
    return Side(
        left.compared + right.compared,
        left.equal + right.equal,
        {name: count for name, count in counts.items() if count},
        Drift(**{name: max(mine, yours) for (name, mine), yours in pairs}),
        pl.concat([left.differences, right.differences]),
    )


def proved(manifest: Manifest) -> bool:
    """Whether ids, one after the other, prove that the batch has every trade."""
    whole = manifest.status is Status.COMPLETE and not manifest.missing_ids and not manifest.not_served
    return whole and manifest.ids is Ids.SEQUENTIAL


def imported(manifest: Manifest) -> bool:
    """Whether somebody has imported the trades from a file."""
    return manifest.source.startswith("file ")


def why(manifest: Manifest) -> str:
    """Why candles may differ from the exchange's own although ours are right."""
    if manifest.not_served:
        return f"The exchange does not serve {manifest.not_served_count:,} trades of the day."
    return "Theirs differ, ours are proved: the ids run on without a hole."
