"""The rows of a file, day by day, in the order of the file.

Files are sorted by time, so a day is done when the next one begins; only one day is in memory. Rows that
lie in a day the file has already passed are refused: that day is sealed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import polars as pl

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import CorruptFile
from marketdata.manifest import Ids, day_window
from marketdata.sources.candle_rows import validate_candles
from marketdata.sources.files import BLOCK_BYTES, blocks, parse
from marketdata.sources.formats import Known
from marketdata.trade import TRADE_SCHEMA, empty_rejects, validate

_DAY_US = 86_400_000_000


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
    """

    day: date
    rows: pl.DataFrame
    rejects: pl.DataFrame
    empty: int
    covered: tuple[datetime, datetime] | None
    previous_id: int | None
    following_id: int | None
    fraction: float | None


@dataclass(slots=True)
class _Open:
    """A day that is being collected."""

    day: date
    parts: list[pl.DataFrame]
    rejects: list[pl.DataFrame]
    empty: int = 0
    first_id: int | None = None
    last_id: int | None = None


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
    read = skip
    for block in blocks(file.table, size, skip):
        text = block.lstrip().partition(b"\n")[2] if read == 0 and file.header else block
        read += len(block)
        cells, lines = parse(text, file.columns)
        if file.format.is_candles:
            assert file.interval is not None  # noqa: S101
            candles = validate_candles(file.format.rows(cells), file.interval, now=now, raw=lines)
            yield Block(candles.accepted, candles.rejected, candles.empty, read)
        else:
            has_ids = file.format.ids is not Ids.FINGERPRINT
            split = validate(file.format.rows(cells), now=now, raw=lines, ids=has_ids, sides=has_ids)
            yield Block(split.accepted, split.rejected, 0, read)


def days_of(file: Known, now: datetime) -> Iterator[FileDay]:
    """Yield the days of a file; those without a row that lie inside it too.

    Raises:
        CorruptFile: the file is cut or foreign.
    """
    time = "open_time" if file.format.is_candles else "time"
    total = file.table.size()
    current: _Open | None = None
    before: _Open | None = None  # the day sealed last
    done: set[date] = set()
    homeless = _Open(date.min, [], [])  # refused rows before the first day
    read = 0

    def fraction() -> float | None:
        return None if not total else min(read / total, 1.0)

    for block in rows_of(file, now):
        read = block.bytes_read
        rows, rejects = within_bounds(block.rows, block.rejects, file, time)
        for day, part in _by_day(rows, time):
            if day in done:
                rejects = pl.concat([rejects, _late(part, time)])
                continue
            if current is None or day != current.day:
                opened = _Open(day, [], [], 0, *_ids(part))
                if current is not None:
                    done.add(current.day)
                    yield from _sealed(
                        file, now, before=before, day=current, after=opened, fraction=fraction()
                    )
                    before = current
                else:
                    opened.rejects, opened.empty = homeless.rejects, homeless.empty
                current = opened
            current.parts.append(part)
            current.last_id = _highest(current.last_id, part)
        holder = current or homeless
        holder.rejects.append(rejects)
        holder.empty += block.empty
    if current is not None:
        yield from _sealed(file, now, before=before, day=current, after=None, fraction=fraction())
    elif file.bounds is not None and file.table.is_checked and not any(len(r) for r in homeless.rejects):
        yield from _quiet(file, now, *file.bounds, fraction=fraction())
    elif homeless.rejects:
        reasons = pl.concat(homeless.rejects)["reason"].unique(maintain_order=True).to_list()
        if reasons:
            msg = f"No row of {str(file.table)!r} can be taken: {', '.join(reasons)}."
            raise CorruptFile(msg, hint=f"It was read as {file.format.name}; check what it holds.")


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
    ascending = before is not None and before.day < day.day
    rising = after is not None and after.day > day.day
    if bounds is not None and before is None and bounds[0] < start:
        yield from _quiet(file, now, bounds[0], start, fraction=fraction)
    first, last = time.min(), time.max()
    assert isinstance(first, datetime)  # noqa: S101
    assert isinstance(last, datetime)  # noqa: S101
    covered_from = start if ascending or (bounds and bounds[0] <= start) else first
    promised = bounds is not None and bounds[1] >= end and file.table.is_checked
    covered_to = end if rising or promised else last
    yield FileDay(
        day.day,
        rows,
        rejects,
        day.empty,
        _clipped(covered_from, covered_to, now),
        before.last_id if before is not None and ascending else None,
        after.first_id if after is not None and rising else None,
        fraction,
    )
    quiet_to = end
    if after is not None:
        quiet_to = day_window(after.day)[0]
    elif bounds is not None and promised:
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
    if file.format.is_candles:
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
        [rejects, _refused(rows.filter(~inside), time, "time outside the days the file's name says")]
    )


def _late(rows: pl.DataFrame, time: str) -> pl.DataFrame:
    return _refused(rows, time, "time goes back to a day the file had passed")


def _refused(rows: pl.DataFrame, time: str, reason: str) -> pl.DataFrame:
    ids = pl.col("trade_id") if "trade_id" in rows.columns else pl.lit(None, pl.Int64).alias("trade_id")
    raw = pl.struct(pl.all()).struct.json_encode().alias("raw")
    return rows.select(pl.lit(reason).alias("reason"), ids, pl.col(time).alias("time"), raw)


def _by_day(rows: pl.DataFrame, time: str) -> Iterator[tuple[date, pl.DataFrame]]:
    """Stretches of rows of one day each, in the order of the file."""
    if rows.is_empty():
        return
    number = rows[time].to_physical() // _DAY_US
    first = number[0]
    if number.min() == number.max():
        yield _date(first), rows
        return
    runs = number.rle()
    start = 0
    for length, value in zip(runs.struct.field("len"), runs.struct.field("value"), strict=True):
        yield _date(value), rows.slice(start, length)
        start += length


def _date(number: int) -> date:
    return date(1970, 1, 1) + timedelta(days=number)


def _ids(part: pl.DataFrame) -> tuple[int | None, int | None]:
    if "trade_id" not in part.columns:
        return None, None
    low, high = part["trade_id"].min(), part["trade_id"].max()
    return (low if isinstance(low, int) else None, high if isinstance(high, int) else None)


def _highest(known: int | None, part: pl.DataFrame) -> int | None:
    high = _ids(part)[1]
    return high if known is None else known if high is None else max(known, high)
