"""What docs/provider.md shows, run as it stands there, one block after the other."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from marketdata import Provider, errors
from marketdata.completeness import content_hash
from marketdata.fold import fold
from marketdata.lake import Lake
from tests.conftest import ROOT
from tests.docs.blocks import blocks
from tests.lake.world import BTC, manifest_of, trades_of

PAGE = ROOT / "docs" / "provider.md"


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """The first seven days of June where the page looks for them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARKETDATA_DATABASE_URL", raising=False)
    lake = Lake.open(".marketdata/lake")
    for n in range(7):
        day = date(2025, 6, 1) + timedelta(days=n)
        trades = trades_of(day, 2_000, quiet=(3.0, 5.0))
        lake.write_trades(BTC, day, trades, manifest_of(BTC, day, trades))
        lake.write_candles(BTC, day, "1m", fold(trades), facts={"trades": content_hash(trades)})
    return lake


def test_the_blocks_of_the_page_work_in_their_order(lake: Lake) -> None:
    shown = [block for block in blocks(PAGE) if block.language == "python"]
    assert len(shown) >= 5
    names: dict[str, Any] = {}
    for block in shown:
        exec(compile(block.text, str(block), "exec"), names)
    assert len(names["hours"]) == 7 * 24 - 7 * 2
    assert len(names["newest"]) == 200
    assert names["closes"].dtype == "float64"
    assert names["even"]["filled"].sum() > 119
    assert names["told"]["coverage"].to_list() == ["complete"] * 7
    assert list(names["several"]) == ["1m", "15m", "1h"]
    assert len(names["days"]) == 7


def test_the_page_names_every_call_and_every_error() -> None:
    text = PAGE.read_text("utf-8")
    calls = [
        name
        for name, value in vars(Provider).items()
        if callable(value) and not name.startswith("_") and name not in ("connect", "close")
    ]
    assert [name for name in calls if f"`{name}(" not in text] == []
    named = ("UnknownName", "NoData", "BadRange", "UsageError", "TransientError")
    assert [name for name in named if f"`{name}`" not in text or not hasattr(errors, name)] == []
