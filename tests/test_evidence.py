"""How it is known that a day is complete, and which silences are the exchange's own."""

import gzip
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson
import polars as pl
import pytest

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.errors import NoData
from marketdata.evidence import evidence_of_day, outage_entry, outages_of_day
from marketdata.fold import fold
from marketdata.interval import from_us
from marketdata.lake import Lake
from marketdata.ledger import State, still_open, to_frame
from marketdata.manifest import Ids, Status, day_window
from marketdata.outage import exchange_outages
from tests.lake.world import BTC, DAY, at, manifest_of, trades_of, without

WINDOW = day_window(DAY)
SILENT = (9.0, 14.0)
QUIET_FROM, QUIET_UNTIL = (WINDOW[0] + timedelta(hours=hours) for hours in SILENT)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def theirs_of(trades: pl.DataFrame) -> pl.DataFrame:
    return fold(trades, "1m").select(EXCHANGE_CANDLE_SCHEMA.names())


def put(lake: Lake, trades: pl.DataFrame, **more: object) -> None:
    manifest = manifest_of(BTC, DAY, trades)
    lake.write_trades(BTC, DAY, trades, replace(manifest, **more))  # type: ignore[arg-type]


def put_theirs(lake: Lake, candles: pl.DataFrame, start: datetime = WINDOW[0]) -> None:
    facts = {"served": "whole" if start == WINDOW[0] else "part", "from": start.isoformat()}
    lake.write_candles(BTC, DAY, "1m", candles, kind="exchange_candles", facts=facts)


# --- evidence of a day --------------------------------------------------------------------------------


def test_ids_count_volume_and_checksum_agree_on_a_whole_day(lake: Lake) -> None:
    trades = trades_of(DAY)
    first, last = trades["trade_id"][0], trades["trade_id"][-1]
    archive = {"archive": "BTC-trades.zip", "archive_sha256": "ab" * 32}
    put(lake, trades, previous_id=first - 1, following_id=last + 1, evidence=archive)
    put_theirs(lake, theirs_of(trades))
    evidence = evidence_of_day(lake, BTC, DAY)
    assert {fact.kind: fact.agrees for fact in evidence.facts} == {
        "ids": True,
        "asked": True,
        "trade count": True,
        "volume": True,
        "archive checksum": True,
    }
    assert (evidence.against, evidence.outages, evidence.status) == ((), (), Status.COMPLETE)
    said = {fact.kind: fact.sentence for fact in evidence.facts}
    assert said["ids"] == (
        f"Ids {first} to {last} follow one another, joined to {first - 1} just before"
        f" and {last + 1} just after."
    )
    assert f"count {trades['fills'].sum():,} trades; we hold the same." in said["trade count"]


def test_a_trade_too_few_contradicts_count_and_volume_of_the_exchange(lake: Lake) -> None:
    trades = trades_of(DAY)
    put(lake, trades[:-1])
    put_theirs(lake, theirs_of(trades))
    against = {fact.kind: fact.sentence for fact in evidence_of_day(lake, BTC, DAY).against}
    assert set(against) == {"trade count", "volume"}
    assert f"we hold {trades['fills'][:-1].sum():,}." in against["trade count"]


def test_where_the_exchange_serves_a_part_of_the_day_that_part_is_compared(lake: Lake) -> None:
    trades = trades_of(DAY)
    noon = WINDOW[0] + timedelta(hours=12)
    put(lake, trades.filter(pl.col("time") >= noon - timedelta(hours=3)))
    put_theirs(lake, theirs_of(trades.filter(pl.col("time") >= noon)), noon)
    evidence = evidence_of_day(lake, BTC, DAY)
    assert evidence.against == ()
    assert all("from 12:00:00" in fact.sentence for fact in evidence.facts if fact.kind == "volume")


def test_missing_ids_speak_against_a_day_and_ids_not_served_do_not(lake: Lake) -> None:
    trades = trades_of(DAY)
    first = int(trades["trade_id"][0])
    put(lake, without(trades, [(first + 5, first + 7)]), missing_ids=((first + 5, first + 7),))
    (fact,) = evidence_of_day(lake, BTC, DAY).against
    assert fact.sentence == f"3 ids are missing: {first + 5} to {first + 7}."
    put(lake, without(trades, [(first + 5, first + 7)]), not_served=((first + 5, first + 7),))
    assert evidence_of_day(lake, BTC, DAY).against == ()


@pytest.mark.parametrize("ids", [Ids.FINGERPRINT, Ids.EXCHANGE])
def test_ids_that_do_not_follow_one_another_prove_nothing(lake: Lake, ids: Ids) -> None:
    put(lake, trades_of(DAY), ids=ids, covered=(), rejected={"price not positive": 2})
    facts = {fact.kind: fact.agrees for fact in evidence_of_day(lake, BTC, DAY).facts}
    assert facts == {"ids": None, "asked": None, "refused rows": None}


def test_of_a_day_that_is_not_held_there_is_no_evidence(lake: Lake) -> None:
    with pytest.raises(NoData, match="kraken:BTC/USD on 2025-06-08"):
        evidence_of_day(lake, BTC, DAY)
    assert outages_of_day(lake, BTC, DAY) == ()


# --- outages ------------------------------------------------------------------------------------------


def test_ids_that_run_on_across_hours_of_silence_show_an_outage_of_the_exchange(lake: Lake) -> None:
    trades = trades_of(DAY, quiet=SILENT)
    put(lake, trades)
    (outage,) = outages_of_day(lake, BTC, DAY)
    assert outage.start <= QUIET_FROM < QUIET_UNTIL <= outage.end
    assert outage.end - outage.start < timedelta(hours=5, minutes=10)
    assert outage.evidence.startswith("Ids run on after ")
    assert evidence_of_day(lake, BTC, DAY).outages == (outage,)


