"""Filling holes of the live tables: the exchange's candles at once, its trades after them."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from marketdata import recording
from marketdata.candle import CANDLE_SCHEMA
from marketdata.correcting import correct
from marketdata.errors import MarketDataError, NoData, TransientError
from marketdata.fold import fold
from marketdata.interval import Interval
from marketdata.lake import Lake
from marketdata.ledger import Entry, Event, State
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.repair import live
from marketdata.repair.live import Hole, Kind
from marketdata.repair.plan import Rules
from marketdata.settings import Settings

_MINUTE = Interval.parse("1m")
_MARGIN = timedelta(seconds=1)
# So many ids are asked for by id; more are read page by page.
_BY_ID = 2_000
# Several markets at once; the exchange's pace spaces their requests.
_THREADS = 4
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Filled:
    """What became of a hole.

    Attributes:
        candles: those of the exchange that stand in; ``trades``: new ones; ``remade``: candles made of them.
    """

    hole: Hole
    state: State
    sentence: str
    candles: int = 0
    trades: int = 0
    remade: int = 0


def fill(
    settings: Settings,
    lake: Lake,
    holes: Iterable[Hole],
    *,
    now: datetime,
    rules: Rules,
    run_id: str = "",
    say: Say = lambda _: None,
) -> list[Filled]:
    """Fill holes, markets side by side, and write what was done into the ledger.

    Args:
        now: what runs at this minute is left alone.
        say: is told a line a step.

    Raises:
        StorageError: the ledger cannot be written.
    """
    by_market: dict[Market, list[Hole]] = {}
    for hole in sorted(holes, key=lambda hole: hole.start, reverse=True):
        by_market.setdefault(hole.market, []).append(hole)
    before = recording.entries(settings, lake)

    def market(of_market: list[Hole]) -> list[Filled]:
        filler = _Filler(settings, lake, now, rules, run_id, say)
        return [done for hole in of_market if (done := filler.hole(hole, before)) is not None]

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fill") as pool:
        return [done for each in pool.map(market, by_market.values()) for done in each]


class _Filler:
    def __init__(  # noqa: PLR0917
        self, settings: Settings, lake: Lake, now: datetime, rules: Rules, run_id: str, say: Say
    ) -> None:
        self._settings, self._lake, self._now, self._rules = settings, lake, now, rules
        self._run_id, self._say = run_id, say

    def hole(self, hole: Hole, ledger: pl.DataFrame) -> Filled | None:
        """Fill one; ``None`` where a silence was a quiet market, or the exchange can never tell."""
        earlier = live.past(ledger, hole)
        attempt = earlier.attempts + 1
        entry = self._entry(hole, attempt, earlier.end or hole.end)
        theirs, trouble = None, None
        try:
            theirs = self._theirs(hole)
        except MarketDataError as error:
            trouble = error
        if hole.kind is Kind.SILENCE and theirs is not None and not self._contradicted(hole, theirs):
            quiet = f"{hole.market} was quiet from {hole.start:%H:%M:%S} to {hole.end:%H:%M:%S} UTC."
            self._say(quiet)
            if earlier.state is not None:  # the exchange could not be asked before
                recording.record(self._settings, self._lake, [entry(Event.OUTCOME, State.INFORMATION, quiet)])
            return None
        unasked = trouble if hole.kind is Kind.SILENCE else None
        if unasked is not None and earlier.state is None and not isinstance(unasked, TransientError):
            self._say(f"{hole.market} may lack trades, and its candles cannot be asked: {unasked.message}")
            return None
        if earlier.state is None:
            recording.record(self._settings, self._lake, [entry(Event.FINDING, State.OPEN, hole.sentence)])
        started = f"Attempt {attempt} of {self._rules.attempts} was started."
        recording.record(self._settings, self._lake, [entry(Event.REPAIR, State.OPEN, started)])
        if unasked is None:
            done = self._fill(hole, theirs, attempt)
        else:  # nobody knows whether there were trades
            done = Filled(hole, self._failed(attempt, unasked), unasked.message)
        after = {"candles": done.candles, "trades": done.trades, "remade": done.remade}
        recording.record(
            self._settings, self._lake, [entry(Event.OUTCOME, done.state, done.sentence, after=after)]
        )
        self._say(f"{hole.market}: {done.sentence}")
        return done

    def _entry(self, hole: Hole, attempt: int, end: datetime) -> Callable[..., Entry]:
        def make(event: Event, state: State, detail: str, after: dict[str, int] | None = None) -> Entry:
            return Entry(
                self._now, event, state, hole.market, live.SUBJECT, live.REASON, hole.start, end, detail,
                attempt=0 if event is Event.FINDING else attempt,
                before=live.facts(hole), after=after or {}, run_id=self._run_id,
            )  # fmt: skip

        return make

    def _fill(self, hole: Hole, theirs: pl.DataFrame | None, attempt: int) -> Filled:
        candles = trades = remade = 0
        try:
            if theirs is not None and len(theirs):
                candles = correct(
                    self._settings, hole.market, theirs, source="exchange", coverage="partial"
                ).changed
                self._say(f"{hole.market}: {candles} candles of the exchange stand in.")
            if hole.kind is not Kind.CANDLES:
                trades = self._trades(hole)
            lost = self._lost(hole)
            if not lost or not candles:  # what the exchange alone knows stays
                remade = self._remake(hole, complete=not lost)
        except MarketDataError as error:
            return Filled(hole, self._failed(attempt, error), error.message, candles, trades, remade)
        came = f"{trades:,} trades came by REST, {remade:,} candles are made of them anew."
        if lost:
            sentence = f"{came} {lost:,} trades are not served."
            return Filled(hole, State.NOT_SERVED, sentence, candles, trades, remade)
        return Filled(hole, State.REPAIRED, came, candles, trades, remade)

    def _failed(self, attempt: int, error: MarketDataError) -> State:
        """How a hole stands after an attempt that failed so."""
        last = attempt >= self._rules.attempts or not isinstance(error, TransientError)
        return State.EXHAUSTED if last else State.FAILED

    def _theirs(self, hole: Hole) -> pl.DataFrame | None:
        """The exchange's candles of a short hole, CANDLE_SCHEMA; ``None`` where they are not asked for."""
        if hole.kind is Kind.CANDLES or (
            hole.kind is Kind.IDS and hole.end - hole.start >= live.CANDLES_FIRST
        ):
            return None
        from marketdata.sources import candle_source  # ccxt takes a second to import  # noqa: PLC0415

        source = candle_source(hole.market.exchange, self._settings)
        start, end = self._minutes(hole)
        served = source.candles(hole.market, _MINUTE, start, end)
        absent = [pl.lit(None, CANDLE_SCHEMA[n]).alias(n) for n in CANDLE_SCHEMA if n not in served.columns]
        return served.with_columns(absent).select(CANDLE_SCHEMA.names())

    def _contradicted(self, hole: Hole, theirs: pl.DataFrame) -> bool:
        """Whether the exchange had trades in minutes that lie whole in the silence."""
        inside = theirs.filter(
            pl.col("open_time") >= _MINUTE.ceil(hole.start + timedelta(microseconds=1)),
            pl.col("open_time") + _MINUTE.width <= hole.end,
        )
        return bool((inside["volume"] > 0).any())

    def _minutes(self, hole: Hole) -> tuple[datetime, datetime]:
        start, end = hole.minutes
        return start, min(end, _MINUTE.floor(self._now))

    def _trades(self, hole: Hole) -> int:
        """Bring the trades; how many are new."""
        from marketdata.store.buffer import BufferedWriter  # noqa: PLC0415
        from marketdata.store.engine import database_url  # noqa: PLC0415

        with BufferedWriter(database_url(self._settings)) as writer:
            for page in self._pages(hole):
                if page["trade_id"].null_count():
                    msg = f"{hole.market.exchange} numbers no trades: those of a hole cannot be told apart."
                    raise NoData(msg)
                writer.write(hole.market, page)
            writer.flush()
            return writer.stats.written

    def _pages(self, hole: Hole) -> Iterator[pl.DataFrame]:
        from marketdata.sources import trade_source  # noqa: PLC0415

        first, last = hole.first_id, hole.last_id
        if first is not None and last is not None and last - first < _BY_ID:
            source = trade_source(hole.market, hole.end.date(), self._settings, self._now)
            yield source.refetch(hole.market, first, last, (hole.start - _MARGIN, hole.end + _MARGIN))
            return
        at, end = hole.start, min(hole.end + _MARGIN, self._now)
        while at < end:
            stop = min(day_window(at.date())[1], end)
            for page in trade_source(hole.market, at.date(), self._settings, self._now).pages(
                hole.market, at, stop
            ):
                self._say(f"{hole.market}: {len(page.trades):,} trades up to {page.reached:%H:%M:%S} UTC.")
                yield page.trades
            at = stop

    def _lost(self, hole: Hole) -> int:
        """How many of the hole's ids the store still does not have."""
        if hole.first_id is None or hole.last_id is None:
            return 0
        held = self._held(hole.market, hole.start - _MARGIN, hole.end + _MARGIN)
        found = held.filter(pl.col("trade_id").is_between(hole.first_id, hole.last_id))
        return hole.last_id - hole.first_id + 1 - len(found)

    def _remake(self, hole: Hole, *, complete: bool) -> int:
        """Candles of the touched minutes, made of all trades that the store has now."""
        changed = 0
        at, end = self._minutes(hole)
        while at < end:
            stop = min(day_window(at.date())[1], end)
            candles = fold(self._held(hole.market, at, stop), "1m")
            coverage = "complete" if complete else "gaps"
            changed += correct(self._settings, hole.market, candles, coverage=coverage).changed
            at = stop
        return changed

    def _held(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        from marketdata.store.engine import database_url  # noqa: PLC0415
        from marketdata.store.reader import StoreReader  # noqa: PLC0415

        reader = StoreReader(database_url(self._settings))
        reader.open()
        try:
            return reader.trades(market, start, end)
        finally:
            reader.close()
