"""``marketdata db`` as a person uses it."""

import builtins
import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from psycopg.types.json import Jsonb

from marketdata.cli.main import main
from marketdata.store import migrate, wider
from marketdata.store.engine import connect
from tests.store.candles import START, add_market, candle, copy, upsert
from tests.store.conftest import RunningServer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(url: str | None, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("MARKETDATA_DATABASE_URL", url or "")
        code = main(["db", *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def filled(database: str) -> str:
    """Two markets, a day of one-minute candles each."""
    with connect(database, autocommit=True) as connection:
        for symbol in ("BTC/USD", "ETH/USD"):
            copy(connection, add_market(connection, symbol), [candle(minute) for minute in range(1440)])
        wider.refresh(connection)
    return database


def damage(url: str, statement: str, values: tuple[Any, ...] = ()) -> None:
    """Change something behind the back of triggers."""
    with connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement, values)


def test_upgrade_makes_the_schema_and_says_each_step(run: Run, empty_database: str) -> None:
    code, out, _ = run(empty_database, "upgrade")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("done:")] == [
        f"done: {step}" for step in migrate.steps()
    ]
    assert run(empty_database, "upgrade") == (0, "The store is up to date.\n", "")


def test_upgrade_and_downgrade_stop_at_a_step(run: Run, empty_database: str) -> None:
    assert run(empty_database, "upgrade", "--to", "2")[1].splitlines()[-1] == "done: 0002_trade"
    assert run(empty_database, "downgrade", "--to", "1", "--yes")[1] == "undone: 0002_trade\n"
    assert run(empty_database, "downgrade", "--to", "base", "--yes")[1] == "undone: 0001_market\n"
    assert migrate.current(empty_database) is None


def test_downgrade_asks_and_takes_silence_for_a_no(
    run: Run, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = run(database, "downgrade", "--to", "base")
    assert code == 130
    assert "What they hold is lost" in err
    assert migrate.current(database) == migrate.steps()[-1]


def test_changed_settings_change_the_jobs(
    run: Run, database: str, timescale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(database, "upgrade")
    monkeypatch.setenv("MARKETDATA_STORE_RETAIN_TRADES_DAYS", "0")
    monkeypatch.setenv("MARKETDATA_STORE_COMPRESS_TRADES_DAYS", "2")
    code, out, _ = run(database, "upgrade")
    assert (code, sorted(out.splitlines())) == (
        0,
        ["set: compress trade: after 2 days", "set: retain trade: off"],
    )


@pytest.mark.parametrize("command", ["upgrade", "status", "check"])
def test_without_a_url_every_command_names_the_variable(run: Run, command: str) -> None:
    code, out, err = run(None, command)
    assert (code, out) == (2, "")
    assert "MARKETDATA_DATABASE_URL is not set" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["upgrade", "status", "check"])
def test_a_server_that_does_not_answer_is_one_line_without_the_password(run: Run, command: str) -> None:
    code, _, err = run("postgresql://me:s3cr3t@127.0.0.1:1/market", command, "--debug")
    assert code == 1
    assert "127.0.0.1:1/market: The database server does not answer." in err
    assert "s3cr3t" not in err


def test_status_shows_server_step_tables_and_jobs(run: Run, filled: str, server: RunningServer) -> None:
    code, out, _ = run(filled, "status", "--format", "table")
    assert code == 0
    for word in (
        f"PostgreSQL {server.about.version}",
        migrate.steps()[-1],
        "up to date",
        "candle_1w",
        "dead_letter",
    ):
        assert word in out
    _, text, _ = run(filled, "status", "--format", "json")
    rows = {row["name"]: row for row in map(json.loads, text.splitlines())}
    assert rows["market"]["rows"] == 2
    assert rows["candle"]["rows"] == 2880
    assert rows["candle_1h"]["rows"] == 48
    assert rows["candle"]["bytes"] > rows["market"]["bytes"] > 0
    if server.timescaledb:
        assert rows["candle"]["chunks"] == 1
        assert "TimescaleDB" in out


def test_status_shows_what_compression_saves_and_every_job(run: Run, filled: str, timescale: str) -> None:
    run(filled, "upgrade")
    with connect(filled, autocommit=True) as connection:
        connection.execute("SELECT compress_chunk(chunk) FROM show_chunks('candle') AS chunk")
    code, text, _ = run(filled, "status", "--format", "json")
    rows = {row["name"]: row for row in map(json.loads, text.splitlines())}
    assert code == 0
    assert rows["candle"]["compressed_chunks"] == 1
    assert rows["candle"]["compression_ratio"] > 1
    assert rows["compress candle"]["setting"] == "after 30 days"
    assert rows["refresh candle_1d"]["setting"] == "every 10 minutes, all there is up to 10 minutes ago"
    assert len([row for row in rows.values() if row["kind"] == "job"]) == 12


def test_status_of_a_database_without_our_schema_says_so(run: Run, empty_database: str) -> None:
    code, out, _ = run(empty_database, "status", "--format", "table")
    assert code == 0
    assert "marketdata db upgrade" in out


def test_status_goes_into_a_file(run: Run, database: str, tmp_path: Path) -> None:
    assert run(database, "status", "--output", str(tmp_path / "status.parquet"))[0] == 0
    assert "candle_4h" in pl.read_parquet(tmp_path / "status.parquet")["name"]


def test_check_finds_nothing_wrong_with_a_store_that_is_right(run: Run, filled: str) -> None:
    code, out, err = run(filled, "check")
    assert (code, out.splitlines()) == (0, ["check,market,where,finding"])
    assert err == "The store is as it should be.\n"


def test_check_asks_for_the_newest_schema(run: Run, empty_database: str) -> None:
    code, _, err = run(empty_database, "check")
    assert code == 2
    assert "marketdata db upgrade" in err


def test_check_names_wider_candles_that_are_not_the_fold(run: Run, filled: str, plain: None) -> None:
    damage(filled, "UPDATE candle_4h SET close = close + 1 WHERE open_time = %s AND market_id = 1", (START,))
    damage(filled, "DELETE FROM candle_5m WHERE open_time = %s AND market_id = 2", (START,))
    code, out, _ = run(filled, "check")
    assert code == 1
    lines = out.splitlines()
    assert lines[1].startswith("candle_4h,kraken:BTC/USD,2026-03-02T00:00 .. 2026-03-02T04:00,1 candles")
    assert "close" in lines[1]
    assert lines[2].startswith("candle_5m,kraken:ETH/USD,2026-03-02T00:00 .. 2026-03-02T00:05")
    assert len(lines) == 3


def test_check_looks_at_the_market_and_the_weeks_it_is_given(run: Run, filled: str, plain: None) -> None:
    damage(filled, "UPDATE candle_4h SET close = close + 1 WHERE open_time = %s AND market_id = 1", (START,))
    assert run(filled, "check", "kraken:ETH/USD")[0] == 0
    assert run(filled, "check", "kraken:BTC/USD", "--start", "2026-03-09", "--end", "2026-03-16")[0] == 0
    assert run(filled, "check", "kraken:BTC/USD", "--start", "2026-03-03", "--end", "2026-03-04")[0] == 1
    code, _, err = run(filled, "check", "kraken:ETH/USB")
    assert code == 2
    assert "Did you mean 'kraken:ETH/USD'?" in err


def test_check_makes_anew_what_a_crash_left_marked(run: Run, filled: str, timescale: str) -> None:
    with connect(filled, autocommit=True) as connection:
        upsert(connection, 1, [candle(minute, 1) for minute in range(100)])
    code, _, err = run(filled, "check")
    assert code == 0
    assert "refreshed: " in err


def test_check_compares_the_trades_of_a_day_with_its_manifest(run: Run, filled: str) -> None:
    with connect(filled, autocommit=True) as connection:
        for day in range(2):
            connection.execute(
                "INSERT INTO coverage (market_id, day, status, reason, rows, fills, missing, not_served,"
                " rejected, source, ids, content_hash, manifest)"
                " VALUES (1, %s, 'complete', '', 3, 3, 0, 0, 0, '', '', '', %s)",
                (date(2026, 3, 2) + timedelta(days=day), Jsonb({})),
            )
            for trade in range(3 - day):
                connection.execute(
                    "INSERT INTO trade VALUES (1, %s, %s, 1, 1, NULL, 1)",
                    (datetime(2026, 3, 2, 23, 59, 59, tzinfo=UTC) + timedelta(days=day), trade),
                )
    code, out, _ = run(filled, "check")
    assert code == 1
    assert out.splitlines()[1:] == [
        'coverage,kraken:BTC/USD,2026-03-03,"2 trades (2 fills) are there, the manifest says 3 (3)"'
    ]


def test_check_names_rows_of_a_market_that_nobody_knows(run: Run, filled: str) -> None:
    with connect(filled, autocommit=True) as connection:
        connection.execute("INSERT INTO trade VALUES (99, now(), 1, 1, 1, NULL, 1)")
    code, out, _ = run(filled, "check")
    assert code == 1
    assert out.splitlines()[1:] == ['market,"",trade,"rows of market_id 99, which is no market"']


def test_without_the_packages_of_the_store_a_command_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "psycopg":
            raise ModuleNotFoundError(name="psycopg")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    code, _, err = run("postgresql://me@127.0.0.1:1/market", "status")
    assert code == 2
    assert "pip install 'marketdata[store]'" in err
