"""The profile of a day: which rules apply, and what is kept of what they find."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from marketdata.errors import NoData
from marketdata.finding import FINDING_SCHEMA
from marketdata.lake import Lake
from marketdata.lake import ledger as lake_ledger
from marketdata.lake.paths import Part
from marketdata.manifest import Ids, day_window
from marketdata.profile import profile
from marketdata.profiling import profile_day, thresholds_of
from marketdata.settings import Settings
from marketdata.thresholds import Thresholds
from marketdata.trade import TIME
from tests.lake.world import BTC, DAY, NEXT, NOW, manifest_of, trades_of, without
from tests.test_captures_fold import trxusdt

WINDOW = day_window(DAY)
FIRST_ID = int(trades_of(DAY)["trade_id"][0])
LOST = (FIRST_ID + 10, FIRST_ID + 11)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def put(lake: Lake, trades: pl.DataFrame, **more: object) -> None:
    lake.write_trades(BTC, DAY, trades, replace(manifest_of(BTC, DAY, trades), **more))  # type: ignore[arg-type]


def ledger(lake: Lake) -> list[tuple[str, str, str, str]]:
    return sorted(lake_ledger.read(lake).select("subject", "reason", "state", "event").rows())


# --- the rules together -------------------------------------------------------------------------------


@pytest.mark.fixtures
def test_the_profile_of_the_clean_capture_is_empty_and_that_of_the_other_has_what_was_planted(
    captures: Path,
) -> None:
    clean, planted = (trxusdt(captures, kind) for kind in ("positive", "negative"))
    window = clean["time"][0], clean["time"][-1]
    assert profile(clean, window, sequential=True).counts == {}
    found = profile(planted, window, sequential=True)
    assert found.counts == found.suspicious == {"clock skew": 1, "id hole": 1, "repeated id": 1}
    assert found.findings["trade_id"].to_list() == [348_656_871, 348_656_872, 348_666_869]


def test_an_ordinary_day_has_no_finding() -> None:
    found = profile(trades_of(DAY), WINDOW, sequential=True)
    assert (found.counts, found.sentence) == ({}, "Nothing odd in 3,000 trades.")
    assert found.findings.schema == FINDING_SCHEMA


@hypothesis_settings(max_examples=25)
@given(rows=st.permutations(range(60)))
def test_the_order_of_the_rows_does_not_matter(rows: list[int]) -> None:
    trades = without(trades_of(DAY)[:60], [LOST])
    trades = trades.with_columns(
        pl.when(pl.col("trade_id") == FIRST_ID + 30).then(500.0).otherwise("price").alias("price")
    )
    window = trades["time"][0], trades["time"][-1]
    found = profile(trades[[n for n in rows if n < len(trades)]], window, sequential=True)
    assert found.findings.equals(profile(trades, window, sequential=True).findings)
    assert found.counts == {"fat finger": 1, "id hole": 1}


def test_ids_that_do_not_follow_one_another_have_no_holes() -> None:
    trades = without(trades_of(DAY), [LOST])
    assert profile(trades, WINDOW, sequential=False).counts == {}
    assert profile(trades, WINDOW, sequential=True).counts == {"id hole": 1}


def test_what_the_exchange_does_not_serve_is_a_finding_that_is_explained() -> None:
    trades = without(trades_of(DAY), [LOST])
    found = profile(trades, WINDOW, sequential=True, not_served=[LOST])
    assert (found.counts, found.suspicious) == ({"id hole": 1}, {})
    assert found.sentence == "1 x id hole in 2,998 trades; 1 explained."


def test_a_refused_row_is_no_missing_id_and_its_share_is_told() -> None:
    trades = without(trades_of(DAY), [LOST])
    refused = pl.Series([LOST[0], LOST[1], None], dtype=pl.Int64)
    reasons = {"price not positive": 30, "side absent or unreadable": 1}
    found = profile(trades, WINDOW, sequential=True, rejected=reasons, refused_ids=refused)
    assert found.counts == {"rejected: price not positive": 1}
    assert found.findings["value"].to_list() == [pytest.approx(30 / 3029)]


def test_a_market_has_its_own_thresholds() -> None:
    trades = without(trades_of(DAY), [LOST])
    assert profile(trades, WINDOW, Thresholds(ids_missing=2), sequential=True).counts == {}
    strict = Thresholds(volume_times=1.5)
    assert profile(trades, WINDOW, strict, sequential=True).counts["volume outlier"] > 0


def test_receive_times_are_looked_at_where_they_are_known() -> None:
    trades = trades_of(DAY).with_columns(pl.col("time").alias("received"))
    late = pl.when(pl.col("trade_id") == FIRST_ID + 5).then(pl.col("time") + timedelta(minutes=1))
    skewed = trades.with_columns(late.otherwise("time").cast(TIME).alias("received"))
    assert profile(trades, WINDOW, sequential=True).counts == {}
    assert profile(skewed, WINDOW, sequential=True).counts == {"clock skew": 1}


# --- a day of the lake --------------------------------------------------------------------------------


def test_findings_of_a_day_lie_in_the_lake_with_the_trades_they_are_of(
    lake: Lake, settings: Settings
) -> None:
    put(lake, without(trades_of(DAY), [LOST]), missing_ids=(LOST,))
    found = profile_day(settings, lake, BTC, DAY, now=NOW)
    held = lake.read_findings(BTC, *WINDOW)
    assert held.equals(found.profile.findings)
    assert held["detail"].to_list() == [f"Ids {LOST[0]} to {LOST[1]} are missing."]
    assert lake.findings_facts(BTC, DAY) == {"trades": found.manifest.content_hash, "findings": "1"}
    assert lake.findings_facts(BTC, NEXT) is None
    assert lake.parts("findings") == [Part("findings", BTC, DAY)]


def test_a_day_without_findings_is_known_to_have_been_looked_at(lake: Lake, settings: Settings) -> None:
    put(lake, trades_of(DAY))
    assert profile_day(settings, lake, BTC, DAY, now=NOW).recorded == 0
    assert lake.findings_facts(BTC, DAY) is not None
    assert ledger(lake) == []


def test_looking_again_at_the_same_day_writes_the_same_file_and_nothing_in_the_ledger(
    lake: Lake, settings: Settings
) -> None:
    put(lake, without(trades_of(DAY), [LOST]))
    assert profile_day(settings, lake, BTC, DAY, now=NOW, run_id="one").recorded == 1
    path = Path(lake.path("findings", BTC, DAY))
    before = path.read_bytes()
    again = profile_day(settings, lake, BTC, DAY, now=NOW + timedelta(hours=1), run_id="two")
    assert again.recorded == 0
    assert path.read_bytes() == before
    assert ledger(lake) == [("quality", "id hole", "information", "finding")]


def test_what_is_found_no_more_is_told_too(lake: Lake, settings: Settings) -> None:
    put(lake, without(trades_of(DAY), [LOST]))
    profile_day(settings, lake, BTC, DAY, now=NOW, run_id="one")
    put(lake, trades_of(DAY))
    profile_day(settings, lake, BTC, DAY, now=NOW + timedelta(hours=1), run_id="two")
    entries = lake_ledger.read(lake)
    assert entries["event"].to_list() == ["finding", "outcome"]
    assert entries["case"].n_unique() == 1
    assert entries["detail"].to_list()[1] == "id hole: nothing any more."
    assert entries["run_id"].to_list() == ["one", "two"]
    assert lake.read_findings(BTC, *WINDOW).is_empty()


def test_an_outage_of_the_exchange_is_recorded_once_and_is_not_suspicious(
    lake: Lake, settings: Settings
) -> None:
    put(lake, trades_of(DAY, quiet=(9.0, 14.0)))
    found = profile_day(settings, lake, BTC, DAY, now=NOW)
    assert found.profile.counts == {"exchange outage": 1, "gap of 30 s": 1}
    assert found.profile.suspicious == {}
    profile_day(settings, lake, BTC, DAY, now=NOW + timedelta(hours=1))
    assert ledger(lake) == [
        ("quality", "gap of 30 s", "information", "finding"),
        ("trades", "exchange outage", "not served", "finding"),
    ]


def test_an_outage_that_turns_out_to_hold_trades_is_repaired_in_the_ledger(
    lake: Lake, settings: Settings
) -> None:
    put(lake, trades_of(DAY, quiet=(9.0, 14.0)))
    profile_day(settings, lake, BTC, DAY, now=NOW)
    put(lake, trades_of(DAY))
    profile_day(settings, lake, BTC, DAY, now=NOW + timedelta(hours=1))
    known = lake_ledger.read(lake).filter(pl.col("subject") == "trades")
    assert known["state"].to_list() == ["not served", "repaired"]
    assert known["case"].n_unique() == 1


def test_a_damaged_file_of_findings_is_written_anew(lake: Lake, settings: Settings) -> None:
    put(lake, without(trades_of(DAY), [LOST]))
    profile_day(settings, lake, BTC, DAY, now=NOW)
    path = Path(lake.path("findings", BTC, DAY))
    path.write_bytes(path.read_bytes()[:40])
    profile_day(settings, lake, BTC, DAY, now=NOW)
    assert len(lake.read_findings(BTC, *WINDOW)) == 1


def test_a_day_that_ends_at_noon_is_suspicious_unless_the_next_id_shows_that_it_was_quiet(
    lake: Lake, settings: Settings
) -> None:
    half = trades_of(DAY, quiet=(12.0, 24.0))
    put(lake, half)
    assert profile_day(settings, lake, BTC, DAY, now=NOW).profile.suspicious == {"gap of 30 s": 1}
    put(lake, half, following_id=int(half["trade_id"][-1]) + 1)
    found = profile_day(settings, lake, BTC, DAY, now=NOW).profile
    assert (found.counts, found.suspicious) == ({"gap of 30 s": 1, "exchange outage": 1}, {})


def test_ids_of_a_source_without_ids_are_not_judged(lake: Lake, settings: Settings) -> None:
    put(lake, without(trades_of(DAY), [LOST]), ids=Ids.FINGERPRINT)
    assert profile_day(settings, lake, BTC, DAY, now=NOW).profile.counts == {}


def test_a_day_that_is_not_held_cannot_be_looked_at(lake: Lake, settings: Settings) -> None:
    with pytest.raises(NoData, match="backfill kraken:BTC/USD --start 2025-06-08"):
        profile_day(settings, lake, BTC, DAY, now=NOW)


def test_thresholds_come_from_the_market_file(tmp_path: Path) -> None:
    path = tmp_path / "markets.toml"
    path.write_text(
        '[[market]]\nexchange = "kraken"\nsymbol = "BTC/USD"\nsince = 2025-06-01\n'
        "[market.quality]\nids_missing = 5\n"
    )
    settings = Settings(home=tmp_path, markets=path)
    assert thresholds_of(settings, BTC) == Thresholds(ids_missing=5)
    assert thresholds_of(settings, replace(BTC, symbol="ETH/USD")) == Thresholds()
