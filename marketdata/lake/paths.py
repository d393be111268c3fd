"""Where things lie in the lake; no other module builds or reads a path of it (pure).

Keys are relative to the lake and use ``/`` everywhere. Names that start with ``_`` are ours alone: no glob
over ``trades/`` or ``candles/`` meets them, and staged pages do not end in ``.parquet`` either.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal
from urllib.parse import quote

from marketdata.errors import UsageError
from marketdata.interval import Interval
from marketdata.market import Market, symbol_from_slug

Kind = Literal["trades", "rejects", "candles", "exchange_candles", "findings", "reconciliation"]
CandleKind = Literal["candles", "exchange_candles"]

FILE = "part-0.parquet"
LOCK = "lock"
IMPORTS = "_imports"
LEDGER = "ledger"
ALERTS = "_alerts"
ALERTS_WAITING = f"{ALERTS}/waiting"
PAGE = re.compile(r"page-(\d{6})\.arrow")
_ROOTS: dict[Kind, str] = {
    "trades": "trades",
    "rejects": "rejected/trades",
    "candles": "candles",
    "exchange_candles": "exchange_candles",
    "findings": "findings",
    "reconciliation": "reconciliation",
}
_FILE = re.compile(
    r"(?P<root>trades|rejected/trades|candles|exchange_candles|findings|reconciliation)/"
    r"(?:interval=(?P<interval>\w+)/)?"
    r"exchange=(?P<exchange>[^/]+)/symbol=(?P<symbol>[^/]+)/date=(?P<date>\d{4}-\d\d-\d\d)/part-0\.parquet"
)
_LEDGER_FILE = re.compile(rf"{LEDGER}/date=(?P<date>\d{{4}}-\d\d-\d\d)/[0-9a-f]+\.parquet")
_TEMPORARY = re.compile(r"\..+\.tmp")


def temporary(name: str, writer: str) -> str:
    """What a file is called while ``writer`` writes it: hidden, and no reader takes it for the file."""
    return f".{name}.{writer}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a file is still being written, or was left behind by a writer that was killed."""
    return _TEMPORARY.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Part:
    """What one file of the lake holds."""

    kind: Kind
    market: Market
    day: date
    interval: Interval | None = None

    @property
    def key(self) -> str:
        """The file's path inside the lake."""
        return f"{self.folder}/{FILE}"

    @property
    def folder(self) -> str:
        """The folder of the file."""
        return f"{market_folder(self.kind, self.market, self.interval)}/date={self.day.isoformat()}"

    @classmethod
    def parse(cls, key: str) -> "Part | None":
        """What lies at ``key``; ``None`` when it is no file of the lake."""
        match = _FILE.fullmatch(key)
        if match is None:
            return None
        kind = next(kind for kind, root in _ROOTS.items() if root == match["root"])
        try:
            return cls(
                kind,
                Market(match["exchange"], symbol_from_slug(match["symbol"])),
                date.fromisoformat(match["date"]),
                Interval.parse(match["interval"]) if match["interval"] else None,
            )
        except (UsageError, ValueError):  # a folder that somebody else put there
            return None


def root_folder(kind: Kind, interval: Interval | None = None) -> str:
    """The folder of everything of a kind (and interval)."""
    return _ROOTS[kind] if interval is None else f"{_ROOTS[kind]}/interval={interval}"


def market_folder(kind: Kind, market: Market, interval: Interval | None = None) -> str:
    """The folder of one market."""
    return f"{root_folder(kind, interval)}/exchange={market.exchange}/symbol={market.symbol_slug}"


def staging_folder(market: Market, day: date) -> str:
    """Where the pages of a fetch wait, whatever their source."""
    return f"_staging/{market_folder('trades', market)}/date={day.isoformat()}"


def lock_key(market: Market, day: date) -> str:
    """The lock of a day: beside the pages, so that it stays while they are removed."""
    return f"{staging_folder(market, day)}.{LOCK}"


def stage_folder(market: Market, day: date, source: str) -> str:
    """Where the pages of one source wait."""
    return f"{staging_folder(market, day)}/source={quote(source, safe='')}"


def page_name(number: int) -> str:
    """File name of a staged page; numbers start at 1."""
    return f"page-{number:06}.arrow"


def import_key(digest: str) -> str:
    """Where it is kept that a source file was imported; ``digest`` is of its path."""
    return f"{IMPORTS}/{digest[:2]}/{digest}.json"


def ledger_key(day: date, entries: Sequence[str]) -> str:
    """Where entries of the ledger lie that were written together; the same entries lie in the same place."""
    digest = hashlib.sha256("".join(entries).encode()).hexdigest()[:24]
    return f"{LEDGER}/date={day.isoformat()}/{digest}.parquet"


def ledger_day(key: str) -> date | None:
    """The day on which the entries at ``key`` were written; ``None`` when it is no file of the ledger."""
    match = _LEDGER_FILE.fullmatch(key)
    return None if match is None else date.fromisoformat(match["date"])


def alert_key(digest: str, *, sent: bool) -> str:
    """Where an alert waits, or where it is kept that it went out; ``digest`` is of its key."""
    return f"{ALERTS}/sent/{digest[:2]}/{digest}.json" if sent else f"{ALERTS_WAITING}/{digest}.json"


def report_key(day: date) -> str:
    """Where the daily report lies."""
    return f"reports/date={day.isoformat()}/report.html"
