"""Errors say what was wrong, what is known and what to do."""

import inspect

import pytest

from marketdata import errors
from marketdata.errors import (
    BadRange,
    CorruptFile,
    MarketDataError,
    PermanentError,
    RateLimited,
    TransientError,
    UnknownName,
    UsageError,
)


def test_a_hint_follows_the_message_and_can_be_had_apart() -> None:
    error = CorruptFile("'x.parquet' is cut.", hint="Fetch it again.")
    assert str(error) == "'x.parquet' is cut. Fetch it again."
    assert (error.message, error.hint) == ("'x.parquet' is cut.", "Fetch it again.")
    assert str(CorruptFile("'x.parquet' is cut.")) == "'x.parquet' is cut."


def test_an_unknown_name_says_the_nearest_known_one_whatever_its_case() -> None:
    error = UnknownName("karken", kind="exchange", known=["binance", "Kraken", "kucoin"])
    assert error.nearest == "Kraken"
    assert str(error) == "Unknown exchange 'karken'. Did you mean 'Kraken'?"
    assert UnknownName("KRAKEN", kind="exchange", known=["kraken"]).nearest == "kraken"


def test_without_a_near_one_a_few_known_names_are_listed_and_many_are_not() -> None:
    few = UnknownName("zzz", kind="format", known=["table", "csv"])
    assert few.nearest is None
    assert str(few) == "Unknown format 'zzz'. Known: csv, table."
    assert str(UnknownName("zzz", kind="symbol", known=map(str, range(100)))) == "Unknown symbol 'zzz'."
    assert str(UnknownName("zzz", kind="symbol", known=(), hint="Write BTC/USD.")).endswith("Write BTC/USD.")


def test_wrong_use_exits_2_and_every_other_failure_1() -> None:
    classes = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MarketDataError)
    ]
    assert len(classes) >= 12
    for kind in classes:
        assert kind.exit_code == (2 if issubclass(kind, UsageError) else 1)


def test_an_error_is_either_worth_a_retry_or_not() -> None:
    assert issubclass(RateLimited, TransientError)
    assert not issubclass(PermanentError, TransientError)
    assert not issubclass(BadRange, TransientError)
    assert RateLimited("Too fast.", retry_after=2.5).retry_after == pytest.approx(2.5)
    assert RateLimited("Too fast.").retry_after is None


def test_the_tree_in_the_module_names_every_class() -> None:
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, MarketDataError):
            assert f" {name} " in f" {errors.__doc__} ".replace("\n", " "), name
