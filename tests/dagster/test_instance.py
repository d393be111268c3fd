"""The instance's own files."""

from pathlib import Path

import pytest
import yaml

from marketdata.errors import StorageError, UsageError
from marketdata.settings import Settings
from marketdata_dagster.instance import TEMPLATE, database_variables, prepare

URL = "postgresql://market:p%2F%40ss%3Aword@db.example:6432/dagster"


def test_sqlite_lies_in_the_home_folder(tmp_path: Path) -> None:
    home, environment = prepare(Settings.load(home=tmp_path))
    body = yaml.safe_load((home / "dagster.yaml").read_text())
    assert body["storage"]["custom"]["config"]["base_dir"] == str(home)
    assert environment["DAGSTER_HOME"] == str(home)
    assert environment["MARKETDATA_LAKE"] == str(tmp_path / "lake")


def test_postgres_is_named_by_variables_and_the_password_is_in_no_file(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, dagster_database_url=URL)
    home, environment = prepare(settings)
    text = (home / "dagster.yaml").read_text()
    assert "ss:word" not in text
    assert "p%2F" not in text
    database = yaml.safe_load(text)["storage"]["postgres"]["postgres_db"]
    assert database["scheme"] == "postgresql+psycopg2"
    values = {name: environment[field["env"]] for name, field in database.items() if name != "scheme"}
    assert values == {
        "username": "market",
        "password": "p/@ss:word",
        "hostname": "db.example",
        "port": "6432",
        "db_name": "dagster",
    }


@pytest.mark.parametrize(
    "url", ["mysql://u:secret@h/d", "postgresql://u:secret@h", "postgresql://u:secret@h:port/d", "secret"]
)
def test_a_wrong_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match="MARKETDATA_DAGSTER_DATABASE_URL") as error:
        database_variables(url)
    assert "secret" not in str(error.value)


def test_the_top_level_file_is_the_template() -> None:
    body = yaml.safe_load(TEMPLATE.read_text())
    assert body["telemetry"] == body["nux"] == {"enabled": False}
    assert body["run_retries"]["retry_on_asset_or_op_failure"] is False
    assert "storage" not in body


def test_a_home_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="MARKETDATA_HOME"):
        prepare(Settings.load(home=tmp_path / "file"))
