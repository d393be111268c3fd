"""``marketdata settings``, and secrets in the output of every command."""

from pathlib import Path

import pytest

from tests.cli.conftest import Command

PASSWORD = "s3cr3t-p4ss"


def origin(text: str, variable: str) -> list[str]:
    return next(line for line in text.splitlines() if variable in line).split()[1:]


def test_every_setting_is_printed_with_where_it_comes_from(
    marketdata: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("MARKETDATA_WORKERS=3\nMARKETDATA_REQUEST_ATTEMPTS=9\n")
    monkeypatch.setenv("MARKETDATA_KRAKEN_URL", "http://127.0.0.1:8899/kraken")
    text = marketdata("settings", columns=160).text
    assert origin(text, "MARKETDATA_KRAKEN_URL") == ["http://127.0.0.1:8899/kraken", "environment"]
    assert origin(text, "MARKETDATA_WORKERS") == ["3", ".env"]
    assert origin(text, "MARKETDATA_REQUEST_ATTEMPTS") == ["2", "environment"]
    assert origin(text, "MARKETDATA_REQUEST_TIMEOUT_S") == ["20.0", "default"]
    assert origin(text, "MARKETDATA_LAKE")[-1] == "default"
    assert str(tmp_path / "home" / "lake") in text


def test_secrets_are_masked(marketdata: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETDATA_DAGSTER_DATABASE_URL", f"postgresql://me:{PASSWORD}@host:5432/db")
    monkeypatch.setenv("MARKETDATA_S3_SECRET_ACCESS_KEY", PASSWORD)
    monkeypatch.setenv("MARKETDATA_S3_ENDPOINT_URL", f"http://me:{PASSWORD}@127.0.0.1:9000")
    result = marketdata("settings", columns=160)
    assert result.code == 0
    assert PASSWORD not in result.text + result.stderr
    assert "********@127.0.0.1:9000" in result.text


def test_a_name_that_is_no_setting_is_named_with_the_nearest(
    marketdata: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETDATA_LAEK", "s3://bucket/lake")
    result = marketdata("settings")
    assert result.code == 0
    assert result.stderr == "warning: MARKETDATA_LAEK is no setting. Did you mean MARKETDATA_LAKE?\n"


@pytest.mark.parametrize("command", [["settings"], ["coverage"], ["backfill", "--last", "1d"]])
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_bad_database_url_never_shows_its_password(
    marketdata: Command, monkeypatch: pytest.MonkeyPatch, command: list[str], debug: list[str]
) -> None:
    monkeypatch.setenv("MARKETDATA_DAGSTER_DATABASE_URL", f"mysql://me:{PASSWORD}@host/db")
    result = marketdata(*command, *debug)
    assert result.code == 2
    assert "MARKETDATA_DAGSTER_DATABASE_URL is not usable" in result.stderr
    assert PASSWORD not in result.text + result.stderr


def test_a_setting_that_cannot_be_is_one_line(marketdata: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETDATA_WORKERS", "many")
    result = marketdata("coverage")
    assert result.code == 2
    assert "MARKETDATA_WORKERS = 'many'" in result.error


def test_a_broker_list_of_another_program_hinders_no_command_without_kafka(
    marketdata: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "foo")
    shown = marketdata("settings", columns=160)
    assert shown.code == 0
    variable = "MARKETDATA_KAFKA_BOOTSTRAP_SERVERS"
    assert origin(shown.text, variable) == ["foo", "KAFKA_BOOTSTRAP_SERVERS"]
    assert "empty" in marketdata("coverage").error


def test_a_bad_market_file_is_one_line(
    marketdata: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text('[[market]]\nexchange = "kraken"\nsymbl = "BTC/USD"\n')
    monkeypatch.setenv("MARKETDATA_MARKETS", str(tmp_path / "mine.toml"))
    result = marketdata("backfill", "--last", "1d")
    assert result.code == 2
    assert "line 1" in result.error
    assert "'symbl'" in result.error
    assert "'symbol'" in result.error
