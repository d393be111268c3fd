"""The Dagster instance: its folder under MARKETDATA_HOME, its ``dagster.yaml``, its database.

SQLite in the folder by default; PostgreSQL when MARKETDATA_DAGSTER_DATABASE_URL is set. The file names the
variables that hold user, password and so on, never their values.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from marketdata.errors import StorageError, UsageError
from marketdata.settings import Settings

TEMPLATE = Path(__file__).resolve().parents[1] / "dagster.yaml"
_VARIABLE = "MARKETDATA_DAGSTER_DATABASE_URL"
_PREFIX = "MARKETDATA_DAGSTER_PG_"
_FIELDS = {"username": "USER", "password": "PASSWORD", "hostname": "HOST", "port": "PORT", "db_name": "DB"}
# Since SQLAlchemy 2.1 plain "postgresql" means psycopg 3; dagster-postgres speaks psycopg2.
_SCHEME = "postgresql+psycopg2"
_SQLITE = """
storage:
  custom:
    module: marketdata_dagster.storage
    class: LocalStorage
    config:
      base_dir: {folder}
"""


def prepare(settings: Settings, template: Path = TEMPLATE) -> tuple[Path, dict[str, str]]:
    """Make DAGSTER_HOME ready.

    Returns:
        The folder, and the environment that Dagster's processes need on top of the present one.

    Raises:
        UsageError: the database URL is not one of PostgreSQL.
        StorageError: the folder cannot be written.
    """
    home = (settings.home / "dagster").absolute()
    url = settings.dagster_database_url
    variables = {} if url is None else database_variables(url.get_secret_value())
    storage = _SQLITE.format(folder=_quoted(str(home))) if url is None else _postgres(variables)
    try:
        home.mkdir(parents=True, exist_ok=True)
        whole = home / f".dagster.yaml.{os.getpid()}"
        whole.write_text(template.read_text("utf-8") + storage, "utf-8")
        whole.replace(home / "dagster.yaml")
    except OSError as error:
        msg = f"{str(home)!r} cannot be made ready for Dagster: {error.strerror}."
        raise StorageError(msg, hint="Set MARKETDATA_HOME to a folder you may write to.") from error
    environment = {
        "DAGSTER_HOME": str(home),
        "MARKETDATA_HOME": str(settings.home.absolute()),
        "MARKETDATA_LAKE": _absolute(settings.lake_url),
        **variables,
    }
    if settings.markets is not None:
        environment["MARKETDATA_MARKETS"] = str(settings.markets.absolute())
    return home, environment


def database_variables(url: str) -> dict[str, str]:
    """Take a PostgreSQL URL apart; a ``/`` or ``@`` in the password is written ``%2F`` or ``%40`` in it.

    Raises:
        UsageError: it is no such URL. The message never shows the URL, because a password is in it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    scheme = parts.scheme.partition("+")[0]
    if scheme not in {"postgresql", "postgres"} or not parts.hostname or not parts.path.strip("/"):
        msg = f"{_VARIABLE} is not a URL of a PostgreSQL database."
        hint = "Write postgresql://user:password@host:5432/database; / and @ in the password as %2F and %40."
        raise UsageError(msg, hint=hint)
    values = {
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname),
        "PORT": str(port or 5432),
        "DB": unquote(parts.path.strip("/")),
    }
    return {f"{_PREFIX}{name}": value for name, value in values.items()}


def _postgres(variables: Mapping[str, str]) -> str:
    lines = ["", "storage:", "  postgres:", "    postgres_db:", f"      scheme: {_SCHEME}"]
    for field, name in _FIELDS.items():
        if f"{_PREFIX}{name}" in variables:
            lines.append(f"      {field}: {{env: {_PREFIX}{name}}}")
    return "\n".join(lines) + "\n"


def _absolute(lake: str) -> str:
    return lake if "://" in lake else str(Path(lake).expanduser().absolute())


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
