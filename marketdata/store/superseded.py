"""What a load puts its rows in place of: of a day that is not complete only what its manifest speaks for.

The store may hold more of such a day than the lake, what the stream has brought above all. It stays where the
file ends early, was not asked, or is known to lack trades; a complete day takes the place of everything.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from marketdata.completeness import Stretch
from marketdata.manifest import Ids, Manifest, Status, day_window

# Conditions with the values of :func:`values`. Where the file ends inside trades of one microsecond, ids tell
# which of them it has.
TRADE = """(
    time <@ %(times)s::tstzmultirange AND NOT trade_id <@ %(lacking)s::int8multirange
    AND (time = %(last_time)s::timestamptz AND trade_id > %(last_id)s::bigint) IS NOT TRUE
)"""
# A candle whose whole minute is spoken for.
MINUTE = """(
    tstzrange({0}.open_time, {0}.open_time + interval '1 minute') <@ %(times)s::tstzmultirange
    AND NOT ({0}.first_trade_id IS NOT NULL AND %(lacking)s::int8multirange && int8range(
        least({0}.first_trade_id, {0}.last_trade_id), greatest({0}.first_trade_id, {0}.last_trade_id), '[]'
    ))
)"""


def values(manifest: Manifest) -> dict[str, Any]:
    """What :data:`TRADE` and :data:`MINUTE` ask for: the times the manifest speaks for, and ids it lacks."""
    whole = manifest.status is Status.COMPLETE
    return {
        "times": _multirange([day_window(manifest.day)] if whole else spoken_for(manifest)),
        "lacking": _multirange(() if whole else (*manifest.missing_ids, *manifest.not_served)),
        "last_time": None if whole else manifest.last_time,
        "last_id": None if whole else manifest.last_id,
    }


def spoken_for(manifest: Manifest) -> list[Stretch]:
    """Stretches of an incomplete day, both ends included, of which the rows are all but for missing ids.

    What the source was asked for; with ids one after the other also what lies between two of them. Where
    nothing says what the source was asked for, from the first row to the last: what the store holds there
    are the same trades, maybe with other ids or coarser times, and both would count twice.
    """
    found = list(manifest.covered)
    first, last = manifest.first_time, manifest.last_time
    if first is None or last is None:
        return found
    if manifest.ids is Ids.SEQUENTIAL:
        start, end = day_window(manifest.day)
        found.append(
            (
                first if manifest.previous_id is None else start,
                last if manifest.following_id is None else end,
            )
        )
    elif not found:
        found.append((first, last))
    # Rows of the file itself that lie at the edge of what is covered.
    return [*found, (first, first), (last, last)]


def _multirange(ranges: Iterable[tuple[Any, Any]]) -> str:
    """As PostgreSQL reads it, which joins what overlaps; both ends are included."""
    return "{" + ",".join(f"[{_text(low)},{_text(high)}]" for low, high in ranges) + "}"


def _text(bound: datetime | int) -> str:
    return bound.isoformat() if isinstance(bound, datetime) else str(bound)
