"""Whose data a started platform works on: the demo's synthetic market or the real exchanges."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from marketdata.errors import StorageError, UsageError
from marketdata.settings import Settings

DEMO_HOME = Path(".demo")
MARKETS = Path(__file__).resolve().parents[1] / "marketdata" / "markets.toml"

# The local exchange has no limit to obey.
DEMO_ENVIRONMENT = {"MARKETDATA_REQUEST_INTERVAL_MS": "0"}


def demo_settings() -> Settings:
    """Settings of the demo: nothing of the user's own environment or ``.env`` plays a part in it."""
    return Settings.load(
        _env_file=None,
        home=DEMO_HOME.absolute(),
        lake=str(DEMO_HOME.absolute() / "lake"),
        markets=MARKETS,
        dagster_database_url=None,
        request_interval_ms=0,
    )


@contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Hold a home for one platform at a time.

    Raises:
        UsageError: another platform is up on it.
        StorageError: the folder cannot be written.
    """
    path = home.with_name(f"{home.name}.lock")
    try:
        lock = path.open("w")
    except OSError as error:
        msg = f"{str(path)!r} cannot be written: {error.strerror}."
        raise StorageError(msg, hint="Run it in a folder you may write to.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            msg = f"Another platform is up on {str(home)!r}."
            raise UsageError(msg, hint="Stop it first (Ctrl-C in its terminal).") from None
        yield
