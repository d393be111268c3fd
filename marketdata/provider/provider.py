"""The provider that is called; the one that is awaited is in :mod:`marketdata.provider.asynchronous`."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import polars as pl

from marketdata.errors import NoData, UnknownName, UsageError
from marketdata.interval import Interval
from marketdata.lake import Lake
from marketdata.market import Market
from marketdata.provider.arguments import (
    Fill,
    Time,
    check_order,
    count_of,
    instant,
    show,
    spellings,
    time_range,
    width_of,
    widths_of,
)
from marketdata.provider.readers import Reader, open_reader
from marketdata.reading import DataRange, Wanted, check_fill, day_after
from marketdata.settings import Settings, brokers

if TYPE_CHECKING:
    from marketdata.provider.live import LiveCandles


class Provider:
    """Reads candles and trades. Safe to use from several threads."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        database_url: str | None = None,
        lake: str | Lake | None = None,
        kafka: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Choose what to read; :meth:`connect` connects.

        Args:
            settings: default: the environment. They say which store, else which lake.
            database_url: read this store instead.
            lake: read this lake instead: a path, an URL or an open one.
            kafka: brokers of the live candles, HOST:PORT, instead of those of the settings.
            clock: the time now, which decides what candle is still open.

        Raises:
            UsageError: a setting or an argument is wrong, a store and a lake are given, or what the store
                needs is not installed.
        """
        if database_url is not None and lake is not None:
            msg = "A provider reads a store or a lake, and both are given."
            raise UsageError(msg, hint="Leave out database_url or lake.")
        if kafka is not None and brokers(kafka) is None:
            msg = f"kafka = {kafka!r} is no list of brokers."
            raise UsageError(msg, hint="Write it as 'HOST:PORT,HOST:PORT'.")
        self._reader = open_reader(settings, database_url, lake)
        self._settings, self._kafka = settings, kafka
        self._clock = clock
        self._connected = False

    # -- connection ---------------------------------------------------------------------------------

    @property
    def source(self) -> str:
        """``store`` or ``lake``."""
        return self._reader.kind

    def connect(self) -> Self:
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

    def __enter__(self) -> Self:
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
            NoData: nothing at all is held of the market, or only wider candles are left at the beginning of
                the range.
            BadRange: reversed, or a time without zone.
            TransientError: the store is gone; a retry may help.
        """
        width = width_of(interval)
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
        widths = widths_of(intervals)
        first, last = time_range(start, end)
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
        width, now = width_of(interval), self._clock()
        n = count_of(n)
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
        width = width_of(interval)
        n = count_of(n)
        at = self._clock() if before is None else instant(before, "before")
        chosen = self._market(market)
        found = reader.last(chosen, width, n + 1, width.floor(at), details=details)
        if len(found) <= n:  # else the first of them is not among the n
            begins = reader.begins(chosen)
            if begins is None:
                self._require_data(chosen)
            else:
                found = found.filter(pl.col("open_time") >= begins)
        if len(found) < n:
            since = f"; the first opens at {show(found['open_time'][0])}" if len(found) else ""
            what = f"full {width} candle{'' if len(found) == 1 else 's'} of {chosen}"
            msg = f"Only {len(found)} {what} were over at {show(at)}{since}: {n} are needed."
            raise NoData(
                msg, hint=f"Ask for fewer, a narrower interval or a later time, or load more of {chosen}."
            )
        return found.tail(n)

    def live(
        self,
        market: str | Market,
        interval: str | Interval,
        n: int = 200,
        *,
        start: Time | None = None,
        running: bool = False,
    ) -> "LiveCandles":
        """Candles of history, then those of the stream as they come; without end, no hole and no repeat.

        Each frame has one candle or more, in order of ``open_time``, with the columns of :meth:`candles` and
        ``revision``, ``final``, ``partial`` and ``correction``. ``docs/live.md`` says what these mean.

        Args:
            n: how many candles that are over come first, where so many are held.
            start: begin with the candles from this time on instead.
            running: yield candles that are not over, too, marked ``final=False``; each replaces the one of
                its ``open_time`` before it.

        Returns:
            An iterator of LIVE_SCHEMA frames. Close it, or use it in a ``with`` block.

        Raises:
            UsageError: no Kafka is configured, or its client is not installed.
            UnknownName, NoData: neither history nor the stream has the market; when the first candle is
                asked for.
        """
        from marketdata.provider.live import Asked, LiveCandles  # noqa: PLC0415 - Kafka's client is an extra

        reader = self._ready()
        width = width_of(interval)
        n = count_of(n)
        begin = None if start is None else instant(start, "start")
        settings = Settings.load() if self._settings is None else self._settings
        if self._kafka is not None:
            settings = settings.model_copy(update={"kafka_bootstrap_servers": self._kafka})
        unheld = None
        try:
            chosen = self._market(market)
            self._require_data(chosen)
        except (UnknownName, NoData) as error:
            chosen, unheld = spellings(market)[0], error
        return LiveCandles(reader, self._clock, settings, Asked(chosen, width, begin, n, running, unheld))

    # -- trades and what is known --------------------------------------------------------------------

    def trades(self, market: str | Market, start: Time, end: Time) -> pl.DataFrame:
        """Trades with ``time`` in ``[start, end)``, TRADE_SCHEMA, in order of ``time`` and ``trade_id``.

        Raises:
            NoData: nothing at all is held of the market, or the store keeps only candles of that time.
        """
        reader = self._ready()
        first, last = time_range(start, end)
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
            None if edge is None else instant(edge, name) for edge, name in ((start, "start"), (end, "end"))
        )
        if first is not None and last is not None:
            check_order(first, last)
        last_day = None if last is None else day_after(last)
        chosen = None if market is None else self._market(market)
        return reader.coverage(chosen, None if first is None else first.date(), last_day)

    def markets(self) -> list[Market]:
        """Every market that is held, by name."""
        return self._ready().markets()

    def find_market(self, market: str | Market) -> Market:
        """The market that a spelling means, among those that are held.

        Raises:
            UnknownName: it is none of them; says the nearest.
            NoData: there are none.
        """
        self._ready()
        return self._market(market)

    # -- arguments ----------------------------------------------------------------------------------

    def _ready(self) -> Reader:
        if not self._connected:
            msg = "The provider is not connected."
            raise UsageError(msg, hint="Call connect() first, or use it as: with Provider() as provider: ...")
        return self._reader

    def _market(self, market: str | Market) -> Market:
        """The market meant: as it is written, else as its exchange spells it."""
        meant = spellings(market)
        for spelling in meant:
            if self._reader.holds(spelling):
                return spelling
        known = self._reader.markets()
        hint = f"To fetch it: marketdata backfill {meant[0]} --last 7d"
        if self.source == "store":
            hint = f"To load it from the lake: marketdata db load {meant[0]}"
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
