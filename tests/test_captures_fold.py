"""Real trades folded, held against candles that others have made of them."""

import gzip
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA, broken
from marketdata.completeness import build_manifest, missing_ranges
from marketdata.fold import fold, fold_many
from marketdata.interval import INTERVALS, Interval
from marketdata.manifest import Ids, Status, day_window
from marketdata.market import Market
from marketdata.profile import profile
from marketdata.quality import clock_skew, id_holes, repeated_ids
from marketdata.reconcile import Comparison, compare
from marketdata.trade import TIME, TRADE_SCHEMA, assign_ids, merge_trades, validate
from tests.building import united

pytestmark = pytest.mark.fixtures

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def frame_of(rows: list[dict[str, Any]], *, ids: bool = True) -> pl.DataFrame:
    """Rows with time in microseconds, numbers as the exchange wrote them, all accepted."""
    table = pl.DataFrame(
        rows, schema={**TRADE_SCHEMA, "time": pl.Int64, "price": pl.String, "amount": pl.String}
    )
    checked = validate(table.cast(TRADE_SCHEMA), now=NOW, ids=ids)  # type: ignore[arg-type]
    assert checked.rejected.is_empty()
    return checked.accepted


def served(rows: pl.DataFrame) -> pl.DataFrame:
    """Somebody's open_time, OHLC and volume as EXCHANGE_CANDLE_SCHEMA."""
    more = [pl.lit(None).alias(name) for name in EXCHANGE_CANDLE_SCHEMA if name not in rows.columns]
    return rows.with_columns(more).select(EXCHANGE_CANDLE_SCHEMA.names()).cast(EXCHANGE_CANDLE_SCHEMA)  # type: ignore[arg-type]


def compare_where_served(ours: pl.DataFrame, theirs: pl.DataFrame, interval: str) -> Comparison:
    width = Interval.parse(interval).width
    first, last = theirs["open_time"][0], theirs["open_time"][-1]
    return compare(ours, theirs, first, last + width)


# --- Binance BTC/USDT, WebSocket ------------------------------------------------------------------


@pytest.fixture(scope="module")
def btcusdt(captures: Path) -> pl.DataFrame:
    rows = []
    for name in ("btcusdt_20240808.gz", "btcusdt_20240809.gz"):
        with gzip.open(captures / "binance" / "ws_spot_btcusdt" / name, "rt") as lines:
            for line in lines:
                if "@trade" not in line:
                    continue
                data = json.loads(line.split(" ", 1)[1])["data"]
                rows.append(
                    {
                        "trade_id": data["t"],
                        "time": data["T"] * 1000,
                        "price": data["p"],
                        "amount": data["q"],
                        "side": "sell" if data["m"] else "buy",
                        "fills": 1,
                    }
                )
    return frame_of(rows)


def test_ten_minutes_of_btcusdt_equal_the_exchanges_own(captures: Path, btcusdt: pl.DataFrame) -> None:
    klines = pl.read_ipc(captures / "binance" / "klines" / "BTC_USDT-1m_2024-07-26_2024-08-25.feather")
    theirs = served(klines.rename({"date": "open_time"}))
    start = datetime(2024, 8, 8, 23, 55, tzinfo=UTC)
    found = compare(fold(btcusdt), theirs, start, start + timedelta(minutes=10))
    assert (found.compared, found.equal) == (10, 10)


def test_the_minutes_that_the_capture_cuts_differ(captures: Path, btcusdt: pl.DataFrame) -> None:
    klines = pl.read_ipc(captures / "binance" / "klines" / "BTC_USDT-1m_2024-07-26_2024-08-25.feather")
    theirs = served(klines.rename({"date": "open_time"}))
    start = datetime(2024, 8, 8, 23, 54, tzinfo=UTC)
    found = compare(fold(btcusdt), theirs, start, start + timedelta(minutes=12))
    assert (found.compared, found.equal) == (12, 10)
    assert found.different["open_time"].unique().sort().to_list() == [start, start + timedelta(minutes=11)]


def test_trades_after_midnight_belong_to_the_next_day_whatever_file_they_are_in(
    btcusdt: pl.DataFrame,
) -> None:
    first_file = btcusdt[:9757]
    assert (first_file["time"].dt.date() == date(2024, 8, 9)).sum() == 19
    days = fold(btcusdt, "1d")
    assert days["open_time"].dt.date().to_list() == [date(2024, 8, 8), date(2024, 8, 9)]
    assert days["trade_count"].to_list() == [9757 - 19, 10_147 + 19]


