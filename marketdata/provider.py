"""The reading side for everyone: candles, trades and what is known of them, from the store or the lake.

::

    from marketdata import Provider

    with Provider() as provider:
        hours = provider.candles("kraken:BTC/USD", "1h", "2025-06-01", "2025-07-01")
        newest = provider.latest_candles("kraken:BTC/USD", "1m", 200)

The store is read where ``MARKETDATA_DATABASE_URL`` is set, else the lake; the results are equal.
``docs/provider.md`` shows every call.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import polars as pl

from marketdata.cancellation import Cancellation
from marketdata.errors import BadRange, NoData, UnknownName, UsageError
from marketdata.interval import Interval
from marketdata.lake import Lake
from marketdata.lake.reader import LakeReader
from marketdata.market import Market, market_from_spelling
from marketdata.reading import DataRange, Wanted, check_fill
from marketdata.settings import Settings

if TYPE_CHECKING:
    from typing import Self

__all__ = ["AsyncProvider", "DataRange", "Provider"]

Time = datetime | date | str
Fill = Literal["previous"] | None
T = TypeVar("T")
# As many as a store has connections at most.
_THREADS = 10
_DATE_LENGTH = len("2025-06-01")


class Reader(Protocol):
    """Where a provider reads: a store or a lake. Times are aware, ranges points of the interval's grid."""

    kind: str

    @property
    def where(self) -> str:
        """What it reads, without a secret."""

    def open(self) -> None:
        """Connect."""

    def close(self) -> None:
        """Disconnect."""

    def markets(self) -> list[Market]:
        """Every market it knows."""

    def holds(self, market: Market) -> bool:
        """Whether it knows this one."""

    def candles(
        self, market: Market, wanted: Sequence[Wanted], *, fill: bool, details: bool
    ) -> list[pl.DataFrame]:
        """Candles of ranges."""

    def last(
        self, market: Market, interval: Interval, count: int, until: datetime, *, details: bool
    ) -> pl.DataFrame:
        """The last candles that open before ``until``."""

    def trades(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        """Trades of a range."""

    def begins(self, market: Market) -> datetime | None:
        """From when on it holds the market."""

    def data_range(self, market: Market) -> DataRange:
        """First and last times."""

    def coverage(self, market: Market | None, start: date | None, end: date | None) -> pl.DataFrame:
        """What is known of days."""


class Provider:
    """Reads candles and trades. Safe to use from several threads."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        database_url: str | None = None,
        lake: str | Lake | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Choose what to read; :meth:`connect` connects.

        Args:
            settings: default: the environment. They say which store, else which lake.
            database_url: read this store instead.
            lake: read this lake instead: a path, an URL or an open one.
            clock: the time now, which decides what candle is still open.

        Raises:
            UsageError: a setting is wrong, a store and a lake are given, or what the store needs is not
                installed.
        """
        if database_url is not None and lake is not None:
            msg = "A provider reads a store or a lake, and both are given."
            raise UsageError(msg, hint="Leave out database_url or lake.")
        self._reader = _reader(settings, database_url, lake)
        self._clock = clock
        self._connected = False

    # -- connection ---------------------------------------------------------------------------------

    @property
    def source(self) -> str:
        """``store`` or ``lake``."""
        return self._reader.kind

    def connect(self) -> "Self":
        """Connect, and return the provider itself; a second call does nothing.

        Raises:
            TransientError: the server does not answer.
            UsageError: the database has no tables of a store.
        """
        if not self._connected:
            self._reader.open()
            self._connected = True
        return self

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        if self._connected:
            self._connected = False
            self._reader.close()

    def __enter__(self) -> "Self":
        """Connect."""
        return self.connect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """What is read; never a password."""
        state = "" if self._connected else ", not connected"
        return f"<{type(self).__name__} of the {self.source} {self._reader.where}{state}>"

    # -- candles ------------------------------------------------------------------------------------

    def candles(
        self,
        market: str | Market,
        interval: str | Interval,
        start: Time,
        end: Time,
        fill: Fill = None,
        *,
        details: bool = False,
    ) -> pl.DataFrame:
        """Candles with ``open_time`` in ``[start, end)``.

        A candle is never cut by the range. The last may still be open, when ``end`` is later than now.

        Args:
            market: ``kraken:BTC/USD``, as an exchange spells it (``kraken:XXBTZUSD``), or a Market.
            interval: one of 1s 10s 1m 5m 15m 30m 1h 4h 12h 1d 1w.
            start, end: aware datetimes, dates (midnight UTC) or ISO text of either.
            fill: ``previous`` adds the column ``filled`` and a row for every interval without trades, at the
                close before it, volumes 0. Only inside days known to be complete: a gap is not filled.
            details: adds ``revision``, ``source`` and ``coverage`` of each candle.

        Returns:
            CANDLE_SCHEMA, sorted by ``open_time``: times in UTC, volumes in base and quote units.

        Raises:
            UnknownName: there is no such interval or market; says the nearest.
            NoData: nothing at all is held of the market, or of 1s and 10s only candles of 1m are left.
            BadRange: reversed, or a time without zone.
            TransientError: the store is gone; a retry may help.
        """
        width = Interval.parse(interval)
        return self.candles_multi(market, [width], start, end, fill, details=details)[width.name]

    def candles_multi(
        self,
        market: str | Market,
        intervals: Sequence[str | Interval],
        start: Time,
        end: Time,
        fill: Fill = None,
        *,
        details: bool = False,
    ) -> dict[str, pl.DataFrame]:
        """Candles of several intervals over one range, all of one moment; see :meth:`candles`.

        Returns:
            A frame by the name of its interval, in the order asked for.
        """
        reader = self._ready()
        check_fill(fill)
        widths = list(dict.fromkeys(Interval.parse(interval) for interval in intervals))
        first, last = _range(start, end)
        chosen = self._market(market)
        wanted = [Wanted(width, width.ceil(first), width.ceil(last)) for width in widths]
        frames = reader.candles(chosen, wanted, fill=fill is not None, details=details) if wanted else []
        if wanted and all(frame.is_empty() for frame in frames):
            self._require_data(chosen)
        return {width.name: frame for width, frame in zip(widths, frames, strict=True)}

    def latest_candles(
        self,
        market: str | Market,
        interval: str | Interval,
        n: int = 200,
        *,
        running: bool = False,
        details: bool = False,
    ) -> pl.DataFrame:
        """The last ``n`` candles that are over, oldest first; fewer when fewer are held.

        Args:
            running: count the candle that is still open as one of them, where there is one.

        Returns:
            As :meth:`candles`.
        """
        reader = self._ready()
        width, now = Interval.parse(interval), self._clock()
        _check_count(n)
        until = width.floor(now) + (width.width if running else 0 * width.width)
        chosen = self._market(market)
        found = reader.last(chosen, width, n, until, details=details)
        if found.is_empty():
            self._require_data(chosen)
        return found

    def warmup(
        self,
        market: str | Market,
        interval: str | Interval,
        n: int = 200,
        before: Time | None = None,
        *,
        details: bool = False,
    ) -> pl.DataFrame:
        """Exactly ``n`` full candles, the last ones that were over at ``before``; oldest first.

        Quiet times have no candles, so the range is as wide as it has to be. A candle that began before the
        first data of the market is not full.

        Args:
            before: default: now.

        Raises:
            NoData: there are fewer; says how many, and since when.
        """
        reader = self._ready()
        width = Interval.parse(interval)
        _check_count(n)
        at = self._clock() if before is None else _instant(before, "before")
        chosen = self._market(market)
        found = reader.last(chosen, width, n + 1, width.floor(at), details=details)
        if len(found) <= n:  # else the first of them is not among the n
            begins = reader.begins(chosen)
            if begins is None:
                self._require_data(chosen)
            else:
                found = found.filter(pl.col("open_time") >= begins)
        if len(found) < n:
            since = f"; the first opens at {_show(found['open_time'][0])}" if len(found) else ""
            what = f"full {width} candle{'' if len(found) == 1 else 's'} of {chosen}"
            msg = f"Only {len(found)} {what} were over at {_show(at)}{since}: {n} are needed."
            raise NoData(
                msg, hint=f"Ask for fewer, a narrower interval or a later time, or load more of {chosen}."
            )
        return found.tail(n)

    # -- trades and what is known --------------------------------------------------------------------

    def trades(self, market: str | Market, start: Time, end: Time) -> pl.DataFrame:
        """Trades with ``time`` in ``[start, end)``, TRADE_SCHEMA, in order of ``time`` and ``trade_id``.

        Raises:
            NoData: nothing at all is held of the market, or the store keeps only candles of that time.
        """
        reader = self._ready()
        first, last = _range(start, end)
        chosen = self._market(market)
        found = reader.trades(chosen, first, last)
        if found.is_empty():
            self._require_data(chosen)
        return found

    def data_range(self, market: str | Market) -> DataRange | None:
        """First and last time of trades and of candles, or ``None`` when neither is held."""
        found = self._ready().data_range(self._market(market))
        return None if found.trades is None and found.candles is None else found

    def coverage(
        self, market: str | Market | None = None, start: Time | None = None, end: Time | None = None
    ) -> pl.DataFrame:
        """What is known of each UTC day of ``[start, end)``, from the manifests.

        Returns:
            ``exchange, symbol, day, status, reason`` and figures, by market and day. A day without a row was
            never stored.
        """
        reader = self._ready()
        first, last = (
            None if edge is None else _instant(edge, name) for edge, name in ((start, "start"), (end, "end"))
        )
        if first is not None and last is not None:
            _check(first, last)
        last_day = None if last is None else Interval.parse("1d").ceil(last).date()
        chosen = None if market is None else self._market(market)
        return reader.coverage(chosen, None if first is None else first.date(), last_day)

    def markets(self) -> list[Market]:
        """Every market that is held, by name."""
        return self._ready().markets()

    # -- arguments ----------------------------------------------------------------------------------

    def _ready(self) -> Reader:
        if not self._connected:
            msg = "The provider is not connected."
            raise UsageError(msg, hint="Call connect() first, or use it as: with Provider() as provider: ...")
        return self._reader

    def _market(self, market: str | Market) -> Market:
        """The market meant: as it is written, else as its exchange spells it."""
        spellings = _spellings(market)
        for spelling in spellings:
            if self._reader.holds(spelling):
                return spelling
        known = self._reader.markets()
        hint = f"To fetch it: marketdata backfill {spellings[0]} --last 7d"
        if self.source == "store":
            hint = f"To load it from the lake: marketdata db load {spellings[0]}"
        if not known:
            msg = f"The {self.source} {self._reader.where} is empty."
            raise NoData(msg, hint=hint)
        names = [str(each) for each in known]
        raise UnknownName(str(market), kind=f"market in the {self.source}", known=names, hint=hint)

    def _require_data(self, market: Market) -> None:
        """Refuse to answer with nothing for a market of which nothing is held at all."""
        if self._reader.begins(market) is None:
            msg = f"The {self.source} {self._reader.where} holds no data of {market}."
            raise NoData(msg, hint=f"To fetch some: marketdata backfill {market} --last 7d")


class AsyncProvider:
    """The same calls for asyncio: each is awaited, and none holds up the loop.

    A call works in a thread of its own pool, because reading a frame and folding trades are work too, not
    only waiting. Cancelling a call ends its query on the server.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        database_url: str | None = None,
        lake: str | Lake | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """See :class:`Provider`."""
        self._provider = Provider(settings, database_url=database_url, lake=lake, clock=clock)
        self._threads: ThreadPoolExecutor | None = None

    @property
    def source(self) -> str:
        """``store`` or ``lake``."""
        return self._provider.source

    async def connect(self) -> "Self":
        """See :meth:`Provider.connect`."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="marketdata")
            try:
                await self._call(self._provider.connect)
            except BaseException:
                await self.close()
                raise
        return self

    async def close(self) -> None:
        """Close every connection; a second call does nothing."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(self._provider.close)
            threads.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> "Self":
        """Connect."""
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    def __repr__(self) -> str:
        """What is read; never a password."""
        return repr(self._provider).replace("Provider", "AsyncProvider", 1)

    async def candles(
        self,
        market: str | Market,
        interval: str | Interval,
        start: Time,
        end: Time,
        fill: Fill = None,
        *,
        details: bool = False,
    ) -> pl.DataFrame:
        """See :meth:`Provider.candles`."""
        return await self._call(self._provider.candles, market, interval, start, end, fill, details=details)

    async def candles_multi(
        self,
        market: str | Market,
        intervals: Sequence[str | Interval],
        start: Time,
        end: Time,
        fill: Fill = None,
        *,
        details: bool = False,
    ) -> dict[str, pl.DataFrame]:
        """See :meth:`Provider.candles_multi`."""
        return await self._call(
            self._provider.candles_multi, market, intervals, start, end, fill, details=details
        )

    async def latest_candles(
        self,
        market: str | Market,
        interval: str | Interval,
        n: int = 200,
        *,
        running: bool = False,
        details: bool = False,
    ) -> pl.DataFrame:
        """See :meth:`Provider.latest_candles`."""
        return await self._call(
            self._provider.latest_candles, market, interval, n, running=running, details=details
        )

    async def warmup(
        self,
        market: str | Market,
        interval: str | Interval,
        n: int = 200,
        before: Time | None = None,
        *,
        details: bool = False,
    ) -> pl.DataFrame:
        """See :meth:`Provider.warmup`."""
        return await self._call(self._provider.warmup, market, interval, n, before, details=details)

    async def trades(self, market: str | Market, start: Time, end: Time) -> pl.DataFrame:
        """See :meth:`Provider.trades`."""
        return await self._call(self._provider.trades, market, start, end)

    async def data_range(self, market: str | Market) -> DataRange | None:
        """See :meth:`Provider.data_range`."""
        return await self._call(self._provider.data_range, market)

    async def coverage(
        self, market: str | Market | None = None, start: Time | None = None, end: Time | None = None
    ) -> pl.DataFrame:
        """See :meth:`Provider.coverage`."""
        return await self._call(self._provider.coverage, market, start, end)

    async def markets(self) -> list[Market]:
        """See :meth:`Provider.markets`."""
        return await self._call(self._provider.markets)

    async def _call(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        if self._threads is None:
            msg = "The provider is not connected."
            raise UsageError(
                msg, hint="Await connect() first, or use it as: async with AsyncProvider() as provider: ..."
            )
        cancellation = Cancellation()

        def watched() -> T:
            with cancellation.watching():
                return work(*arguments, **options)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, watched)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.to_thread(cancellation.cancel))
            raise


def _reader(settings: Settings | None, database_url: str | None, lake: str | Lake | None) -> Reader:
    if isinstance(lake, Lake):
        return LakeReader(lake)
    if database_url is None:
        chosen = Settings.load() if settings is None else settings
        if lake is not None or chosen.database_url is None:
            return LakeReader(Lake.open(chosen.lake_url if lake is None else lake, settings=chosen))
        database_url = chosen.database_url.get_secret_value()
    try:
        from marketdata.store.reader import StoreReader  # noqa: PLC0415 - an extra; the lake does without
    except ImportError as error:
        msg = f"A store is configured, and the package {error.name!r} is missing."
        raise UsageError(msg, hint="Install it: pip install 'marketdata[store]'") from None
    return StoreReader(database_url)


def _spellings(market: str | Market) -> list[Market]:
    """What a text may mean, likeliest first."""
    if isinstance(market, Market):
        return [market]
    exchange, colon, symbol = market.partition(":")
    meant = []
    if not colon or "/" in symbol or "-" in symbol:
        meant.append(Market.parse(market))
    with suppress(UsageError):
        meant.append(market_from_spelling(exchange, symbol))
    return meant or [Market.parse(market)]


def _instant(value: Any, name: str) -> datetime:
    """The moment meant by what may stand for one, a Time; callers without types pass anything."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if len(value) == _DATE_LENGTH else datetime.fromisoformat(value)
        except ValueError:
            msg = f"{name} = {value!r} is not a date or a time."
            raise BadRange(msg, hint="Write it as '2025-06-01' or '2025-06-01T12:00Z'.") from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            msg = f"{name} = {value.isoformat()} has no zone."
            raise BadRange(msg, hint="Give it one: datetime(2025, 6, 1, tzinfo=UTC), '2025-06-01T12:00Z'.")
        return value.astimezone(UTC)
    if isinstance(value, date):
        return datetime.combine(value, time(0), UTC)
    msg = f"{name} = {value!r} is no time."
    raise BadRange(msg, hint="Give an aware datetime, a date, or ISO text.")


def _range(start: Time, end: Time) -> tuple[datetime, datetime]:
    first, last = _instant(start, "start"), _instant(end, "end")
    _check(first, last)
    return first, last


def _check(start: datetime, end: datetime) -> None:
    if end < start:
        msg = f"The range from {_show(start)} to {_show(end)} is reversed."
        raise BadRange(msg, hint="The start comes first; the end is exclusive.")


def _check_count(n: int) -> None:
    if n < 1:
        msg = f"n = {n} is no number of candles."
        raise UsageError(msg, hint="Give 1 or more.")


def _show(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