def test_a_silence_across_which_ids_are_missing_is_a_gap_of_ours() -> None:
    whole = trades_of(DAY)
    ours = whole.filter(~pl.col("time").is_between(QUIET_FROM, QUIET_UNTIL))
    assert exchange_outages(ours, None, WINDOW, sequential=True) == ()
    assert exchange_outages(ours, theirs_of(whole), WINDOW, sequential=True) == ()
    (outage,) = exchange_outages(ours, theirs_of(ours), WINDOW, sequential=True)
    assert "no trade there (1m). " in outage.evidence
    assert "ids are missing across it" in outage.evidence


def test_without_ids_only_the_candles_of_the_exchange_show_an_outage() -> None:
    ours = trades_of(DAY, quiet=SILENT)
    assert exchange_outages(ours, None, WINDOW) == ()
    assert len(exchange_outages(ours, theirs_of(ours), WINDOW)) == 1
    late = (WINDOW[0] + timedelta(hours=11), WINDOW[1])
    assert exchange_outages(ours, theirs_of(ours), WINDOW, served=late) == ()


def test_candles_without_volume_are_no_trades() -> None:
    ours = trades_of(DAY, quiet=SILENT)
    theirs = theirs_of(ours)
    flat = theirs[:1].with_columns(
        pl.lit(QUIET_FROM + timedelta(hours=1)).cast(theirs.schema["open_time"]).alias("open_time"),
        pl.lit(0.0).alias("volume"),
    )
    padded = pl.concat([theirs, flat]).sort("open_time")
    assert len(exchange_outages(ours, padded, WINDOW)) == 1


def test_a_silence_at_the_edge_of_the_day_is_known_by_the_id_outside(lake: Lake) -> None:
    trades = trades_of(DAY, quiet=(0.0, 3.0))
    first = int(trades["trade_id"][0])
    put(lake, trades)
    assert outages_of_day(lake, BTC, DAY) == ()
    put(lake, trades, previous_id=first - 1)
    (outage,) = outages_of_day(lake, BTC, DAY)
    assert outage.start == WINDOW[0]
    assert outage.end == trades["time"][0]
    put(lake, trades, previous_id=first - 2)
    assert outages_of_day(lake, BTC, DAY) == ()


def test_in_a_thin_market_hours_without_a_trade_are_no_outage() -> None:
    thin = trades_of(DAY, 120)
    assert exchange_outages(thin, None, WINDOW, sequential=True) == ()
    assert exchange_outages(thin[:20], None, WINDOW, sequential=True) == ()


def test_an_outage_is_in_the_ledger_as_not_served_and_waits_for_no_repair() -> None:
    ours = trades_of(DAY, quiet=SILENT)
    (outage,) = exchange_outages(ours, None, WINDOW, sequential=True)
    entry = outage_entry(BTC, outage, at("2025-06-10"))
    assert (entry.state, entry.reason, entry.start) == (State.NOT_SERVED, "exchange outage", outage.start)
    assert entry.entry_id == outage_entry(BTC, outage, at("2025-06-11")).entry_id
    assert still_open(to_frame([entry])).is_empty()


@pytest.mark.fixtures
def test_the_outage_of_binance_in_april_2021_is_found_in_its_candles(captures: Path) -> None:
    path = captures / "binance" / "long_1m" / "BTC_USDT-1m_2021-04-20_2021-05-20.json.gz"
    rows = orjson.loads(gzip.decompress(path.read_bytes()))
    empty = {name: pl.lit(None, kind) for name, kind in EXCHANGE_CANDLE_SCHEMA.items()}
    candles = (
        pl.DataFrame(rows, schema=["at", "open", "high", "low", "close", "volume"], orient="row")
        .with_columns((pl.col("at").cast(pl.Int64) * 1000).alias("open_time"))
        .with_columns(
            **{
                name: value
                for name, value in empty.items()
                if name not in {"open_time", "open", "high", "low", "close", "volume"}
            }
        )
        .select(EXCHANGE_CANDLE_SCHEMA.names())
        .cast(EXCHANGE_CANDLE_SCHEMA)  # type: ignore[arg-type]
    )
    whole = (datetime(2021, 4, 20, 20, 42, tzinfo=UTC), datetime(2021, 5, 20, 20, 41, tzinfo=UTC))
    (outage,) = exchange_outages(candles, candles, whole)
    assert outage.start == datetime(2021, 4, 25, 4, 1, tzinfo=UTC)
    assert outage.end == datetime(2021, 4, 25, 8, 45, tzinfo=UTC)
    window = day_window(date(2021, 4, 25))
    (again,) = exchange_outages(candles.filter(pl.col("open_time").is_between(*window)), candles, window)
    assert (again.start, again.end) == (outage.start, outage.end)
    # The same silence of ours alone is no outage while theirs goes on.
    filled = candles.with_columns((pl.col("open_time") - timedelta(days=1)).alias("open_time"))
    assert exchange_outages(candles, filled, whole) == ()


@pytest.mark.fixtures
def test_of_thousands_of_quiet_stretches_only_the_longest_is_far_beyond_the_pace(captures: Path) -> None:
    path = captures / "kraken" / "long_1m" / "USDC_USDT-1m_2022-04-03_2022-07-06.json.gz"
    times = [from_us(row[0] * 1000) for row in orjson.loads(gzip.decompress(path.read_bytes()))]
    candles = pl.DataFrame({"open_time": times}).cast(pl.Datetime("us", "UTC"))
    none = EXCHANGE_CANDLE_SCHEMA.to_frame()
    silent = exchange_outages(candles, none, (times[0], times[-1] + timedelta(minutes=1)))
    assert [outage.end - outage.start for outage in silent] == [timedelta(minutes=95)]
