"""What is compared of a day: what was streamed, what its trades say, and the exchange's own candles."""

import hashlib
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta

import polars as pl

from marketdata import fold as folding
from marketdata.backfill import fold_day
from marketdata.candle import CANDLE_SCHEMA, EXCHANGE_CANDLE_SCHEMA, hash_of_cells
from marketdata.errors import CorruptFile, NoData
from marketdata.interval import INTERVALS, Interval
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
_NOTHING = pl.Schema({**CANDLE_SCHEMA, **DETAILS}).to_frame()


@dataclass(frozen=True, slots=True)
class Compared:
    """How a day compares.

    Attributes:
        batch: the candles of the lake's trades, CANDLE_SCHEMA.
        stream, exchange: the two comparisons, with nothing compared where there was nothing.
        inputs: the same as long as all that was compared is.
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


def compare_sides(lake: Lake, market: Market, day: date, streamed: pl.DataFrame) -> Compared:
    """Compare a day as it is held now.

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
    start, end = day_window(day)
    batch = _batch(lake, manifest)
    theirs, contents = _theirs(lake, market, day)
    minutes, served = theirs.get(_MINUTE, (EXCHANGE_CANDLE_SCHEMA.to_frame(), (start, start)))
    mine = (
        streamed.filter(pl.col("open_time").is_between(start, end, closed="left"))
        if len(streamed)
        else streamed
    )
    stretch = _stretch(streamed, mine, start, end)
    stream, exchange = three_way(mine, batch, minutes, streamed=stretch, served=served)
    for interval, (candles, window) in theirs.items():
        if interval != _MINUTE:
            wide = folding.widen(batch, interval)
            more = classify(wide, candles, *window, compared_with=EXCHANGE, interval=interval.name)
            exchange = _together(exchange, more)
    parts = [manifest.content_hash, manifest.status.value, str(stretch), *contents]
    if len(mine):
        parts.append(hash_of_cells(mine.select(*CANDLE_SCHEMA, "revision")))
    inputs = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Compared(manifest, batch, stream, exchange, inputs)


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


def _theirs(
    lake: Lake, market: Market, day: date
) -> tuple[dict[Interval, tuple[pl.DataFrame, Window]], list[str]]:
    """The exchange's own candles by interval, each with the stretch it speaks of; and their hashes."""
    start, end = day_window(day)
    found: dict[Interval, tuple[pl.DataFrame, Window]] = {}
    contents: list[str] = []
    for interval in (_MINUTE, *_WIDER):
        facts = lake.read_facts("exchange_candles", market, day, interval)
        if facts is None:
            continue
        contents.append(f"{interval} {facts.get('served')} {facts.get('from')} {facts.get('content')}")
        if facts.get("served") == "none":
            continue
        candles = lake.read_candles(market, interval, start, end, kind="exchange_candles")
        if "from" in facts:
            window = (max(start, datetime.fromisoformat(facts["from"])), end)
        elif candles.is_empty():
            continue
        else:  # imported: they speak of what lies between the first and the last
            window = (candles["open_time"][0], candles["open_time"][-1] + interval.width)
        found[interval] = (candles, window)
        if interval == _MINUTE and window == (start, end):
            break  # wider ones say nothing that these do not
    return found, contents


def _stretch(around: pl.DataFrame, mine: pl.DataFrame, start: datetime, end: datetime) -> Window:
    """The part of the day in which the stream was there: all of it, or from its first to its last candle."""
    if mine.is_empty():
        return start, start
    opens = around["open_time"]
    before = (opens < start) & (opens >= start - _AROUND)
    after = (opens >= end) & (opens < end + _AROUND)
    first, last = mine["open_time"][0], mine["open_time"][-1]
    return start if before.any() else first, end if after.any() else last + _MINUTE.width


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
