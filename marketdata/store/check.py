"""Whether the store is what it should be. Behind ``marketdata db check``."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import polars as pl
from psycopg import Connection

from marketdata.candle import CANDLE_SCHEMA
from marketdata.fold import widen
from marketdata.interval import Interval
from marketdata.market import Market
from marketdata.store.markets import market_id, markets
from marketdata.store.migrate import require_head
from marketdata.store.wider import WIDER, is_timescale, table_of

FINDING_SCHEMA = pl.Schema(
    {"check": pl.String(), "market": pl.String(), "where": pl.String(), "finding": pl.String()}
)
_WEEK = Interval.parse("1w")
# So much is in memory at once: four weeks of one market.
_BLOCK = timedelta(weeks=4)
# Sums are floats, added up in another order.
_RELATIVE = 1e-9
_SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
# Best to worst, as coverage_rank of the schema has it.
_WORST = ("complete", "unknown", "gaps", "partial")
STORED = pl.Schema({**CANDLE_SCHEMA, "revision": pl.Int32(), "source": pl.String(), "coverage": pl.String()})
_OMITTED = ("quote_volume", "trade_count")
_FIRST = ("first_trade_id", "first_trade_time")
_LAST = ("last_trade_id", "last_trade_time")

Finding = tuple[str, str, str, str]


def check(
    connection: Connection[Any],
    market: Market | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> pl.DataFrame:
    """Look at a store and return what is wrong with it, FINDING_SCHEMA; empty when all is well.

    Wider candles are compared with the fold of the one-minute candles; marks of wider candles that were not
    made anew are named, see :func:`marketdata.store.wider.refresh`; rows of coverage are compared with the
    trades that are there; trades and candles of markets that nobody knows are named.

    Args:
        connection: to a database at the newest step.
        market: only this one; None: all.
        start, end: only this range, widened to whole weeks; None: all there is.

    Raises:
        UsageError: the schema is not at the newest step.
        UnknownName: the store does not know the market.
        psycopg.Error: the server refuses.
    """
    require_head(connection)
    known = markets(connection)
    chosen = known if market is None else {market: market_id(connection, market)}
    findings = [*_strangers(connection, known), *_stale(connection)]
    for each, number in chosen.items():
        for first, last in _blocks(connection, number, start, end):
            findings += _wider(connection, each, number, first, last)
        findings += _coverage(connection, each, number, start, end)
    return pl.DataFrame(findings, schema=FINDING_SCHEMA, orient="row")


def _strangers(connection: Connection[Any], known: dict[Market, int]) -> Iterator[Finding]:
    """Rows of numbers that stand for no market, which no foreign key prevents; by leaps through the index."""
    for table in ("trade", "candle"):
        found = connection.execute(
            f"WITH RECURSIVE numbers (market_id) AS ("  # noqa: S608 - a constant name
            f" SELECT min(market_id) FROM {table} UNION ALL"
            f" SELECT (SELECT min(market_id) FROM {table} WHERE {table}.market_id > numbers.market_id)"
            f" FROM numbers WHERE market_id IS NOT NULL)"
            f" SELECT market_id FROM numbers WHERE market_id IS NOT NULL AND market_id <> ALL(%s) ORDER BY 1",
            (list(known.values()),),
        )
        for (number,) in found:
            yield "market", "", table, f"rows of market_id {number}, which is no market"


def _stale(connection: Connection[Any]) -> Iterator[Finding]:
    marks = connection.execute(
        "SELECT coalesce(exchange || ':' || symbol, ''), min(start_time), max(end_time), count(*)"
        " FROM candle_stale LEFT JOIN market USING (market_id) GROUP BY 1 ORDER BY 1"
    )
    for market, start, end, count in marks:
        yield "stale", market, _range(start, end), f"{count} changes that wider candles do not know of"


def _blocks(
    connection: Connection[Any], number: int, start: datetime | None, end: datetime | None
) -> Iterator[tuple[datetime, datetime]]:
    """Whole weeks of the one-minute candles that are there, four at a time."""
    row = connection.execute(
        "SELECT min(open_time), max(open_time) + INTERVAL '1 minute',"
        " (SELECT candles_dropped_before FROM store_state) FROM candle WHERE market_id = %s",
        (number,),
    ).fetchone()
    if row is None or row[0] is None:
        return
    first, last, dropped = row
    first = _WEEK.floor(max(first, start or first))
    if dropped is not None:
        # What retention has removed some minutes of cannot be folded again.
        first = max(first, _WEEK.ceil(dropped))
    last = _WEEK.ceil(min(last, end or last))
    while first < last:
        yield first, min(first + _BLOCK, last)
        first += _BLOCK


def _wider(
    connection: Connection[Any], market: Market, number: int, start: datetime, end: datetime
) -> Iterator[Finding]:
    minutes = read(connection, Interval.parse("1m"), number, start, end)
    for interval in WIDER:
        expected, held = widened(minutes, interval), read(connection, interval, number, start, end)
        both = expected.join(held, on="open_time", how="full", suffix="_held", coalesce=True).sort(
            "open_time"
        )
        wrong = both.filter(~pl.all_horizontal(_same(name) for name in STORED if name != "open_time"))
        if len(wrong):
            columns = [
                name for name in STORED if name != "open_time" and not wrong.select(_same(name).all()).item()
            ]
            where = _range(wrong["open_time"][0], wrong["open_time"][-1] + interval.width)
            what = f"{len(wrong)} candles of {interval} are not the fold of 1m: {', '.join(columns)}"
            yield table_of(interval), str(market), where, what


def _same(name: str) -> pl.Expr:
    expected, held = pl.col(name), pl.col(f"{name}_held")
    if name in _SUMS:
        near = (expected - held).abs() <= _RELATIVE * expected.abs()
        return (near | (expected.is_null() & held.is_null())).fill_null(value=False)
    return expected.eq_missing(held)


def read(
    connection: Connection[Any], interval: Interval, number: int, start: datetime, end: datetime
) -> pl.DataFrame:
    """Candles of ``[start, end)`` with revision, source and coverage, sorted."""
    rows = connection.execute(
        f"SELECT {', '.join(STORED)} FROM {table_of(interval)}"  # noqa: S608 - constant names
        " WHERE market_id = %s AND open_time >= %s AND open_time < %s ORDER BY open_time",
        (number, start, end),
    ).fetchall()
    return pl.DataFrame(rows, schema=STORED, orient="row")


def widened(minutes: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    """What the store should hold of an interval: the fold, the highest revision, the worst coverage.

    The fold knows candles of trades only. Those of an exchange may lack quote volume or count, and then so do
    wider ones; they have no trades, so neither has what opens or closes with them.
    """
    bucket = interval.floor_expr(pl.col("open_time")).alias("open_time")
    in_order = minutes.sort("open_time")
    details = in_order.group_by(bucket, maintain_order=True).agg(
        *(pl.col(name).has_nulls().alias(f"no_{name}") for name in _OMITTED),
        *(pl.col(name).first().alias(f"own_{name}") for name in _FIRST),
        *(pl.col(name).last().alias(f"own_{name}") for name in _LAST),
        pl.col("revision").max(),
        pl.when(pl.col("source").n_unique() == 1)
        .then(pl.col("source").first())
        .otherwise(pl.lit("mixed"))
        .alias("source"),
        pl.col("coverage").cast(pl.Enum(_WORST)).max().cast(pl.String),
    )
    whole = in_order.select(CANDLE_SCHEMA.names()).with_columns(
        pl.col(*_OMITTED, "first_trade_id", "last_trade_id").fill_null(0),
        pl.col("first_trade_time", "last_trade_time").fill_null(pl.col("open_time")),
    )
    return (
        widen(whole, interval)
        .join(details, on="open_time", how="left", maintain_order="left")
        .with_columns(
            *(pl.when(~pl.col(f"no_{name}")).then(name).alias(name) for name in _OMITTED),
            *(pl.col(f"own_{name}").alias(name) for name in (*_FIRST, *_LAST)),
        )
        .select(STORED.names())
    )


def _coverage(
    connection: Connection[Any], market: Market, number: int, start: datetime | None, end: datetime | None
) -> Iterator[Finding]:
    """Days that have other rows than their manifest says; not those that retention has removed.

    An incomplete day may have more, which no load takes away.
    """
    found = connection.execute(
        """
        SELECT day, coverage.rows, coverage.fills, held.rows, held.fills
        FROM coverage CROSS JOIN LATERAL (
            SELECT count(*) AS rows, coalesce(sum(fills), 0)::bigint AS fills FROM trade
            WHERE trade.market_id = coverage.market_id
                AND time >= day::timestamp AT TIME ZONE 'UTC'
                AND time < (day + 1)::timestamp AT TIME ZONE 'UTC'
        ) AS held
        WHERE market_id = %(market)s
            AND (%(start)s::date IS NULL OR day >= %(start)s)
            AND (%(end)s::date IS NULL OR day < %(end)s)
            AND (held.rows, held.fills) <> (coverage.rows, coverage.fills)
            AND (status = 'complete' OR held.rows < coverage.rows OR held.fills < coverage.fills)
            AND NOT (%(retention)s AND held.rows = 0 AND day < coalesce(
                (SELECT (min(time) AT TIME ZONE 'UTC')::date FROM trade), now()::date))
        ORDER BY day
        """,
        {
            "market": number,
            "start": start and start.date(),
            "end": end and end.date(),
            "retention": is_timescale(connection),
        },
    )
    for day, rows, fills, held_rows, held_fills in found:
        what = f"{held_rows} trades ({held_fills} fills) are there, the manifest says {rows} ({fills})"
        yield "coverage", str(market), str(day), what


def _range(start: datetime, end: datetime) -> str:
    return f"{start:%Y-%m-%dT%H:%M} .. {end:%Y-%m-%dT%H:%M}"
