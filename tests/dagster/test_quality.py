"""The quality asset and its check, run in this process against a local exchange."""

from dataclasses import replace

import polars as pl

from marketdata.lake import ledger as lake_ledger
from marketdata.manifest import day_window
from marketdata_dagster.checks import COMPLETE
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.defs.quality import NOTHING_ODD, judged
from tests.dagster.conftest import DAYS, DOT, USDT, World

JOB = Job(DOT, DAYS[0])
BOTH = ("trades", "quality")


def with_a_fat_finger(world: World) -> int:
    """Make one price of the day wrong, as an exchange might serve it; returns the id of that trade."""
    trades = world.lake.read_trades(DOT, *day_window(DAYS[0]))
    manifest = world.lake.manifest(DOT, DAYS[0])
    assert manifest is not None
    wrong = int(trades["trade_id"][len(trades) // 2])
    price = pl.when(pl.col("trade_id") == wrong).then(pl.col("price") * 10).otherwise("price")
    world.lake.write_trades(DOT, DAYS[0], trades.with_columns(price.alias("price")), manifest)
    return wrong


def test_each_day_of_a_run_has_its_findings_and_its_own_verdict(world: World) -> None:
    assert world.run(Job(DOT, DAYS[0]), Job(DOT, DAYS[-1]), assets=BOTH).success
    verdicts = world.evaluations(DOT, NOTHING_ODD, "quality")
    assert {key: each.passed for key, each in verdicts.items()} == {Job(DOT, day).key: True for day in DAYS}
    for day in DAYS:
        seen = world.metadata(Job(DOT, day), "quality")
        manifest = world.lake.manifest(DOT, day)
        assert manifest is not None
        assert (seen["dagster/row_count"], seen["suspicious"], seen["by rule"]) == (0, 0, {})
        assert seen["said"] == f"Nothing odd in {manifest.rows:,} trades."
        assert seen["picture"].startswith("![")
        assert seen["file"] == world.lake.path("findings", DOT, day)


def test_a_fat_finger_is_a_warning_that_stops_nothing(world: World) -> None:
    assert world.run(JOB, assets=("trades",)).success
    wrong = with_a_fat_finger(world)
    result = world.run(JOB, assets=("quality",))
    assert result.success
    verdict = world.evaluations(DOT, NOTHING_ODD, "quality")[JOB.key]
    assert (verdict.passed, verdict.blocking, verdict.severity.value) == (False, False, "WARN")
    assert verdict.description == "1 x fat finger."
    seen = world.metadata(JOB, "quality")
    assert seen["by rule"] == {"fat finger": 1}
    assert f"| fat finger | {day_time(world, wrong)} | {wrong} |" in seen["first findings"]
    entries = lake_ledger.read(world.lake)
    assert entries.select("subject", "reason", "run_id").rows() == [("quality", "fat finger", result.run_id)]
    assert world.run(JOB, assets=("quality",)).success
    assert len(lake_ledger.read(world.lake)) == 1


def test_findings_of_other_trades_than_the_lake_holds_say_nothing_of_the_day(world: World) -> None:
    assert judged(world.platform, JOB).sentence == "Nobody has looked at this day."
    assert world.run(JOB, assets=BOTH).success
    assert judged(world.platform, JOB).passed
    manifest = world.lake.manifest(DOT, DAYS[0])
    assert manifest is not None
    trades = world.lake.read_trades(DOT, *day_window(DAYS[0]))
    world.lake.write_trades(DOT, DAYS[0], trades, replace(manifest, content_hash="sha256:other"))
    verdict = judged(world.platform, JOB)
    assert (verdict.passed, verdict.notable) == (False, True)
    assert "other trades" in verdict.sentence


def test_the_check_of_the_trades_shows_what_speaks_for_the_day(world: World) -> None:
    assert world.run(JOB, assets=("exchange_candles",)).success
    assert world.run(JOB, assets=("trades",)).success
    verdict = world.evaluations(DOT, COMPLETE, "trades")[JOB.key]
    said = str(verdict.metadata["evidence"].value).splitlines()
    kinds = [line.partition(":")[0] for line in said]
    assert kinds == ["- ids agrees", "- asked agrees", "- trade count agrees", "- volume agrees"]


def day_time(world: World, trade_id: int) -> str:
    trades = world.lake.read_trades(DOT, *day_window(DAYS[0])).filter(pl.col("trade_id") == trade_id)
    return str(trades["time"][0].strftime("%H:%M:%S.%f").rstrip("0").rstrip("."))


def test_a_day_that_the_lake_lacks_fails_alone(world: World) -> None:
    assert world.run(JOB, assets=("trades",)).success
    assert not world.run(JOB, Job(DOT, DAYS[1]), assets=("quality",)).success
    assert world.lake.findings_facts(DOT, DAYS[0]) is not None
    assert world.lake.findings_facts(DOT, DAYS[1]) is None


def test_the_daily_schedule_of_each_exchange_looks_for_what_is_odd(world: World) -> None:
    for exchange in (DOT.exchange, USDT.exchange):
        schedule = world.definitions.resolve_schedule_def(f"{exchange}_daily")
        job = world.definitions.resolve_job_def(schedule.job_name)
        assert "quality" in {key.path[-1] for key in job.asset_layer.selected_asset_keys}
