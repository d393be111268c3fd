"""What TimescaleDB does by itself: materialise, compress, remove. Set by settings, shown by ``db status``.

Plain PostgreSQL has no such jobs: its wider candles are exact at once, and nothing is compressed or removed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from psycopg import Connection
from psycopg.types.json import Jsonb

from marketdata.interval import Interval
from marketdata.settings import Settings
from marketdata.store.wider import WIDER, is_timescale, table_of

Kind = Literal["refresh", "compress", "retain"]
_OF_MINUTES = Interval.parse("1h")
_DAY = timedelta(days=1)
_EVERY: dict[Kind, timedelta] = {"compress": timedelta(hours=12), "retain": _DAY}
# Retention of candles is a procedure of our own: it waits for the wider candles.
_KINDS: dict[str, Kind] = {
    "policy_refresh_continuous_aggregate": "refresh",
    "policy_compression": "compress",
    "policy_retention": "retain",
    "candle_retain": "retain",
}
_JOBS = """
SELECT jobs.job_id, jobs.proc_name, coalesce(jobs.hypertable_name, 'candle'),
    (coalesce(config ->> 'start_offset', config ->> 'compress_after', config ->> 'drop_after'))::interval,
    (config ->> 'end_offset')::interval, jobs.schedule_interval, nullif(jobs.next_start, '-infinity'),
    stats.last_run_status || CASE stats.last_run_status WHEN 'Failed' THEN coalesce((
        SELECT ': ' || err_message FROM timescaledb_information.job_errors AS errors
        WHERE errors.job_id = jobs.job_id ORDER BY start_time DESC LIMIT 1), '') ELSE '' END
FROM timescaledb_information.jobs LEFT JOIN timescaledb_information.job_stats AS stats USING (job_id)
WHERE jobs.hypertable_schema = current_schema()
    OR (jobs.proc_name = 'candle_retain' AND config ->> 'schema' = current_schema())
"""


@dataclass(frozen=True, slots=True)
class Policy:
    """One job of a table.

    Attributes:
        after: age at which rows are compressed or removed; of a refresh, how far back it looks, None for all.
        lag: of a refresh, what is younger is left out.
        every: pause between two runs.
    """

    kind: Kind
    table: str
    after: timedelta | None
    lag: timedelta | None
    every: timedelta

    def __str__(self) -> str:
        """``compress trade: after 7 days``."""
        return f"{self.name}: {self.setting}"

    @property
    def name(self) -> str:
        """``compress trade``."""
        return f"{self.kind} {self.table}"

    @property
    def setting(self) -> str:
        """Its setting in words."""
        after = "" if self.after is None else _length(self.after)
        if self.kind == "refresh":
            reach = f"the last {after}" if after else "all there is"
            return f"every {_length(self.every)}, {reach} up to {_length(self.lag)} ago"
        return f"after {after}"


@dataclass(frozen=True, slots=True)
class Job:
    """A policy that is in force: the number of its job, when it runs next, how it ended last."""

    policy: Policy
    job_id: int
    next_start: datetime | None
    last_status: str | None


def wanted(settings: Settings, reach: timedelta | None = None) -> list[Policy]:
    """The policies that the settings ask for.

    Args:
        settings: those of the store.
        reach: how long ago the oldest one-minute candles are that retention has left, if it has removed any.
    """
    retained = timedelta(days=settings.store_retain_candles_days) or None
    # A refresh that looked further back would make wider candles of what retention has removed.
    back = min((limit for limit in (retained, reach) if limit is not None), default=None)
    policies: list[Policy] = []
    if settings.store_refresh_minutes:
        every, lag = (
            timedelta(minutes=minutes)
            for minutes in (settings.store_refresh_minutes, settings.store_refresh_lag_minutes)
        )
        policies += [
            Policy("refresh", table_of(interval), back if interval <= _OF_MINUTES else None, lag, every)
            for interval in WIDER
        ]
    ages: list[tuple[Kind, str, int]] = [
        ("compress", "trade", settings.store_compress_trades_days),
        ("compress", "candle", settings.store_compress_candles_days),
        ("retain", "trade", settings.store_retain_trades_days),
        ("retain", "candle", settings.store_retain_candles_days),
    ]
    policies += [
        Policy(kind, table, timedelta(days=days), None, _EVERY[kind]) for kind, table, days in ages if days
    ]
    return policies


def jobs(connection: Connection[Any]) -> list[Job]:
    """The policies in force; none on plain PostgreSQL."""
    if not is_timescale(connection):
        return []
    rows = connection.execute(_JOBS).fetchall()
    found = [
        Job(Policy(_KINDS[name], table, after, lag, every), job_id, next_start, status)
        for job_id, name, table, after, lag, every, next_start, status in rows
        if name in _KINDS
    ]
    return sorted(found, key=lambda job: (job.policy.kind, job.policy.table))


def apply(connection: Connection[Any], settings: Settings) -> list[str]:
    """Bring the policies in line with the settings; the transaction is the caller's.

    Returns:
        What was changed, a line each. Nothing on plain PostgreSQL.

    Raises:
        psycopg.Error: the server refuses.
    """
    if not is_timescale(connection):
        return []
    row = connection.execute(
        "SELECT (SELECT candles_dropped_before FROM store_state), now(), current_schema()"
    ).fetchone()
    assert row is not None  # noqa: S101 - a select without FROM has one row
    dropped, now, schema = row
    # Whole days: the setting does not change with every call, and errs on the near side.
    reach = None if dropped is None else max((now - dropped) // _DAY, 1) * _DAY
    held = jobs(connection)
    target = wanted(settings, reach)
    changes: list[str] = []
    for job in held:
        if job.policy not in target:
            connection.execute("SELECT delete_job(%s)", (job.job_id,))
            if job.policy.name not in [policy.name for policy in target]:
                changes.append(f"{job.policy.name}: off")
    for policy in target:
        if policy not in [job.policy for job in held]:
            _add(connection, policy, schema)
            changes.append(str(policy))
    lag = timedelta(minutes=settings.store_refresh_lag_minutes)
    connection.execute("UPDATE store_state SET refresh_lag = %s WHERE refresh_lag <> %s", (lag, lag))
    return changes


def _add(connection: Connection[Any], policy: Policy, schema: str) -> None:
    if policy.kind == "refresh":
        connection.execute(
            "SELECT add_continuous_aggregate_policy(%s::regclass, start_offset => %s::interval,"
            " end_offset => %s::interval, schedule_interval => %s::interval)",
            (policy.table, policy.after, policy.lag, policy.every),
        )
    elif policy.kind == "compress":
        connection.execute(
            "SELECT add_compression_policy(%s::regclass, compress_after => %s::interval,"
            " schedule_interval => %s::interval)",
            (policy.table, policy.after, policy.every),
        )
    elif policy.table == "candle":
        config = {"schema": schema, "drop_after": f"{policy.after.days if policy.after else 0} days"}
        connection.execute(
            "SELECT add_job('candle_retain'::regproc, %s::interval, config => %s)",
            (policy.every, Jsonb(config)),
        )
    else:
        connection.execute(
            "SELECT add_retention_policy(%s::regclass, drop_after => %s::interval,"
            " schedule_interval => %s::interval)",
            (policy.table, policy.after, policy.every),
        )


def _length(span: timedelta | None) -> str:
    """``7 days``, ``10 minutes``."""
    return "now" if span is None else " ".join(_parts(span))


def _parts(span: timedelta) -> Iterator[str]:
    seconds = int(span.total_seconds())
    for name, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            yield f"{count} {name}{'' if count == 1 else 's'}"
