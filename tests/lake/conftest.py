"""Fixtures of the lake's tests."""

import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from pyarrow import fs as pafs

from marketdata.ports import free_port
from marketdata.settings import Settings


@pytest.fixture
def small_files() -> Callable[[int], AbstractContextManager[None]]:
    """``with small_files(4096):`` no file may grow beyond so many bytes, as on a full disk."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limit


@pytest.fixture(scope="session")
def s3_settings() -> Iterator[Settings]:
    """Settings of an S3 store on loopback, with a bucket ``market`` in it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(server, port)
        url = f"http://127.0.0.1:{port}"
        access = {"access_key": "key", "secret_key": "secret", "region": "eu-west-1"}
        maker = pafs.S3FileSystem(endpoint_override=url, allow_bucket_creation=True, **access)
        maker.create_dir("market")
        yield Settings(
            s3_endpoint_url=url, s3_region="eu-west-1", s3_access_key_id="key", s3_secret_access_key="secret"
        )
    finally:
        server.terminate()
        server.wait(240)


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
