"""Which days want a repair, judged by what is known of each (pure).

A market is collected from its first held day on: what lies before was never asked for, and is left to whoever
starts a backfill. Later days that are absent are asked for inside the last days, and where a hole between two
held days is no longer than that; a longer one is a backfill's too.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from enum import StrEnum

from marketdata.ledger import Value
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from marketdata.settings import Tracked

_DAY = timedelta(days=1)
# Yesterday is the daily schedule's until then; a day that its run has not brought is missing.
DAILY_UNTIL = time(1, 0)


class Reason(StrEnum):
    """What is wrong with a day, in the ledger's words."""

    MISSING = "missing"  # the lake has no such day
    INCOMPLETE = "incomplete"  # its manifest knows of gaps, or knows too little
    DAMAGED = "damaged"  # the file is cut, foreign, or has other rows than its manifest speaks of
    STALE = "stale"  # candles or store are made of other trades than the lake holds


class Begin(StrEnum):
    """With what a repair begins; what is made of it follows."""

    TRADES = "trades"
    CANDLES = "candles"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Held:
    """What the lake and the store have of a day.

    Attributes:
        outage: the stretches of which nothing is known are an outage of the exchange itself.
        damage: why the file cannot be what it says; then nothing else is known.
        candles, stored: content hash of the trades that the 1m candles, and the rows in the store, are made
            of; ``None`` where there are none.
        fresh: written a moment ago, so what is made of it may be on its way.
    """

    status: Status = Status.UNKNOWN
    reason: str = ""
    rows: int = 0
    content_hash: str = ""
    first_id: int | None = None
    last_id: int | None = None
    missing: int = 0
    not_served: int = 0
    outage: bool = False
    damage: str = ""
    candles: str | None = None
    stored: str | None = None
    fresh: bool = False

    @property
    def facts(self) -> dict[str, Value]:
        """What the ledger keeps of it as before and after."""
        if self.damage:
            return {"damage": self.damage}
        return {
            "status": self.status.value,
            "rows": self.rows,
            "content_hash": self.content_hash,
            "first_id": self.first_id,
            "last_id": self.last_id,
            "missing": self.missing,
            "not_served": self.not_served,
        }


Evidence = Mapping[Market, Mapping[date, Held]]


@dataclass(frozen=True, slots=True)
class Need:
    """A day that wants a repair.

    Attributes:
        evidence: one sentence for a person.
        begin: what to make anew first.
        before: numbers and names that the sentence rests on.
    """

    market: Market
    day: date
    reason: Reason
    evidence: str
    begin: Begin
    before: Mapping[str, Value] = field(default_factory=dict, hash=False)

    @property
    def digest(self) -> str:
        """The same as long as the evidence is the same: 12 hexadecimal digits."""
        text = "\0".join((self.evidence, *(f"{name}={value}" for name, value in sorted(self.before.items()))))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def judge(market: Market, day: date, held: Held | None, *, store: bool) -> Need | None:
    """What is wrong with a day, the worst first; ``None`` when nothing is.

    Args:
        store: whether the store should have the day.
    """
    if held is None:
        return Need(market, day, Reason.MISSING, "The lake has no such day.", Begin.TRADES, {})
    if held.damage:
        return Need(market, day, Reason.DAMAGED, held.damage, Begin.TRADES, held.facts)
    if held.status is not Status.COMPLETE and not held.outage:
        return Need(market, day, Reason.INCOMPLETE, held.reason, Begin.TRADES, held.facts)
    if held.candles != held.content_hash:
        what = "are made of other trades than the lake holds" if held.candles else "are not there"
        before = {"trades": held.content_hash, "candles": held.candles}
        return Need(market, day, Reason.STALE, f"The day's candles {what}.", Begin.CANDLES, before)
    if store and held.stored != held.content_hash:
        what = "has other trades of the day than the lake" if held.stored else "does not have the day"
        before = {"trades": held.content_hash, "store": held.stored}
        return Need(market, day, Reason.STALE, f"The store {what}.", Begin.STORE, before)
    return None


def wanted(
    evidence: Evidence,
    tracked: Iterable[Tracked],
    now: datetime,
    *,
    days: int,
    store_from: date | None = None,
) -> list[Need]:
    """Every day of the tracked range that wants a repair, the newest first.

    Args:
        evidence: the held days of each market.
        now: the running day is never judged, and yesterday is missing only when the daily run is over.
        days: how many days back missing days are asked for, and how long a hole may be.
        store_from: the first day that the store should have; ``None``: there is no store to look at.
    """
    today = now.date()
    found: list[Need] = []
    for entry in tracked:
        held = evidence.get(entry.market, {})
        inside = sorted(day for day in held if entry.since <= day < today)
        wants = [
            judge(entry.market, day, held[day], store=store_from is not None and day >= store_from)
            for day in inside
        ]
        found += [
            need for need in wants if need and not (need.reason is Reason.STALE and held[need.day].fresh)
        ]
        absent = [judge(entry.market, day, None, store=False) for day in _absent(inside, now, days)]
        found += [need for need in absent if need]
    return sorted(found, key=lambda need: (-need.day.toordinal(), need.market))


def over(day: date, now: datetime) -> bool:
    """Whether the daily run has had its time for this day."""
    return now >= day_window(day)[1] + (datetime.combine(day, DAILY_UNTIL) - datetime.combine(day, time.min))


def _absent(held: list[date], now: datetime, days: int) -> list[date]:
    """Absent days behind the first held one that are asked for."""
    if not held or not days:
        return []
    since = now.date() - days * _DAY
    if held[-1] < since:  # nobody collects this market; what is held was wanted for itself
        return []
    last = now.date() - _DAY
    ends = [*held, last + _DAY]
    found: list[date] = []
    for before, after in zip(held, ends[1:], strict=True):
        hole = [before + n * _DAY for n in range(1, (after - before).days)]
        found += hole if len(hole) <= days else [day for day in hole if day >= since]
    return [day for day in found if over(day, now)]
