"""The whole platform against an exchange that misbehaves, with no hand on it: ``make demo`` of two days.

On the live sockets one trade in a hundred is never sent, some come twice, and a socket of each exchange is
silent for a minute; one day of the lake is cut in half. Afterwards everything equals what the exchange
serves, and the ledger tells what happened.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from marketdata import ledger
from marketdata.lake import Lake
from marketdata.lake import ledger as in_lake
from tests.conftest import ROOT

pytestmark = pytest.mark.daemon


@pytest.mark.timeout(1800)
def test_what_was_lost_and_what_was_cut_is_whole_again_by_itself(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MARKETDATA_")}
    done = subprocess.run(
        [sys.executable, "-m", "marketdata_dagster.demo", "--days", "2"],
        cwd=tmp_path, env={**kept, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=1700,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    misbehaved = re.search(
        r"sockets: (\d+) trades never sent, (\d+) sent twice, 2 silent for a minute", done.stdout
    )
    assert misbehaved is not None, done.stdout
    assert int(misbehaved[1]) >= 2
    assert int(misbehaved[2]) >= 1
    assert re.search(r"([1-9]\d*) final candles .* \1 equal .* 0 differ", done.stdout), done.stdout[-500:]

    told = in_lake.read(Lake.open(str(tmp_path / ".demo" / "lake")))
    days = told.filter(pl.col("subject") == "trades", pl.col("reason") == "damaged")
    assert days["event"].to_list() == ["finding", "repair", "outcome"]
    assert ledger.cases(days)["state"].to_list() == [ledger.State.REPAIRED]
    assert ledger.still_open(told.filter(pl.col("subject") == "trades")).is_empty()
