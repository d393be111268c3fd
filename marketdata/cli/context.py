"""What commands share: the settings, the lake, and markets by name."""

from collections.abc import Iterable, Sequence
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
    known, today = set(held), here.now.date()
    wanted = [day for day in days_between(start, end) if day != today or day in known]
    absent = [day for day in wanted if day not in known]
    if not wanted:
        msg = f"The running day {today} (UTC) of {market} is not in the lake; it has {held[0]} to {held[-1]}."
        raise MarketDataError(msg, hint="Choose an earlier --start or a longer --last.")
    if len(absent) == len(wanted):
        msg = f"The lake has no day of {market} between {start} and {end}; it has {held[0]} to {held[-1]}."
        raise MarketDataError(
            msg, hint=f"To fetch them: marketdata backfill {market} --start {start} --end {end}"
        )
    if absent:
        say(f"warning: not in the lake: {market} {ranges_text(absent)} ({days_text(absent)}).")
    broken = [m for m in here.lake.manifests(market, start, end) if m.status is not Status.COMPLETE]
    for manifest in broken[:3]:
        say(f"warning: {market} {manifest.day} has status {manifest.status}: {manifest.reason}")
    if len(broken) > 3:
        say(f"warning: {len(broken) - 3} more days are not complete; see marketdata coverage {market}.")


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
