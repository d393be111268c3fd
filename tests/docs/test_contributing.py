"""The diffs in docs/contributing.md apply to the code, and what they add works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from marketdata.exchange_sim import RunningExchange, SimConfig
from marketdata.lake import Lake
from tests.cli.lakes import BTC, DAY, put_day
from tests.conftest import ROOT
from tests.docs.blocks import blocks

DIFFS = {
    block.text: str(block) for block in blocks(ROOT / "docs" / "contributing.md") if block.language == "diff"
}
EXCHANGE, INTERVAL, CHECK = DIFFS


def patched(diff: str, folder: Path) -> Path:
    """A copy of the code with the diff applied."""
    for package in ("marketdata", "marketdata_dagster"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "-"], cwd=folder, input=diff, text=True, check=True, timeout=300)
    return folder


def run(program: str, folder: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MARKETDATA_")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=300,
        env={**kept, "PYTHONPATH": str(folder), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_each_diff_is_in_the_form_of_the_house(tmp_path: Path) -> None:
    for number, diff in enumerate(DIFFS):
        folder = patched(diff, tmp_path / str(number))
        changed = [
            folder / line[6:] for line in diff.splitlines() if line.startswith("+++ b/") and ".py" in line
        ]
        for command in (["check", "--quiet"], ["format", "--check", "--quiet"]):
            ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml")]
            subprocess.run([*ruff, *map(str, changed)], check=True, timeout=300)


def test_a_new_exchange_serves_the_trades_of_a_day_and_is_tracked(tmp_path: Path) -> None:
    program = """
from datetime import UTC, date, datetime
from marketdata import sources
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.sources.base import CandleSource, TradeSource
from marketdata.sources.client import Client

settings = Settings.load()
market = Market("binanceus", "BTC/USDT")
assert market in [entry.market for entry in settings.tracked]
source = sources.trade_source(market, date(2025, 6, 1), settings, datetime.now(UTC))
assert isinstance(source, TradeSource) and source.exchange == "binanceus" and source.sequential_ids
assert isinstance(sources.candle_source("binanceus", settings), CandleSource)
# The same API: the local exchange speaks it as Binance.
there = type(source)(Client("binance", settings))
start, end = datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 1, 1, tzinfo=UTC)
print(sum(len(page.trades) for page in there.pages(market, start, end)))
"""
    folder = patched(EXCHANGE, tmp_path)
    with RunningExchange(SimConfig()) as exchange:
        rows = run(program, folder, MARKETDATA_REQUEST_INTERVAL_MS="0", **exchange.environment)
    assert int(rows) > 100


def test_a_new_interval_is_folded_read_and_known_to_sql(tmp_path: Path) -> None:
    program = """
from datetime import UTC, datetime
from marketdata import reading
from marketdata.lake import Lake, duck
from marketdata.market import Market

lake = Lake.open("lake")
day = datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 2, tzinfo=UTC)
print(len(reading.candles(lake, Market("kraken", "BTC/USD"), "2h", *day)))
print(duck.connect(lake).sql("SELECT count(*) FROM candles WHERE interval = '2h'").fetchall()[0][0])
"""
    put_day(Lake.open(str(tmp_path / "lake")), BTC, DAY)
    assert run(program, patched(INTERVAL, tmp_path)).split() == ["12", "12"]


def test_a_new_check_finds_what_it_is_for_and_is_on_every_exchange(tmp_path: Path) -> None:
    program = """
import polars as pl
from marketdata.fold import fold
from marketdata.interval import from_us
from marketdata.quality import price_jumps
from marketdata.trade import TRADE_SCHEMA
from marketdata_dagster.definitions import defs

trades = pl.DataFrame(
    {
        "trade_id": [1, 2, 3],
        "time": [from_us(n * 60_000_000) for n in (1, 2, 3)],
        "price": [10.0, 10.5, 105.0],
        "amount": [1.0] * 3,
        "side": ["buy"] * 3,
        "fills": [1] * 3,
    },
    schema=TRADE_SCHEMA,
)
found = price_jumps(fold(trades, "1m"))
assert found["trade_id"].to_list() == [3] and found["value"].to_list() == [9.0]
names = [spec.name for checks in defs.asset_checks for spec in checks.check_specs]
print(names.count("prices_do_not_jump"))
"""
    assert run(program, patched(CHECK, tmp_path)).strip() == "2"
