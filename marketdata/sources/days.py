"""The rows of a file, day by day, in the order of the file.

Files are sorted by time, so a day is done when the next one begins; only one day is in memory. Rows that
lie in a day the file has already passed are refused: that day is sealed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson
import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import CorruptFile
from marketdata.manifest import Ids, day_window
from marketdata.sources import freqtrade_cells
from marketdata.sources.candle_rows import validate_candles
from marketdata.sources.files import BLOCK_BYTES, ahead, blocks, parse
from marketdata.sources.formats import Known
from marketdata.trade import REJECT_SCHEMA, TRADE_SCHEMA, empty_rejects, validate

_DAY_US = 86_400_000_000
# A longer pause inside a file is not taken for a quiet market: the time of a row may be wrong.
_LONGEST_QUIET = timedelta(days=31)
_LATE = "time goes back to a day the file had passed"
_STRAY = "time more than a day off the rows around it"
# Text that is not compressed does not show where it was cut: 1234 may have become 1.
MAY_BE_CUT = "last line has no end and may be cut"


@dataclass(frozen=True, slots=True)
class FileDay:
    """One day of a file.

    Attributes:
        rows: TRADE_SCHEMA or EXCHANGE_CANDLE_SCHEMA, in the order of the file.
        rejects: refused rows that stand among them.
        empty: candles without trades that were left out.
        covered: the stretch of the day that lies inside the file; ``None`` if there is none.
        previous_id, following_id: ids of the trades before and after, where the file holds them.
        fraction: of the file that has been read.
        begins, ends: time of the first and the last row, where the file has none before or after the day.
    """

    day: date
    rows: pl.DataFrame
    rejects: pl.DataFrame
    empty: int
    covered: tuple[datetime, datetime] | None
    previous_id: int | None
    following_id: int | None
    fraction: float | None
    begins: datetime | None = None
    ends: datetime | None = None


@dataclass(slots=True)
class _Open:
    """A day that is being collected."""

    day: date
    parts: list[pl.DataFrame] = field(default_factory=list)
    rejects: list[pl.DataFrame] = field(default_factory=list)
    empty: int = 0
    first_id: int | None = None
    last_id: int | None = None

    def add(self, part: pl.DataFrame) -> None:
        self.parts.append(part)
        if "trade_id" not in part.columns:
            return
        low, high = part["trade_id"].min(), part["trade_id"].max()
        if isinstance(low, int) and isinstance(high, int):
            self.first_id = low if self.first_id is None else min(self.first_id, low)
            self.last_id = high if self.last_id is None else max(self.last_id, high)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one block of a file, accepted and refused, and the bytes of text read so far."""

    rows: pl.DataFrame
    rejects: pl.DataFrame
    empty: int
    bytes_read: int


def rows_of(file: Known, now: datetime, size: int = BLOCK_BYTES, skip: int = 0) -> Iterator[Block]:
    """Yield the rows of a file, block after block, from after the first ``skip`` bytes of text.

    Raises:
        CorruptFile: the file is cut or foreign.
    """
    for cells, raw, read, ended in ahead(_cells(file, size, skip)):
        if not ended:
            schema = EXCHANGE_CANDLE_SCHEMA if file.format.is_candles else TRADE_SCHEMA
            yield Block(schema.to_frame(), _cut_off(raw), 0, read)
        elif file.format.is_candles:
            assert file.interval is not None  # noqa: S101
            candles = validate_candles(file.format.rows(cells), file.interval, now=now, raw=raw)
            yield Block(candles.accepted, candles.rejected, candles.empty, read)
        else:
            has_ids = file.format.ids is not Ids.FINGERPRINT
            split = validate(file.format.rows(cells), now=now, raw=raw, ids=has_ids, sides=has_ids)
            yield Block(split.accepted, split.rejected, 0, read)


def _cells(file: Known, size: int, skip: int) -> Iterator[tuple[pl.DataFrame, Sequence[Any], int, bool]]:
    """Columns of a stretch of the file, its rows as they stand there, the bytes read, whether it is whole."""
    if file.format.is_text:
        read = skip
        for block in ahead(blocks(file.table, size, skip)):
            text = block.lstrip().partition(b"\n")[2] if read == 0 and file.header else block
            read += len(block)
            yield *parse(text, file.columns), read, file.table.is_checked or block.endswith(b"\n")
        return
    for found in freqtrade_cells.cells(file.table, file.columns, size):
        yield found.frame, found.raw, found.bytes_read, True


