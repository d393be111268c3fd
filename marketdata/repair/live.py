"""Holes in the live tables of the last days, and when each is to be filled (pure).

A market is live when the store has trades of it that no loaded day has brought. Its ids show a hole by
themselves; a silence far beyond its pace is a hole only if the exchange's own candles speak of trades there,
which whoever fills it asks.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import orjson
import polars as pl

from marketdata.interval import Interval
from marketdata.ledger import Event, State
from marketdata.market import Market

# How far back is looked; older days are the lake's, whole and checked.
BACK = timedelta(days=2)
# What is younger may be on its way.
YOUNG = timedelta(minutes=2)
# Up to so long a stretch the exchange's candles stand in until its trades are there.
CANDLES_FIRST = timedelta(hours=12)
SUBJECT, REASON = "store", "hole"
_MINUTE = Interval.parse("1m")
# Nothing more is asked for.
_LAID = (State.NOT_SERVED.value, State.EXHAUSTED.value, State.INFORMATION.value)
# A silence is suspected from the longer of these on: so many times the usual distance, and so long.
TIMES_THE_PACE, SILENT = 50.0, timedelta(minutes=5)


class Kind(StrEnum):
    """How a hole shows."""

    IDS = "ids"
    CANDLES = "candles"  # trades are there, and no candle
    SILENCE = "silence"  # only suspected


@dataclass(frozen=True, slots=True)
class Hole:
    """A stretch of a live market that lacks something.

    Attributes:
        start, end: times of the trades around, or whole minutes.
        first_id, last_id: inclusive, where ids show it.
    """

    market: Market
    kind: Kind
    start: datetime
    end: datetime
    first_id: int | None = None
    last_id: int | None = None

    @property
    def sentence(self) -> str:
        """What is wrong, for a person."""
        when = f"between {self.start:%Y-%m-%d %H:%M:%S} and {self.end:%H:%M:%S} UTC"
        if self.first_id is not None and self.last_id is not None:
            count = self.last_id - self.first_id + 1
            return f"{count:,} trades are missing {when}: ids {self.first_id} to {self.last_id}."
        if self.kind is Kind.CANDLES:
            return f"There are trades and no candles {when}."
        return f"There is no trade {when}, far beyond the market's pace."

    @property
    def minutes(self) -> tuple[datetime, datetime]:
        """The whole minutes that it touches."""
        last = self.end if self.kind is Kind.CANDLES else self.end + timedelta(microseconds=1)
        return _MINUTE.floor(self.start), _MINUTE.ceil(last)


def closed(now: datetime) -> datetime:
    """Up to when a hole is one: whole minutes, two of them back."""
    return _MINUTE.floor(now - YOUNG)


@dataclass(frozen=True, slots=True)
class Past:
    """What the ledger says of a hole: attempts so far, when the last one ended, and how it stands."""

    attempts: int
    last_at: datetime | None
    state: State | None
    end: datetime | None


def past(entries: pl.DataFrame, hole: Hole) -> Past:
    """What has been done about a hole that begins there, whatever its end was then."""
    ours = entries.filter(
        pl.col("subject") == SUBJECT,
        pl.col("reason") == REASON,
        pl.col("exchange") == hole.market.exchange,
        pl.col("symbol") == hole.market.symbol,
        pl.col("start") == hole.start,
    ).sort("at", maintain_order=True)
    if ours.is_empty():
        return Past(0, None, None, None)
    last = ours.row(-1, named=True)
    # What was whole once, or is not what was asked for then, begins anew.
    if last["state"] == State.REPAIRED or (last["state"] in _LAID and not _same(last["before"], hole)):
        return Past(0, None, None, None)
    case = ours.filter(pl.col("case") == last["case"])
    attempts = case.filter(pl.col("event") == Event.REPAIR.value)["attempt"].max()
    return Past(attempts if isinstance(attempts, int) else 0, last["at"], State(last["state"]), last["end"])


def facts(hole: Hole) -> dict[str, int | str | None]:
    """What the ledger keeps of a hole; of a silence also how often it has doubled."""
    found = {"kind": hole.kind.value, "first_id": hole.first_id, "last_id": hole.last_id}
    return found | ({"doubled": _doubled(hole)} if hole.kind is Kind.SILENCE else {})


def _doubled(hole: Hole) -> int:
    return math.floor(math.log2(max(1.0, (hole.end - hole.start) / SILENT)))


def _same(before: str, hole: Hole) -> bool:
    return bool(orjson.loads(before) == facts(hole))


def due(
    holes: Iterable[Hole], entries: pl.DataFrame, now: datetime, pauses: tuple[timedelta, ...]
) -> list[Hole]:
    """Holes that are to be filled now; one of which an attempt has just failed waits."""
    found = []
    for hole in holes:
        before = past(entries, hole)
        if before.state is not None and before.state.value in _LAID:
            continue
        if before.attempts and before.last_at is not None:
            pause = pauses[min(before.attempts, len(pauses)) - 1]
            if now < before.last_at + pause:
                continue
        found.append(hole)
    return found


def token(hole: Hole, now: datetime, attempts: int) -> str:
    """The same as long as a hole need not be looked at again.

    A silence is looked at again when it is twice as long, or when an attempt has failed.
    """
    text = f"{hole.market}|{hole.kind}|{hole.start.isoformat()}|{hole.first_id}|{hole.last_id}"
    if hole.kind is Kind.SILENCE:
        return f"{text}|{_doubled(hole)}|{attempts}"
    return f"{text}|{now:%Y-%m-%dT%H:%M}"
