"""A small world for tests of the lake: trades as a function of the day, and a source that pages them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl

from marketdata.completeness import content_hash
from marketdata.interval import to_us
from marketdata.manifest import Ids, Manifest, Status, day_window
from marketdata.market import Market
from marketdata.sources.base import Page
from marketdata.trade import TIME, TRADE_SCHEMA

BTC = Market("kraken", "BTC/USD")
ETH = Market("kraken", "ETH/USD")
DAY = date(2025, 6, 8)
NEXT = date(2025, 6, 9)
NOW = datetime.fromisoformat("2025-07-01T00:00:00+00:00")


def at(text: str) -> datetime:
    """``at("2025-06-08 12:00")`` in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def trades_of(day: date, rows: int = 3000, *, quiet: tuple[float, float] | None = None) -> pl.DataFrame:
    """Trades of a day: ids run on across days, several share a time; none in the hours ``quiet``."""
    random = np.random.default_rng(day.toordinal())
    seconds = np.sort(random.integers(0, 86_400 * 20, rows)) / 20
    if quiet is not None:
        seconds = seconds[(seconds < quiet[0] * 3600) | (seconds >= quiet[1] * 3600)]
    count = len(seconds)
    first = (day - date(2025, 1, 1)).days * rows
    return pl.DataFrame(
        {
            "trade_id": np.arange(first, first + count),
            "time": pl.Series((seconds * 1e6).astype(np.int64) + to_us(day_window(day)[0])).cast(TIME),
            "price": np.round(100 + np.cumsum(random.normal(0, 0.01, count)), 2),
            "amount": np.round(random.lognormal(-2, 1, count), 6) + 1e-6,
            "side": np.where(random.random(count) < 0.5, "buy", "sell"),
            "fills": random.integers(1, 4, count),
        }
    ).cast(TRADE_SCHEMA)  # type: ignore[arg-type]


def manifest_of(
    market: Market, day: date, trades: pl.DataFrame, status: Status = Status.COMPLETE, **more: object
) -> Manifest:
    """A manifest that fits the trades."""
    ids, times = trades["trade_id"], trades["time"]
    return Manifest(
        market=market,
        day=day,
        source="test",
        ids=Ids.SEQUENTIAL,
        status=status,
        reason="by the test",
        rows=len(trades),
        fills=int(trades["fills"].sum()),
        first_time=times.min(),  # type: ignore[arg-type]
        last_time=times.max(),  # type: ignore[arg-type]
        first_id=ids.min(),  # type: ignore[arg-type]
        last_id=ids.max(),  # type: ignore[arg-type]
        previous_id=None,
        following_id=None,
        covered=(day_window(day),),
        content_hash=content_hash(trades),
        **more,  # type: ignore[arg-type]
    )


@dataclass
class PagedSource:
    """A source whose pages are the trades of :func:`trades_of`, with what it does not serve left out.

    ``asked`` (and the file ``log``, a line a page) say which pages were asked for; ``hidden`` ids are
    served only when asked for again, ``lost`` ids never; ``edges`` says whether pages show the ids
    around the day.
    """

    rows: int = 3000
    page_rows: int = 100
    name: str = "paged"
    exchange: str = "kraken"
    sequential_ids: bool = True
    with_ids: bool = True
    hidden: Sequence[tuple[int, int]] = ()
    lost: Sequence[tuple[int, int]] = ()
    edges: bool = True
    log: Path | None = None
    asked: list[int] = field(default_factory=list)
    asked_again: list[tuple[int, int]] = field(default_factory=list)

    def pages(
        self, market: Market, start: datetime, end: datetime, cursor: str | None = None
    ) -> Iterator[Page]:
        trades = without(trades_of(start.date(), self.rows), [*self.hidden, *self.lost])
        first, last = trades["trade_id"][0], trades["trade_id"][-1]
        if not self.with_ids:
            trades = trades.with_columns(trade_id=pl.lit(None, dtype=pl.Int64))
        for at_row in range(int(cursor or 0), len(trades), self.page_rows):
            self.asked.append(at_row // self.page_rows)
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write(f"{at_row // self.page_rows}\n")
            page = trades[at_row : at_row + self.page_rows]
            done = at_row + self.page_rows >= len(trades)
            edges = self.edges and self.with_ids
            yield Page(
                page,
                None if done else str(at_row + self.page_rows),
                end if done else page["time"][-1],
                previous_id=first - 1 if edges and at_row == 0 else None,
                following_id=last + 1 if edges and done else None,
            )

    def refetch(
        self, market: Market, first_id: int, last_id: int, around: tuple[datetime, datetime]
    ) -> pl.DataFrame:
        self.asked_again.append((first_id, last_id))
        days = {time.date() for time in around}
        trades = without(pl.concat([trades_of(day, self.rows) for day in sorted(days)]), self.lost)
        return trades.filter(
            pl.col("trade_id").is_between(first_id, last_id),
            pl.col("time").is_between(*around, closed="left"),
        )


def without(trades: pl.DataFrame, ranges: Sequence[tuple[int, int]]) -> pl.DataFrame:
    """The trades whose ids are in none of the inclusive ranges."""
    for first, last in ranges:
        trades = trades.filter(~pl.col("trade_id").is_between(first, last))
    return trades