def _cut_off(lines: Sequence[Any]) -> pl.DataFrame:
    """Lines as rejects; of their cells none is believed, time and id neither."""
    raw = pl.Series("raw", [orjson.dumps(line).decode() for line in lines], pl.String)
    unknown = [pl.lit(None, REJECT_SCHEMA[name]).alias(name) for name in ("trade_id", "time")]
    return pl.DataFrame(raw).select(pl.lit(MAY_BE_CUT).alias("reason"), *unknown, "raw")


def without_strays(blocks_of_rows: Iterator[Block], time: str) -> Iterator[Block]:
    """Refuse single rows whose time leaves the order of the file by more than a day and comes back.

    One wrong time would else close the days up to it. Each block gives its last row on to the next, because
    a row is judged by both its neighbours.
    """
    held: pl.DataFrame | None = None
    previous: int | None = None
    read = 0
    for block in blocks_of_rows:
        read = block.bytes_read
        rows = block.rows if held is None else pl.concat([held, block.rows])
        if rows.is_empty():
            yield block
            continue
        at = rows[time].to_physical()
        held, rows, judged = rows.tail(1), rows.head(-1), block.rejects
        if not at.is_sorted() or (previous is not None and at[0] < previous):
            left, right = at.shift(1, fill_value=previous), at.shift(-1)
            # The first row of a file has nothing before it; then the second one after it decides.
            goes_on = (right >= left).fill_null(at.shift(-2) < at - _DAY_US)
            ahead = ((at > right + _DAY_US) & goes_on).fill_null(value=False)
            behind = ((at < left - _DAY_US) & (right >= left)).fill_null(value=False)
            stray = (ahead | behind).head(-1)
            if stray.any():
                judged = pl.concat([judged, refused(rows.filter(stray), time, _STRAY)])
                rows = rows.filter(~stray)
        if len(rows):
            previous = rows[time].to_physical()[-1]
        yield replace(block, rows=rows, rejects=judged)
    if held is not None:
        yield Block(held, empty_rejects(), 0, read)


def days_of(file: Known, now: datetime, size: int = BLOCK_BYTES) -> Iterator[FileDay]:
    """Yield the days of a file; those without a row that lie inside it too.

    A day is done when a block has no row of it, or when the second day after it begins: around midnight
    ids and times of some exchanges disagree by a few trades.

    Raises:
        CorruptFile: the file is cut or foreign, or has no row that can be taken.
    """
    time = "open_time" if file.format.is_candles else "time"
    total = file.table.size()
    opened: list[_Open] = []
    before: _Open | None = None  # the day sealed last
    done: set[date] = set()
    homeless = _Open(date.min)  # refused rows before the first day
    read = 0

    def seal() -> Iterator[FileDay]:
        nonlocal before
        day = opened.pop(0)
        done.add(day.day)
        part = None if not total else min(read / total, 1.0)
        after = opened[0] if opened else None
        yield from _sealed(file, now, before=before, day=day, after=after, fraction=part)
        before = day

    for block in without_strays(rows_of(file, now, size), time):
        read = block.bytes_read
        rows, rejects = within_bounds(block.rows, block.rejects, file, time)
        touched = set()
        for day, part in _by_day(rows, time):
            if day in done:
                rejects = pl.concat([rejects, refused(part, time, _LATE)])
                continue
            here = next((one for one in opened if one.day == day), None)
            if here is None:
                here = _Open(day) if opened or done else replace(homeless, day=day)
                opened.append(here)
                if len(opened) > 2:
                    yield from seal()
            here.add(part)
            touched.add(day)
        holder = opened[-1] if opened else homeless
        holder.rejects.append(rejects)
        holder.empty += block.empty
        if len(opened) == 2 and opened[0].day not in touched:
            yield from seal()
    while opened:
        yield from seal()
    if before is None:
        yield from _without_rows(file, now, homeless)


def joined_by_ids(day: FileDay, following: FileDay) -> tuple[FileDay, FileDay]:
    """Two days, each with what the other proves of it: that nothing lies between the last id and the next."""
    last, first = day.rows["trade_id"].max(), following.rows["trade_id"].min()
    if (
        following.day - day.day != timedelta(days=1)
        or not isinstance(last, int)
        or not isinstance(first, int)
        or first != last + 1
        or day.covered is None
        or following.covered is None
    ):
        return day, following
    midnight = day_window(following.day)[0]
    return (
        replace(day, following_id=first, covered=(day.covered[0], midnight)),
        replace(following, previous_id=last, covered=(midnight, following.covered[1])),
    )


def _without_rows(file: Known, now: datetime, homeless: _Open) -> Iterator[FileDay]:
    reasons = pl.concat([empty_rejects(), *homeless.rejects])["reason"].unique(maintain_order=True).to_list()
    if reasons:
        msg = f"No row of {str(file.table)!r} can be taken: {', '.join(reasons)}."
        raise CorruptFile(msg, hint=f"It was read as {file.format.name}; check what it holds.")
    if file.bounds is not None and file.table.is_checked:
        yield from _quiet(file, now, *file.bounds, fraction=1.0)


