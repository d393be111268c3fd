"""The real daemon, webserver and code server, with a local exchange beside them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import dagster as dg
import pytest
from dagster._core.storage.tags import BACKFILL_ID_TAG

from marketdata.lake import Lake
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata_dagster.checks import COMPLETE
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.stack import LocalStack
from tests.dagster.quiet import stop_what_the_clock_starts

pytestmark = pytest.mark.daemon

BTC = Market.parse("kraken:BTC/USD")
DOT = Market.parse("kraken:DOT/USD")
LTC = Market.parse("binance:LTC/USDT")
END = datetime.now(UTC).date() - timedelta(days=2)
# Each page takes a while, so that there is time to kill a run; the fault also counts the requests.
SLOW = {"kind": "latency", "match": "public/Trades", "seconds": 0.2}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    folder = tmp_path_factory.mktemp("stack")
    markets = folder / "markets.toml"
    markets.write_text(
        "\n".join(
            f'[[market]]\nexchange = "{m.exchange}"\nsymbol = "{m.symbol}"\nsince = 2026-01-01\n'
            for m in (BTC, DOT, LTC)
        )
    )
    settings = Settings.load(home=folder / "home", markets=markets)
    # No day is asked for but by the tests: what is missing is not looked for.
    quick = {"MARKETDATA_REQUEST_INTERVAL_MS": "0", "MARKETDATA_REPAIR_DAYS": "0"}
    with LocalStack(
        settings, exchange_arguments=["--faults", json.dumps([SLOW])], environment=quick
    ) as running:
        yield running


@pytest.fixture(scope="module")
def instance(stack: LocalStack) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(stack.variables["DAGSTER_HOME"]) as found:
        yield found


def lake(stack: LocalStack) -> Lake:
    return Lake.open(stack.settings.lake_url, settings=stack.settings)


def until(happened: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not after {seconds} s"
        time.sleep(0.1)


def requests(stack: LocalStack) -> int:
    """How many pages of trades the exchange was asked for."""
    with urlopen(f"{stack.urls.exchange}/control/faults", timeout=60) as answer:
        return int(json.load(answer)[0]["matched"])


def process_of(instance: dg.DagsterInstance, run_id: str) -> int:
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    pids = [e.get_dagster_event().engine_event_data.metadata.get("pid") for e in events]
    return int(next(str(pid.value) for pid in pids if pid is not None))


def test_schedules_and_the_sensor_run_without_being_switched_on(
    stack: LocalStack, instance: dg.DagsterInstance
) -> None:
    query = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
        schedules { name scheduleState { status } } sensors { name sensorState { status } }
        jobs { name } } } } }"""
    (found,) = stack.graphql.ask(query)["repositoriesOrError"]["nodes"]
    states = {each["name"]: each["scheduleState"]["status"] for each in found["schedules"]}
    states |= {each["name"]: each["sensorState"]["status"] for each in found["sensors"]}
    assert {"binance_daily", "kraken_daily", "lake_arrivals", "gaps", "sweep"} <= set(states)
    assert set(states.values()) == {"RUNNING"}


def test_a_killed_run_goes_on_at_the_page_where_it_stopped(
    stack: LocalStack, instance: dg.DagsterInstance
) -> None:
    stop_what_the_clock_starts(stack.graphql)
    until(lambda: all(run.is_finished for run in instance.get_runs()))
    before = requests(stack)
    start = END - timedelta(days=2)
    backfill = stack.graphql.launch_backfill([BTC], start, END, assets=("trades", "candles"))
    staging = Path(stack.variables["MARKETDATA_LAKE"]) / "_staging"
    started = dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill}, statuses=[dg.DagsterRunStatus.STARTED])
    until(lambda: bool(instance.get_runs(started)))
    (run,) = instance.get_runs(started)
    process = process_of(instance, run.run_id)
    until(lambda: len(list(staging.rglob("page-*.arrow"))) >= 20)
    os.kill(process, signal.SIGKILL)
    kept = len(list(staging.rglob("page-*.arrow")))
    until(lambda: _failed(instance, run.run_id))
    ended = stack.graphql.wait(backfill, timeout_s=400)
    assert ended.succeeded
    assert (ended.targeted, ended.materialized) == (4, 4)
    manifests = [lake(stack).manifest(BTC, start + timedelta(days=n)) for n in range(2)]
    pages = sum(manifest.pages for manifest in manifests if manifest is not None)
    assert kept >= 20
    # What was on its way when the run was killed is asked for again: one page a day at most.
    assert pages <= requests(stack) - before <= pages + 2


def _failed(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and run.status is dg.DagsterRunStatus.FAILURE


def test_a_day_from_the_command_line_appears_by_itself(
    stack: LocalStack, instance: dg.DagsterInstance
) -> None:
    job = Job(DOT, END - timedelta(days=1))
    command = [str(Path(sys.executable).with_name("marketdata")), "backfill", str(DOT)]
    days = ["--start", str(job.day), "--end", str(END)]
    subprocess.run([*command, *days], env=stack.variables, check=True, capture_output=True, timeout=300)
    trades = dg.AssetKey(["kraken", "trades"])
    until(lambda: job.key in instance.get_materialized_partitions(trades))
    check = dg.AssetCheckKey(trades, COMPLETE)
    until(lambda: bool(_passed(instance, check, job)))


def _passed(instance: dg.DagsterInstance, check: dg.AssetCheckKey, job: Job) -> bool:
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=100)
    events = [record.event.get_dagster_event() for record in history if record.event]
    return any(
        event.asset_check_evaluation_data.partition == job.key and event.asset_check_evaluation_data.passed
        for event in events
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
    )


def test_an_exchange_is_asked_by_one_run_at_a_time(stack: LocalStack, instance: dg.DagsterInstance) -> None:
    pools = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    assert pools == {"kraken": 1, "binance": 1}


def test_everything_that_was_started_is_stopped(stack: LocalStack) -> None:
    groups = list(stack.pids.values())
    stack.stop()
    until(lambda: not any(_lives(path, groups) for path in Path("/proc").glob("[0-9]*")))


def _lives(process: Path, groups: list[int]) -> bool:
    """Whether a process is of one of these groups and is not merely waiting to be forgotten."""
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return state[0] != "Z" and int(state[2]) in groups
