"""Alerts by real ticks on a real instance, to a real server: each once, none lost, with a link."""

from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest

from marketdata.ledger import Entry, Event, State
from marketdata.manifest import day_window
from marketdata.recording import record
from marketdata_dagster.checks import COMPLETE
from marketdata_dagster.defs.partitions import Job
from tests.dagster.conftest import DAYS, DOT, NOW, FixedPlatform, World
from tests.webhook import SECRET, Webhook


@pytest.fixture
def told(world: World, webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world with a webhook and a UI."""
    monkeypatch.setenv("MARKETDATA_ALERT_WEBHOOK", webhook.url)
    monkeypatch.setenv("MARKETDATA_DAGSTER_URL", "http://127.0.0.1:3000")
    return World(world.definitions, world.instance, world.exchange, FixedPlatform())


def tick(world: World, cursor: str | None = None) -> tuple[str, str]:
    sensor = world.definitions.resolve_sensor_def("alerts")
    context = dg.build_sensor_context(
        instance=world.instance, cursor=cursor, resources={"platform": world.platform}
    )
    data = sensor.evaluate_tick(context)
    assert not data.run_requests
    return str(data.skip_message), str(data.cursor)


def evaluate(world: World, *jobs: Job, passed: bool = False, why: str = "Ids are missing: 5-7.") -> None:
    for job in jobs:
        world.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(["kraken", "trades"]),
                check_name=COMPLETE,
                partition=job.key,
                passed=passed,
                description=why,
            )
        )


def damaged_run(world: World, job: Job) -> dg.ExecuteInProcessResult:
    """A run that finds fewer trades in the file than there were, under a manifest that says complete."""
    if world.lake.manifest(job.market, job.day) is None:
        assert world.run(job, assets=("trades", "candles")).success
    manifest = world.lake.manifest(job.market, job.day)
    trades = world.lake.read_trades(job.market, *day_window(job.day)).head(100)
    assert manifest is not None
    world.lake.write_trades(job.market, job.day, trades, replace(manifest, rows=len(trades)))
    return world.run(job, assets=("trades", "candles"))


def given_up(job: Job, reason: str = "incomplete") -> Entry:
    start = NOW.replace(hour=0).replace(month=job.day.month, day=job.day.day)
    return Entry(
        at=NOW - timedelta(minutes=1),
        event=Event.OUTCOME,
        state=State.EXHAUSTED,
        market=job.market,
        subject="trades",
        reason=reason,
        start=start,
        end=start + timedelta(days=1),
        detail="3 trades are missing: ids 5 to 7.",
        attempt=5,
    )


def test_the_sensor_runs_by_default_every_half_minute(world: World) -> None:
    sensor = world.definitions.resolve_sensor_def("alerts")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30


def test_a_check_that_failed_in_a_run_is_told_once_with_a_link_to_its_partition(
    told: World, webhook: Webhook
) -> None:
    job = Job(DOT, DAYS[0])
    assert told.run(job, assets=("trades",)).success
    assert tick(told)[0] == "Nothing new to tell."
    assert not damaged_run(told, job).success
    said, cursor = tick(told)
    (text,) = webhook.texts
    assert said == "Alerts that went out: 1."
    assert text.startswith(f"ERROR kraken:DOT/USD {DAYS[0]} trades: the check {COMPLETE} failed: ")
    assert text.endswith(f" http://127.0.0.1:3000/assets/kraken/trades?partition={DAYS[0]}%7CDOT-USD")
    assert tick(told, cursor)[0] == tick(told, None)[0] == "Nothing new to tell."
    assert len(webhook.seen) == 1


def test_a_check_that_passes_is_not_told(told: World, webhook: Webhook) -> None:
    evaluate(told, Job(DOT, DAYS[0]), passed=True)
    tick(told)
    assert webhook.seen == []


def test_a_check_that_fails_again_for_the_same_reason_is_not_told_again_that_day(
    told: World, webhook: Webhook
) -> None:
    for _ in range(2):
        assert not damaged_run(told, Job(DOT, DAYS[0])).success
        tick(told)
    assert len(webhook.seen) == 1


def test_many_failures_of_one_check_are_one_message(told: World, webhook: Webhook) -> None:
    jobs = [Job(DOT, NOW.date() - timedelta(days=n)) for n in range(1, 31)]
    evaluate(told, *jobs[:20])
    _, cursor = tick(told)
    evaluate(told, *jobs[20:])
    tick(told, cursor)
    assert [text.partition(" failed for ")[2].partition(": ")[0] for text in webhook.texts] == [
        "20 partitions",
        "10 partitions",
    ]
    assert [text.count("|DOT-USD: Ids are missing") for text in webhook.texts] == [5, 5]


def test_a_repair_that_was_given_up_is_told_once_though_nothing_of_the_tick_was_kept(
    told: World, webhook: Webhook
) -> None:
    record(told.platform.settings, told.lake, [given_up(Job(DOT, DAYS[0]))])
    assert tick(told)[0] == "Alerts that went out: 1."
    assert tick(told)[0] == "Nothing new to tell."
    (text,) = webhook.texts
    assert f"kraken:DOT/USD {DAYS[0]}: trades incomplete, given up after 5 attempts" in text
    assert "marketdata repairs --case " in text
    assert f"partition={DAYS[0]}%7CDOT-USD" in text


def test_what_the_webhook_does_not_take_is_told_at_the_next_tick(told: World, webhook: Webhook) -> None:
    webhook.status = 503
    record(told.platform.settings, told.lake, [given_up(Job(DOT, DAYS[0]))])
    _, cursor = tick(told)
    assert tick(told, cursor)[0] == "Nothing new to tell."
    webhook.status = 200
    assert tick(told, cursor)[0] == "Alerts that went out: 1."
    assert len(webhook.seen) == 3


def test_the_secret_is_in_no_event_and_no_log(
    told: World, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.status = 404
    evaluate(told, Job(DOT, DAYS[0]))
    said, cursor = tick(told)
    assert SECRET not in said + cursor + caplog.text
    assert "HTTP 404" in caplog.text
