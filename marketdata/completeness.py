"""Whether every trade of a day is there, and how that is known (pure).

Two kinds of evidence. Ids that the exchange gives one after the other prove every trade between the first and
the last, and the edges of the day through the ids just outside it. Without such ids there is only the word of
the source: it was asked for a stretch of time and has answered.
"""

import hashlib
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

import numpy as np
import polars as pl

from marketdata.errors import UsageError
from marketdata.interval import from_us, to_us
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata.market import Market
from marketdata.trade import TIME, TRADE_SCHEMA, in_order

Ranges = tuple[tuple[int, int], ...]
Stretch = tuple[datetime, datetime]
Stretches = tuple[Stretch, ...]

_NAMED = 3  # ranges and stretches that a sentence names; the manifest holds them all


def missing_ranges(ids: pl.Series, first: int | None, last: int | None) -> Ranges:
    """Holes in ids that follow one another.

    Args:
        ids: of the rows held, in any order; sorted is faster.
        first: the id expected first, one after the last id before the day; ``None`` when that is unknown,
            and then nothing before the first id held counts as missing. Ids at the edge may lie across it
            (the exchange's ids and times disagree by a few trades): ``first - 1`` is known to be elsewhere.
        last: likewise the id expected last.

    Returns:
        Inclusive ranges, ascending.
    """
    known = ids.drop_nulls()
    values = (known if known.is_sorted() else known.sort()).to_numpy()
    before, after = None if first is None else first - 1, None if last is None else last + 1
    beyond = [edge for edge in (before, after) if edge is not None]
    if beyond:
        values = np.sort(np.append(values, beyond), kind="stable")
    at = np.flatnonzero(np.diff(values) > 1)
    return tuple(zip((values[at] + 1).tolist(), (values[at + 1] - 1).tolist(), strict=True))


def without(ranges: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]) -> Ranges:
    """The inclusive ``ranges`` less the ids of ``others``."""
    left: list[tuple[int, int]] = []
    cuts = sorted(others)
    for first, last in sorted(ranges):
        start = first
        for cut_first, cut_last in cuts:
            if cut_last < start:
                continue
            if cut_first > last:
                break
            if cut_first > start:
                left.append((start, cut_first - 1))
            start = cut_last + 1
        if start <= last:
            left.append((start, last))
    return tuple(left)


def joined(stretches: Iterable[Stretch]) -> Stretches:
    """Half-open stretches of time in order, those that touch or overlap made one, empty ones left out."""
    found: list[Stretch] = []
    for start, end in sorted(stretches):
        if start >= end:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return tuple(found)


def uncovered(window: Stretch, covered: Iterable[Stretch]) -> Stretches:
    """What is left of ``window`` when the covered stretches are taken away."""
    at, end = window
    left: list[Stretch] = []
    for since, until in joined(covered):
        if since > at:
            left.append((at, min(since, end)))
        at = max(at, until)
    left.append((at, end))
    return joined(left)


def judge(
    *,
    ids: Ids,
    window: Stretch,
    covered: Iterable[Stretch],
    rows: int,
    first_time: datetime | None = None,
    last_time: datetime | None = None,
    missing: Ranges = (),
    not_served: Ranges = (),
    previous_id: int | None = None,
    following_id: int | None = None,
    rejected: int = 0,
) -> tuple[Status, str]:
    """Say of a window of time whether all its trades are there, and in one sentence why.

    Ids one after the other: complete when no id is missing (ids the exchange does not serve are named) and
    every stretch was asked for or lies between two known ids. Other ids: complete when the source was asked
    for all of the window; with a stretch left out between two others there is a gap, with one left out at an
    edge nothing is known.
    """
    covered = joined(covered)
    open_stretches = uncovered(window, covered)
    refused = f" {_count(rejected, 'row')} refused." if rejected else ""
    if ids is not Ids.SEQUENTIAL:
        status, reason = _judge_by_time(window, covered, open_stretches, rows)
        return status, reason + refused
    if missing:
        verb = "is" if _number(missing) == 1 else "are"
        return Status.GAPS, f"{_count(_number(missing), 'trade')} {verb} missing: {_ids(missing)}.{refused}"
    # A stretch nobody asked for is proved by a known id on either side: between the two none is missing.
    unproved = [
        (since, until)
        for since, until in open_stretches
        if not (
            (previous_id is not None or (first_time is not None and first_time < since))
            and (following_id is not None or (last_time is not None and last_time >= until))
        )
    ]
    if unproved:
        return Status.UNKNOWN, f"Nothing shows what happened {_times(unproved)}.{refused}"
    if not rows and not not_served:
        return Status.COMPLETE, f"No trade happened.{refused}"
    but = (
        f", but for {_count(_number(not_served), 'trade')} not served: {_ids(not_served)}"
        if not_served
        else ""
    )
    return Status.COMPLETE, f"Every id from the first to the last is there{but}.{refused}"


def _judge_by_time(window: Stretch, covered: Stretches, left: Stretches, rows: int) -> tuple[Status, str]:
    if not left:
        held = _count(rows, "trade") if rows else "no trade"
        return Status.COMPLETE, f"The source was asked for the whole day and gave {held}."
    if not covered:
        return Status.UNKNOWN, "Nothing says which part of the day the source was asked for."
    between = [stretch for stretch in left if stretch[0] > window[0] and stretch[1] < window[1]]
    if between:
        return Status.GAPS, f"The source was not asked for the time {_times(left)}."
    return Status.UNKNOWN, f"The source says nothing of the time {_times(left)}."


