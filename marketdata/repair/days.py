"""Which days of the lake and the store want a repair: one listing, and the footers of files that changed."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Literal

from marketdata.completeness import uncovered
from marketdata.errors import CorruptFile, MarketDataError
from marketdata.evidence import outages_of_day
from marketdata.lake import Lake
from marketdata.lake.paths import Part, root_folder
from marketdata.manifest import Manifest, Status, day_window
from marketdata.market import Market
from marketdata.repair.judging import Held, Need, wanted
from marketdata.settings import Settings, Tracked

# What is made of a day follows its trades within this time, or somebody has to ask for it.
_FRESH = timedelta(minutes=2)
_MINUTE = "1m"
Stamp = tuple[int, int]


def needs(lake: Lake, settings: Settings, tracked: Iterable[Tracked], now: datetime) -> list[Need]:
    """Every day of the tracked range that is missing, incomplete, damaged or stale, the newest first.

    Raises:
        StorageError: the lake cannot be read.
        MarketDataError: a store is configured and cannot be asked.
    """
    return Survey(lake).needs(settings, tracked, now)


class Survey:
    """What is known of the days of a lake; files that have not changed since are not opened again."""

    def __init__(self, lake: Lake) -> None:
        """Nothing is read yet."""
        self._lake = lake
        self._parts: dict[str, Part | None] = {}
        self._trades: dict[str, tuple[Stamp, Held]] = {}
        self._candles: dict[str, tuple[Stamp, str | None]] = {}

    def needs(self, settings: Settings, tracked: Iterable[Tracked], now: datetime) -> list[Need]:
        """See :func:`needs`."""
        tracked = tuple(tracked)
        held = self.held(tracked, now, store=stored_hashes(settings))
        return wanted(held, tracked, now, days=settings.repair_days, store_from=store_from(settings, now))

    def held(
        self,
        tracked: Iterable[Tracked],
        now: datetime,
        *,
        store: dict[tuple[Market, date], str] | None = None,
    ) -> dict[Market, dict[date, Held]]:
        """The held days of these markets.

        Args:
            store: content hash of each day in the store.

        Raises:
            StorageError: the lake cannot be read.
        """
        markets = {entry.market for entry in tracked}
        made_of = {
            (part.market, part.day): self._made_of(key, stamp, part)
            for key, stamp, part in self._listed("candles", markets)
        }
        days: dict[Market, dict[date, Held]] = {}
        seen: dict[str, tuple[Stamp, Held]] = {}
        for key, stamp, part in self._listed("trades", markets):
            known = self._trades.get(key)
            seen[key] = known if known is not None and known[0] == stamp else (stamp, self._read(part))
            each = (part.market, part.day)
            # A lake that says a later time than ours keeps time by another clock.
            fresh = timedelta() <= now - datetime.fromtimestamp(stamp[0] / 1e9, now.tzinfo) < _FRESH
            days.setdefault(part.market, {})[part.day] = replace(
                seen[key][1],
                candles=made_of.get(each),
                stored=None if store is None else store.get(each),
                fresh=fresh,
            )
        self._trades = seen
        return days

    def _listed(
        self, kind: Literal["trades", "candles"], markets: set[Market]
    ) -> Iterable[tuple[str, Stamp, Part]]:
        folder = f"{root_folder(kind)}/interval={_MINUTE}" if kind == "candles" else root_folder(kind)
        for key, stamp in self._lake.storage.stamps(folder).items():
            if key not in self._parts:
                self._parts[key] = Part.parse(key)
            part = self._parts[key]
            if part is not None and part.market in markets:
                yield key, stamp, part

    def _read(self, part: Part) -> Held:
        try:
            manifest = self._lake.manifest(part.market, part.day)
        except CorruptFile as error:
            return Held(damage=error.message)
        if manifest is None:  # removed since it was listed: the next look says so
            return Held(damage="The file is gone.")
        held = of_manifest(manifest)
        if held.status is not Status.COMPLETE and self._is_outage(manifest):
            return replace(held, outage=True)
        return held

    def _is_outage(self, manifest: Manifest) -> bool:
        """Whether the exchange itself had no trades in the time that nothing is known of."""
        window = day_window(manifest.day)
        left = uncovered(window, manifest.covered)
        if manifest.missing_ids or not left or left == (window,):
            return False
        try:
            outages = outages_of_day(self._lake, manifest.market, manifest.day)
        except CorruptFile:
            return False
        return all(any(o.start <= since and until <= o.end for o in outages) for since, until in left)

    def _made_of(self, key: str, stamp: Stamp, part: Part) -> str | None:
        known = self._candles.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            facts = self._lake.read_facts("candles", part.market, part.day, _MINUTE)
        except CorruptFile:
            facts = None
        made_of = None if facts is None else facts.get("trades")
        self._candles[key] = (stamp, made_of)
        return made_of


def of_manifest(manifest: Manifest) -> Held:
    """What a manifest says of its day."""
    return Held(
        status=manifest.status,
        reason=manifest.reason,
        rows=manifest.rows,
        content_hash=manifest.content_hash,
        first_id=manifest.first_id,
        last_id=manifest.last_id,
        missing=manifest.missing_count,
        not_served=manifest.not_served_count,
    )


def store_from(settings: Settings, now: datetime) -> date | None:
    """The first day whose trades the store should have; ``None`` without a store."""
    if settings.database_url is None:
        return None
    keep = settings.store_retain_trades_days
    # Retention takes whole stretches of days away: the last of them may be gone a day early.
    return now.date() - timedelta(days=keep - 1) if keep else date.min


def stored_hashes(settings: Settings) -> dict[tuple[Market, date], str] | None:
    """Content hash of every day in the store; ``None`` without a store.

    Raises:
        TransientError, UsageError: the store cannot be asked.
    """
    if settings.database_url is None:
        return None
    try:
        from marketdata.store import coverage  # the store is an optional part  # noqa: PLC0415
    except ImportError as error:
        msg = "A store is configured, and the packages for it are not installed."
        raise MarketDataError(msg, hint="Install marketdata[store].") from error
    return coverage.hashes(settings)
