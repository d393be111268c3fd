"""What the check of a day says, rule by rule."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from marketdata.completeness import build_manifest
from marketdata.lake import Lake
from marketdata.manifest import Ids, Manifest, day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.trade import TRADE_SCHEMA
from marketdata_dagster.defs.partitions import Job
from marketdata_dagster.verdicts import between, every_trade_is_there

BTC = Market.parse("kraken:BTC/USD")
DAY = date(2025, 6, 8)
NOW = datetime(2025, 6, 20, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"), settings=Settings.load())


def trades(ids: list[int], day: date = DAY) -> pl.DataFrame:
    start, _ = day_window(day)
    return pl.DataFrame(
        {
            "trade_id": ids,
            "time": [start + timedelta(minutes=n) for n in range(len(ids))],
            "price": [100.0] * len(ids),
            "amount": [1.0] * len(ids),
            "side": ["buy"] * len(ids),
            "fills": [1] * len(ids),
        },
        schema=TRADE_SCHEMA,
    )


def put(lake: Lake, held: list[int], day: date = DAY, **facts: object) -> Manifest:
    rows = trades(held, day)
    given: dict[str, object] = {
        "source": "kraken-rest",
        "ids": Ids.SEQUENTIAL,
        "covered": (day_window(day),),
        "previous_id": held[0] - 1,
        "following_id": held[-1] + 1,
        "not_served": (),
        "repeated": 0,
        "rejected": {},
        "pages": 1,
        "cursor": None,
        "evidence": {},
    }
    manifest = build_manifest(BTC, day, rows, **(given | facts))  # type: ignore[arg-type]
    lake.write_trades(BTC, day, rows, manifest)
    return manifest


def test_a_whole_day_passes(lake: Lake) -> None:
    put(lake, [5, 6, 7, 8])
    assert every_trade_is_there(lake, Job(BTC, DAY), NOW).passed


def test_a_day_that_was_never_fetched_fails(lake: Lake) -> None:
    verdict = every_trade_is_there(lake, Job(BTC, DAY), NOW)
    assert (verdict.passed, verdict.sentence) == (False, "The lake does not hold this day.")


def test_a_running_day_never_passes(lake: Lake) -> None:
    put(lake, [5, 6, 7])
    verdict = every_trade_is_there(lake, Job(BTC, DAY), datetime(2025, 6, 8, 23, 59, 59, tzinfo=UTC))
    assert not verdict.passed
    assert "still running until 2025-06-09 00:00 UTC" in verdict.sentence


def test_a_hole_in_the_ids_fails(lake: Lake) -> None:
    put(lake, [5, 6, 9, 10])
    assert not every_trade_is_there(lake, Job(BTC, DAY), NOW).passed


def test_a_hole_at_the_edge_fails(lake: Lake) -> None:
    put(lake, [5, 6, 7], previous_id=2)
    assert not every_trade_is_there(lake, Job(BTC, DAY), NOW).passed


def test_a_manifest_that_hides_a_hole_of_its_file_is_found_out(lake: Lake) -> None:
    honest = put(lake, [5, 6, 7, 8])
    rows = trades([5, 6, 8, 9])
    lake.write_trades(BTC, DAY, rows, replace(honest, last_id=9, following_id=10))
    verdict = every_trade_is_there(lake, Job(BTC, DAY), NOW)
    assert (verdict.passed, verdict.sentence) == (False, "Ids are missing: 1: 7.")


def test_ids_not_served_pass_and_are_named(lake: Lake) -> None:
    put(lake, [5, 6, 9, 10], not_served=((7, 8),))
    verdict = every_trade_is_there(lake, Job(BTC, DAY), NOW)
    assert (verdict.passed, verdict.notable) == (True, True)
    assert "7-8" in verdict.sentence


def test_a_day_that_was_not_asked_for_whole_fails(lake: Lake) -> None:
    start, end = day_window(DAY)
    put(lake, [5, 6, 7], ids=Ids.EXCHANGE, covered=((start, end - timedelta(hours=1)),))
    assert not every_trade_is_there(lake, Job(BTC, DAY), NOW).passed


def test_neighbouring_days_must_join(lake: Lake) -> None:
    put(lake, [5, 6, 7], following_id=None)
    put(lake, [10, 11], DAY + timedelta(days=1), previous_id=None)
    verdict = every_trade_is_there(lake, Job(BTC, DAY), NOW)
    assert not verdict.passed
    assert verdict.sentence == "2025-06-08 and 2025-06-09 do not join; in neither: 2: 8-9."


def test_ids_between_two_days_may_be_known_as_not_served(lake: Lake) -> None:
    before = put(lake, [5, 6, 7], following_id=None)
    after = put(lake, [10, 11], DAY + timedelta(days=1), previous_id=7, not_served=((8, 9),))
    assert between(before, after) == ()
