"""One thing at two venues: how far apart their candles are. Information, never corruption (pure).

Two venues are two markets. Their prices differ by what it takes to carry money from one to the other, and by
what a dollar is worth where it is called USDT; nothing here is a finding, and nothing is repaired.
"""

from dataclasses import asdict, dataclass
from datetime import datetime

import polars as pl


@dataclass(frozen=True, slots=True)
class Venues:
    """How two markets compare over a range.

    Attributes:
        both, only_one, only_other: intervals in which both, or one of them, have traded.
        apart_median, apart_max: how far the closes are apart, percent of the first's, without the sign.
        at_max: ``open_time`` of the interval in which they are furthest apart.
        bias: median of the same with its sign: above 0 where the other market is dearer.
        correlation: of returns from one interval to the next, where both have traded in both; ``None`` where
            there are fewer than three, or one of the two never moves.
        volume_ratio: the other's volume to the first's, in the intervals that both have.
    """

    both: int
    only_one: int
    only_other: int
    apart_median: float | None
    apart_max: float | None
    at_max: datetime | None
    bias: float | None
    correlation: float | None
    volume_ratio: float | None

    def row(self) -> dict[str, object]:
        """As a row of a table."""
        return asdict(self)


def compare_venues(one: pl.DataFrame, other: pl.DataFrame) -> Venues:
    """Compare candles of two markets, both of one interval and range.

    Args:
        one, other: CANDLE_SCHEMA, by ``open_time``.
    """
    columns = ("open_time", "close", "volume")
    joined = one.select(columns).join(
        other.select(columns), on="open_time", how="inner", suffix=" other", maintain_order="left"
    )
    lonely = len(one) - len(joined), len(other) - len(joined)
    if joined.is_empty():
        return Venues(0, *lonely, None, None, None, None, None, None)
    signed = 100 * (joined["close other"] / joined["close"] - 1)
    apart = signed.abs()
    volume = float(joined["volume"].sum())
    furthest = apart.arg_max()
    return Venues(
        len(joined),
        *lonely,
        _number(apart.median()),
        _number(apart.max()),
        None if furthest is None else joined["open_time"][furthest],
        _number(signed.median()),
        _correlation(joined),
        float(joined["volume other"].sum()) / volume if volume else None,
    )


def _correlation(joined: pl.DataFrame) -> float | None:
    step = joined["open_time"].diff()
    returns = joined.select(
        pl.col("close").log().diff().alias("one"), pl.col("close other").log().diff().alias("other")
    ).filter(step == step.min())  # neighbours only: over a pause both have moved more
    if len(returns) < 3:
        return None
    found = returns.select(pl.corr("one", "other")).item()
    return None if found is None or found != found else float(found)  # noqa: PLR0124 - it is no number


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