def test_the_ids_of_both_captures_are_in_a_row(btcusdt: pl.DataFrame) -> None:
    assert missing_ranges(btcusdt["trade_id"], None, None) == ()


def test_the_first_id_after_midnight_proves_the_end_of_the_day_but_nothing_proves_its_start(
    btcusdt: pl.DataFrame,
) -> None:
    day = date(2024, 8, 8)
    of_day = btcusdt.filter(pl.col("time") < day_window(day)[1])
    manifest = build_manifest(
        Market("binance", "BTC/USDT"),
        day,
        of_day,
        source="capture",
        ids=Ids.SEQUENTIAL,
        covered=((of_day["time"][0], of_day["time"][-1]),),
        previous_id=None,
        following_id=btcusdt["trade_id"][len(of_day)],
        not_served=(),
        repeated=0,
        rejected={},
        pages=1,
        cursor=None,
        evidence={},
    )
    assert manifest.status is Status.UNKNOWN
    assert manifest.reason == "Nothing shows what happened from 00:00:00 to 23:54:15.342000 (UTC)."


# --- Binance XRP/ETH, aggTrades -------------------------------------------------------------------


@pytest.fixture(scope="module")
def xrpeth(captures: Path) -> pl.DataFrame:
    folder = captures / "binance" / "aggtrades_xrpeth"
    raw = json.loads(gzip.decompress((folder / "XRP_OLD-trades.json.gz").read_bytes()))
    return frame_of(
        [
            {
                "trade_id": row["info"]["a"],
                "time": row["info"]["T"] * 1000,
                "price": row["info"]["p"],
                "amount": row["info"]["q"],
                "side": "sell" if row["info"]["m"] else "buy",
                "fills": row["info"]["l"] - row["info"]["f"] + 1,
            }
            for row in raw
        ]
    )


@pytest.mark.parametrize(("interval", "candles"), [("1m", 2469), ("5m", 706)])
def test_candles_of_xrpeth_equal_freqtrades(
    captures: Path, xrpeth: pl.DataFrame, interval: str, candles: int
) -> None:
    file = captures / "binance" / "aggtrades_xrpeth" / f"XRP_ETH-{interval}.feather"
    theirs = served(pl.read_ipc(file).rename({"date": "open_time"}))
    found = compare_where_served(fold(xrpeth, interval), theirs, interval)
    assert (found.compared, found.equal) == (candles, candles)


def test_trade_counts_of_xrpeth_are_sums_of_fills(xrpeth: pl.DataFrame) -> None:
    assert len(xrpeth) == 12_477
    for name, candles in fold_many(xrpeth, INTERVALS).items():
        assert candles["trade_count"].sum() == 14_672
        assert broken(candles, name).is_empty()


def test_aggregated_trades_have_no_hole(xrpeth: pl.DataFrame) -> None:
    assert missing_ranges(xrpeth["trade_id"], None, None) == ()


# --- Kraken GRT/ETH, six pages without ids --------------------------------------------------------


def kraken_rows(payload: dict[str, Any]) -> list[dict[str, Any]]:
    (rows,) = [value for key, value in payload["result"].items() if key != "last"]
    return [
        {
            "trade_id": None,
            "time": int(time * 1_000_000),
            "price": str(price),
            "amount": str(amount),
            "side": {"b": "buy", "s": "sell"}[side],
            "fills": 1,
        }
        for price, amount, time, side, *_ in rows
    ]


@pytest.fixture(scope="module")
def grteth(captures: Path) -> pl.DataFrame:
    rows = []
    for number in range(1, 7):
        (page,) = (captures / "kraken" / "rest_grteth").glob(f"page{number}_*.json.gz")
        rows += kraken_rows(json.loads(gzip.decompress(page.read_bytes()), parse_float=Decimal))
    return assign_ids(frame_of(rows, ids=False))


def test_six_pages_hold_six_thousand_trades_and_ids_keep_their_order(grteth: pl.DataFrame) -> None:
    assert len(grteth) == 6000
    assert grteth["trade_id"].is_sorted()
    assert grteth["trade_id"].is_unique().all()


GRTETH = {
    "1m": ("1M", 2230),
    "5m": ("5M", 1851),
    "15m": ("15M", 1409),
    "30m": ("30M", 1075),
    "1h": ("1H", 712),
    "4h": ("4H", 223),
    "12h": ("12H", 75),
    "1d": ("1D", 37),
    "1w": ("1W", 5),
}


