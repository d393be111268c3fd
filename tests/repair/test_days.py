"""Which days of a real lake and store want a repair."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import CorruptFile, TransientError
from marketdata.fold import fold
from marketdata.lake import Lake
from marketdata.manifest import Ids, Status, day_window
from marketdata.repair.days import Survey, needs
from marketdata.repair.judging import Begin, Need, Reason
from marketdata.settings import Settings, Tracked
from marketdata.store.load import load_day
from tests.lake.world import BTC, DAY, manifest_of, trades_of
from tests.store.conftest import database, server

__all__ = ["database", "server"]
NOW = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC) + timedelta(days=5)
TRACKED = [Tracked(BTC, date(2020, 1, 1))]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake.open(str(tmp_path / "lake"))
    put(found, trades_of(DAY))
    return found


def put(lake: Lake, trades: pl.DataFrame, **more: object) -> None:
    manifest = replace(manifest_of(BTC, DAY, trades), **more)  # type: ignore[arg-type]
    lake.write_trades(BTC, DAY, trades, manifest)
    lake.write_candles(BTC, DAY, "1m", fold(trades), facts={"trades": manifest.content_hash})


def settings(database: str | None = None) -> Settings:
    return Settings.load(database_url=database, repair_days=0)


def test_a_file_with_half_its_rows_is_damaged_though_its_manifest_says_complete(lake: Lake) -> None:
    path = Path(lake.path("trades", BTC, DAY))
    table = pq.read_table(path)
    half = table.slice(0, table.num_rows // 2).replace_schema_metadata(table.schema.metadata)
    assert needs(lake, settings(), TRACKED, NOW) == []
    pq.write_table(half, path)
    (need,) = needs(lake, settings(), TRACKED, NOW)
    assert (need.reason, need.begin) == (Reason.DAMAGED, Begin.TRADES)
    with pytest.raises(CorruptFile, match=f"{half.num_rows:,} trades and its manifest speaks of"):
        lake.manifest(BTC, DAY)


def test_a_file_that_is_put_back_is_whole_again(lake: Lake) -> None:
    path = Path(lake.path("trades", BTC, DAY))
    whole = path.read_bytes()
    survey = Survey(lake)
    path.write_bytes(whole[:-10])
    assert [need.reason for need in survey.needs(settings(), TRACKED, NOW)] == [Reason.DAMAGED]
    path.write_bytes(whole)
    assert survey.needs(settings(), TRACKED, NOW) == []


def test_damaged_candles_are_made_again_of_their_trades(lake: Lake) -> None:
    Path(lake.path("candles", BTC, DAY, "1m")).write_bytes(b"no parquet")
    (need,) = needs(lake, settings(), TRACKED, NOW)
    assert (need.reason, need.begin) == (Reason.STALE, Begin.CANDLES)


def test_the_store_is_stale_where_it_lacks_the_day_or_has_other_trades(lake: Lake, database: str) -> None:
    def of_store() -> list[Need]:
        recent = settings(database).model_copy(update={"store_retain_trades_days": 0})
        return needs(lake, recent, TRACKED, NOW)

    (absent,) = of_store()
    assert (absent.reason, absent.begin) == (Reason.STALE, Begin.STORE)
    load_day(database, lake, BTC, DAY)
    assert of_store() == []
    put(lake, trades_of(DAY).head(100))
    (other,) = of_store()
    assert other.begin is Begin.STORE
    assert other.digest != absent.digest


def test_a_store_that_is_away_is_an_error_of_its_own(lake: Lake) -> None:
    with pytest.raises(TransientError):
        needs(lake, settings("postgresql://nobody:nothing@127.0.0.1:1/none"), TRACKED, NOW)


def test_a_stretch_that_nobody_was_asked_for_is_no_gap_where_the_exchange_had_no_trades_either(
    lake: Lake,
) -> None:
    start, end = day_window(DAY)
    since, until = start + timedelta(hours=9), start + timedelta(hours=14)
    trades = trades_of(DAY).filter(~pl.col("time").is_between(since, until, closed="left"))
    gap = {
        "ids": Ids.EXCHANGE,
        "status": Status.GAPS,
        "reason": "Not asked for.",
        "covered": ((start, since), (until, end)),
    }
    put(lake, trades, **gap)
    assert [need.reason for need in needs(lake, settings(), TRACKED, NOW)] == [Reason.INCOMPLETE]
    lake.write_candles(
        BTC, DAY, "1m", fold(trades).select(EXCHANGE_CANDLE_SCHEMA.names()), kind="exchange_candles",
        facts={"served": "whole", "from": start.isoformat()},
    )  # fmt: skip
    assert needs(lake, settings(), TRACKED, NOW) == []
