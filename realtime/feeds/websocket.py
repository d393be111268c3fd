"""Live trades of one exchange, from its sockets through ccxt.pro: each once, in order, none missing."""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import orjson
import polars as pl
import structlog

from marketdata.errors import MarketDataError, TransientError, UnknownName, UsageError
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources import market_table
from marketdata.trade import REJECT_SCHEMA
from realtime.feeds.backoff import Backoff
from realtime.feeds.base import FeedEvents, Out, Position, Refused
from realtime.feeds.connection import CACHE_ROWS, Connection, Rows
from realtime.feeds.liveness import Liveness, LivenessRules
from realtime.feeds.overlap import Overlap
from realtime.feeds.recovery import Recovery
from realtime.feeds.rows import OTHER_IDS_BY_REST
from realtime.feeds.sequence import Request, Sequence
from realtime.feeds.track import TakerError, Track
from realtime.services.clock import SteadyClock

_LOG = structlog.stdlib.get_logger(__name__)
_TICK_S = 0.1
# A look that comes so late was held up, and reading with it: by brokers that take nothing, or by the machine.
_HELD_UP_S = 1.0
# Refused frames that wait to be handed on.
_BAD_FRAMES = 1_000
# Kraken sends a heartbeat each second to whoever has subscribed. Elsewhere pings and pongs show that the
# connection is up, and REST shows whether the market is quiet.
_RULES = {"kraken": LivenessRules(silence=6.0, probe=600.0)}
_OTHERS = LivenessRules(silence=35.0, probe=60.0)
_NO_BEAT = {"kraken": '"method":"pong"'}


