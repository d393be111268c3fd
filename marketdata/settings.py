"""Every setting, in one place. Each is an environment variable ``MARKETDATA_<NAME>`` (or a line in ``.env``).

``.env.example`` and ``docs/settings.md`` list the same names; a test holds the three together.
"""

import tomllib
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from marketdata.errors import UnknownName, UsageError
from marketdata.market import Market


class Settings(BaseSettings):
    """The settings of one process. Read once at the edge and passed on."""

    model_config = SettingsConfigDict(
        env_prefix="MARKETDATA_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        env_ignore_empty=True,
    )

    home: Annotated[
        Path, Field(description="Folder for everything kept on this machine: lake, Dagster instance, logs.")
    ] = Path(".marketdata")
    lake: Annotated[
        str | None,
        Field(description="Where the Parquet lake lies: a path or s3://bucket/prefix. Default: HOME/lake."),
    ] = None
    markets: Annotated[
        Path | None, Field(description="The market file (TOML). Default: the markets.toml that comes along.")
    ] = None
    kraken_url: Annotated[
        str | None,
        Field(description="Base URL of Kraken's REST API. Default: the real one."),
    ] = None
    binance_url: Annotated[
        str | None, Field(description="Base URL of Binance's REST API. Default: the real one.")
    ] = None
    binance_archive_url: Annotated[
        str | None, Field(description="Base URL of Binance's public data archive. Default: the real one.")
    ] = None
    request_interval_ms: Annotated[
        int | None,
        Field(
            ge=0,
            description="Pause between two requests to one exchange, in ms. Default: ccxt's figure.",
        ),
    ] = None
    request_timeout_s: Annotated[float, Field(gt=0, description="Seconds to wait for an answer.")] = 20.0
    request_attempts: Annotated[
        int, Field(ge=1, description="How often one request is tried before its error is reported.")
    ] = 6
    workers: Annotated[int, Field(ge=1, le=64, description="Days fetched side by side inside one run.")] = 8
    s3_endpoint_url: Annotated[
        str | None, Field(description="Endpoint of an S3-compatible store. Default: Amazon's.")
    ] = None
    s3_region: Annotated[str | None, Field(description="Region of the bucket.")] = None
    s3_access_key_id: Annotated[
        str | None, Field(description="Access key of the bucket. Default: the AWS chain.")
    ] = None
    s3_secret_access_key: Annotated[SecretStr | None, Field(description="Secret key of the bucket.")] = None
    dagster_database_url: Annotated[
        SecretStr | None,
        Field(description="PostgreSQL URL of the Dagster instance. Default: SQLite in HOME."),
    ] = None

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """Read the environment.

        Raises:
            UsageError: a value cannot be what its variable stands for; names the variable.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = "MARKETDATA_" + "_".join(str(part) for part in first["loc"]).upper()
            msg = f"{name} is not usable: {first['msg'].lower()}."
            raise UsageError(msg, hint="See .env.example.") from None

    @property
    def lake_url(self) -> str:
        """Where the lake lies."""
        return self.lake if self.lake is not None else str(self.home / "lake")

    @cached_property
    def tracked(self) -> "tuple[Tracked, ...]":
        """The markets of the market file."""
        return read_market_file(self.markets or Path(__file__).with_name("markets.toml"))


class Tracked:
    """A market that is collected, and since when."""

    __slots__ = ("market", "since")

    def __init__(self, market: Market, since: date) -> None:
        """A market and the first UTC day that is wanted of it."""
        self.market, self.since = market, since


def read_market_file(path: Path) -> tuple[Tracked, ...]:
    """Read the market file.

    Raises:
        UsageError: it is absent, not TOML, has unknown keys or names a market twice.
    """
    try:
        body = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        msg = f"The market file {str(path)!r} cannot be read: {error.strerror}."
        raise UsageError(msg, hint="Set MARKETDATA_MARKETS to a TOML file of markets.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"The market file {str(path)!r} is not TOML: {error}."
        raise UsageError(msg) from error
    tracked: dict[Market, Tracked] = {}
    for key in body:
        if key != "market":
            raise UnknownName(key, kind="table in the market file", known=["market"])
    for entry in body.get("market", []):
        for key in entry:
            if key not in {"exchange", "symbol", "since"}:
                raise UnknownName(key, kind="key in the market file", known=["exchange", "symbol", "since"])
        market = Market(str(entry.get("exchange", "")), str(entry.get("symbol", "")))
        since = entry.get("since")
        if type(since) is not date:
            msg = f"{market} in {str(path)!r} has since = {since!r}, which is not a date."
            raise UsageError(msg, hint="Write it without quotes: since = 2024-01-01")
        if market in tracked:
            msg = f"{market} stands twice in {str(path)!r}."
            raise UsageError(msg)
        tracked[market] = Tracked(market, since)
    if not tracked:
        msg = f"The market file {str(path)!r} names no market."
        raise UsageError(msg, hint="Add a [[market]] table with exchange, symbol and since.")
    return tuple(tracked.values())
