"""Every setting, in one place. Each is an environment variable ``MARKETDATA_<NAME>`` (or a line in ``.env``).

The ``.env`` of the current folder is read; the environment goes before it. ``.env.example`` and
``docs/settings.md`` list the same names; a test holds the three together.
"""

import os
import re
import tomllib
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from marketdata.errors import UnknownName, UsageError
from marketdata.market import Market
from marketdata.thresholds import Thresholds

PREFIX = "MARKETDATA_"
ENV_FILE = ".env"
KAFKA_VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"
_KEYS = ("exchange", "symbol", "since")
_QUALITY = "quality"
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg2", "postgresql+psycopg")


@dataclass(frozen=True, slots=True)
class Tracked:
    """A market that is collected, the first UTC day that is wanted of it, and what is odd there."""

    market: Market
    since: date
    quality: Thresholds = field(default_factory=Thresholds)


class Settings(BaseSettings):
    """The settings of one process. Read once at the edge and passed on."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        extra="ignore",
        env_ignore_empty=True,
    )

    home: Annotated[
        Path,
        Field(
            validate_default=True,
            description="Folder for everything kept on this machine: lake, Dagster instance, logs. "
            "A relative one is in the current folder.",
        ),
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
    kraken_ws_url: Annotated[
        str | None,
        Field(description="URL of Kraken's WebSocket API, version 2. Default: the real one."),
    ] = None
    binance_ws_url: Annotated[
        str | None, Field(description="Base URL of Binance's WebSocket streams. Default: the real one.")
    ] = None
    request_interval_ms: Annotated[
        int | None,
        Field(
            ge=0,
            le=3_600_000,
            description="Pause between two requests to one exchange, in ms. Default: ccxt's figure.",
        ),
    ] = None
    request_timeout_s: Annotated[
        float, Field(gt=0, le=3600, description="Seconds to wait for an answer.")
    ] = 20.0
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
    database_url: Annotated[
        SecretStr | None,
        Field(
            description="PostgreSQL URL of the store. Default: there is none, and reading is from the lake."
        ),
    ] = None
    store_timescaledb: Annotated[
        Literal["auto", "off"],
        Field(description="Whether a new store uses TimescaleDB where the server has it: auto or off."),
    ] = "auto"
    store_compress_trades_days: Annotated[
        int, Field(ge=0, description="Trades are compressed after so many days; 0: never.")
    ] = 7
    store_compress_candles_days: Annotated[
        int, Field(ge=0, description="Candles are compressed after so many days; 0: never.")
    ] = 30
    store_retain_trades_days: Annotated[
        int, Field(ge=0, description="Trades are removed from the store after so many days; 0: never.")
    ] = 90
    store_retain_candles_days: Annotated[
        int,
        Field(
            ge=0,
            description="1m candles are removed after so many days; 0: never. Wider ones stay.",
        ),
    ] = 365
    store_refresh_minutes: Annotated[
        int, Field(ge=0, description="Minutes between two materialisations of wider candles; 0: never.")
    ] = 10
    store_refresh_lag_minutes: Annotated[
        int,
        Field(ge=1, description="Candles younger than this are not materialised; readers fold them."),
    ] = 10
    kafka_bootstrap_servers: Annotated[
        str | None,
        Field(
            validate_default=True,
            description="Kafka's brokers, host:port with commas between. Default: KAFKA_BOOTSTRAP_SERVERS.",
        ),
    ] = None
    kafka_topic_prefix: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,100}$", description="What the topics' names begin with."
        ),
    ] = "marketdata"
    kafka_partitions: Annotated[
        int, Field(ge=1, le=1000, description="Partitions of topics that are created; the most instances.")
    ] = 6
    metrics_host: Annotated[
        str, Field(description="Address on which services of the streamer serve /metrics and their health.")
    ] = "127.0.0.1"
    kafka_format: Annotated[
        Literal["json", "arrow"],
        Field(description="How trades are written: json (a trade a message) or arrow (a batch a message)."),
    ] = "json"
    kafka_security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"],
        Field(description="How brokers are spoken to: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."),
    ] = "PLAINTEXT"
    kafka_sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
        Field(description="How the user is authenticated: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."),
    ] = "SCRAM-SHA-512"
    kafka_username: Annotated[str | None, Field(description="User of the brokers, with SASL.")] = None
    kafka_password: Annotated[SecretStr | None, Field(description="Password of that user.")] = None
    kafka_ca_file: Annotated[
        Path | None,
        Field(description="Certificates (PEM) that brokers are checked against. Default: system's."),
    ] = None
    publish_backfill: Annotated[
        bool, Field(description="Whether a backfill also publishes each page to Kafka as it is fetched.")
    ] = False
    repair_days: Annotated[
        int,
        Field(
            ge=0,
            le=366,
            description="Missing days are asked for by themselves so far back; 0: never.",
        ),
    ] = 14
    repair_at_once: Annotated[
        int, Field(ge=1, le=100, description="Days that are being repaired at once, at most.")
    ] = 10
    repair_attempts: Annotated[
        int, Field(ge=1, le=50, description="How often the repair of a day is tried before an alert.")
    ] = 5
    repair_pauses_minutes: Annotated[
        str,
        Field(
            pattern=r"^\d{1,4}(,\d{1,4}){0,9}$",
            description="Minutes after the first, second, ... attempt that did not help; the last repeats.",
        ),
    ] = "5,30,120"
    drift_alert_percent: Annotated[
        float,
        Field(
            gt=0,
            le=100,
            description="A day whose candles have drifted further, in percent, is told of in an alert.",
        ),
    ] = 0.5
    feed_dead_seconds: Annotated[
        float,
        Field(gt=0, description="A feed that has received nothing for so long is told of as dead."),
    ] = 60.0
    dagster_database_url: Annotated[
        SecretStr | None,
        Field(description="PostgreSQL URL of the Dagster instance. Default: SQLite in HOME."),
    ] = None
    dagster_url: Annotated[
        str | None,
        Field(description="URL of Dagster's UI, for links in alerts. Default: none, or the one of make up."),
    ] = None
    alert_webhook: Annotated[
        SecretStr | None,
        Field(description="Webhook (Slack-compatible) that alerts go to. Default: they go to the log alone."),
    ] = None

    @field_validator("home", "markets", "kafka_ca_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """Fix the folder now: a later change of the current folder does not move the data."""
        return None if path is None else _expanded(path)

    @field_validator("lake")
    @classmethod
    def _lake(cls, lake: str | None) -> str | None:
        """The same for a lake on this machine."""
        return None if lake is None else lake_place(lake)

    @field_validator("kraken_url", "binance_url", "binance_archive_url", "s3_endpoint_url", "dagster_url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is not None and (not url.startswith(("http://", "https://")) or not urlsplit(url).hostname):
            msg = "it is no http:// or https:// URL"
            raise ValueError(msg)
        return None if url is None else url.rstrip("/")

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _brokers(cls, servers: str | None) -> str | None:
        """Take the name that Kafka's own tools know where ours is not set.

        That one may be meant for another program: it is refused by who uses Kafka, not by every command.
        """
        theirs = os.environ.get(KAFKA_VARIABLE) or read_env_file().get(KAFKA_VARIABLE)
        text = servers or theirs
        if not text:
            return None
        found = brokers(text)
        if found is None and servers:
            msg = "it is no list of the form HOST:PORT,HOST:PORT"
            raise ValueError(msg)
        return found or text

    @field_validator("kraken_ws_url", "binance_ws_url")
    @classmethod
    def _ws(cls, url: str | None) -> str | None:
        if url is not None and (not url.startswith(("ws://", "wss://")) or not urlsplit(url).hostname):
            msg = "it is no ws:// or wss:// URL"
            raise ValueError(msg)
        return None if url is None else url.rstrip("/")

    @field_validator("database_url", "dagster_database_url")
    @classmethod
    def _postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        """Refuse what is no PostgreSQL URL. The value holds a password: no message repeats any of it."""
        if url is None:
            return None
        msg = "it is no URL of the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        try:
            parts = urlsplit(url.get_secret_value())
            # A server on this machine may listen on a socket: postgresql:///DATABASE?host=/FOLDER
            socket = parse_qs(parts.query).get("host", [""])[-1].startswith("/")
            named = bool(parts.hostname) or socket
            # A second @ belongs to a password that would be cut there, and named as a host or a database.
            once = url.get_secret_value().count("@") <= 1
            usable = parts.scheme in _POSTGRESQL and named and once and parts.port != 0
        except ValueError:
            raise ValueError(msg) from None
        if not usable or len(parts.path) < 2:
            raise ValueError(msg)
        return url

    @field_validator("alert_webhook")
    @classmethod
    def _webhook(cls, url: SecretStr | None) -> SecretStr | None:
        """Refuse what is no URL. Whoever knows a webhook can write to it: no message repeats any of it."""
        if url is None:
            return None
        try:
            parts = urlsplit(url.get_secret_value())
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            msg = "it is no http:// or https:// URL"
            raise ValueError(msg)
        return url

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """Read the environment.

        Raises:
            UsageError: a value cannot be what its variable stands for; names the variable.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            reason = first["msg"].removeprefix("Value error, ")
            secret = (
                "SecretStr" in str(cls.model_fields[name].annotation) if name in cls.model_fields else True
            )
            value = "is not usable" if secret else f"= {first['input']!r} is not usable"
            msg = f"{PREFIX}{name.upper()} {value}: {reason[:1].lower()}{reason[1:]}."
            raise UsageError(msg, hint="See marketdata settings and docs/settings.md.") from None
        except (OSError, UnicodeDecodeError) as error:
            msg = f"The file {ENV_FILE!r} in the current folder cannot be read: {error}."
            raise UsageError(msg, hint="Correct or remove it.") from error

    @property
    def lake_url(self) -> str:
        """Where the lake lies: an absolute path or an URL."""
        return self.lake if self.lake is not None else str(self.home / "lake")

    @cached_property
    def tracked(self) -> tuple[Tracked, ...]:
        """The markets of the market file."""
        return read_market_file(self.markets or Path(__file__).with_name("markets.toml"))


