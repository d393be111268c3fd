"""Backfills through Dagster's own daemon and webserver, launched by the UI's call.

A week of six markets as ``make demo`` loads it; a year of seven quiet markets with 50 ms before each answer
of the exchange; a run killed in the middle. ``python -m bench.orchestration [week|year|kill]`` runs parts.
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import dagster as dg

from bench.table import Row
from marketdata import exchange_sim
from marketdata.errors import PermanentError
from marketdata.exchange_sim.listing import LISTINGS as LISTED
from marketdata.exchange_sim.listing import day_number
from marketdata.lake import Lake
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata_dagster.checks import AGREE, COMPLETE
from marketdata_dagster.graphql import ASSETS
from marketdata_dagster.stack import LocalStack

# Markets of about a hundred trades a day, so that what is measured is the orchestration.
LISTINGS = tuple(
    replace(listing, rate=100)
    for listing in LISTED
    if listing.market
    in {
        "kraken:ETH/EUR",
        "kraken:LTC/USD",
        "kraken:ADA/USD",
        "kraken:DOT/USD",
        "binance:LTC/USDT",
        "binance:DOGE/USDT",
        "binance:BTC/EUR",
    }
)
QUIET = tuple(Market.parse(listing.market) for listing in LISTINGS)
LATENCY_MS = 50


def run() -> list[Row]:
    """All parts."""
    return [*week(), *year(), *kill()]


def week() -> list[Row]:
    """Seven days of the six markets of the market file."""
    markets = [entry.market for entry in Settings.load().tracked]
    end = datetime.now(UTC).date()
    with _stack(markets, end - timedelta(days=7)) as stack:
        seconds = _backfill(stack, markets, end - timedelta(days=7), end)
        rows = sum(manifest.rows for manifest in _lake(stack).manifests())
    what = f"backfill of 7 days x {len(markets)} markets, {rows / 1e6:.1f} million trades"
    return [Row(what, seconds, "s", "<= 60", note="SQLite; from the launch to 'Succeeded'")]


def year(days: int = 365) -> list[Row]:
    """A year of seven quiet markets; every day must have its own materialisation, metadata and checks."""
    end = datetime.now(UTC).date()
    start = end - timedelta(days=days)
    listings = tuple(replace(listing, first_day=day_number(start)) for listing in LISTINGS)
    quiet = exchange_sim.SimConfig(listings=listings, latency_ms=LATENCY_MS)
    with (
        exchange_sim.RunningExchange(quiet) as exchange,
        _stack(QUIET, start, environment=exchange.environment) as stack,
    ):
        seconds = _backfill(stack, QUIET, start, end)
        with dg.DagsterInstance.from_config(stack.variables["DAGSTER_HOME"]) as instance:
            _verify(instance, days)
            runs = instance.get_runs_count()
    what = f"backfill of {days} days x {len(QUIET)} markets, {LATENCY_MS} ms an answer"
    return [Row(what, seconds, "s", "<= 120", note=f"SQLite; {days * 7:,} days in {runs} runs")]


def kill(days: int = 60) -> list[Row]:
    """A run killed in the middle: how many pages were asked for twice."""
    end = datetime.now(UTC).date()
    start = end - timedelta(days=days)
    market = Market.parse("kraken:LTC/USD")
    count = json.dumps([{"kind": "latency", "match": "public/Trades", "seconds": LATENCY_MS / 1000}])
    with _stack([market], start, arguments=["--faults", count]) as stack:
        backfill = stack.graphql.launch_backfill([market], start, end, assets=("trades",))
        lake = _lake(stack)
        while len(lake.days().get(market, [])) < days // 4:
            time.sleep(0.1)
        with dg.DagsterInstance.from_config(stack.variables["DAGSTER_HOME"]) as instance:
            (running,) = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
            events = instance.all_logs(running.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        pids = [event.get_dagster_event().engine_event_data.metadata.get("pid") for event in events]
        os.kill(int(next(str(pid.value) for pid in pids if pid is not None)), signal.SIGKILL)
        killed, kept = time.monotonic(), len(lake.days()[market])
        _succeeded(stack, backfill)
        seconds = time.monotonic() - killed
        with urlopen(f"{stack.urls.exchange}/control/faults", timeout=10) as answer:
            asked = int(json.load(answer)[0]["matched"])
        pages = sum(manifest.pages for manifest in lake.manifests())
    note = f"{kept} of {days} days were done; noticed, started again and ended {seconds:.0f} s later"
    return [Row("pages fetched twice after kill -9 of a run", asked - pages, "pages", "<= 8", note=note)]


@contextmanager
def _stack(
    markets: Sequence[Market],
    since: date,
    *,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[LocalStack]:
    """The stack over these markets; with an exchange of its own unless ``environment`` names one."""
    with tempfile.TemporaryDirectory(prefix="bench-orchestration-") as folder:
        file = Path(folder) / "markets.toml"
        tables = (
            f'[[market]]\nexchange = "{m.exchange}"\nsymbol = "{m.symbol}"\nsince = {since}\n'
            for m in markets
        )
        file.write_text("\n".join(tables))
        with LocalStack(
            Settings.load(home=Path(folder) / "home", markets=file),
            exchange=environment is None,
            exchange_arguments=arguments,
            environment={"MARKETDATA_REQUEST_INTERVAL_MS": "0", **(environment or {})},
        ) as stack:
            yield stack


def _backfill(stack: LocalStack, markets: Sequence[Market], start: date, end: date) -> float:
    began = time.monotonic()
    _succeeded(stack, stack.graphql.launch_backfill(markets, start, end))
    return time.monotonic() - began


def _succeeded(stack: LocalStack, backfill: str) -> None:
    ended = stack.graphql.wait(backfill, timeout_s=900)
    if not ended.succeeded:
        msg = f"The backfill ended as {ended.status}: {ended.failed} of {ended.targeted} partitions failed."
        raise PermanentError(msg)


def _verify(instance: dg.DagsterInstance, days: int) -> None:
    """Stop unless each day has its own materialisation, metadata and checks, and all checks have passed."""
    for exchange in {market.exchange for market in QUIET}:
        markets = [market for market in QUIET if market.exchange == exchange]
        wanted = days * len(markets)
        for asset in ASSETS:
            found = len(instance.get_materialized_partitions(dg.AssetKey([exchange, asset])))
            assert found == wanted, (exchange, asset, found, wanted)
        for asset, name in (("trades", COMPLETE), ("candles", AGREE)):
            key = dg.AssetCheckKey(dg.AssetKey([exchange, asset]), name)
            passed = {
                event.asset_check_evaluation_data.partition
                for record in instance.event_log_storage.get_asset_check_execution_history(key, 100_000)
                if record.event and (event := record.event.get_dagster_event())
                if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
                and event.asset_check_evaluation_data.passed
            }
            assert len(passed) == wanted, (exchange, name, len(passed), wanted)


def _lake(stack: LocalStack) -> Lake:
    return Lake.open(stack.variables["MARKETDATA_LAKE"], settings=stack.settings)


if __name__ == "__main__":
    parts = {"week": week, "year": year, "kill": kill}
    for name in sys.argv[1:] or parts:
        for row in parts[name]():
            print(*row.cells(), sep="  |  ")
