"""Assets and checks, run in this process against a local exchange."""

from datetime import date

import dagster as dg
import pytest

from marketdata.lake.paths import Part
from marketdata_dagster.checks import AGREE, COMPLETE
from marketdata_dagster.defs.partitions import Job
from tests.dagster.conftest import DAYS, DOT, LTC, USDT, World


def test_a_run_over_days_gives_each_day_its_own_metadata_and_checks(world: World) -> None:
    assert world.run(Job(DOT, DAYS[0]), Job(DOT, DAYS[-1])).success
    wanted = {Job(DOT, day).key for day in DAYS}
    for asset in ("trades", "candles", "exchange_candles"):
        key = dg.AssetKey(["kraken", asset])
        assert world.instance.get_materialized_partitions(key) == wanted
    complete = world.evaluations(DOT, COMPLETE, "trades")
    agree = world.evaluations(DOT, AGREE, "candles")
    assert set(complete) == set(agree) == wanted
    assert all(each.passed for each in [*complete.values(), *agree.values()])
    assert all(each.target_materialization_data for each in [*complete.values(), *agree.values()])
    for day in DAYS:
        manifest = world.lake.manifest(DOT, day)
        assert manifest is not None
        seen = world.metadata(Job(DOT, day), "trades")
        assert seen["dagster/row_count"] == manifest.rows
        assert seen["content hash"] == manifest.content_hash
        assert (seen["pages"], seen["percent of the day"]) == (manifest.pages, 100.0)
        assert seen["file"] == world.lake.path("trades", DOT, day)
        assert seen["bytes"] == world.lake.size("trades", DOT, day)
        assert seen["picture"].startswith("![")


def test_a_single_day_works_like_a_range(world: World) -> None:
    job = Job(USDT, DAYS[0])
    assert world.run(job).success
    assert set(world.evaluations(USDT, COMPLETE, "trades")) == {job.key}


def test_days_of_several_symbols_fit_in_one_run(world: World) -> None:
    assert world.run(Job(DOT, DAYS[0]), Job(LTC, DAYS[0])).success
    assert set(world.evaluations(DOT, COMPLETE, "trades")) == {Job(m, DAYS[0]).key for m in (DOT, LTC)}


def test_fetching_a_day_again_gives_the_identical_file(world: World) -> None:
    job = Job(DOT, DAYS[0])
    path = world.lake.storage.local(Part("trades", DOT, DAYS[0]).key)
    assert world.run(job).success
    before = path.read_bytes()
    config = {"ops": {"kraken__trades": {"config": {"refresh": True}}}}
    assert world.run(job, run_config=config).success
    assert path.read_bytes() == before
    assert world.metadata(job, "trades")["rows per second"] > 0


def test_a_complete_day_is_not_asked_for_again(world: World) -> None:
    assert world.run(Job(DOT, DAYS[0])).success
    world.exchange.faults([{"kind": "500", "match": "Trades"}])
    assert world.run(Job(DOT, DAYS[0]), assets=("trades", "candles")).success


def test_a_run_with_a_range_and_a_single_partition_fails_and_says_why(world: World) -> None:
    both = {"dagster/partition/date": str(DAYS[0]), "dagster/partition/symbol": "DOT-USD"}
    result = world.run(Job(DOT, DAYS[0]), Job(DOT, DAYS[-1]), tags=both)
    assert not result.success
    failures = [event for event in result.all_events if event.is_step_failure]
    assert any("range of partitions" in str(event.step_failure_data.user_failure_data) for event in failures)
    assert world.lake.days() == {}


def test_one_bad_day_fails_alone_and_the_good_ones_stay_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETDATA_REQUEST_ATTEMPTS", "1")
    monkeypatch.setattr("marketdata_dagster.settle._MAX_RETRIES", 0)
    since = str(date.toordinal(DAYS[1]) - date(1970, 1, 1).toordinal())
    begin = int(since) * 86_400
    world.exchange.faults([{"kind": "reply", "match": f"Trades.*since={str(begin - 1)[:7]}", "body": {}}])
    result = world.run(Job(DOT, DAYS[0]), Job(DOT, DAYS[-1]), assets=("trades",))
    assert not result.success
    known = world.instance.get_materialized_partitions(dg.AssetKey(["kraken", "trades"]))
    assert known == {Job(DOT, DAYS[0]).key, Job(DOT, DAYS[2]).key}


def test_ids_the_exchange_does_not_serve_are_shown_and_do_not_block_the_day(world: World) -> None:
    assert world.run(Job(DOT, DAYS[0])).success
    manifest = world.lake.manifest(DOT, DAYS[0])
    assert manifest is not None
    assert manifest.first_id is not None
    hidden = (manifest.first_id + 10, manifest.first_id + 12)
    world.exchange.hide(str(DOT), [hidden])
    config = {"ops": {"kraken__trades": {"config": {"refresh": True}}}}
    world.lake.storage.delete(Part("trades", DOT, DAYS[0]).key)
    assert world.run(Job(DOT, DAYS[0]), run_config=config).success
    evaluation = world.evaluations(DOT, COMPLETE, "trades")[Job(DOT, DAYS[0]).key]
    assert evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    assert f"{hidden[0]}-{hidden[1]}" in (evaluation.description or "")
    differing = world.evaluations(DOT, AGREE, "candles")[Job(DOT, DAYS[0]).key]
    assert not differing.passed
