"""What docs/lake.md and docs/duckdb.md show, run as it stands there."""

from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from marketdata.completeness import content_hash
from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.lake.duck import connect
from tests.conftest import ROOT
from tests.docs.blocks import Block, blocks
from tests.lake.world import BTC, DAY, NEXT, manifest_of, trades_of

DUCKDB, LAKE = ROOT / "docs" / "duckdb.md", ROOT / "docs" / "lake.md"
SHOWN = [block for page in (DUCKDB, LAKE) for block in blocks(page)]
TRADES = pl.concat([trades_of(DAY), trades_of(NEXT)])


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake of two days where the documents look for it."""
    monkeypatch.chdir(tmp_path)
    lake = Lake.open(".marketdata/lake")
    for day in (DAY, NEXT):
        trades = trades_of(day)
        lake.write_trades(BTC, day, trades, manifest_of(BTC, day, trades))
        lake.write_candles(BTC, day, "1m", fold(trades), facts={"trades": content_hash(trades)})
    lake.write_candles(BTC, DAY, "5m", fold(trades_of(DAY), "5m"), kind="exchange_candles")
    return lake


@pytest.mark.parametrize("block", [b for b in SHOWN if b.language == "sql"], ids=str)
def test_a_query_of_the_documents_runs(lake: Lake, block: Block) -> None:
    if "read_parquet" in block.text or "parquet_kv" in block.text:
        rows = duckdb.sql(block.text.rstrip().rstrip(";")).fetchall()
        assert len(rows) in {2, 24, len(fold(TRADES))}
    else:
        with connect(lake) as sql:
            rows = sql.sql(block.text.rstrip().rstrip(";")).fetchall()
        assert rows == ([] if "theirs" in block.text else [("BTC/USD", 2, 2, 6000)])


@pytest.mark.parametrize("block", [b for b in SHOWN if b.language == "python"], ids=str)
def test_python_of_the_documents_runs(lake: Lake, block: Block) -> None:
    names: dict[str, Any] = {}
    exec(block.text, names)
    assert names["hours"]["open_time"].to_list() == fold(trades_of(DAY), "1h")["open_time"].to_list()
    if "trades" in names:
        assert names["trades"].equals(trades_of(DAY))
        assert len(names["even"]) <= 1440
        assert names["manifest"] == lake.manifest(BTC, DAY)


def test_the_plain_query_gives_our_candles(lake: Lake) -> None:
    (first, *_) = [block for block in SHOWN if block.language == "sql"]
    found = duckdb.sql(first.text.rstrip().rstrip(";")).pl()
    hours = fold(trades_of(DAY), "1h")
    for name in ("open", "high", "low", "close"):
        assert found[name].to_list() == hours[name].to_list()
