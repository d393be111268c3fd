"""Findings in the store: those of a day are the ones of its last look."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from marketdata import recording
from marketdata.errors import TransientError
from marketdata.lake import Lake
from marketdata.manifest import day_window
from marketdata.profile import profile
from marketdata.profiling import profile_day
from marketdata.settings import Settings
from marketdata.store import findings
from marketdata.store.engine import connect
from tests.conftest import ROOT
from tests.docs.blocks import blocks
from tests.lake.world import BTC, DAY, ETH, NEXT, NOW, manifest_of, trades_of, without

LOST = (int(trades_of(DAY)["trade_id"][10]), int(trades_of(DAY)["trade_id"][11]))


def found_on(*lost: tuple[int, int]) -> pl.DataFrame:
    return profile(without(trades_of(DAY), lost), day_window(DAY), sequential=True).findings


def test_the_findings_of_a_day_are_replaced_and_those_of_others_stay(database: str) -> None:
    more = (LOST[1] + 100, LOST[1] + 102)
    assert findings.replace_day(database, BTC, DAY, found_on(LOST, more)) == 2
    assert findings.replace_day(database, ETH, DAY, found_on(LOST)) == 1
    assert findings.replace_day(database, BTC, NEXT, found_on(more)) == 1
    assert findings.read(database, BTC, *day_window(DAY)).equals(found_on(LOST, more))
    assert findings.replace_day(database, BTC, DAY, found_on()) == 0
    assert findings.read(database, BTC, *day_window(DAY)).is_empty()
    both = day_window(DAY)[0], day_window(NEXT)[1]
    assert findings.read(database, BTC, *both).equals(found_on(more))
    assert findings.read(database, ETH, *both).equals(found_on(LOST))


def test_a_finding_of_a_whole_day_has_no_trade(database: str) -> None:
    refused = profile(
        trades_of(DAY), day_window(DAY), sequential=True, rejected={"price not positive": 100}
    ).findings
    findings.replace_day(database, BTC, DAY, refused)
    with connect(database) as connection:
        rows = connection.execute("SELECT exchange, symbol, day, rule, trade_id FROM v_finding").fetchall()
    assert rows == [("kraken", "BTC/USD", DAY, "rejected: price not positive", None)]


def test_the_query_of_the_document_counts_by_rule(database: str) -> None:
    (query,) = [b.text for b in blocks(ROOT / "docs" / "quality.md") if b.language == "sql"]
    findings.replace_day(database, BTC, DAY, found_on(LOST))
    with connect(database) as connection:
        connection.execute("UPDATE finding SET day = current_date - 1")
        assert connection.execute(query.encode()).fetchall() == [("id hole", 1, 1)]


def test_a_look_at_a_day_of_the_lake_goes_to_the_store(database: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=database)
    lake = Lake.open(str(tmp_path / "lake"))
    trades = without(trades_of(DAY), [LOST])
    lake.write_trades(BTC, DAY, trades, replace(manifest_of(BTC, DAY, trades), missing_ids=(LOST,)))
    found = profile_day(settings, lake, BTC, DAY, now=NOW)
    assert findings.read(database, BTC, *day_window(DAY)).equals(found.profile.findings)
    assert recording.entries(settings, lake)["reason"].to_list() == ["id hole"]
    lake.write_trades(BTC, DAY, trades_of(DAY), manifest_of(BTC, DAY, trades_of(DAY)))
    profile_day(settings, lake, BTC, DAY, now=NOW + timedelta(hours=1))
    assert findings.read(database, BTC, *day_window(DAY)).is_empty()


def test_a_store_that_is_away_is_an_error_that_a_retry_helps() -> None:
    nowhere = "postgresql://me@127.0.0.1:1/nothing"
    with pytest.raises(TransientError):
        findings.replace_day(nowhere, BTC, DAY, found_on())
