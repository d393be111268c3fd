"""What is known about one (market, UTC day), kept inside the day's own file (pure)."""

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson

from marketdata.errors import CorruptFile, UsageError
from marketdata.market import Market

SCHEMA_VERSION = 1


class Status(StrEnum):
    """What can be said of a day."""

    COMPLETE = "complete"  # everything the exchange serves is here, and there is evidence for it
    GAPS = "gaps"  # ids or a stretch of time are known to be missing
    UNKNOWN = "unknown"  # nothing speaks for or against it (an imported file that ends inside the day)


class Ids(StrEnum):
    """Where the trade ids come from, which decides what they prove."""

    SEQUENTIAL = "sequential"  # the exchange's own, one after the other: a hole is a missing trade
    EXCHANGE = "exchange"  # the exchange's own, with holes
    FINGERPRINT = "fingerprint"  # given by assign_ids


def day_window(day: date) -> tuple[datetime, datetime]:
    """Start (inclusive) and end (exclusive) of a UTC day; no time is after the last of the calendar."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return start, datetime.max.replace(tzinfo=UTC) if day == date.max else start + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known about the trades of one market on one UTC day.

    Ranges of ids are inclusive, ranges of time half-open. ``content_hash`` is over the rows alone, so the
    same trades have the same hash whatever the source. There is no time of writing in it: fetching a day
    again gives the identical file.

    Attributes:
        status: the verdict; ``reason`` says in one sentence why.
        first_id, last_id: of the rows held. ``previous_id`` and ``following_id``: of the trades just
            before and after the day, where the source has shown them: they prove the edges.
        missing_ids: holes not yet asked for again, or that an import has left.
        not_served: holes the exchange was asked for once more and still does not serve.
        covered: the stretches of the day the source was asked for and has answered.
        rejected: refused rows by reason; they are kept in the lake's ``rejected`` part.
        evidence: short facts that the verdict rests on.
    """

    market: Market
    day: date
    source: str
    ids: Ids
    status: Status
    reason: str
    rows: int
    fills: int
    first_time: datetime | None
    last_time: datetime | None
    first_id: int | None
    last_id: int | None
    previous_id: int | None
    following_id: int | None
    covered: tuple[tuple[datetime, datetime], ...]
    content_hash: str
    missing_ids: tuple[tuple[int, int], ...] = ()
    not_served: tuple[tuple[int, int], ...] = ()
    repeated: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    pages: int = 0
    cursor: str | None = None
    evidence: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def missing_count(self) -> int:
        """Trades known to be missing and not yet asked for again."""
        return sum(last - first + 1 for first, last in self.missing_ids)

    @property
    def not_served_count(self) -> int:
        """Trades the exchange does not serve."""
        return sum(last - first + 1 for first, last in self.not_served)

    def to_json(self) -> str:
        """One line of JSON, keys in a fixed order."""
        body = asdict(replace(self))
        body["market"] = str(self.market)
        return orjson.dumps(body, option=orjson.OPT_UTC_Z).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Read what :meth:`to_json` wrote.

        Raises:
            CorruptFile: it is not a manifest, or one of a newer version than this program knows.
        """
        try:
            body: dict[str, Any] = orjson.loads(text)
            version = body["schema_version"]
            if version > SCHEMA_VERSION:
                msg = f"The manifest has schema version {version}; this program knows {SCHEMA_VERSION}."
                raise CorruptFile(msg, hint="Upgrade marketdata.")
            body["market"] = Market.parse(body["market"])
            body["day"] = date.fromisoformat(body["day"])
            body["ids"], body["status"] = Ids(body["ids"]), Status(body["status"])
            for name in ("first_time", "last_time"):
                body[name] = _time(body[name])
            body["covered"] = tuple((_at(a), _at(b)) for a, b in body["covered"])
            for name in ("missing_ids", "not_served"):
                body[name] = tuple((first, last) for first, last in body[name])
            return cls(**body)
        except (KeyError, TypeError, ValueError, UsageError) as error:
            msg = f"Not a manifest of marketdata: {error}."
            raise CorruptFile(msg) from error


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _time(text: str | None) -> datetime | None:
    return None if text is None else _at(text)
