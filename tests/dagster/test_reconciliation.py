"""The asset of reconciliation and its check: what was streamed wrong is put right, what stays wrong fails."""

from typing import Any

import polars as pl
import pytest

from marketdata.fold import fold
from marketdata.manifest import day_window
from marketdata.store.candles import STORED_SCHEMA, upsert_candles
from marketdata.store.engine import connect
from marketdata_dagster.checks import RECONCILED
from marketdata_dagster.defs.partitions import Job
from tests.dagster.conftest import DAYS, DOT, LTC, USDT, World
from tests.dagster.test_store import stored
from tests.store.conftest import database, server

__all__ = ["database", "server", "stored"]
LAKE = ("trades", "candles", "exchange_candles", "reconciliation")
EVERY = ("trades", "candles", "exchange_candles", "store_trades", "store_candles", "reconciliation")


def test_without_a_store_the_days_are_compared_with_the_exchange(world: World) -> None:
    assert world.run(Job(DOT, DAYS[0]), Job(DOT, DAYS[-1]), assets=LAKE).success
    evaluations = world.evaluations(DOT, RECONCILED, "reconciliation")
    assert set(evaluations) == {Job(DOT, day).key for day in DAYS}
    assert all(each.passed and each.blocking for each in evaluations.values())
    assert all("Nothing was streamed" in str(each.description) for each in evaluations.values())
    seen = world.metadata(Job(DOT, DAYS[-1]), "reconciliation")
    assert seen["batch and exchange: compared"] == seen["batch and exchange: equal"] > 0
    assert seen["picture"] == "No drift."


def test_what_the_stream_had_said_wrong_is_right_after_one_run(stored: World, database: str) -> None:
    job, other = Job(LTC, DAYS[1]), Job(LTC, DAYS[2])
    assert stored.run(job, other, assets=("trades", "candles")).success
    trades = stored.lake.read_trades(LTC, *day_window(job.day))
    late = trades.gather_every(200)["trade_id"].to_list()
    said = fold(trades.filter(~pl.col("trade_id").is_in(late)), "1m").with_columns(
        pl.lit(0, pl.Int32).alias("revision"),
        pl.lit("stream").alias("source"),
        pl.lit("unknown").alias("coverage"),
    )
    with connect(database) as connection:
        upsert_candles(connection, {LTC: said.select(STORED_SCHEMA.names())})
    result = stored.run(job, other, assets=EVERY)
    assert result.success
    seen = stored.metadata(job, "reconciliation")
    classes: dict[str, Any] = seen["stream and batch: classes"]
    assert sum(classes.values()) == len(seen["first differences"].splitlines()) - 2 > 0
    assert set(classes) <= {"late trade", "missing"}
    assert "data:image/png" in seen["picture"]
    assert seen["stream and batch: drift of the day's volume, %"] > 0
    evaluation = stored.evaluations(LTC, RECONCILED, "reconciliation")[job.key]
    assert evaluation.passed
    assert "repaired" in str(evaluation.description)
    story = evaluation.metadata["ledger"].value
    assert all(kind in str(story) for kind in classes)
    again = stored.run(job, assets=("reconciliation",))
    assert again.success
    assert stored.metadata(job, "reconciliation")["compared before"] is True


def test_a_day_that_stays_wrong_fails_its_check_and_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = Job(USDT, DAYS[0]), Job(USDT, DAYS[-1])
    assert world.run(first, last, assets=LAKE).success
    theirs = world.lake.read_candles(USDT, "1m", *day_window(DAYS[1]), kind="exchange_candles")
    facts = world.lake.read_facts("exchange_candles", USDT, DAYS[1], "1m")
    dear = theirs.with_columns(pl.col("close") * 1.2, pl.col("high") * 1.2)
    world.lake.write_candles(USDT, DAYS[1], "1m", dear, kind="exchange_candles", facts=facts)
    for room in ("reconciliation", "reconciliation_story"):  # as on an exchange whose ids prove nothing
        monkeypatch.setattr(f"marketdata.{room}.proved", lambda _: False)
    assert not world.run(first, last, assets=("reconciliation",)).success
    evaluations = world.evaluations(USDT, RECONCILED, "reconciliation")
    passed = {key: each.passed for key, each in evaluations.items()}
    assert passed == {Job(USDT, day).key: day != DAYS[1] for day in DAYS}
    told = evaluations[Job(USDT, DAYS[1]).key].metadata
    assert "different price" in str(told["wrong"].value)
    assert "given up" in str(told["ledger"].value)


def test_a_day_that_the_lake_does_not_hold_fails_and_leaves_the_others_done(world: World) -> None:
    assert world.run(Job(DOT, DAYS[0]), assets=("trades", "candles")).success
    result = world.run(Job(DOT, DAYS[0]), Job(DOT, DAYS[1]), assets=("reconciliation",))
    assert not result.success
    assert world.metadata(Job(DOT, DAYS[0]), "reconciliation")["dagster/row_count"] == 0
