"""The ledger in the store: the lake's, brought over, and refused to whoever would change it."""

from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from polars.testing import assert_frame_equal
from pydantic import SecretStr

from marketdata import recording
from marketdata.lake import Lake
from marketdata.lake import ledger as in_lake
from marketdata.ledger import cases
from marketdata.settings import Settings
from marketdata.store.engine import connect
from tests.store.conftest import RunningServer
from tests.test_ledger import NOON, a_case, finding


@pytest.fixture
def settings(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a fresh lake and a fresh store; what the process knows of stores is forgotten."""
    monkeypatch.setattr(recording, "_LEVEL", set())
    return Settings.load(_env_file=None, home=tmp_path, database_url=SecretStr(database))


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return Lake.open(settings.lake_url, settings=settings)


def count(url: str) -> int:
    with connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM ledger").fetchone()
    assert row is not None
    return int(row[0])


def test_what_is_recorded_reads_the_same_from_the_store_and_from_the_lake(
    settings: Settings, lake: Lake, database: str
) -> None:
    assert recording.record(settings, lake, a_case()) == 3
    alone = settings.model_copy(update={"database_url": None})
    assert_frame_equal(recording.entries(settings, lake), recording.entries(alone, lake))
    elsewhere = Lake.open(f"{lake.url}-of-another-machine", settings=settings)
    assert_frame_equal(recording.entries(settings, elsewhere), recording.entries(settings, lake))
    assert count(database) == 3


def test_an_entry_that_is_recorded_again_is_in_the_store_once(
    settings: Settings, lake: Lake, database: str
) -> None:
    recording.record(settings, lake, a_case())
    recording.record(settings, lake, a_case())
    assert count(database) == 3
    assert len(recording.entries(settings, lake)) == 3


def test_a_store_that_is_configured_later_is_given_what_the_lake_has(
    settings: Settings, lake: Lake, database: str
) -> None:
    in_lake.append(lake, a_case())
    recording.record(settings, lake, [finding(reason="missing")])
    assert count(database) == 4


def test_a_store_that_was_away_is_brought_level_at_the_next_record(
    settings: Settings, lake: Lake, database: str, server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = a_case()
    recording.record(settings, lake, [first])
    server.stop()
    try:
        assert recording.record(settings, lake, [second]) == 1
        assert len(recording.entries(settings, lake)) == 2
    finally:
        server.start()
    assert "the store is given the ledger later" in caplog.text
    recording.record(settings, lake, [third])
    assert count(database) == 3


def test_a_database_without_the_table_is_no_failure_either(
    empty_database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.load(_env_file=None, home=tmp_path, database_url=SecretStr(empty_database))
    lake = Lake.open(settings.lake_url, settings=settings)
    assert recording.record(settings, lake, a_case()) == 3
    assert len(recording.entries(settings, lake)) == 3
    assert "marketdata db upgrade" in caplog.text


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET state = 'repaired'",
        "DELETE FROM ledger",
        "TRUNCATE ledger",
        "SET session_replication_role = replica; DELETE FROM ledger",
    ],
)
def test_the_database_refuses_to_change_or_remove_an_entry(
    settings: Settings, lake: Lake, database: str, statement: str
) -> None:
    recording.record(settings, lake, a_case())
    with connect(database) as connection, pytest.raises(psycopg.Error, match="append-only"):
        connection.execute(statement)
    assert count(database) == 3


def test_the_view_of_cases_says_what_the_library_says(settings: Settings, lake: Lake, database: str) -> None:
    later = [finding(at=NOON + timedelta(hours=1), reason="missing")]
    recording.record(settings, lake, [*a_case(), *later])
    with connect(database) as connection:
        rows = connection.execute(
            "SELECT case_id, state, found, attempts FROM v_ledger_case ORDER BY found"
        ).fetchall()
    wanted = cases(recording.entries(settings, lake))
    assert rows == wanted.select("case", "state", "found", "attempts").rows()
