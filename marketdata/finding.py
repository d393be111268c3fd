"""A finding: something odd about a day's trades (pure)."""

from datetime import datetime

import polars as pl

from marketdata.trade import TIME

# One row a finding. value: how far beyond; its unit is the rule's own and named in its docstring.
# time, until: the stretch it speaks of, both trades included; equal where it speaks of one trade.
# suspicious: false where something else shows that nothing is wrong. detail: one sentence for a person.
FINDING_SCHEMA = pl.Schema(
    {
        "rule": pl.String(),
        "time": TIME,
        "until": TIME,
        "trade_id": pl.Int64(),
        "value": pl.Float64(),
        "suspicious": pl.Boolean(),
        "detail": pl.String(),
    }
)

_NONE = FINDING_SCHEMA.to_frame()
Window = tuple[datetime, datetime]


def nothing_odd() -> pl.DataFrame:
    """No finding."""
    return _NONE.clone()


def findings(rule: str | pl.Expr, rows: pl.DataFrame) -> pl.DataFrame:
    """FINDING_SCHEMA, by time, of rows with ``time``, ``trade_id`` and ``value``.

    Without ``until`` a finding speaks of one trade, without ``suspicious`` it is that, and without ``detail``
    nothing more is said.
    """
    given = {"until": pl.col("time"), "suspicious": pl.lit(value=True), "detail": pl.lit("")}
    columns = [
        (pl.col(name) if name in rows.columns else default).alias(name) for name, default in given.items()
    ]
    named = pl.lit(rule) if isinstance(rule, str) else rule
    found = rows.select(named.alias("rule"), "time", "trade_id", "value", *columns)
    return found.select(FINDING_SCHEMA.names()).cast(FINDING_SCHEMA).sort("time", "trade_id")


def of_window(rule: str, window: Window, value: float, detail: str) -> pl.DataFrame:
    """One finding that speaks of a stretch and of no trade of it."""
    return pl.DataFrame([(rule, *window, None, value, True, detail)], schema=FINDING_SCHEMA, orient="row")
