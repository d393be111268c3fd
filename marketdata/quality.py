"""What is odd about a day's trades: each rule one function, its threshold an argument (pure).

A finding says where to look; it refuses nothing. Rules return FINDING_SCHEMA, by time.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from marketdata.finding import Window, findings, nothing_odd, of_window
from marketdata.interval import to_us
from marketdata.rolling import far_from_median
from marketdata.trade import TIME, in_order

_GAPS = (timedelta(milliseconds=500), timedelta(seconds=5), timedelta(seconds=30))
_HOUR_US = 3_600_000_000
# The 99th percentile of fewer says little; then the day's serves the hour, and below that there is none.
_OF_AN_HOUR, _OF_A_DAY = 1000, 50
_AT_ONCE, _AT_ONCE_US = 3, 1_000_000
_ALIKE = ("time", "price", "amount", "side")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Id = tuple[int, int]


def time_gaps(
    trades: pl.DataFrame,
    *,
    widths: Iterable[timedelta] = _GAPS,
    beyond: float = 8.0,
    sequential: bool = True,
    window: Window | None = None,
    around: tuple[int | None, int | None] = (None, None),
) -> pl.DataFrame:
    """Pauses between trades far beyond what is usual; one finding a pause, named by the widest width it has.

    Usual is what 99 of 100 pauses of that hour stay under, in a thin hour those of the day: so 30 s count in
    a busy market and an hour does not in one that trades now and then.

    Args:
        trades: ``time`` and ``trade_id``.
        beyond: how many times as long as usual a pause is.
        sequential: whether ids follow one another. Then ids that run on across a pause show that no trade is
            missing, and it is not suspicious.
        window: the stretch the trades are of; then the time before the first and after the last is a pause.
        around: ids of the trades just before and after the window, where they are known.

    Returns:
        ``rule``: ``gap of 500 ms``; ``time`` and ``trade_id`` of the trade before the pause, ``until`` the
        time of the one after; ``value``: its length in seconds.
    """
    trades = in_order(trades)
    time = trades["time"].to_physical().to_numpy()
    limits = np.array([width // timedelta(microseconds=1) for width in widths])
    usual = _usual_pauses(time, np.diff(time))
    if usual is None:
        return nothing_odd()
    # Row n of the trades stands behind pause n.
    first, last = (to_us(at) for at in window) if window else (time[0], time[-1])
    edges = np.concatenate([[first], time, [last]])
    steps = np.diff(edges)
    long = np.flatnonzero(steps >= max(limits[0], beyond * usual.min()))
    far = beyond * usual[edges[long] // _HOUR_US % 24]
    long, far = long[steps[long] > far], far[steps[long] > far]
    if not len(long):
        return nothing_odd()
    widest = np.searchsorted(limits, steps[long], side="right") - 1
    ids = trades["trade_id"].to_numpy()
    missing = _ids_across(ids, long, around) if sequential else np.full(len(long), -1)
    count = pl.col("missing")
    rows = pl.DataFrame(
        {
            "time": pl.Series(edges[long]).cast(TIME),
            "until": pl.Series(edges[long + 1]).cast(TIME),
            "trade_id": ids[np.maximum(long - 1, 0)],
            "value": steps[long] / 1e6,
            "missing": missing,
            "rule": [f"gap of {_span(limits[n])}" for n in widest],
            "usual": far / 1e6,
        }
    )
    told = (
        pl.when(count == 0)
        .then(pl.lit("Ids run on across it: no trade is missing, the market was quiet."))
        .when(count > 0)
        .then(pl.format("{} ids are missing across it.", count))
        .otherwise(pl.lit("Ids do not tell whether trades are missing."))
    )
    length, limit = pl.col("value").round(1), pl.col("usual").round(1)
    detail = pl.concat_str(
        pl.format("No trade for {} s, where {} s are far beyond usual. ", length, limit), told
    )
    return findings(
        pl.col("rule"), rows.with_columns((count != 0).alias("suspicious"), detail.alias("detail"))
    )


def price_outliers(
    trades: pl.DataFrame, *, window: int = 96, spreads: float = 10.0, at_least: float = 0.01
) -> pl.DataFrame:
    """Prices far from the rolling median of the trades around them; one finding a run of such trades.

    The median is of ``window`` trades, as many before as after, so that a market which moves for good is no
    finding; the spread is the median absolute deviation from it, here or on the whole day, whichever is more.

    Args:
        trades: ``time``, ``trade_id`` and ``price``.
        spreads: how many robust standard deviations count, ``at_least``: and which share of the price.

    Returns:
        ``rule``: ``fat finger`` where the price comes back at once (after three trades, or a second), else
        ``price outlier``; the first trade of the run, ``until`` the last; ``value``: price over median - 1
        where it is furthest off.
    """
    trades = in_order(trades)
    far, share = far_from_median(trades["price"].to_numpy(), window, spreads, at_least)
    if not len(far):
        return nothing_odd()
    starts = np.flatnonzero(np.diff(far, prepend=-2) > 1)
    ends = np.append(starts[1:], len(far)) - 1
    time, count = trades["time"].to_physical().to_numpy(), ends - starts + 1
    at_once = (count <= _AT_ONCE) | (time[far[ends]] - time[far[starts]] <= _AT_ONCE_US)
    furthest = [
        share[a : b + 1][np.abs(share[a : b + 1]).argmax()] for a, b in zip(starts, ends, strict=True)
    ]
    rows = pl.DataFrame(
        {
            "rule": np.where(at_once, "fat finger", "price outlier"),
            "time": trades["time"].gather(far[starts]),
            "until": trades["time"].gather(far[ends]),
            "trade_id": trades["trade_id"].gather(far[starts]),
            "value": np.array(furthest),
            "count": count,
        }
    )
    percent = (100 * pl.col("value")).round(2)
    back = (
        pl.when(pl.col("rule") == "fat finger")
        .then(pl.lit("comes back at once"))
        .otherwise(pl.lit("comes back"))
    )
    detail = pl.format(
        "{} {} % off the median of the trades around; the price {}.", _of_trades("count"), percent, back
    )
    return findings(pl.col("rule"), rows.with_columns(detail.alias("detail")))


def volume_outliers(trades: pl.DataFrame, *, times: float = 50.0) -> pl.DataFrame:
    """Amounts more than ``times`` the one that 99 of 100 trades of the day stay under.

    Returns:
        ``value``: the amount, in units of that one.
    """
    if len(trades) < _OF_A_DAY:
        return nothing_odd()
    usual = float(trades["amount"].quantile(0.99, "lower") or 0.0)
    beyond = trades["amount"] > times * usual
    if not beyond.any():
        return nothing_odd()
    large = trades.filter(beyond)
    detail = pl.format("{} traded at once, where 99 of 100 trades are below {}.", "amount", pl.lit(usual))
    found = large.with_columns((pl.col("amount") / usual).alias("value"), detail.alias("detail"))
    return findings(pl.lit("volume outlier"), found)


def repeated_ids(trades: pl.DataFrame, *, at_most: int = 1) -> pl.DataFrame:
    """Ids that stand in more than ``at_most`` rows; one finding an id, at its first row.

    Args:
        trades: ``time`` and ``trade_id`` in any order, as they arrived.

    Returns:
        ``value``: how often the id is there.
    """
    ids = trades["trade_id"]
    by_id = ids if ids.is_sorted() else ids.sort()
    again = by_id.filter(by_id.diff() == 0)
    if again.is_empty():
        return nothing_odd()
    counted = trades.filter(pl.col("trade_id").is_in(again.unique().implode())).group_by("trade_id")
    rows = counted.agg(pl.col("time").min(), pl.col("time").max().alias("until"), pl.len().alias("value"))
    detail = pl.format("The id is in {} rows.", "value")
    return findings(
        pl.lit("repeated id"), rows.filter(pl.col("value") > at_most).with_columns(detail.alias("detail"))
    )


def repeated_rows(trades: pl.DataFrame, *, at_most: int = 50, share: float = 0.4) -> pl.DataFrame:
    """Rows alike in time, price, amount and side under several ids, beyond what is usual.

    One order that fills many of equal size gives such rows, so some are usual: up to ``at_most`` in a group,
    or three times what 99 of 100 of the day's groups stay under. And where more than ``share`` of the day's
    rows repeat another one, the day may be there twice under new ids.

    Returns:
        ``value``: rows in the group; for the day (``trade_id`` null) the share of rows that repeat another.
    """
    trades = in_order(trades)
    same_time = (trades["time"].to_physical().diff() == 0).fill_null(value=False)
    beside = trades.filter(same_time | same_time.shift(-1, fill_value=False))
    # Most rows have no other like them. A sort of their hashes says so in a third of the time of grouping.
    hashes = beside.select(pl.struct(_ALIKE).hash()).to_series()
    ordered = np.sort(hashes.to_numpy())
    twice = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]], dtype=pl.UInt64)
    if twice.is_empty():
        return nothing_odd()
    groups = (
        beside.filter(hashes.is_in(twice.implode()))
        .group_by(_ALIKE)
        .agg(pl.col("trade_id").min(), pl.len().alias("value"), pl.col("trade_id").n_unique().alias("ids"))
        .filter(pl.col("ids") > 1)
    )
    if groups.is_empty():
        return nothing_odd()
    usual = max(
        at_most, 3 * float(groups["value"].quantile(0.99, "lower") or 0) if len(groups) >= _OF_A_DAY else 0
    )
    detail = pl.format("{} rows have one time, price, amount and side.", "value")
    large = groups.filter(pl.col("value") > usual).with_columns(detail.alias("detail"))
    found = [findings(pl.lit("repeated row"), large)]
    again = int(groups["value"].sum()) - len(groups)
    if len(trades) >= _OF_A_DAY and again > share * len(trades):
        told = f"{again:,} of {len(trades):,} rows repeat another one under an id of their own."
        ends = trades["time"][0], trades["time"][-1]
        found.append(of_window("repeated row", ends, again / len(trades), told))
    return pl.concat(found)


def id_holes(
    trades: pl.DataFrame, *, at_most: int = 0, not_served: Iterable[Id] = (), refused: pl.Series | None = None
) -> pl.DataFrame:
    """Holes of more than ``at_most`` ids between two held ones, where ids follow one another.

    Args:
        not_served: inclusive ranges of ids that the exchange was asked for again and does not have; a hole
            inside one is not suspicious.
        refused: ids of rows that were refused; they are no holes.

    Returns:
        One finding a hole: ``trade_id`` is the first id missing, ``time`` and ``until`` those of the trades
        around it, ``value`` the number of ids missing.
    """
    known = trades.select("time", "trade_id")
    if not known["trade_id"].is_sorted():
        known = known.sort("trade_id", maintain_order=True)
    ids = known["trade_id"].to_numpy()
    at = np.flatnonzero(np.diff(ids) > 1)
    first, last = ids[at] + 1, ids[at + 1] - 1
    if not len(at):
        return nothing_odd()
    if refused is not None and len(refused):
        edges = np.sort(np.concatenate([ids[at], ids[at + 1], refused.drop_nulls().to_numpy()]))
        low = np.flatnonzero(np.diff(edges) > 1)
        # Between two holes lie trades that are held: such a stretch starts in no hole.
        hole = np.searchsorted(first, edges[low] + 1, side="right") - 1
        inside = (hole >= 0) & (edges[low + 1] - 1 <= last[hole])
        first, last, at = edges[low][inside] + 1, edges[low + 1][inside] - 1, at[hole[inside]]
    away = np.zeros(len(first), dtype=bool)
    for low_id, high_id in not_served:
        away |= (first >= low_id) & (last <= high_id)
    rows = pl.DataFrame(
        {
            "time": known["time"].gather(at),
            "until": known["time"].gather(at + 1),
            "trade_id": first,
            "value": last - first + 1,
            "last": last,
            "suspicious": ~away,
        }
    )
    why = pl.when("suspicious").then(pl.lit("missing")).otherwise(pl.lit("not served by the exchange"))
    one = pl.format("Id {} is {}.", "trade_id", why)
    several = pl.format("Ids {} to {} are {}.", "trade_id", "last", why)
    detail = pl.when(pl.col("value") == 1).then(one).otherwise(several)
    wide = rows.filter(pl.col("value") > at_most)
    ordered = wide.with_columns(
        pl.min_horizontal("time", "until").alias("time"), pl.max_horizontal("time", "until").alias("until")
    )
    return findings(pl.lit("id hole"), ordered.with_columns(detail.alias("detail")))


def out_of_order(trades: pl.DataFrame, *, more_than: timedelta = timedelta(seconds=1)) -> pl.DataFrame:
    """Places where time goes back by ``more_than`` while ids go on; one finding a run of such trades.

    Returns:
        ``trade_id`` and ``time`` of the first trade that lies before one with a lower id; ``until`` the time
        that had been reached; ``value``: how far back, in seconds.
    """
    known = trades.select("time", "trade_id")
    if not known["trade_id"].is_sorted():
        known = known.sort("trade_id", maintain_order=True)
    time = known["time"].to_physical().to_numpy()
    reached = np.maximum.accumulate(time) if len(time) else time
    back = reached - time
    late = np.flatnonzero(back > more_than // timedelta(microseconds=1))
    first = late[np.diff(late, prepend=-2) > 1]
    if not len(late):
        return nothing_odd()
    runs = np.maximum.reduceat(back[late], np.flatnonzero(np.diff(late, prepend=-2) > 1))
    rows = pl.DataFrame(
        {
            "time": known["time"].gather(first),
            "until": pl.Series(reached[first]).cast(TIME),
            "trade_id": known["trade_id"].gather(first),
            "value": runs / 1e6,
        }
    )
    detail = pl.format("Ids go on and time goes back by {} s.", pl.col("value").round(3))
    return findings(pl.lit("out of order"), rows.with_columns(detail.alias("detail")))


def clock_skew(trades: pl.DataFrame, *, more_than: timedelta = timedelta(seconds=10)) -> pl.DataFrame:
    """Trades whose receive time is off their own time by more than is usual here.

    A clock that is steadily off says nothing of a single trade (and receive time decides nothing here), so
    the usual offset, the median, is taken away first.

    Args:
        trades: ``time``, ``trade_id`` and ``received`` (when the trade arrived; TIME).
        more_than: how far from the usual offset counts.

    Returns:
        ``value``: received minus time minus the usual offset, in seconds.
    """
    if trades.is_empty():
        return nothing_odd()
    offset = pl.col("received") - pl.col("time")
    beyond = trades.with_columns((offset - offset.median()).alias("value"))
    skewed = beyond.filter(pl.col("value").abs() > more_than)
    seconds = skewed.with_columns(pl.col("value").dt.total_microseconds() / 1e6)
    detail = pl.format("Received {} s off what is usual here.", pl.col("value").round(3))
    return findings(pl.lit("clock skew"), seconds.with_columns(detail.alias("detail")))


def rejected_share(
    rejected: Mapping[str, int], rows: int, window: Window, *, at_most: float = 0.001
) -> pl.DataFrame:
    """Reasons for which more than ``at_most`` of the rows were refused; one finding a reason.

    Args:
        rejected: refused rows by reason.
        rows: rows that were not refused.
        window: the stretch they are of.

    Returns:
        ``rule``: ``rejected: price not positive``; ``value``: share of all rows.
    """
    total = rows + sum(rejected.values())
    found = [
        of_window(f"rejected: {reason}", window, count / total, f"{count:,} of {total:,} rows were refused.")
        for reason, count in sorted(rejected.items())
        if count and count / total > at_most
    ]
    return pl.concat(found) if found else nothing_odd()


def _usual_pauses(time: Ints, steps: Ints) -> Floats | None:
    """What 99 of 100 pauses stay under, in microseconds, by hour of the day; ``None`` of too few trades."""
    at = np.flatnonzero(steps > 0)
    if len(at) < _OF_A_DAY:
        return None
    pauses, hours = steps[at], time[at] // _HOUR_US % 24
    usual = np.full(24, np.quantile(pauses, 0.99))
    for hour in range(24):
        of_hour = pauses[hours == hour]
        if len(of_hour) >= _OF_AN_HOUR:
            usual[hour] = np.quantile(of_hour, 0.99)
    return usual


def _ids_across(ids: Ints, pauses: Ints, around: tuple[int | None, int | None]) -> Ints:
    """How many ids lie between all those before a pause and all those after it; -1 where one is not known."""
    unknown = np.iinfo(np.int64)
    before, after = around
    highest = np.maximum.accumulate(np.concatenate([[unknown.min if before is None else before], ids]))
    lowest = np.minimum.accumulate(np.concatenate([[unknown.max if after is None else after], ids[::-1]]))[
        ::-1
    ]
    low, high = highest[pauses], lowest[pauses]
    known = (low != unknown.min) & (high != unknown.max)
    across: Ints = np.where(known, np.maximum(np.where(known, high, 0) - np.where(known, low, 0) - 1, 0), -1)
    return across


def _span(us: int) -> str:
    return f"{us / 1e6:g} s" if us >= 1_000_000 else f"{us / 1e3:g} ms"


def _of_trades(name: str) -> pl.Expr:
    return pl.when(pl.col(name) == 1).then(pl.lit("1 trade")).otherwise(pl.format("{} trades", name))