class WebSocketFeed:
    """Trades of some markets of one exchange."""

    def __init__(
        self,
        exchange: str,
        markets: Iterable[Market],
        settings: Settings,
        *,
        resume_from: Mapping[Market, Position] | None = None,
        rules: LivenessRules | None = None,
        recovery: Recovery | None = None,
        clock: Callable[[], datetime] | None = None,
        buffer_rows: int = 100_000,
        cache_rows: int = CACHE_ROWS,
    ) -> None:
        """Follow ``markets``, all of this exchange.

        Args:
            resume_from: the last trade of each market that was handed on before; what has happened since is
                fetched first. A market without one begins with what the socket brings.
            rules: when a socket is dead; what suits the exchange by default.
            recovery: how to ask REST.
            clock: the time; a :class:`SteadyClock` by default.
            buffer_rows: trades of a market that may wait while REST is asked.
            cache_rows: trades of a market that ccxt may hold.

        Raises:
            UsageError: a market is of another exchange, or none is named.
        """
        self.exchange, self.markets = exchange, tuple(dict.fromkeys(markets))
        if not self.markets or any(market.exchange != exchange for market in self.markets):
            msg = f"A feed of {exchange} wants markets of {exchange}."
            raise UsageError(msg, hint="Make a feed for each exchange.")
        self.events = FeedEvents()
        self._settings, self._rules = settings, rules or _RULES.get(exchange, _OTHERS)
        self._recovery = recovery or Recovery(settings)
        self._clock = clock or SteadyClock()
        self._resume_from = dict(resume_from or {})
        self._buffer_rows, self._cache_rows = buffer_rows, cache_rows
        self._tracks: dict[str, Track] = {}
        self._liveness: Liveness | None = None
        self._bad: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def run(self, out: Out, refused: Refused | None = None) -> None:
        """See :class:`realtime.feeds.base.Feed`.

        Run once more, it goes back ten minutes: what was handed on last may not have arrived.
        """
        for track in self._tracks.values():
            if track.safe is not None:
                self._resume_from[track.market] = track.safe
        self._bad = asyncio.Queue(maxsize=_BAD_FRAMES)
        table = await self._market_table()
        sequential = await asyncio.to_thread(self._recovery.sequential, self.markets[0])
        numbered = False if self.exchange in OTHER_IDS_BY_REST else None
        for market in self.markets:
            position = self._resume_from.get(market)
            tracker: Sequence | Overlap = (
                Sequence(position, limit=self._buffer_rows)
                if sequential
                else Overlap(position, limit=self._buffer_rows, numbered=numbered)
            )
            self._tracks[market.symbol] = Track(
                market, tracker, self._recovery, self.events, out=out, refused=refused, clock=self._clock
            )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._recover(tasks))
                tasks.create_task(self._hand_on_bad(refused))
                tasks.create_task(self._connect(table))
        except BaseExceptionGroup as group:
            # One failure is enough, and it has a name; the others are its consequence.
            first = _leaf(group)
            raise (first.__cause__ or first) if isinstance(first, TakerError) else first from None
        finally:
            self._recovery.close()
            for track in self._tracks.values():
                await track.end()

    async def _connect(self, table: Mapping[str, object]) -> None:
        backoff = Backoff(random.random)
        while True:
            held = await self._follow(table)
            await asyncio.sleep(backoff.after(held))

    async def _follow(self, table: Mapping[str, object]) -> float:
        """Follow one connection to its end; for how many seconds it held."""
        loop = asyncio.get_running_loop()
        symbols = [market.symbol for market in self.markets]
        connection = Connection(self.exchange, symbols, table, self._settings, cache_rows=self._cache_rows)
        started, opened = loop.time(), False
        liveness = self._liveness = Liveness(self.markets, self._rules, started)
        no_beat = _NO_BEAT.get(self.exchange)

        def frame(text: str) -> None:
            nonlocal opened
            if not opened:
                opened = True
                self.events.connections += 1
                for track in self._tracks.values():
                    track.tracker.connected(loop.time())
            self.events.last_frame = self._clock()
            if no_beat is None or no_beat not in text[:200]:
                liveness.frame(loop.time())

        async def trades(symbol: str, rows: Rows, *, lost: bool) -> None:
            track = self._tracks[symbol]
            liveness.trades(track.market, loop.time())
            await track.rows(rows, loop.time(), lost=lost)

        reading = asyncio.create_task(connection.run(trades, frame, self._keep_bad))
        try:
            while not reading.done() and (reason := liveness.dead(loop.time())) is None:
                looked = loop.time()
                await asyncio.wait({reading}, timeout=_TICK_S)
                if loop.time() - looked > _HELD_UP_S:
                    # It was not the socket that was silent: nobody listened.
                    liveness.frame(loop.time())
        finally:
            reading.cancel()
            ended = (await asyncio.gather(reading, return_exceptions=True))[0]
        hopeless = isinstance(ended, UsageError) or not isinstance(ended, MarketDataError)
        if isinstance(ended, Exception) and hopeless:
            raise ended
        for track in self._tracks.values():
            await track.settled()
        reason = reason or "ended"
        self.events.reconnects[reason] += 1
        self._note("connecting again", reason=reason, error=str(ended or ""))
        return loop.time() - started if opened else 0.0

    async def _recover(self, tasks: asyncio.TaskGroup) -> None:
        """Ask REST for what is missing, and whether a quiet market is quiet; it outlives connections."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            if self._liveness is not None:
                for market in self._liveness.to_probe(now):
                    self._tracks[market.symbol].tracker.probe(now)
            for track in self._tracks.values():
                request = track.tracker.request(now)
                if request is not None:
                    tasks.create_task(self._fill(track, request))

    async def _fill(self, track: Track, request: Request) -> None:
        liveness = self._liveness
        missed = await track.fill(request)
        if liveness is not None:
            liveness.probed(track.market, asyncio.get_running_loop().time(), missed=missed)

    async def _hand_on_bad(self, refused: Refused | None) -> None:
        while True:
            reason, text = await self._bad.get()
            if refused is not None:
                row = (reason, None, None, orjson.dumps(text).decode())
                await refused(None, pl.DataFrame([row], schema=REJECT_SCHEMA, orient="row"))

    def _keep_bad(self, reason: str, text: str) -> None:
        """A frame that is no frame; it is handed on by a task, because frames do not wait."""
        self.events.rejected[reason] += 1
        if self._bad.full():
            self.events.overflows += 1
            self._note("a frame that was refused could not be kept", reason=reason)
        else:
            self._bad.put_nowait((reason, text))

    def _note(self, what: str, **facts: str) -> None:
        _LOG.info(what, exchange=self.exchange, **facts)
        said = " ".join(f"{name}={value}" for name, value in facts.items() if value)
        self.events.notes.append(f"{self._clock():%Y-%m-%dT%H:%M:%S} {what} {said}".rstrip())

    async def _market_table(self) -> Mapping[str, object]:
        """ccxt's market table, once it can be had.

        Raises:
            UnknownName: a market is not listed.
        """
        backoff = Backoff(random.random, first=1.0)
        while True:
            try:
                table = await asyncio.to_thread(market_table, self.exchange, self._settings)
            except TransientError as error:
                self._note("no market table yet", reason=error.message)
                await asyncio.sleep(backoff.after(0.0))
                continue
            for market in self.markets:
                if market.symbol not in table:
                    raise UnknownName(market.symbol, kind=f"symbol of {self.exchange}", known=table)
            return table


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
