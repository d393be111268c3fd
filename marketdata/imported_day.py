"""Putting a day that came from files beside what the lake already holds of it.

Evidence never gets weaker: ids of the exchange are not replaced by fingerprints, a complete day not by an
incomplete one, and ids of two kinds are never mixed in one day.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Literal

import polars as pl

from marketdata.completeness import Stretch, build_manifest, joined
from marketdata.lake import Lake
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata.market import Market
from marketdata.pieces import Piece, merge_pieces
from marketdata.sources.days import MAY_BE_CUT
from marketdata.trade import Merged, assign_ids, empty_rejects, empty_trades, in_order, merge_trades

# Ids of the exchange as it gives them; other spaces have them, and say less about each trade.
_WHOLE_SPACES = {"trade", "aggTrade"}
# Evidence of days without ids: times in which a file begins or ends.
_EDGES = ("files_begin", "files_end")


@dataclass(frozen=True, slots=True)
class ImportedDay:
    """What one file says about one day.

    Attributes:
        trades: TRADE_SCHEMA in the order of the file; without ids where the file has none.
        covered: the stretch of the day that lies within the file, half-open; ``None`` for none.
        previous_id: id of the trade before the day, when the same file holds it; likewise ``following_id``.
        file: name of the file, for the manifest.
        begins, ends: time of the file's first and last trade, where it lies in this day.
    """

    market: Market
    day: date
    trades: pl.DataFrame
    covered: Stretch | None
    source: str
    ids: Ids
    id_space: str
    file: str
    rejects: pl.DataFrame = field(default_factory=empty_rejects)
    previous_id: int | None = None
    following_id: int | None = None
    begins: datetime | None = None
    ends: datetime | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of an imported day.

    ``added`` trades are new in the lake, ``repeated`` were in the lake or stood twice in the file;
    ``conflicts`` carry the id of a trade that is held but say something else. ``kept`` says why the held
    day was left as it was; then none of the rows was taken.
    """

    added: int = 0
    repeated: int = 0
    conflicts: int = 0
    kept: str | None = None


def id_space(manifest: Manifest) -> str:
    """Which ids a day holds: ``trade``, ``aggTrade``, or how its fingerprints were made."""
    named = manifest.evidence.get("id_space")
    if named is not None:
        return named
    if manifest.ids is Ids.FINGERPRINT:
        return f"fingerprint, {manifest.source}"
    return default_id_space(manifest.market)


def default_id_space(market: Market) -> str:
    """Which ids a source gives when it does not say: Binance's own REST pages hold aggregated trades."""
    return "aggTrade" if market.exchange == "binance" else "trade"


def rejudge(lake: Lake, seen: Manifest, held: Manifest | None = None) -> Manifest:
    """Judge the trades of a day again with what is now known of it, and keep the verdict.

    Args:
        seen: the manifest of the day with the new facts in it.
        held: what stands in the lake; the same verdict is not written again. The lock is the caller's.

    Raises:
        StorageError, CorruptFile: from the lake.
    """
    market, window = seen.market, day_window(seen.day)
    trades = lake.read_trades(market, *window)
    manifest = build_manifest(
        market,
        seen.day,
        trades,
        source=seen.source,
        ids=seen.ids,
        covered=seen.covered,
        previous_id=seen.previous_id,
        following_id=seen.following_id,
        not_served=seen.not_served,
        repeated=seen.repeated,
        rejected=seen.rejected,
        pages=seen.pages,
        cursor=seen.cursor,
        evidence=seen.evidence,
        refused_ids=lake.read_rejects(market, *window)["trade_id"],
    )
    if manifest != held:
        lake.write_trades(market, seen.day, trades, manifest)
    return manifest


def place(lake: Lake, new: ImportedDay) -> Placed:
    """Write an imported day, or merge it into the day held, or leave that as it is.

    The day is replaced in one step. When nothing new is in it, its file is not touched.

    Raises:
        StorageError: the lake cannot be written.
        TransientError: another process holds the day.
    """
    with lake.lock(new.market, new.day):
        held = lake.manifest(new.market, new.day)
        own = _own(new)
        keep_rejects(lake, new.market, new.day, pl.concat([new.rejects, own.conflicts]))
        piece = _piece(new, own.trades)
        mine = _manifest(new, own, None, new.rejects["trade_id"], piece)
        what = "new" if held is None else _verdict(held, mine)
        repeated, conflicts = own.repeated, len(own.conflicts)
        if what == "keep" and held is not None:
            return Placed(kept=_why_kept(held, mine))
        if what == "merge" and held is not None:
            before = lake.read_trades(new.market, *day_window(new.day))
            if new.ids is Ids.FINGERPRINT:
                piece = merge_pieces(_held_piece(held, before), piece)
                merged = Merged(piece.trades, 0, empty_rejects())
            else:
                merged = merge_trades(before, own.trades)
            keep_rejects(lake, new.market, new.day, merged.conflicts)
            added = len(merged.trades) - len(before)
            conflicts += len(merged.conflicts)
            repeated += len(own.trades) - added - len(merged.conflicts)
            refused = lake.read_rejects(new.market, *day_window(new.day))["trade_id"]
            mine = _manifest(new, merged, held, refused, piece)
            if replace(mine, evidence=held.evidence) != held:
                lake.write_trades(new.market, new.day, merged.trades, mine)
            return Placed(added, repeated, conflicts)
        lake.write_trades(new.market, new.day, own.trades, mine)
        return Placed(len(own.trades), repeated, conflicts)


