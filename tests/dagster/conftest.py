"""A code location over small markets, a local exchange, and an instance that lives as long as the test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from marketdata import sources
from marketdata.exchange_sim import RunningExchange
from marketdata.lake import Lake
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata_dagster.definitions import build
from marketdata_dagster.defs.partitions import RANGE_END, RANGE_START, Job
from marketdata_dagster.defs.resources import Platform

# About 400 and 2,000 trades a day on the local exchange: a day is a page or three.
DOT = Market.parse("kraken:DOT/USD")
LTC = Market.parse("kraken:LTC/USD")
USDT = Market.parse("binance:LTC/USDT")
NOW = datetime(2026, 6, 20, 12, tzinfo=UTC)
DAYS = [date(2026, 6, 17), date(2026, 6, 18), date(2026, 6, 19)]
ALL = ("trades", "candles", "exchange_candles")


def market_file(folder: Path) -> Path:
    """A market file of the three small markets."""
    path = folder / "markets.toml"
    tables = (
        f'[[market]]\nexchange = "{m.exchange}"\nsymbol = "{m.symbol}"\nsince = 2026-01-01\n'
        for m in (DOT, LTC, USDT)
    )
    path.write_text("\n".join(tables), "utf-8")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name Dagster's own warnings; everything else stays an error."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::dagster.BetaWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning"))


class FixedPlatform(Platform):
    """The platform at noon of 2026-06-20, UTC."""

    def now(self) -> datetime:
        """Always the same."""
        return NOW


@dataclass
class World:
    """A code location, its lake, its exchange and its instance."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    exchange: RunningExchange
    platform: Platform

    @property
    def lake(self) -> Lake:
        """The lake."""
        return self.platform.lake

    def run(
        self, first: Job, last: Job | None = None, assets: tuple[str, ...] = ALL, **options: Any
    ) -> dg.ExecuteInProcessResult:
        """One run over a day, or over ``first..last`` of one exchange as a backfill launches it."""
        tags = {} if last is None else {RANGE_START: first.key, RANGE_END: last.key}
        return dg.materialize(
            [*(self.definitions.assets or ()), *(self.definitions.asset_checks or ())],  # type: ignore[list-item]
            instance=self.instance,
            resources={"platform": self.platform},
            selection=[dg.AssetKey([first.market.exchange, asset]) for asset in assets],
            tags=tags | options.pop("tags", {}),
            partition_key=first.key if last is None else None,
            raise_on_error=False,
            **options,
        )

    def evaluations(self, market: Market, check: str, asset: str) -> dict[str, dg.AssetCheckEvaluation]:
        """The latest evaluation of each partition."""
        key = dg.AssetCheckKey(dg.AssetKey([market.exchange, asset]), check)
        history = self.instance.event_log_storage.get_asset_check_execution_history(key, limit=1000)
        found: dict[str, dg.AssetCheckEvaluation] = {}
        for record in reversed(history):
            event = record.event.dagster_event if record.event else None
            if event is not None and event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                evaluation = event.asset_check_evaluation_data
                found[str(evaluation.partition)] = evaluation
        return found

    def metadata(self, job: Job, asset: str) -> dict[str, Any]:
        """Metadata of the latest materialisation, as plain values."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey([job.market.exchange, asset]), asset_partitions=[job.key]), 1
        ).records
        found = records[0].asset_materialization
        assert found is not None
        return {name: value.value for name, value in found.metadata.items()}


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange_server: Callable[..., RunningExchange]
) -> Iterator[World]:
    """Everything, with nothing in the lake yet."""
    exchange = exchange_server(now=NOW)
    variables = exchange.environment | {
        "MARKETDATA_HOME": str(tmp_path),
        "MARKETDATA_MARKETS": str(market_file(tmp_path)),
        "MARKETDATA_REQUEST_INTERVAL_MS": "0",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    definitions = build(Settings.load().tracked)
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(definitions, instance, exchange, FixedPlatform())
    sources.close()