def lake_place(text: str) -> str:
    """Where a lake lies that somebody has written: an absolute path or an URL.

    Raises:
        ValueError: it is nearly an URL, and as a path a folder below the current one; says how to write it.
    """
    scheme, colon, rest = text.partition(":")
    if colon and scheme in ("s3", "file") and not rest.startswith("//"):
        msg = f"an URL of that kind begins with {scheme}://"
        raise ValueError(msg)
    if colon and scheme == "file" and not rest.startswith("///"):
        msg = "a folder of this machine is file:///FOLDER with three slashes, or its path"
        raise ValueError(msg)
    return text if "://" in text else str(_expanded(Path(text)))


def brokers(text: str) -> str | None:
    """The brokers of a list HOST:PORT,HOST:PORT, or ``None`` where it is none."""
    parts = [part.strip() for part in text.split(",")]
    usable = all(re.fullmatch(r"[^\s:/@]+:\d{1,5}|\[[0-9a-fA-F:.]+\]:\d{1,5}", part) for part in parts)
    return ",".join(parts) if usable else None


def read_env_file() -> dict[str, str]:
    """What the ``.env`` of the current folder sets."""
    return {name: value for name, value in dotenv_values(ENV_FILE).items() if value is not None}


def read_market_file(path: Path) -> tuple[Tracked, ...]:
    """Read the market file.

    Raises:
        UsageError: it is absent, not TOML, or an entry is wrong; says which one, and its line.
    """
    try:
        text = path.read_text("utf-8")
        body = tomllib.loads(text)
    except OSError as error:
        msg = f"The market file {str(path)!r} cannot be read: {error.strerror}."
        raise UsageError(msg, hint="Set MARKETDATA_MARKETS to a TOML file of markets.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"The market file {str(path)!r} is not TOML: {error}."
        raise UsageError(msg, hint="Its entries look as in the markets.toml that comes along.") from error
    for key in body:
        if key != "market":
            raise UnknownName(key, kind=f"table in {str(path)!r}", known=["market"])
    entries = body.get("market", [])
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        msg = f"The market file {str(path)!r} names no market."
        raise UsageError(msg, hint="Add a [[market]] table with exchange, symbol and since.")
    lines = [n for n, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[\s*market\s*\]\]", line)]
    tracked: dict[Market, Tracked] = {}
    for number, entry in enumerate(entries):
        line = f", line {lines[number]}" if len(lines) == len(entries) else ""
        found = _tracked(entry, f"market {number + 1} of {str(path)!r}{line}")
        if found.market in tracked:
            msg = f"{found.market} stands twice: it is also market {number + 1} of {str(path)!r}{line}."
            raise UsageError(msg, hint="Remove one of them.")
        tracked[found.market] = found
    return tuple(tracked.values())


def _tracked(entry: dict[str, Any], where: str) -> Tracked:
    for key in entry:
        if key not in (*_KEYS, _QUALITY):
            raise UnknownName(key, kind=f"key in {where}:", known=[*_KEYS, _QUALITY])
    for key in _KEYS:
        if key not in entry:
            msg = f"There is no {key} in {where}."
            raise UsageError(msg, hint="Each [[market]] has exchange, symbol and since.")
    try:
        market = Market(str(entry["exchange"]), str(entry["symbol"]))
    except UsageError as error:
        msg = f"In {where}: {error.message}"
        raise UsageError(msg, hint=error.hint) from error
    since = entry["since"]
    if type(since) is not date:
        msg = f"In {where}: since = {since!r} of {market} is not a date."
        raise UsageError(msg, hint="Write it without quotes: since = 2024-01-01")
    quality = entry.get(_QUALITY, {})
    if not isinstance(quality, dict):
        msg = f"In {where}: quality = {quality!r} of {market} is no table."
        raise UsageError(msg, hint="Write its thresholds under [market.quality].")
    return Tracked(market, since, Thresholds.of(quality, where))


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        msg = f"no home folder is known for {path.parts[0]}"
        raise ValueError(msg) from None