def build_manifest(
    market: Market,
    day: date,
    trades: pl.DataFrame,
    *,
    source: str,
    ids: Ids,
    covered: Iterable[Stretch],
    previous_id: int | None,
    following_id: int | None,
    not_served: Ranges,
    repeated: int,
    rejected: Mapping[str, int],
    pages: int,
    cursor: str | None,
    evidence: Mapping[str, str],
    refused_ids: pl.Series | None = None,
) -> Manifest:
    """Judge the trades of a UTC day and write down what is known of them.

    Args:
        trades: of that day, TRADE_SCHEMA, each id once.
        covered: stretches the source was asked for; what lies outside the day is cut off.
        not_served: ids the exchange was asked for again and did not give; those that are here after all
            are left out.
        rejected: refused rows by reason.
        refused_ids: ids of refused rows, where they are known: these trades are not missing.

    Raises:
        UsageError: a trade lies outside the day, or an id is there twice.
    """
    window = day_window(day)
    covered = joined((max(since, window[0]), min(until, window[1])) for since, until in covered)
    times = trades["time"].cast(pl.Int64)
    lowest, highest = _int(times.min()), _int(times.max())
    if lowest is not None and highest is not None:
        outside = [t for t in (lowest, highest) if not to_us(window[0]) <= t < to_us(window[1])]
        if outside:
            msg = f"A trade of {from_us(outside[0])} is among those of {market} on {day}."
            raise UsageError(msg, hint="Give the trades of one UTC day.")
    first_time = None if lowest is None else from_us(lowest)
    last_time = None if highest is None else from_us(highest)
    held = trades["trade_id"]
    missing: Ranges = ()
    still_not_served: Ranges = ()
    if ids is Ids.SEQUENTIAL:
        held = held if held.is_sorted() else held.sort()
        if (held.diff() == 0).any():
            msg = f"Trades of {market} on {day} have the same id twice."
            raise UsageError(msg, hint="Merge them with marketdata.trade.merge_trades first.")
        known = held if refused_ids is None else pl.concat([held, refused_ids.drop_nulls()])
        first = None if previous_id is None else previous_id + 1
        last = None if following_id is None else following_id - 1
        holes = missing_ranges(known, first, last)
        missing = without(holes, not_served)
        still_not_served = without(holes, missing)
    status, reason = judge(
        ids=ids,
        window=window,
        covered=covered,
        rows=len(trades),
        first_time=first_time,
        last_time=last_time,
        missing=missing,
        not_served=still_not_served,
        previous_id=previous_id,
        following_id=following_id,
        rejected=sum(rejected.values()),
    )
    return Manifest(
        market=market,
        day=day,
        source=source,
        ids=ids,
        status=status,
        reason=reason,
        rows=len(trades),
        fills=int(trades["fills"].cast(pl.Int64).sum()),
        first_time=first_time,
        last_time=last_time,
        first_id=_int(held.min()),
        last_id=_int(held.max()),
        previous_id=previous_id,
        following_id=following_id,
        covered=covered,
        content_hash=content_hash(trades),
        missing_ids=missing,
        not_served=still_not_served,
        repeated=repeated,
        rejected=dict(sorted(rejected.items())),
        pages=pages,
        cursor=cursor,
        evidence=dict(sorted(evidence.items())),
    )


def content_hash(trades: pl.DataFrame) -> str:
    """``sha256:`` and the hash of the trades in order (time, trade_id), see :class:`ContentHash`."""
    whole = ContentHash()
    whole.update(in_order(trades.select(TRADE_SCHEMA.names())))
    return whole.text()


class ContentHash:
    """The content hash of trades that come in order (time, trade_id), frame by frame.

    Over numbers, not files: for each column of TRADE_SCHEMA the SHA-256 of its values, little-endian, one
    after the other (time in microseconds since the epoch; side 0 buy, 1 sell, 255 unknown), then the
    SHA-256 of a line with the number of rows and those hashes. Chunks, compression and the versions of
    Parquet and polars do not show in it.
    """

    def __init__(self) -> None:
        """Of no trades yet."""
        self._columns = {name: hashlib.sha256() for name in TRADE_SCHEMA}
        self.rows = 0

    def update(self, trades: pl.DataFrame) -> None:
        """Take the next trades."""
        self.rows += len(trades)
        for name, digest in self._columns.items():
            for chunk in _numbers(name, trades[name]).get_chunks():
                values = np.ascontiguousarray(chunk.to_numpy())
                digest.update((values if sys.byteorder == "little" else values.byteswap()).data)

    def text(self) -> str:
        """``sha256:`` and the hash of all that was taken."""
        parts = [f"trades {self.rows}", *(f"{n} {d.hexdigest()}" for n, d in self._columns.items())]
        return "sha256:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _numbers(name: str, column: pl.Series) -> pl.Series:
    if column.dtype == TIME:
        return column.cast(pl.Int64)
    if name == "side":
        return column.to_physical().cast(pl.UInt8).fill_null(255)
    return column


def _int(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _number(ranges: Ranges) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _ids(ranges: Ranges) -> str:
    return "ids " + _listed([f"{a}" if a == b else f"{a} to {b}" for a, b in ranges])


def _times(stretches: Iterable[Stretch]) -> str:
    return _listed([f"from {_clock(since)} to {_clock(until)}" for since, until in stretches]) + " (UTC)"


def _clock(time: datetime) -> str:
    text = time.astimezone(UTC).strftime("%H:%M:%S.%f")
    return text.removesuffix(".000000")
