"""The lake: days of trades and candles as Parquet files, and what is known about each."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

import orjson
import polars as pl

from marketdata.candle import CANDLE_SCHEMA, EXCHANGE_CANDLE_SCHEMA, hash_of_cells
from marketdata.errors import CorruptFile, StorageError, TransientError, UsageError
from marketdata.finding import FINDING_SCHEMA
from marketdata.interval import Interval
from marketdata.lake import files, parquet, paths, scan
from marketdata.lake.filesystem import Storage, open_storage
from marketdata.lake.paths import CandleKind, Kind, Part
from marketdata.lake.stage import Stage, staged
from marketdata.manifest import Manifest
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.trade import REJECT_SCHEMA, TRADE_SCHEMA, empty_rejects, in_order

_A = TypeVar("_A")
_B = TypeVar("_B")
_MANIFEST = b"marketdata.manifest"
_FACTS = b"marketdata.facts"
_FOOTER_THREADS = 8
# From so many days on, one listing is cheaper than asking for each file.
_LIST_FROM_DAYS = 40


class Lake:
    """A lake on a local path or ``s3://``. Safe to use from several threads and processes."""

    def __init__(self, storage: Storage) -> None:
        """Use :meth:`open`."""
        self.storage = storage
        self._waiting: Callable[[Market, date], None] | None = None

    @classmethod
    def open(cls, url: str, *, settings: Settings | None = None) -> "Lake":
        """Open the lake at a path or ``s3://bucket/prefix``; a new one needs no preparation.

        Raises:
            UsageError: the URL is of another kind, or half of a key is set.
        """
        return cls(open_storage(url, Settings.load() if settings is None else settings))

    def with_waiting(self, waiting: Callable[[Market, date], None]) -> "Lake":
        """The same lake; whoever waits for a day's :meth:`lock` calls ``waiting`` with market and day.

        That is several times a second; what it raises ends the wait.
        """
        lake = copy(self)
        lake._waiting = waiting
        return lake

    @property
    def url(self) -> str:
        """Where the lake lies."""
        return self.storage.url

    # -- what is there ------------------------------------------------------------------------------

    def path(self, kind: Kind, market: Market, day: date, interval: str | Interval | None = None) -> str:
        """Path or URL of a file, whether or not it is there."""
        return self.storage.show(_part(kind, market, day, interval).key)

    def size(self, kind: Kind, market: Market, day: date, interval: str | Interval | None = None) -> int:
        """Bytes of a file; 0 when it is absent."""
        return self.storage.size(_part(kind, market, day, interval).key) or 0

    def parts(
        self, kind: Kind, market: Market | None = None, interval: str | Interval | None = None
    ) -> list[Part]:
        """Every file of a kind, in the order of its path."""
        width = None if interval is None else Interval.parse(interval)
        folder = (
            paths.root_folder(kind, width) if market is None else paths.market_folder(kind, market, width)
        )
        found = (Part.parse(key) for key in self.storage.files(folder))
        return [part for part in found if part is not None]

    def days(self, market: Market | None = None) -> dict[Market, list[date]]:
        """Days that hold trades (or are known to hold none), by market."""
        days: dict[Market, list[date]] = {}
        for part in self.parts("trades", market):
            days.setdefault(part.market, []).append(part.day)
        return {market: sorted(found) for market, found in sorted(days.items())}

    def manifest(self, market: Market, day: date) -> Manifest | None:
        """What is known about a day; ``None`` when the day was never stored.

        Raises:
            CorruptFile: the file is cut or foreign, or its rows are not those its manifest speaks of.
        """
        key = Part("trades", market, day).key
        footer = parquet.read_footer(self.storage, key)
        if footer is None:
            return None
        metadata, rows = footer
        manifest = self._manifest_in(key, metadata)
        if rows != manifest.rows:
            why = f"it holds {rows:,} trades and its manifest speaks of {manifest.rows:,}"
            raise parquet.corrupt(self.storage, key, why)
        return manifest

    def _manifest_in(self, key: str, metadata: dict[bytes, bytes]) -> Manifest:
        if _MANIFEST not in metadata:
            raise parquet.corrupt(self.storage, key, "it has no manifest")
        try:
            return Manifest.from_json(metadata[_MANIFEST])
        except CorruptFile as error:
            if error.hint is not None:  # it is whole, and of a newer version
                raise
            raise parquet.corrupt(self.storage, key, error.message) from error

    def manifests(
        self, market: Market | None = None, start: date | None = None, end: date | None = None
    ) -> list[Manifest]:
        """Manifests of the days in ``[start, end)``, by market and day; reads footers only.

        Raises:
            CorruptFile: a file is cut or foreign.
        """
        wanted = [
            (part.market, part.day)
            for part in self.parts("trades", market)
            if (start is None or part.day >= start) and (end is None or part.day < end)
        ]
        wanted.sort()
        found = self._each(lambda job: self.manifest(*job), wanted)
        return [manifest for manifest in found if manifest is not None]

    # -- write --------------------------------------------------------------------------------------

    def write_trades(self, market: Market, day: date, trades: pl.DataFrame, manifest: Manifest) -> int:
        """Put a day in place in one step and return its size in bytes.

        Raises:
            StorageError: it cannot be written, or the manifest speaks of other rows.
        """
        if (manifest.market, manifest.day, manifest.rows) != (market, day, len(trades)):
            held = f"{manifest.market} {manifest.day} with {manifest.rows} rows"
            msg = f"The manifest is of {held}; the trades are {len(trades)} rows of {market} {day}."
            raise StorageError(msg, hint="Build the manifest from the same trades.")
        frame = trades
        if frame.schema != TRADE_SCHEMA:
            frame = frame.select(TRADE_SCHEMA.names()).cast(TRADE_SCHEMA)
        return self._write(
            Part("trades", market, day), in_order(frame), {_MANIFEST: manifest.to_json().encode()}
        )

    def write_candles(
        self,
        market: Market,
        day: date,
        interval: str | Interval,
        candles: pl.DataFrame,
        *,
        kind: CandleKind = "candles",
        facts: dict[str, str] | None = None,
    ) -> int:
        """Put the candles of a day in place in one step and return the size in bytes.

        Args:
            kind: ``candles`` are folded from trades, ``exchange_candles`` are the exchange's own.
            facts: short facts that are kept in the file, see :meth:`read_facts`; ``rows`` and ``content``,
                a hash of the cells, are added.
        """
        schema = _candle_schema(kind)
        frame = candles
        if frame.schema != schema:
            frame = frame.select(schema.names()).cast(schema)
        if not frame["open_time"].is_sorted():
            frame = frame.sort("open_time")
        known = {**(facts or {}), "rows": str(len(frame)), "content": hash_of_cells(frame)}
        body = orjson.dumps(known, option=orjson.OPT_SORT_KEYS)
        return self._write(Part(kind, market, day, Interval.parse(interval)), frame, {_FACTS: body})

    def read_facts(
        self, kind: CandleKind, market: Market, day: date, interval: str | Interval
    ) -> dict[str, str] | None:
        """The facts kept with the candles of a day; ``None`` when there is no such file."""
        return self._facts(Part(kind, market, day, Interval.parse(interval)))

    def _facts(self, part: Part) -> dict[str, str] | None:
        metadata = parquet.read_metadata(self.storage, part.key)
        if metadata is None:
            return None
        return self._facts_in(part, metadata)

    def _facts_in(self, part: Part, metadata: dict[bytes, bytes]) -> dict[str, str]:
        try:
            facts: dict[str, str] = orjson.loads(metadata.get(_FACTS, b"{}"))
        except orjson.JSONDecodeError as error:
            raise parquet.corrupt(self.storage, part.key, f"its facts are damaged: {error}") from error
        return facts

    def write_rejects(self, market: Market, day: date, rejects: pl.DataFrame) -> None:
        """Keep the refused rows of a day in place of those kept before; none removes the file."""
        part = Part("rejects", market, day)
        if rejects.is_empty():
            self.storage.delete(part.key)
            return
        self._write(part, rejects.select(REJECT_SCHEMA.names()), {})

    def read_rejects(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        """Refused rows of the days touched by ``[start, end)``, REJECT_SCHEMA."""
        frames = [
            parquet.read(self.storage, key, REJECT_SCHEMA)
            for key in self._keys("rejects", market, start, end)
        ]
        return pl.concat(frames) if frames else empty_rejects()

    def write_findings(
        self, market: Market, day: date, findings: pl.DataFrame, *, facts: dict[str, str]
    ) -> int:
        """Put what is odd about a day in place of what was said before; no row says that nothing is.

        Args:
            findings: FINDING_SCHEMA.
            facts: short facts that are kept in the file, see :meth:`findings_facts`.
        """
        body = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
        return self._write(
            Part("findings", market, day), findings.select(FINDING_SCHEMA.names()), {_FACTS: body}
        )

    def read_findings(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        """What is odd about the days touched by ``[start, end)``, FINDING_SCHEMA, day after day."""
        frames = [
            parquet.read(self.storage, key, FINDING_SCHEMA)
            for key in self._keys("findings", market, start, end)
        ]
        return pl.concat(frames) if frames else FINDING_SCHEMA.to_frame()

    def findings_facts(self, market: Market, day: date) -> dict[str, str] | None:
        """The facts kept with the findings of a day; ``None`` when it was not looked at."""
        return self._facts(Part("findings", market, day))

    def _write(self, part: Part, frame: pl.DataFrame, metadata: dict[bytes, bytes]) -> int:
        return files.put(self.storage, part.key, lambda stream: parquet.write(frame, metadata, stream))

    # -- fetches on the way -------------------------------------------------------------------------

    def stage(self, market: Market, day: date, source_name: str) -> Stage:
        """The pages of a fetch; those of an interrupted fetch from the same source are found again."""
        return Stage(self.storage, market, day, source_name)

    def discard_stage(self, market: Market, day: date) -> None:
        """Remove staged pages of a day, unless somebody is fetching it now."""
        folder, lock = paths.staging_folder(market, day), paths.lock_key(market, day)
        if self.storage.files(folder) or (self.storage.is_local and self.storage.local(lock).exists()):
            with suppress(TransientError), self.lock(market, day, patience_s=0):
                self.storage.delete_folder(folder)

    def read_staged(self, market: Market, day: date) -> pl.DataFrame:
        """Trades of a day that is being fetched, in order of arrival; empty when none is."""
        return staged(self.storage, market, day)

    @contextmanager
    def lock(
        self,
        market: Market,
        day: date,
        *,
        patience_s: float = 600.0,
        waiting: Callable[[], None] | None = None,
    ) -> Iterator[None]:
        """Be the only one on this machine that changes this day; not taken twice by one thread.

        Waits while another holder's fetch comes on, and ``patience_s`` when it does not. ``waiting`` is
        called meanwhile, several times a second.

        On S3 there is no lock: the last whole file wins, and a stage that two writers have mixed is
        noticed by its cursors and fetched again from there.

        Raises:
            TransientError: another process holds the day; names it.
        """
        if not self.storage.is_local:
            yield
            return
        folder = paths.staging_folder(market, day)
        staged_files: list[str] = []

        def comes_on() -> bool:
            nonlocal staged_files
            if self._waiting is not None:
                self._waiting(market, day)
            if waiting is not None:
                waiting()
            before, staged_files = staged_files, self.storage.files(folder)
            return before != staged_files

        with ExitStack() as stack:
            path = self.storage.local(paths.lock_key(market, day))
            held = files.lock(path, patience_s=patience_s, waiting=comes_on)
            with self.storage.errors(folder, "written"):
                stack.enter_context(held)
            files.remove_left_overs(self.storage.local(Part("trades", market, day).folder))
            yield

    # -- read ---------------------------------------------------------------------------------------

    def scan_trades(self, markets: Sequence[Market] | None, start: datetime, end: datetime) -> pl.LazyFrame:
        """Trades with ``time`` in ``[start, end)``, plus ``exchange`` and ``symbol``; lazy.

        Only files of the days touched are opened. Rows are in order within a market.
        """
        chosen = list(self.days()) if markets is None else list(markets)
        keys = {market: self._keys("trades", market, start, end) for market in chosen}
        return scan.markets(self.storage, keys, TRADE_SCHEMA, "time", (start, end))

    def read_trades(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        """Trades with ``time`` in ``[start, end)``, TRADE_SCHEMA, in order."""
        keys = self._keys("trades", market, start, end)
        return scan.read(self.storage, keys, TRADE_SCHEMA, "time", (start, end))

    @contextmanager
    def stream_trades(self, market: Market, day: date) -> Iterator[tuple[Manifest, Iterator[pl.DataFrame]]]:
        """The manifest of a day and its trades in order, about 131,072 rows at a time; of one file.

        Raises:
            UsageError: the lake does not hold the day.
            CorruptFile: the file is cut or foreign.
        """
        key = Part("trades", market, day).key
        if self.storage.size(key) is None:
            msg = f"The lake holds no trades of {market} on {day}."
            raise UsageError(msg, hint=f"Run: marketdata backfill {market} --start {day} --end ...")
        with parquet.opened(self.storage, key, TRADE_SCHEMA) as (metadata, frames):
            yield self._manifest_in(key, metadata), frames

    def read_candles(
        self,
        market: Market,
        interval: str | Interval,
        start: datetime,
        end: datetime,
        *,
        kind: CandleKind = "candles",
    ) -> pl.DataFrame:
        """Candles of a stored interval with ``open_time`` in ``[start, end)``, as stored."""
        keys = self._keys(kind, market, start, end, Interval.parse(interval))
        return scan.read(self.storage, keys, _candle_schema(kind), "open_time", (start, end))

    def read_folded(self, market: Market, start: datetime, end: datetime) -> tuple[pl.DataFrame, list[date]]:
        """The stored 1m candles of ``[start, end)``, and the days whose candles are not among them.

        Those are the days that hold trades, but no candles of exactly these trades: which trades candles
        are of says the file itself, not its age. A slow fold may be put in place after a newer one.

        Raises:
            CorruptFile: a file is cut or foreign.
        """
        hashes = self._hashes(market, start, end)
        minute = Interval.parse("1m")
        frames = [CANDLE_SCHEMA.to_frame()]
        for day in self._days("candles", market, start, end, minute):
            part = Part("candles", market, day, minute)
            candles, metadata = scan.read_one(
                self.storage, part.key, CANDLE_SCHEMA, "open_time", (start, end)
            )
            if day not in hashes or self._facts_in(part, metadata).get("trades") == hashes[day]:
                frames.append(candles)
                hashes.pop(day, None)
        return pl.concat(frames), list(hashes)

    def unfolded(self, market: Market, start: datetime, end: datetime) -> list[date]:
        """Days touched by ``[start, end)`` that hold trades and no 1m candles of exactly these trades."""

        def made_of(day: date) -> str | None:
            try:
                facts = self.read_facts("candles", market, day, "1m")
            except CorruptFile:  # what is made of trades is made again
                return None
            return None if facts is None else facts.get("trades")

        hashes = self._hashes(market, start, end)
        found = self._each(made_of, list(hashes))
        return [day for (day, content), of in zip(hashes.items(), found, strict=True) if of != content]

    def _hashes(self, market: Market, start: datetime, end: datetime) -> dict[date, str]:
        """Content hash of the trades of each day touched by ``[start, end)``; reads footers only."""
        days = self._days("trades", market, start, end)
        found = self._each(lambda day: self.manifest(market, day), days)
        return {manifest.day: manifest.content_hash for manifest in found if manifest is not None}

    def _each(self, read: Callable[[_A], _B], wanted: Sequence[_A]) -> list[_B]:
        """Read many small things, in order; side by side where each is a journey."""
        if self.storage.is_local or len(wanted) < 2:
            return [read(each) for each in wanted]
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            return list(pool.map(read, wanted))

    def _keys(
        self, kind: Kind, market: Market, start: datetime, end: datetime, interval: Interval | None = None
    ) -> list[str]:
        """Files of the days touched by ``[start, end)`` that are there."""
        days = self._days(kind, market, start, end, interval)
        return [Part(kind, market, day, interval).key for day in days]

    def _days(
        self, kind: Kind, market: Market, start: datetime, end: datetime, interval: Interval | None = None
    ) -> list[date]:
        """Days touched by ``[start, end)`` that have a file, in order."""
        if end <= start:
            return []
        first = start.astimezone(UTC).date()
        last = (end - timedelta(microseconds=1)).astimezone(UTC).date()
        if (last - first).days > _LIST_FROM_DAYS:
            found = self.storage.listed(paths.market_folder(kind, market, interval))
        else:
            wanted = [first + timedelta(days=n) for n in range((last - first).days + 1)]
            found = self.storage.modified([Part(kind, market, day, interval).key for day in wanted])
        days = {part.day for key in found if (part := Part.parse(key))}
        return sorted(day for day in days if first <= day <= last)


def _part(kind: Kind, market: Market, day: date, interval: str | Interval | None) -> Part:
    return Part(kind, market, day, None if interval is None else Interval.parse(interval))


def _candle_schema(kind: CandleKind) -> pl.Schema:
    return CANDLE_SCHEMA if kind == "candles" else EXCHANGE_CANDLE_SCHEMA