def _sealed(
    file: Known,
    now: datetime,
    *,
    before: _Open | None,
    day: _Open,
    after: _Open | None,
    fraction: float | None,
) -> Iterator[FileDay]:
    """The day, then the days without a row between it and the next one."""
    schema = EXCHANGE_CANDLE_SCHEMA if file.format.is_candles else TRADE_SCHEMA
    rows = pl.concat(day.parts).cast(schema)
    rejects = pl.concat(day.rejects) if day.rejects else empty_rejects()
    start, end = day_window(day.day)
    time = rows["open_time" if file.format.is_candles else "time"]
    bounds = file.bounds
    ascending = before is not None and timedelta() < day.day - before.day <= _LONGEST_QUIET
    rising = after is not None and timedelta() < after.day - day.day <= _LONGEST_QUIET
    if bounds is not None and before is None and bounds[0] < start:
        yield from _quiet(file, now, bounds[0], start, fraction=fraction)
    first, last = time.min(), time.max()
    assert isinstance(first, datetime)  # noqa: S101
    assert isinstance(last, datetime)  # noqa: S101
    covered_from = start if ascending or (bounds and bounds[0] <= start) else first
    promised = bounds is not None and bounds[1] >= end and file.table.is_checked
    covered_to = end if rising or promised else last
    around = [one.day for one in (before, after) if one is not None]
    yield FileDay(
        day.day,
        rows,
        rejects,
        day.empty,
        _clipped(covered_from, covered_to, now),
        before.last_id if before is not None and ascending else None,
        after.first_id if after is not None and rising else None,
        fraction,
        begins=None if any(other < day.day for other in around) else first,
        ends=None if any(other > day.day for other in around) else last,
    )
    quiet_to = end
    if after is not None and rising:
        quiet_to = day_window(after.day)[0]
    elif after is None and bounds is not None and promised:
        quiet_to = bounds[1]
    ids = (day.last_id, after.first_id if after is not None else None)
    yield from _quiet(file, now, end, quiet_to, fraction=fraction, ids=ids)


def _quiet(
    file: Known,
    now: datetime,
    start: datetime,
    end: datetime,
    *,
    fraction: float | None,
    ids: tuple[int | None, int | None] = (None, None),
) -> Iterator[FileDay]:
    """Days inside the file on which it has no row; they are known to be without trades."""
    if file.format.is_candles or (not file.format.proves_time and None in ids):
        return
    while start < min(end, now):
        covered = _clipped(start, start + timedelta(days=1), now)
        rows, rejects = TRADE_SCHEMA.to_frame(), empty_rejects()
        yield FileDay(start.date(), rows, rejects, 0, covered, *ids, fraction)
        start += timedelta(days=1)


def _clipped(start: datetime, end: datetime, now: datetime) -> tuple[datetime, datetime] | None:
    """What is not over is not covered."""
    end = min(end, now)
    return (start, end) if start < end else None


def within_bounds(
    rows: pl.DataFrame, rejects: pl.DataFrame, file: Known, time: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Refuse rows outside the days that the file's name promises."""
    if file.bounds is None:
        return rows, rejects
    start, end = file.bounds
    inside = rows[time].is_between(start, end, closed="left")
    if inside.all():
        return rows, rejects
    return rows.filter(inside), pl.concat(
        [rejects, refused(rows.filter(~inside), time, "time outside the days the file's name says")]
    )


def refused(rows: pl.DataFrame, time: str, reason: str) -> pl.DataFrame:
    """The rows as rejects, for a reason that lies in the file and not in the row."""
    ids = pl.col("trade_id") if "trade_id" in rows.columns else pl.lit(None, pl.Int64).alias("trade_id")
    raw = pl.struct(pl.all()).struct.json_encode().alias("raw")
    return rows.select(pl.lit(reason).alias("reason"), ids, pl.col(time).alias("time"), raw)


def _by_day(rows: pl.DataFrame, time: str) -> Iterator[tuple[date, pl.DataFrame]]:
    """The rows of each day, in the order in which the days first appear."""
    if rows.is_empty():
        return
    number = (rows[time].to_physical() // _DAY_US).alias("day")
    if number.min() == number.max():
        yield _date(number[0]), rows
        return
    for part in rows.with_columns(number).partition_by("day", maintain_order=True):
        yield _date(part["day"][0]), part.drop("day")


@lru_cache(maxsize=1 << 14)  # a file of years names each day once for every market
def _date(number: int) -> date:
    return date(1970, 1, 1) + timedelta(days=number)
