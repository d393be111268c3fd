"""``marketdata settings``: every setting, its value and where it comes from."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr
from rich import box
from rich.table import Table

from marketdata.cli.failures import say
from marketdata.cli.table import show
from marketdata.settings import KAFKA_VARIABLE, PREFIX, Settings, read_env_file

_OF_THE_TESTS = {
    "MARKETDATA_FIXTURES",
    "MARKETDATA_REQUIRE_REAL_PARTS",
    "MARKETDATA_TEST_DATABASE_URL",
    "MARKETDATA_TEST_POSTGRES_BIN",
}


def run_settings() -> int:
    """Print the table."""
    settings = Settings.load()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("variable", "value", "from"):
        table.add_column(name, overflow="fold", no_wrap=name != "value")
    for row in rows(settings):
        table.add_row(*row)
    show(table)
    _warn_of_unknown()
    return 0


def _warn_of_unknown() -> None:
    """A variable that is spelled wrongly has no effect; say so."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    for name in sorted({*os.environ, *read_env_file()} - set(known) - _OF_THE_TESTS):
        near = get_close_matches(name, known, n=1)
        if name.startswith(PREFIX):
            say(f"warning: {name} is no setting.{f' Did you mean {near[0]}?' if near else ''}")


def rows(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Variable, value with secrets masked, and its origin: environment, .env or default."""
    in_file = read_env_file()
    for name in Settings.model_fields:
        variable = f"{PREFIX}{name.upper()}"
        value = getattr(settings, name)
        if os.environ.get(variable):
            origin = "environment"
        elif in_file.get(variable):
            origin = ".env"
        elif name == "kafka_bootstrap_servers" and value is not None:
            origin = KAFKA_VARIABLE
        else:
            origin = "default"
        yield variable, _shown(name, value, settings), origin


def _shown(name: str, value: object, settings: Settings) -> str:
    if isinstance(value, SecretStr):
        return "********"
    if value is None:
        return settings.lake_url if name == "lake" else "-"
    return without_password(str(value))


def without_password(url: str) -> str:
    """Mask what stands before the @ of a URL."""
    parts = urlsplit(url) if "://" in url else None
    if parts is None or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="********@" + parts.netloc.rpartition("@")[2]))
