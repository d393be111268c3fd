"""What an import has done: every row in one place, by format and in total."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from functools import reduce

from marketdata.errors import MarketDataError
from marketdata.manifest import Status
from marketdata.market import Market


@dataclass(frozen=True, slots=True)
class Kept:
    """A day that was left as it was, and why. ``rows`` of the file were not taken."""

    market: Market
    day: date
    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that was not imported to its end, and why.

    ``format`` is empty where the file was not recognised; else it was, and the days before the damage are in
    the lake.
    """

    file: str
    error: MarketDataError
    format: str = ""


@dataclass(slots=True)
class Tally:
    """What became of the rows of one format: the sum of accepted, repeated, rejected, empty and kept ones.

    Attributes:
        files: the files that were imported to their end; ``finished_before`` of them by an earlier import,
            which is not read again: their rows count as repeated.
        accepted: rows that are new in the lake.
        repeated: rows that the lake had, or that stood twice in a file.
        rejected: refused rows by reason; they are kept in the lake.
        empty: candles of intervals without trades, which are not stored.
        kept: rows of days that were left as they were.
        days: days that the files hold, each market's counted; ``statuses`` of those with trades, as they
            stand in the lake when the market is done.
        bytes: of the files, as they lie on disk.
        seconds: while the files were read.
    """

    files: int = 0
    finished_before: int = 0
    rows: int = 0
    accepted: int = 0
    repeated: int = 0
    empty: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    days: int = 0
    statuses: Counter[Status] = field(default_factory=Counter)
    bytes: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(
            self.files + other.files,
            self.finished_before + other.finished_before,
            self.rows + other.rows,
            self.accepted + other.accepted,
            self.repeated + other.repeated,
            self.empty + other.empty,
            self.kept + other.kept,
            self.rejected + other.rejected,
            self.days + other.days,
            self.statuses + other.statuses,
            self.bytes + other.bytes,
            self.seconds + other.seconds,
        )


@dataclass(slots=True)
class ImportReport:
    """What became of every row of every file.

    Attributes:
        files: the files read, in their order.
        days: the days they hold, by market.
        tallies: what became of the rows, by name of the format.
        kept: days that were left as they were.
        left_out: files that are of no known format, or damaged.
        passed_over: other files in the folders, by ending.
        seconds: of the whole import, folding included.
    """

    files: list[str] = field(default_factory=list)
    days: dict[Market, set[date]] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def tally(self, format_name: str) -> Tally:
        """The tally of a format, to add to."""
        return self.tallies.setdefault(format_name, Tally())

    @property
    def total(self) -> Tally:
        """All formats together."""
        return summed(self.tallies.values())

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return self.total.rows

    @property
    def accepted(self) -> int:
        """Rows that are new in the lake."""
        return self.total.accepted

    @property
    def repeated(self) -> int:
        """Rows that the lake had, or that stood twice."""
        return self.total.repeated

    @property
    def empty(self) -> int:
        """Candles without trades."""
        return self.total.empty

    @property
    def rejected(self) -> Counter[str]:
        """Refused rows by reason."""
        return self.total.rejected


def summed(tallies: Iterable[Tally]) -> Tally:
    """All of them in one."""
    return reduce(Tally.__add__, tallies, Tally())
