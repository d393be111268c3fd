"""From where on something about a market's trades counts as odd: the defaults, and how they are read (pure).

A market's own figures stand in the market file, in the table ``[market.quality]`` after its ``[[market]]``.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields

from marketdata.errors import UnknownName, UsageError


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of one market; each is an argument of a rule in :mod:`marketdata.quality`.

    Attributes:
        gaps_ms: widths of pauses between trades that are told apart, ascending, in ms.
        gap_beyond: a pause counts when it is so many times as long as those that 99 of 100 stay under here.
        price_window: how many trades make the rolling median.
        price_spreads: how many robust standard deviations from it count.
        price_at_least: and how far at least, as a share of the price.
        volume_times: an amount counts when it is so many times the one that 99 of 100 trades stay under.
        same_at_most: rows alike in time, price, amount and side, beyond which a group of them counts.
        same_share: share of the day's rows that repeat another one, beyond which the day counts.
        ids_missing: ids that may be missing between two trades.
        back_ms: how far time may go back while ids go on, in ms.
        skew_ms: how far a receive time may be from its usual distance to the trade's own time, in ms.
        rejected_share: share of rows that may be refused for one reason.
    """

    gaps_ms: tuple[int, ...] = (500, 5_000, 30_000)
    gap_beyond: float = 8.0
    price_window: int = 96
    price_spreads: float = 10.0
    price_at_least: float = 0.01
    volume_times: float = 50.0
    same_at_most: int = 50
    same_share: float = 0.4
    ids_missing: int = 0
    back_ms: int = 1_000
    skew_ms: int = 10_000
    rejected_share: float = 0.001

    @classmethod
    def of(cls, table: Mapping[str, object], where: str) -> "Thresholds":
        """Read a ``[market.quality]`` table; what it does not name keeps its default.

        Args:
            where: which entry this is, for messages.

        Raises:
            UnknownName: a key that is none of these.
            UsageError: a value that cannot be.
        """
        known = [field.name for field in fields(cls)]
        given: dict[str, object] = {}
        for name, value in table.items():
            if name not in known:
                raise UnknownName(name, kind=f"key in quality of {where}:", known=known)
            wanted = _fault(name, value)
            if wanted:
                msg = f"In {where}: quality.{name} = {value!r} is not usable."
                raise UsageError(msg, hint=f"Write {wanted}.")
            given[name] = tuple(value) if isinstance(value, list) else value
        return cls(**given)  # type: ignore[arg-type]


def _fault(name: str, value: object) -> str | None:
    """What should stand there instead; ``None`` when the value will do."""
    if name == "gaps_ms":
        whole = isinstance(value, list) and bool(value) and all(_is_whole(each, 1) for each in value)
        rising = whole and sorted(set(value)) == value  # type: ignore[call-overload]
        return None if rising else "ascending whole milliseconds, for example [500, 5000, 30000]"
    if name in _WHOLE:
        return None if _is_whole(value, _WHOLE[name]) else f"a whole number of at least {_WHOLE[name]}"
    low, high = _SHARES.get(name, (1.0, None))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and low <= value <= (sys.float_info.max if high is None else high):  # type: ignore[operator]
        return None
    return f"a number of at least {low:g}" if high is None else f"a number from {low:g} to {high:g}"


_WHOLE = {"price_window": 9, "same_at_most": 1, "ids_missing": 0, "back_ms": 0, "skew_ms": 1}
_SHARES: dict[str, tuple[float, float | None]] = {
    "price_at_least": (0.0, 1.0),
    "same_share": (0.0, 1.0),
    "rejected_share": (0.0, 1.0),
}


def _is_whole(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low
