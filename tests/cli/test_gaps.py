"""``marketdata gaps`` and ``marketdata repairs``: what is wrong now, and the story of what was done."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from marketdata.lake import Lake, ledger
from marketdata.ledger import Event, State, cases
from marketdata.manifest import Status
from tests.cli import ledgers
from tests.cli.conftest import Command
from tests.cli.lakes import BTC, open_lake, put_day
from tests.cli.ledgers import MARKETS, a_story, a_world, ago, entry, fold_facts


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """The day of the test, which may be another one than that on which it was collected."""
    monkeypatch.setattr(ledgers, "TODAY", datetime.now(UTC).date())


@pytest.fixture
def lake(home: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake of one tracked market in which something is wrong."""
    path = home.with_name("markets.toml")
    path.write_text(MARKETS)
    monkeypatch.setenv("MARKETDATA_MARKETS", str(path))
    return a_world(home)


def objects(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_gaps_names_each_thing_that_is_wrong_with_its_evidence(marketdata: Command, lake: Lake) -> None:
    result = marketdata("gaps", "--json")
    assert result.code == 1
    found = {(row["reason"], row["start"]): row for row in objects(result.text)}
    assert [key[0] for key in found] == ["damaged", "stale", "missing", "incomplete"]
    missing = found["missing", f"{ago(7)}T00:00:00Z"]
    assert missing["end"] == f"{ago(5)}T00:00:00Z"
    incomplete = found["incomplete", f"{ago(8)}T00:00:00Z"]
    assert incomplete["evidence"] == "3 trades are missing: ids 5 to 7."
    assert (incomplete["state"], incomplete["attempts"]) == ("exhausted", 2)
    assert "part-0.parquet' is cut" in str(found["damaged", f"{ago(4)}T00:00:00Z"]["evidence"])


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_keeps_to_the_width_and_says_what_the_ledger_knows(
    marketdata: Command, lake: Lake, columns: int
) -> None:
    result = marketdata("gaps", columns=columns)
    assert max(map(len, result.text.splitlines())) <= columns
    assert "\x1b[" not in result.text
    assert "given up, tried 2 times" in result.text
    assert "2 days: The lake has no such day." in result.text
    assert result.text.rstrip().endswith("4 found, 4 open")


def test_a_lake_in_which_nothing_is_wrong_exits_0(marketdata: Command, lake: Lake) -> None:
    result = marketdata("gaps", "--days", 2)
    assert (result.code, result.text) == (0, "Nothing is missing.\n")


def test_trades_that_the_exchange_does_not_serve_are_told_and_are_not_open(
    marketdata: Command, lake: Lake
) -> None:
    day = ago(1)
    manifest = lake.manifest(BTC, day)
    assert manifest is not None
    trades = lake.read_trades(BTC, *(bound for bound in manifest.covered[0]))
    lake.write_trades(BTC, day, trades, replace(manifest, not_served=((70, 72), (80, 80))))
    result = marketdata("gaps", "--days", 2, "--json")
    (row,) = objects(result.text)
    assert (result.code, row["reason"], row["open"]) == (0, "not served", False)
    assert row["evidence"] == "The exchange does not serve 4 trades: ids 70 to 72, 80."


def test_a_hole_that_the_ledger_knows_of_is_told_too(marketdata: Command, lake: Lake) -> None:
    at = datetime.now(UTC)
    hole = entry(Event.FINDING, State.OPEN, day=ago(1), at=at, subject="store", reason="hole")
    ledger.append(lake, [hole])
    (row,) = objects(marketdata("gaps", "--days", 2, "--json").text)
    assert (row["subject"], row["reason"], row["case"]) == ("store", "hole", hole.case)


def test_days_that_were_asked_for_are_looked_at_though_nothing_is_held_before_them(
    marketdata: Command, lake: Lake
) -> None:
    result = marketdata("gaps", BTC, "--start", ago(20), "--end", ago(9), "--json")
    (row,) = objects(result.text)
    assert (row["reason"], row["start"], row["end"]) == (
        "missing",
        f"{ago(20)}T00:00:00Z",
        f"{ago(10)}T00:00:00Z",
    )


def test_a_market_that_nobody_knows_is_refused(marketdata: Command, lake: Lake) -> None:
    result = marketdata("gaps", "kraken:BTC/USDD")
    assert result.code == 2
    assert "Did you mean 'kraken:BTC/USD'?" in result.error


def test_repairs_has_a_row_a_case_of_the_last_week(marketdata: Command, lake: Lake) -> None:
    rows = objects(marketdata("repairs", "--json").text)
    assert [(row["state"], row["attempts"]) for row in rows] in (
        [("exhausted", 2), ("repaired", 1)],
        [("repaired", 1), ("exhausted", 2)],
    )
    assert len(objects(marketdata("repairs", "--all", "--json").text)) == 3
    assert len(objects(marketdata("repairs", "--since", ago(60), "--json").text)) == 3
    assert marketdata("repairs", "--since", datetime.now(UTC).date() + timedelta(days=1)).text.startswith(
        "Nothing was repaired or found wrong since"
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_of_cases_keeps_to_the_width(marketdata: Command, lake: Lake, columns: int) -> None:
    result = marketdata("repairs", "--all", columns=columns)
    assert result.code == 0
    assert max(map(len, result.text.splitlines())) <= columns
    assert "\x1b[" not in result.text
    assert "3 cases" in result.text


def test_a_case_is_told_from_its_finding_to_its_outcome_with_before_and_after(
    marketdata: Command, lake: Lake
) -> None:
    repaired = a_story(ago(2), datetime.now(UTC))[0].case
    lines = [line.strip() for line in marketdata("repairs", "--case", repaired[:6]).text.splitlines()]
    assert lines[0] == f"kraken:BTC/USD {ago(2)}, trades incomplete: repaired, tried once"
    assert "rows 1,437 → 1,440" in lines
    assert "missing 3 → 0" in lines
    assert "by run-1" in lines
    entries = objects(marketdata("repairs", "--case", repaired, "--json").text)
    assert [row["event"] for row in entries] == ["finding", "repair", "outcome"]
    assert entries[-1]["after"] == {"missing": 0, "rows": 1440}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--case", "zzzz"), "Unknown case 'zzzz'"),
        (("--case", "ab"), "too short"),
        (("--case", "abcd", "--all"), "--case names one case"),
    ],
)
def test_a_case_that_cannot_be_meant_is_refused(
    marketdata: Command, lake: Lake, arguments: tuple[str, ...], said: str
) -> None:
    result = marketdata("repairs", *arguments)
    assert result.code == 2
    assert said in result.error


def test_an_empty_ledger_is_said(marketdata: Command, home: Path) -> None:
    assert marketdata("repairs").text == "The ledger is empty.\n"


def test_a_case_that_was_repaired_and_is_wrong_again_is_one_that_nobody_has_seen(
    marketdata: Command, lake: Lake
) -> None:
    ledger.append(lake, a_story(ago(3), datetime.now(UTC) - timedelta(hours=1)))
    lake = open_lake(Path(lake.url).parent)
    put_day(lake, BTC, ago(3), status=Status.GAPS, reason="3 trades are missing: ids 5 to 7.")
    fold_facts(lake, ago(3))
    (row,) = objects(marketdata("gaps", "--days", 3, "--json").text)
    assert (row["reason"], row["state"]) == ("incomplete", None)
    assert len(cases(ledger.read(lake))) == 4
