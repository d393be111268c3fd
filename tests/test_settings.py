"""Settings: one list in three places, errors that name the variable, secrets that never show."""

import os
import re
from datetime import date
from pathlib import Path

import pytest
from pydantic import SecretStr

from marketdata.errors import MarketDataError, UnknownName, UsageError
from marketdata.lake import Lake
from marketdata.market import Market
from marketdata.settings import Settings, Tracked, read_market_file
from marketdata.thresholds import Thresholds
from tests.conftest import ROOT

NAMES = [f"MARKETDATA_{name.upper()}" for name in Settings.model_fields]
PASSWORD = "s3cr3t-p4ss"


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MARKETDATA_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def market_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "markets.toml"
    path.write_text(text, "utf-8")
    return path


def test_the_example_and_the_document_list_exactly_the_settings_there_are() -> None:
    example = (ROOT / ".env.example").read_text("utf-8")
    document = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert sorted(re.findall(r"^#? ?(MARKETDATA_\w+)=", example, re.MULTILINE)) == sorted(NAMES)
    assert sorted(re.findall(r"^\| `(MARKETDATA_\w+)` \|", document, re.MULTILINE)) == sorted(NAMES)


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_no_setting_has_a_password_as_its_default() -> None:
    for field in Settings.model_fields.values():
        if "SecretStr" in str(field.annotation):
            assert field.default is None


def test_the_environment_goes_before_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("MARKETDATA_WORKERS=3\nMARKETDATA_REQUEST_ATTEMPTS=2\nOTHER=1\n")
    monkeypatch.setenv("MARKETDATA_WORKERS", "5")
    settings = Settings.load()
    assert (settings.workers, settings.request_attempts) == (5, 2)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETDATA_WORKERS", "")
    monkeypatch.setenv("MARKETDATA_LAKE", "")
    assert Settings.load().workers == 8
    assert Settings.load().lake is None


def test_relative_paths_are_in_the_folder_where_the_settings_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load(lake="other/lake")
    default = Settings.load()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert settings.home == tmp_path / ".marketdata"
    assert settings.lake_url == str(tmp_path / "other" / "lake")
    assert default.lake_url == str(tmp_path / ".marketdata" / "lake")


def test_a_tilde_is_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert Settings.load(home="~/data").lake_url == str(tmp_path / "user" / "data" / "lake")
    assert Settings.load(lake="~/lake").lake_url == str(tmp_path / "user" / "lake")


def test_a_lake_url_stays_as_it_is() -> None:
    assert Settings.load(lake="s3://bucket/prefix").lake_url == "s3://bucket/prefix"


def test_a_folder_may_have_the_name_of_a_scheme(tmp_path: Path) -> None:
    for name in ("s3", "file"):
        assert Settings.load(lake=name).lake_url == str(tmp_path / name)
        assert Lake.open(name).url == str(tmp_path / name)
    assert Lake.open(f"file://{tmp_path}/lake").url == str(tmp_path / "lake")


@pytest.mark.parametrize("place", ["file://tmp/x", "file:/tmp/x", "s3:/bucket", "~nobody-of-that-name/x"])
def test_a_lake_that_is_opened_by_hand_is_refused_alike(place: str) -> None:
    with pytest.raises(UsageError, match=f"A lake cannot lie at '{place}': "):
        Lake.open(place)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MARKETDATA_WORKERS", "many"),
        ("MARKETDATA_WORKERS", "0"),
        ("MARKETDATA_REQUEST_TIMEOUT_S", "-1"),
        ("MARKETDATA_REQUEST_TIMEOUT_S", "inf"),
        ("MARKETDATA_REQUEST_TIMEOUT_S", "nan"),
        ("MARKETDATA_REQUEST_TIMEOUT_S", "3601"),
        ("MARKETDATA_REQUEST_INTERVAL_MS", "99999999999999999999"),
        ("MARKETDATA_HOME", "~nobody-of-that-name/x"),
        ("MARKETDATA_LAKE", "~nobody-of-that-name/x"),
        ("MARKETDATA_LAKE", "file://tmp/x"),
        ("MARKETDATA_LAKE", "file:/tmp/x"),
        ("MARKETDATA_LAKE", "s3:/bucket/x"),
        ("MARKETDATA_KRAKEN_URL", "api.kraken.com"),
        ("MARKETDATA_BINANCE_URL", "ftp://binance"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        Settings.load()
    assert f"{name} = {value!r} is not usable: " in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://me:{PASSWORD}@host/db",
        f"postgresql://me:{PASSWORD}@host:port/db",
        f"postgresql://me:{PASSWORD}@/",
        f"postgresql://me:{PASSWORD}@[::1/db",
        f"{PASSWORD}",
    ],
)
def test_a_database_url_that_cannot_be_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("MARKETDATA_DAGSTER_DATABASE_URL", url)
    with pytest.raises(UsageError) as caught:
        Settings.load()
    shown = f"{caught.value!s} {caught.value!r} {caught.value.__cause__!r}"
    assert "MARKETDATA_DAGSTER_DATABASE_URL is not usable" in shown
    assert PASSWORD not in shown


