"""Long silences that are the exchange's own: nothing was traded, so there is nothing to ask for (pure)."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from marketdata.interval import Interval, from_us, to_us

_AT_LEAST = timedelta(minutes=10)
# Of fewer trades or candles nobody can say which silence is unusual.
_ENOUGH = 50
Window = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Outage:
    """A stretch ``[start, end)`` in which the exchange had no trade, and in words how that is known."""

    start: datetime
    end: datetime
    evidence: str


def exchange_outages(
    ours: pl.DataFrame,
    theirs: pl.DataFrame | None,
    window: Window,
    *,
    interval: str | Interval = "1m",
    served: Window | None = None,
    sequential: bool = False,
    previous_id: int | None = None,
    following_id: int | None = None,
    at_least: timedelta = _AT_LEAST,
    beyond: float = 8.0,
) -> tuple[Outage, ...]:
    """Silences of ours far beyond the market's pace that other evidence shows to be the exchange's.

    Either its own candles have nothing in the same stretch, or its ids run on across it. Candles that do
    have trades there show a gap of ours: such a silence is none of these, and neither is one of which
    nothing is known.

    Args:
        ours: trades (``time``, ``trade_id``) or candles (``open_time``) of one market, in order; fewer than
            50 give no answer.
        theirs: EXCHANGE_CANDLE_SCHEMA, or ``None`` when there are none to compare with.
        window: the stretch that ours are of; a silence may lie at its edge.
        interval: width of the candles.
        served: the stretch that theirs are of. Default: ``window``.
        sequential: whether ids follow one another.
        previous_id, following_id: ids of the trades just outside the window, where they are known.
        at_least: how long a silence is, ``beyond``: and how many times what 99 of 100 pauses stay under.
    """
    width = Interval.parse(interval)
    candles = "open_time" in ours.columns
    time = ours["open_time" if candles else "time"].to_physical().to_numpy()
    steps = np.diff(time)
    pauses = steps[steps > 0]
    if len(pauses) < _ENOUGH:
        return ()
    least = max(at_least // timedelta(microseconds=1), beyond * float(np.quantile(pauses, 0.99)))
    edges = np.concatenate([[to_us(window[0])], time, [to_us(window[1])]])
    if candles:
        edges[1:-1] += width.us
    starts, ends = edges[:-1], np.concatenate([time, [to_us(window[1])]])
    ids = None if candles or not sequential else ours["trade_id"].to_numpy()
    theirs_from, theirs_to = (to_us(at) for at in served or window)
    found = []
    for n in np.flatnonzero(ends - starts >= least):
        start, end = int(starts[n]), int(ends[n])
        said: list[str] = []
        if theirs is not None:
            first, last = width.ceil_us(start), width.floor_us(end)
            if theirs_from <= first < last <= theirs_to:
                inside = theirs.filter(
                    pl.col("open_time").is_between(from_us(first), from_us(last), closed="left"),
                    pl.col("volume") > 0,
                )
                if len(inside):
                    continue
                said.append(f"The exchange's own candles have no trade there ({width}).")
        before = after = None
        if ids is not None:
            before = previous_id if n == 0 else int(ids[n - 1])
            after = following_id if n == len(ids) else int(ids[n])
        if before is not None and after is not None:
            lost = after - before - 1
            if lost > 0 and not said:
                continue
            said.append(f"{lost:,} ids are missing across it." if lost > 0 else f"Ids run on after {before}.")
        if said:
            found.append(Outage(from_us(start), from_us(end), " ".join(said)))
    return tuple(found)
