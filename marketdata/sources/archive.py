"""Binance's public archive: one zip a market, kind and UTC day, with its sha256 beside it.

A zip is streamed to a temporary file, checked, and read in pages from there. It holds the whole day, which
makes it the strongest source for days that are over; ids that it lacks are asked for over REST.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import ChecksumMismatch, CorruptFile, PermanentError, UsageError
from marketdata.interval import Interval
from marketdata.manifest import day_window
from marketdata.market import Market, spelling
from marketdata.settings import Settings
from marketdata.sources.base import Page, TradeSource
from marketdata.sources.days import rows_of, within_bounds
from marketdata.sources.download import Downloader
from marketdata.sources.files import find
from marketdata.sources.formats import Known, recognise
from marketdata.sources.pace import Clock
from marketdata.trade import empty_trades

DEFAULT_URL = "https://data.binance.vision"
# About 100,000 rows of aggTrades.
_PAGE_BYTES = 8 << 20
_CHECKSUM = re.compile(r"\s*[0-9a-fA-F]{64}\b")
# archive:<day>:<first half of the sha256>:<bytes of text done>
_CURSOR = re.compile(r"archive:(?P<day>\d{4}-\d{2}-\d{2}):(?P<sha256>[0-9a-f]{32}|-):(?P<bytes>\d+)")


class BinanceArchive:
    """Aggregate trades and klines of whole days of Binance's spot markets.

    Args:
        settings: base URL, timeout and attempts.
        rest: asked for ids that a zip lacks; without it they cannot be asked for.
        clock: time, sleep and chance; the real ones by default.
    """

    name = "binance-archive"
    exchange = "binance"
    sequential_ids = True
    intervals = tuple(
        Interval.parse(name) for name in ("1s", "1m", "5m", "15m", "30m", "1h", "4h", "12h", "1d")
    )

    def __init__(
        self, settings: Settings, rest: TradeSource | None = None, clock: Clock | None = None
    ) -> None:
        self._base = (settings.binance_archive_url or DEFAULT_URL).rstrip("/")
        self._rest = rest
        self._clock = clock or Clock()
        self._download = Downloader(settings, self._clock)

    def has_day(self, market: Market, day: date) -> bool:
        """Whether the archive has the trades of that day; it gets them the day after.

        Raises:
            TransientError, PermanentError: that could not be learnt.
        """
        if ":" in market.symbol or day >= self._clock.now().date():
            return False
        return self._checksum(self._url(market, "aggTrades", day)) is not None

    def pages(
        self, market: Market, start: datetime, end: datetime, cursor: str | None = None
    ) -> Iterator[Page]:
        """Yield the trades of ``[start, end)``; see :class:`marketdata.sources.base.TradeSource`.

        Raises:
            ChecksumMismatch: a zip is not what its publisher says, twice; or the cursor is of a zip that
                has been published anew since.
            CorruptFile: a zip does not hold the trades its name says.
            TransientError: retries are used up.
            PermanentError: the archive does not have a day.
        """
        day, skip, known = start.astimezone(UTC).date(), 0, None
        if cursor is not None:
            day, skip, known = _parse_cursor(cursor)
        last = (end - timedelta(microseconds=1)).astimezone(UTC).date()
        while day <= last:
            yield from self._day(market, day, (start, end), skip, known)
            day, skip, known = day + timedelta(days=1), 0, None

    def refetch(
        self, market: Market, first_id: int, last_id: int, around: tuple[datetime, datetime]
    ) -> pl.DataFrame:
        """Ask REST for ids a zip lacks; the zip itself would say the same again."""
        if self._rest is None:
            return empty_trades()
        return self._rest.refetch(market, first_id, last_id, around)

    def candles(self, market: Market, interval: Interval, start: datetime, end: datetime) -> pl.DataFrame:
        """Binance's own candles with ``open_time`` in ``[start, end)``; days the archive lacks are absent.

        Raises:
            ChecksumMismatch, CorruptFile: a zip is not what it should be.
            TransientError: retries are used up.
        """
        frames = [EXCHANGE_CANDLE_SCHEMA.to_frame()]
        day = start.astimezone(UTC).date()
        while day_window(day)[0] < end:
            with self._zip(market, interval.name, day) as found:
                if found is not None and (file := self._recognised(found[0], market, "binance-klines", day)):
                    frames += [block.rows for block in rows_of(file, self._clock.now())]
            day += timedelta(days=1)
        return pl.concat(frames).filter(pl.col("open_time") >= start, pl.col("open_time") < end)

    def candles_from(self, interval: Interval, now: datetime) -> datetime | None:  # noqa: ARG002
        """There is no limit."""
        return None

    def _day(
        self,
        market: Market,
        day: date,
        window: tuple[datetime, datetime],
        skip: int,
        known: str | None,
    ) -> Iterator[Page]:
        with self._zip(market, "aggTrades", day) as found:
            if found is None:
                msg = f"Binance's archive has no trades of {market} on {day}."
                raise PermanentError(msg, hint="Days appear there the day after; REST has the others.")
            path, sha256 = found
            if known is not None and not sha256.startswith(known):
                msg = f"{path.name} was published anew since the fetch of {market} {day} began."
                raise ChecksumMismatch(msg, hint="Fetch the day again from its beginning (refresh).")
            evidence = {"archive": path.name, "archive_sha256": sha256, "id_space": "aggTrade"}
            start, end = max(day_window(day)[0], window[0]), min(day_window(day)[1], window[1])
            after = None if end >= window[1] else f"archive:{day + timedelta(days=1)}:-:0"
            file = self._recognised(path, market, "binance-aggtrades", day)
            held: Page | None = None
            reached = start
            for block in () if file is None else rows_of(file, self._clock.now(), _PAGE_BYTES, skip):
                if held is not None:
                    yield held
                assert file is not None  # noqa: S101
                rows, rejects = within_bounds(block.rows, block.rejects, file, "time")
                rows = rows.filter(pl.col("time") >= start, pl.col("time") < end)
                latest = rows["time"].max()
                reached = max(reached, latest) if isinstance(latest, datetime) else reached
                cursor = f"archive:{day}:{sha256[:32]}:{block.bytes_read}"
                held = Page(rows, cursor, reached, rejects, evidence=evidence)
            if held is None:
                held = Page(empty_trades(), after, end, evidence=evidence)
            yield replace(held, next_cursor=after, reached=end)

    def _checksum(self, url: str) -> str | None:
        """The sha256 its publisher says a zip has; ``None`` when there is no such file."""
        text = self._download.text(url + ".CHECKSUM", _CHECKSUM.match)
        return None if text is None else text.strip()[:64].lower()

    @contextmanager
    def _zip(self, market: Market, kind: str, day: date) -> Iterator[tuple[Path, str] | None]:
        """A day's zip on disk and its sha256, checked; ``None`` when the archive has no such file."""
        url = self._url(market, kind, day)
        expected = self._checksum(url)
        if expected is None:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="marketdata-") as folder:
            path = Path(folder) / url.rpartition("/")[2]
            got = None
            for _ in range(2):  # a download that was cut in silence is worth a second one
                with path.open("wb") as target:
                    got = self._download.save(url, target)
                if got in {expected, None}:
                    break
            if got is None:
                yield None
                return
            if got != expected:
                msg = f"{url} is not what its publisher says: its sha256 should be {expected} and is {got}."
                raise ChecksumMismatch(msg, hint="Try again later, or fetch the day over REST.")
            yield path, expected

    def _recognised(self, path: Path, market: Market, format_name: str, day: date) -> Known | None:
        """How to read the one table in a zip; ``None`` when it has no line."""
        try:
            tables = find([path])
            wanted = path.name.removesuffix(".zip")
            if [table.stem for table in tables] != [wanted]:
                msg = (
                    f"{path.name} of {day} holds {[str(table.member) for table in tables]}, not {wanted}.csv."
                )
                raise CorruptFile(msg)
            return None if tables[0].size() == 0 else recognise(tables[0], format=format_name, market=market)
        except UsageError as error:
            msg = f"{path.name} is not what its name says: {error.message}"
            raise CorruptFile(msg) from error

    def _url(self, market: Market, kind: str, day: date) -> str:
        """``kind`` is ``aggTrades``, ``trades`` or an interval."""
        spelled = spelling(market, "archive")
        folder = kind if kind in {"aggTrades", "trades"} else f"klines/{spelled}/{kind}"
        inside = f"{folder}/{spelled}" if kind in {"aggTrades", "trades"} else folder
        return f"{self._base}/data/spot/daily/{inside}/{spelled}-{kind}-{day}.zip"


def _parse_cursor(cursor: str) -> tuple[date, int, str | None]:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        msg = f"{cursor!r} is no cursor of Binance's archive."
        raise UsageError(msg, hint="Write it as archive:DAY:SHA256:BYTES, or leave it out.")
    known = None if match["sha256"] == "-" else match["sha256"]
    return date.fromisoformat(match["day"]), int(match["bytes"]), known