def test_secrets_do_not_show_when_the_settings_are_printed() -> None:
    settings = Settings.load(
        dagster_database_url=f"postgresql://me:{PASSWORD}@host:5432/db", s3_secret_access_key=PASSWORD
    )
    assert PASSWORD not in f"{settings!r} {settings!s} {settings.model_dump()} {settings.model_dump_json()}"
    assert isinstance(settings.s3_secret_access_key, SecretStr)
    assert settings.s3_secret_access_key.get_secret_value() == PASSWORD


def test_an_env_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"MARKETDATA_WORKERS=\xff\xfe\n")
    with pytest.raises(UsageError, match=r"'\.env'"):
        Settings.load()


def test_the_market_file_that_comes_along_tracks_six_markets_of_two_exchanges() -> None:
    tracked = Settings.load().tracked
    assert len(tracked) == 6
    assert {entry.market.exchange for entry in tracked} == {"binance", "kraken"}


def test_a_market_file_says_what_is_collected_and_since_when(tmp_path: Path) -> None:
    path = market_file(tmp_path, '[[market]]\nexchange = "kraken"\nsymbol = "BTC/USD"\nsince = 2025-06-01\n')
    expected = (Tracked(Market("kraken", "BTC/USD"), date(2025, 6, 1)),)
    assert read_market_file(path) == expected
    assert Settings.load(markets=path).tracked == expected


GOOD = '[[market]]\nexchange = "kraken"\nsymbol = "BTC/USD"\nsince = 2025-06-01\n\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["names no market", "[[market]]"]),
        ("market = 1", ["names no market"]),
        ("[[markets]]\n", ["'markets'", "'market'"]),
        ("[[market]\n", ["is not TOML", "line 1"]),
        (GOOD + '[[market]]\nexchange = "kraken"\n', ["no symbol", "market 2", "line 6"]),
        (GOOD + '[[market]]\nexchnage = "kraken"\n', ["'exchnage'", "'exchange'", "market 2", "line 6"]),
        (GOOD + GOOD, ["kraken:BTC/USD stands twice", "market 2", "line 6"]),
        (GOOD.replace("kraken", "Kraken"), ["'Kraken'", "market 1", "line 1", "lower case"]),
        (GOOD.replace("BTC/USD", "BTCUSD"), ["'BTCUSD'", "line 1", "BTC/USD"]),
        (GOOD.replace("2025-06-01", '"2025-06-01"'), ["since = '2025-06-01'", "line 1", "without quotes"]),
        (GOOD.replace("2025-06-01", "2025-06-01T00:00:00Z"), ["not a date", "line 1"]),
        (GOOD + "quality = 3", ["quality = 3", "no table", "line 1"]),
        (GOOD + "[market.quality]\ngap_byond = 3", ["'gap_byond'", "'gap_beyond'", "line 1"]),
        (GOOD + GOOD.replace("BTC", "ETH") + "[market.quality]\ngap_beyond = 0.5", ["at least 1", "line 6"]),
        (GOOD + '[market.quality]\ngap_beyond = "8"', ["gap_beyond = '8'", "a number"]),
        (GOOD + "[market.quality]\ngap_beyond = nan", ["gap_beyond = nan", "a number"]),
        (GOOD + "[market.quality]\nvolume_times = inf", ["volume_times = inf", "a number"]),
        (GOOD + "[market.quality]\ngaps_ms = [5000, 500]", ["gaps_ms = [5000, 500]", "ascending"]),
        (GOOD + "[market.quality]\ngaps_ms = []", ["gaps_ms = []", "ascending"]),
        (GOOD + "[market.quality]\nsame_at_most = true", ["same_at_most = True", "whole number"]),
        (GOOD + "[market.quality]\nrejected_share = 2", ["from 0 to 1"]),
    ],
)
def test_a_wrong_market_file_is_named_with_entry_and_line(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    path = market_file(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_market_file(path)
    assert [word for word in [str(path), *words] if word not in str(caught.value)] == []


def test_a_market_has_its_own_thresholds_and_the_defaults_for_the_rest(tmp_path: Path) -> None:
    text = GOOD + "[market.quality]\ngaps_ms = [1000]\nprice_at_least = 0.002\n" + GOOD.replace("BTC", "ETH")
    bitcoin, ether = read_market_file(market_file(tmp_path, text))
    assert bitcoin.quality == Thresholds(gaps_ms=(1000,), price_at_least=0.002)
    assert ether.quality == Thresholds()


def test_a_market_file_that_is_absent_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="MARKETDATA_MARKETS"):
        read_market_file(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        read_market_file(tmp_path / "binary.toml")


def test_an_unknown_key_carries_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as caught:
        read_market_file(market_file(tmp_path, GOOD.replace("symbol", "symbl")))
    assert caught.value.nearest == "symbol"
    assert isinstance(caught.value, MarketDataError)
