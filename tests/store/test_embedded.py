"""The PostgreSQL from a wheel: starts, stops what it started, keeps its data, shuts others out."""

import os
import pwd
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from marketdata.errors import StorageError, UsageError
from marketdata.store import embedded
from marketdata.store.embedded import EmbeddedServer, wheel_binaries
from marketdata.store.engine import connect, describe

OPTIONS = {"fsync": "off"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one server after the other starts; initialised once."""
    folder = tmp_path_factory.mktemp("a name so long that no socket can lie in it" + "-" * 50)
    with EmbeddedServer(folder, options=OPTIONS):
        pass
    return folder


def listens(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_runs_while_it_is_used_and_not_longer(folder: Path) -> None:
    server = EmbeddedServer(folder, options=OPTIONS)
    with server as url:
        pid = server.pid
        assert pid is not None
        with connect(url) as connection:
            assert describe(connection).major >= 18
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
            assert connection.execute("SHOW fsync").fetchone() == ("off",)
    assert not listens(pid)
    assert server.pid is None


def test_its_data_is_there_the_next_time(folder: Path) -> None:
    with EmbeddedServer(folder, options=OPTIONS) as url, connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with EmbeddedServer(folder, options=OPTIONS) as url, connect(url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_what_was_committed_is_there_after_a_kill(folder: Path) -> None:
    server = EmbeddedServer(folder, options=OPTIONS)
    with server as url:
        with connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE survived AS SELECT 42 AS answer")
        server.kill()
        assert server.pid is None
        server.start()
        assert server.url == url
        with connect(url) as connection:
            assert connection.execute("SELECT answer FROM survived").fetchone() == (42,)


def test_only_its_user_may_enter_the_folder_of_its_socket(folder: Path) -> None:
    server = EmbeddedServer(folder, options=OPTIONS)
    with server:
        sockets = server._sockets
        assert sockets is not None
        assert sockets.stat().st_mode & 0o077 == 0
    assert not sockets.exists()


def test_two_do_not_use_one_folder(folder: Path) -> None:
    with (
        EmbeddedServer(folder, options=OPTIONS),
        pytest.raises(UsageError, match="Another process"),
    ):
        EmbeddedServer(folder, options=OPTIONS).start()


def test_a_server_that_a_killed_process_left_is_taken_over_and_stopped(folder: Path) -> None:
    program = (
        "import sys, time, pathlib; from marketdata.store.embedded import EmbeddedServer\n"
        "server = EmbeddedServer(pathlib.Path(sys.argv[1])); server.start(); print(server.pid, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    assert listens(pid)
    server = EmbeddedServer(folder, options=OPTIONS)
    with server as url:
        with connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert server.pid == pid
    assert not listens(pid)


def test_what_it_cannot_start_from_is_said_with_its_log(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "pg", options={"shared_buffers": "a lot"})
    with pytest.raises(StorageError, match="shared_buffers"):
        server.start()
    assert server.pid is None


def test_without_the_wheel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"marketdata\[embedded\]"):
        wheel_binaries()


def test_it_never_runs_as_root(folder: Path) -> None:
    server = EmbeddedServer(folder, options=OPTIONS)
    with server:
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0


def test_an_ordinary_user_runs_it_as_that_user() -> None:
    nobody = pwd.getpwnam("nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        program = (
            "import os, sys, pathlib, marketdata.store.engine, psycopg\n"
            "from marketdata.store.embedded import EmbeddedServer\n"
            "if os.geteuid() == 0:\n"
            f"    os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})\n"
            "server = EmbeddedServer(pathlib.Path(sys.argv[1]))\n"
            "with server as url, psycopg.connect(url) as connection:\n"
            "    print(pathlib.Path(f'/proc/{server.pid}').stat().st_uid)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, f"{folder}/pg"], capture_output=True, text=True, check=False
        )
    assert (done.stdout.split(), done.stderr) == ([str(nobody.pw_uid)], "")