def _own(new: ImportedDay) -> Merged:
    if new.ids is Ids.FINGERPRINT:
        return Merged(in_order(assign_ids(_oldest_first(new.trades))), 0, empty_rejects())
    return merge_trades(new.trades) if len(new.trades) else Merged(empty_trades(), 0, empty_rejects())


def _oldest_first(trades: pl.DataFrame) -> pl.DataFrame:
    """Rows of a file that is newest first are so within a second too."""
    time = trades["time"]
    backwards = len(time) > 0 and time[0] > time[-1] and time.is_sorted(descending=True)
    return trades.reverse() if backwards else trades


def _piece(new: ImportedDay, trades: pl.DataFrame) -> Piece:
    if new.ids is not Ids.FINGERPRINT:
        return Piece(trades)
    begins, ends = (frozenset() if time is None else frozenset({time}) for time in (new.begins, new.ends))
    return Piece(trades, begins, ends)


def _held_piece(held: Manifest, trades: pl.DataFrame) -> Piece:
    begins, ends = (
        frozenset(map(datetime.fromisoformat, held.evidence[name].split(" | ")))
        if name in held.evidence
        else frozenset[datetime]()
        for name in _EDGES
    )
    return Piece(trades, begins, ends)


def _edges(piece: Piece) -> dict[str, str]:
    """Where files begin and end, as the manifest keeps it."""
    times = dict(zip(_EDGES, (piece.begins, piece.ends), strict=True))
    return {name: " | ".join(time.isoformat() for time in sorted(at)) for name, at in times.items() if at}


def _verdict(held: Manifest, new: Manifest) -> Literal["merge", "replace", "keep"]:
    if id_space(held) == id_space(new):
        return "merge"
    stronger = _strength(new) - _strength(held)
    if stronger < 0 or new.status is not Status.COMPLETE:
        return "keep"
    return "replace" if stronger > 0 or held.status is not Status.COMPLETE else "keep"


def _strength(manifest: Manifest) -> int:
    """0 without ids of the exchange, 1 with them, 2 where the rows also say all that the exchange does."""
    if manifest.ids is Ids.FINGERPRINT:
        return 0
    return 2 if id_space(manifest) in _WHOLE_SPACES else 1


def _why_kept(held: Manifest, new: Manifest) -> str:
    if _strength(new) < _strength(held):
        return f"kept, stronger evidence ({held.source}, ids of the exchange)"
    if held.status is Status.COMPLETE:
        return f"kept, already complete with other ids ({held.source}, {id_space(held)})"
    return f"kept, the file does not hold the whole day and has other ids ({id_space(new)})"


def _manifest(
    new: ImportedDay, rows: Merged, held: Manifest | None, refused_ids: pl.Series, piece: Piece
) -> Manifest:
    covered = [] if new.covered is None else [new.covered]
    files = {new.file}
    previous_id, following_id = new.previous_id, new.following_id
    if new.ids is Ids.FINGERPRINT:
        previous_id = following_id = None
    rejected = _counts(pl.concat([new.rejects, rows.conflicts]))
    evidence: dict[str, str] = {}
    if held is not None:
        files |= set(held.evidence.get("files", "").split(" | ")) - {""}
        evidence = {name: said for name, said in held.evidence.items() if name not in _EDGES}
        previous_id = held.previous_id if previous_id is None else previous_id
        following_id = held.following_id if following_id is None else following_id
        covered += held.covered
        rejected = _rejected_of_both(new, rejected, held)
    return build_manifest(
        new.market,
        new.day,
        rows.trades,
        source=new.source if held is None else held.source,
        ids=new.ids,
        covered=covered,
        previous_id=previous_id,
        following_id=following_id,
        not_served=() if held is None else held.not_served,
        repeated=rows.repeated if held is None else held.repeated,
        rejected=rejected,
        pages=0 if held is None else held.pages,
        cursor=None if held is None else held.cursor,
        evidence={**evidence, **_edges(piece), "files": " | ".join(sorted(files)), "id_space": new.id_space},
        refused_ids=refused_ids,
    )