@pytest.mark.parametrize("interval", GRTETH)
def test_candles_of_grteth_equal_those_of_kraken_ohlc(
    captures: Path, grteth: pl.DataFrame, interval: str
) -> None:
    name, candles = GRTETH[interval]
    file = captures / "kraken" / "rest_grteth" / "ohlc" / f"GRTETH_{name}.csv.gz"
    rows = pl.read_csv(file, try_parse_dates=True, infer_schema_length=None)
    theirs = served(
        rows.with_columns(
            pl.col("time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("open_time")
        )
    )
    found = compare_where_served(fold(grteth, interval), theirs, interval)
    assert (found.compared, found.equal) == (candles, candles)


def test_week_candles_that_start_on_a_thursday_are_not_ours(captures: Path, grteth: pl.DataFrame) -> None:
    ours = fold(grteth, "1w")
    assert set(ours["open_time"].dt.weekday()) == {1}


# --- Kraken XRP/USDT ------------------------------------------------------------------------------


def test_51_days_of_xrpusdt_equal_freqtrades(captures: Path) -> None:
    folder = captures / "kraken" / "freqtrade_xrpusdt"
    raw = json.loads(gzip.decompress((folder / "XRP_USDT-trades.json.gz").read_bytes()))
    trades = frame_of(
        [
            {
                "trade_id": None,
                "time": ms * 1000,
                "price": str(price),
                "amount": str(amount),
                "side": side,
                "fills": 1,
            }
            for ms, _, _, side, price, amount, _ in raw
        ],
        ids=False,
    )
    assert len(trades) == 17_574
    days = pl.DataFrame(
        json.loads((folder / "XRP_USDT-1d.json").read_text()),
        schema=["open_time", "open", "high", "low", "close", "volume"],
        orient="row",
    )
    theirs = served(days.with_columns((pl.col("open_time") * 1000).cast(TIME)))
    found = compare_where_served(fold(assign_ids(trades), "1d"), theirs, "1d")
    assert (found.compared, found.equal) == (51, 51)


# --- Kraken BCH/EUR, whole seconds without ids ----------------------------------------------------


@pytest.fixture(scope="module")
def bcheur(captures: Path) -> list[pl.DataFrame]:
    folder = captures / "kraken" / "csv_bcheur"
    frames = []
    for file in (folder / "BCHEUR.csv", folder / "incremental_q2" / "BCHEUR.csv"):
        lines = [line.split(",") for line in file.read_text().split()]
        rows = [
            {"trade_id": None, "time": int(s) * 10**6, "price": p, "amount": a, "side": None, "fills": 1}
            for s, p, a in lines
        ]
        frames.append(assign_ids(frame_of(rows, ids=False)))
    return frames


def test_all_634_rows_of_bcheur_are_kept_and_importing_them_again_adds_none(
    bcheur: list[pl.DataFrame],
) -> None:
    base, continuation = bcheur
    merged = united(base, continuation)
    assert len(merged) == 634
    assert united(base, continuation, continuation, base).equals(merged)


def test_seventeen_identical_fills_of_one_order_stay_seventeen(bcheur: list[pl.DataFrame]) -> None:
    merged = united(*bcheur)
    same = merged.filter(
        pl.col("time").dt.epoch("s") == 1_672_679_821, pl.col("price") == 93.7, pl.col("amount") == 0.213607
    )
    assert len(same) == 17


def test_a_bcheur_file_cut_inside_a_second_is_made_whole_by_an_overlapping_one(
    bcheur: list[pl.DataFrame],
) -> None:
    whole = bcheur[1]
    content = whole.with_columns(pl.lit(None, pl.Int64).alias("trade_id"))
    for cut in range(1, len(whole), 7):
        head, tail = assign_ids(content[:cut]), assign_ids(content[max(0, cut - 40) :])
        assert united(head, whole).equals(whole)
        assert united(tail, whole).equals(whole)
        assert united(head, tail)["amount"].sum() == pytest.approx(whole["amount"].sum(), rel=1e-12)


def test_open_and_close_of_bcheur_come_from_the_order_of_the_file(bcheur: list[pl.DataFrame]) -> None:
    trades = pl.concat(bcheur)
    minute = pl.col("time").dt.truncate("1m")
    in_file = trades.group_by(minute.alias("open_time"), maintain_order=True).agg(
        pl.col("price").first().alias("open"), pl.col("price").last().alias("close")
    )
    assert fold(trades).select("open_time", "open", "close").equals(in_file)


# --- Binance TRX/USDT, clean and with planted defects ---------------------------------------------


def trxusdt(captures: Path, kind: str) -> pl.DataFrame:
    name = f"{kind}_trade_stream_spot_trxusdt_2025-03-04.csv.gz"
    rows = pl.read_csv(captures / "binance" / "quality_spot_trxusdt" / name)
    return rows.select(
        pl.col("TradeId").alias("trade_id"),
        pl.col("TransactionTime").cast(TIME).alias("time"),
        pl.col("Price").alias("price"),
        pl.col("Quantity").alias("amount"),
        pl.when(pl.col("IsBuyerMarketMaker") == 1)
        .then(pl.lit("sell"))
        .otherwise(pl.lit("buy"))
        .alias("side"),
        pl.lit(1, pl.Int32).alias("fills"),
        pl.col("TimestampOfReceive").cast(TIME).alias("received"),
    )


def test_the_clean_capture_has_no_finding(captures: Path) -> None:
    trades = trxusdt(captures, "positive")
    assert len(trades) == 10_000
    assert repeated_ids(trades).is_empty()
    assert id_holes(trades).is_empty()
    assert clock_skew(trades).is_empty()


def test_of_the_defective_capture_exactly_the_planted_defects_are_found(captures: Path) -> None:
    trades = trxusdt(captures, "negative")
    assert repeated_ids(trades).select("trade_id", "value").rows() == [(348_656_871, 2.0)]
    assert id_holes(trades).select("trade_id", "value").rows() == [(348_656_872, 1.0)]
    skewed = clock_skew(trades)
    assert skewed["trade_id"].to_list() == [348_666_869]
    assert skewed["value"][0] == pytest.approx(83_454.8, abs=0.2)


def test_the_repeated_id_of_the_defective_capture_is_a_conflict_and_its_hole_stays_known(
    captures: Path,
) -> None:
    trades = trxusdt(captures, "negative").select(TRADE_SCHEMA.names()).cast(TRADE_SCHEMA)  # type: ignore[arg-type]
    merged = merge_trades(trades)
    assert (len(merged.trades), merged.repeated) == (9_999, 0)
    assert merged.conflicts["trade_id"].to_list() == [348_656_871]
    assert missing_ranges(merged.trades["trade_id"], None, None) == ((348_656_872, 348_656_872),)


def test_ordinary_days_have_no_finding_but_three_prices_of_a_thin_market_that_came_back_at_once(
    btcusdt: pl.DataFrame, xrpeth: pl.DataFrame, grteth: pl.DataFrame
) -> None:
    found = [
        profile(trades, (trades["time"][0], trades["time"][-1]), sequential=sequential).findings
        for capture, sequential in ((btcusdt, True), (xrpeth, True), (grteth, False))
        for _, trades in capture.group_by(pl.col("time").dt.date(), maintain_order=True)
    ]
    assert len(found) > 40
    odd = pl.concat(found)
    assert odd["rule"].unique().to_list() == ["fat finger"]
    assert odd["time"].dt.date().to_list() == [date(2021, 4, 18), date(2021, 5, 1), date(2021, 5, 9)]
    assert odd["value"].to_list() == pytest.approx([0.123, 0.397, -0.063], abs=1e-3)


# --- Kraken's own candles -------------------------------------------------------------------------


def test_minutes_without_a_trade_in_krakens_answer_are_no_candles(captures: Path) -> None:
    answer = json.loads((captures / "kraken" / "rest_xchange" / "example-ohlc-data.json").read_text())
    rows = pl.DataFrame(
        [
            {
                "open_time": row[0] * 1_000_000,
                **dict(zip(("open", "high", "low", "close"), map(float, row[1:5]), strict=True)),
                "volume": float(row[6]),
                "trade_count": row[7],
            }
            for row in answer["result"]["XXBTZUSD"]
        ]
    )
    theirs = served(rows)
    empty = theirs.filter(pl.col("trade_count") == 0)
    assert (len(theirs), len(empty)) == (720, 17)
    ours = theirs.filter(pl.col("trade_count") > 0)
    found = compare_where_served(ours, theirs, "1m")
    assert (found.compared, found.equal) == (703, 703)
