"""What commands share: the settings, the lake, and markets by name."""

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, date, datetime

from marketdata.cli.failures import say
from marketdata.cli.times import days_between
from marketdata.errors import MarketDataError, UnknownName
from marketdata.lake import Lake
from marketdata.manifest import Manifest, Status
from marketdata.market import Market
from marketdata.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """What one command works with. The clock is read here, once."""

    settings: Settings
    lake: Lake
    now: datetime


def context() -> Context:
    """Read the settings, open the lake and look at the clock."""
    settings = Settings.load()
    return Context(settings, Lake.open(settings.lake_url, settings=settings), datetime.now(UTC))


def held_market(here: Context, text: str) -> tuple[Market, list[date]]:
    """Return a market that the lake holds, and its days.

    Raises:
        UnknownName: the lake holds other markets only; says the nearest.
        MarketDataError: the lake holds nothing at all.
    """
    market = Market.parse(text)
    held = here.lake.days(market).get(market)
    if held:
        return market, held
    known = here.lake.days()
    hint = f"To fetch it: marketdata backfill {market} --last 7d"
    if not known:
        msg = f"The lake {here.lake.url!r} is empty."
        raise MarketDataError(msg, hint=hint)
    raise UnknownName(str(market), kind="market in the lake", known=[str(m) for m in known], hint=hint)


def warn_of_gaps(here: Context, market: Market, held: Sequence[date], start: date, end: date) -> None:
    """Say on stderr which days of ``[start, end)`` the lake lacks or holds with gaps.

    The running day is never complete and counts only when some of it is there.

    Raises:
        MarketDataError: it lacks all of them, so there is nothing to show.
    """
    manifests = here.lake.manifests(market, start, end)
    broken = [(m.day, m.status.value, m.reason) for m in manifests if m.status is not Status.COMPLETE]
    days = Days("lake", market, set(held), lambda: (held[0], held[-1]), broken)
    days.warn(start, end, here.now.date())


@dataclass(frozen=True, slots=True)
class Days:
    """Days of a market that a lake or a store holds.

    Attributes:
        source: ``lake`` or ``store``.
        held: at least those of the range that is looked at.
        bounds: gives the first and the last of all.
        broken: those that are not complete, with status and reason.
    """

    source: str
    market: Market
    held: Set[date]
    bounds: Callable[[], tuple[date, date]]
    broken: Sequence[tuple[date, str, str]]

    def warn(self, start: date, end: date, today: date) -> None:
        """See :func:`warn_of_gaps`."""
        market, source = self.market, self.source
        wanted = [day for day in days_between(start, end) if day != today or day in self.held]
        absent = [day for day in wanted if day not in self.held]
        if not wanted:
            first, last = self.bounds()
            msg = (
                f"The running day {today} (UTC) of {market} is not in the {source}; it has {first} to {last}."
            )
            raise MarketDataError(msg, hint="Choose an earlier --start or a longer --last.")
        if len(absent) == len(wanted):
            first, last = self.bounds()
            msg = f"The {source} has no day of {market} between {start} and {end}; it has {first} to {last}."
            how = "load" if source == "store" else "fetch"
            command = "db load" if source == "store" else "backfill"
            hint = f"To {how} them: marketdata {command} {market} --start {start} --end {end}"
            raise MarketDataError(msg, hint=hint)
        if absent:
            say(f"warning: not in the {source}: {market} {ranges_text(absent)} ({days_text(absent)}).")
        for day, status, reason in self.broken[:3]:
            say(f"warning: {market} {day} has status {status}: {reason}")
        if len(self.broken) > 3:
            more = len(self.broken) - 3
            say(f"warning: {more} more days are not complete; see marketdata coverage {market}.")


def days_text(days: Sequence[date]) -> str:
    """``1 day`` or ``3 days``."""
    return f"{len(days):,} day{'' if len(days) == 1 else 's'}"


def ranges_text(days: Iterable[date], limit: int = 4) -> str:
    """Days as runs: ``2025-06-03..2025-06-05, 2025-06-09``."""
    runs: list[list[date]] = []
    for day in sorted(days):
        if runs and (day - runs[-1][-1]).days == 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs]
    more = [f"and {len(texts) - limit} more"] if len(texts) > limit else []
    return ", ".join(texts[:limit] + more)


def status_counts(manifests: Iterable[Manifest]) -> dict[Status, int]:
    """How many days have each status."""
    counts = dict.fromkeys(Status, 0)
    for manifest in manifests:
        counts[manifest.status] += 1
    return counts