def _rejected_of_both(new: ImportedDay, rejected: dict[str, int], held: Manifest) -> dict[str, int]:
    """Refused rows by reason; those of both are taken for the same."""
    theirs = dict(held.rejected)
    # Where one goes on after the last trade of the other, it holds what stood in a line that was cut.
    if new.covered is not None and _lies_in([new.covered], held.first_time, held.last_time):
        theirs.pop(MAY_BE_CUT, None)
    if _lies_in(held.covered, new.trades["time"].min(), new.trades["time"].max()):
        rejected.pop(MAY_BE_CUT, None)
    return theirs | {reason: max(count, theirs.get(reason, 0)) for reason, count in rejected.items()}


def _lies_in(covered: Iterable[Stretch], first: object, last: object) -> bool:
    """Whether one stretch holds both times, and goes on after the last."""
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return False
    return any(since <= first and last < until for since, until in covered)


def _counts(rejects: pl.DataFrame) -> dict[str, int]:
    counted = rejects.group_by("reason").len().sort("reason")
    return dict(counted.iter_rows())


def keep_rejects(lake: Lake, market: Market, day: date, rejects: pl.DataFrame) -> None:
    """Add refused rows to those of the day; the same file again adds none."""
    if rejects.is_empty():
        return
    start, end = day_window(day)
    before = lake.read_rejects(market, start, end)
    # A line that stands twice in the file is kept twice, and a file imported twice is not.
    ordinal = pl.int_range(pl.len()).over(rejects.columns).alias("ordinal")
    both = pl.concat([before.with_columns(ordinal), rejects.with_columns(ordinal)])
    kept = both.unique(maintain_order=True).drop("ordinal")
    if len(kept) != len(before):
        lake.write_rejects(market, day, kept)


def connect(lake: Lake, market: Market, day: date) -> None:
    """Join what files have covered of a day, and of the days on both sides, where nothing lies between.

    Where ids are sequential, the next id proves it. Without ids, the pause between the end of one file
    and the start of the next counts as quiet when it is no longer than the longest pause inside the files
    on the days around it; a longer one stays open, because a file may be missing there.
    """
    _close_pauses(lake, market, day)
    for left in (day - timedelta(days=1), day):
        _connect_days(lake, market, left, left + timedelta(days=1))


def _connect_days(lake: Lake, market: Market, left: date, right: date) -> None:
    a, b = lake.manifest(market, left), lake.manifest(market, right)
    if a is None or b is None or id_space(a) != id_space(b) or not (a.covered and b.covered):
        return
    midnight = day_window(right)[0]
    end, start = a.covered[-1][1], b.covered[0][0]
    if a.ids is Ids.FINGERPRINT:
        if start == end or start - end > max(_longest_pause(lake, a), _longest_pause(lake, b)):
            return
        _extend(lake, a, (end, midnight))
        _extend(lake, b, (midnight, start))
        return
    if a.last_id is None or b.first_id != a.last_id + 1:
        return
    _extend(lake, a, (end, midnight), following_id=b.first_id)
    _extend(lake, b, (midnight, start), previous_id=a.last_id)


def _close_pauses(lake: Lake, market: Market, day: date) -> None:
    manifest = lake.manifest(market, day)
    if manifest is None or manifest.ids is not Ids.FINGERPRINT or len(manifest.covered) < 2:
        return
    longest = _longest_pause(lake, manifest)
    for (_, end), (start, _) in zip(manifest.covered, manifest.covered[1:], strict=False):
        if start - end <= longest:
            manifest = _extend(lake, manifest, (end, start))


def _longest_pause(lake: Lake, manifest: Manifest) -> timedelta:
    """The longest pause between two trades inside what is covered."""
    times = lake.read_trades(manifest.market, *day_window(manifest.day))["time"]
    pauses = [times.filter((times >= a) & (times <= b)).diff().max() for a, b in manifest.covered]
    known = [pause for pause in pauses if isinstance(pause, timedelta)]
    return max(known, default=timedelta())


def _extend(
    lake: Lake,
    held: Manifest,
    stretch: Stretch,
    *,
    previous_id: int | None = None,
    following_id: int | None = None,
) -> Manifest:
    """Rewrite the manifest of a day whose files are now known to reach further; where they are, only then."""
    seen = replace(
        held,
        covered=joined((*held.covered, stretch)),
        previous_id=held.previous_id if previous_id is None else previous_id,
        following_id=held.following_id if following_id is None else following_id,
    )
    if seen == held:
        return held
    with lake.lock(held.market, held.day):
        return rejudge(lake, seen, held)
