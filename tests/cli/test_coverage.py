"""Which days are there: the map and the rows."""

import csv
import io
import json
import re
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console, RenderableType

from marketdata.candle import EXCHANGE_CANDLE_SCHEMA
from marketdata.cli.coverage import coverage_frame, render_coverage
from marketdata.lake import Lake
from marketdata.manifest import Manifest, Status, day_window
from marketdata.market import Market
from tests.cli.conftest import Command
from tests.cli.lakes import BTC, DAY, ETH, manifest, open_lake, put_day, some_trades

JUNE = DAY, DAY + timedelta(days=30)


def days(market: Market, states: str, first: date = DAY) -> list[Manifest]:
    """A manifest a letter: c complete, g gaps, u unknown; a dot is a day that is not there."""
    names = {"c": Status.COMPLETE, "g": Status.GAPS, "u": Status.UNKNOWN}
    return [
        manifest(
            market,
            first + timedelta(days=n),
            some_trades(first + timedelta(days=n), 100),
            names[state],
            "Why.",
        )
        for n, state in enumerate(states)
        if state != "."
    ]


def drawn(renderable: RenderableType, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(renderable)
    return [line.rstrip() for line in capture.get().splitlines()]


def a_lake(home: Path) -> Lake:
    lake = open_lake(home)
    for n, status in enumerate((Status.COMPLETE, Status.GAPS, Status.UNKNOWN)):
        put_day(lake, BTC, DAY + timedelta(days=n), status=status, reason=f"Reason {n}.")
    put_day(lake, ETH, DAY + timedelta(days=4))
    return lake


def test_each_state_has_its_own_sign_so_that_no_colour_is_needed() -> None:
    lines = drawn(render_coverage(days(BTC, "cgu."), [BTC], DAY, DAY + timedelta(days=4)))
    row = next(line for line in lines if line.startswith("kraken:BTC/USD "))
    assert row.split()[1:5] == ["██", "▒▒", "??", "··"]
    assert "█ complete 1   ▒ gaps 1   ? unknown 1   · missing 1" in lines


def test_plain_consoles_get_ascii() -> None:
    lines = drawn(render_coverage(days(BTC, "cgu."), [BTC], DAY, DAY + timedelta(days=4), ascii_only=True))
    assert all(line.isascii() for line in lines)
    assert "# complete 1   ~ gaps 1   ? unknown 1   . missing 1" in lines


def test_why_a_day_is_not_complete_stands_below_the_map() -> None:
    lines = drawn(render_coverage(days(BTC, "cgc"), [BTC], DAY, DAY + timedelta(days=3)))
    assert lines[-1] == "kraken:BTC/USD 2025-06-02 gaps: Why."


def test_many_reasons_are_cut_with_their_number() -> None:
    lines = drawn(render_coverage(days(BTC, "g" * 12), [BTC], DAY, DAY + timedelta(days=12)))
    assert sum("gaps: Why." in line for line in lines) == 8
    assert lines[-1].startswith("and 4 more")


def test_a_week_shows_the_days_and_what_each_market_holds() -> None:
    lines = drawn(render_coverage(days(BTC, "ccccccc"), [BTC, ETH], DAY, DAY + timedelta(days=7)), 80)
    assert lines[0].strip() == "2025-06"
    assert lines[1].split() == ["01", "02", "03", "04", "05", "06", "07"]
    assert lines[2].endswith("7/7          700 rows")
    assert lines[3].endswith("0/7            0 rows")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_year_is_broken_by_month_and_keeps_to_the_width(width: int) -> None:
    start, end = date(2025, 1, 1), date(2026, 1, 1)
    lines = drawn(render_coverage(days(BTC, "c" * 365, start), [BTC, ETH], start, end), width)
    assert max(map(len, lines)) <= width
    rows = [line.split(maxsplit=1)[1] for line in lines if line.startswith("kraken:BTC/USD ")]
    assert sum(row.count("█") for row in rows) == 365
    months = [month for line in lines if line.strip().startswith("2025-") for month in line.split()]
    assert months == [f"2025-{month:02}" for month in range(1, 13)]


def test_a_console_that_is_too_narrow_still_shows_every_day() -> None:
    lines = drawn(render_coverage(days(BTC, "c" * 30), [BTC], *JUNE), 30)
    assert sum(line.count("█") for line in lines if line.startswith("kraken")) == 30


@pytest.mark.parametrize("width", range(30, 40))
def test_the_end_of_a_line_cuts_no_date_of_the_heading(width: int) -> None:
    for count in range(21, 60, 2):
        lines = drawn(render_coverage([], [BTC], DAY, DAY + timedelta(days=count), ascii_only=True), width)
        headings = [line for line in lines if line.startswith(" " * 10)]
        words = {word for line in headings for word in line.split()}
        assert all(re.fullmatch(r"\d{4}-\d\d|\d\d?", word) for word in words), words
        assert {word for word in words if len(word) < 3} <= {f"{day:02}" for day in range(32)} | {"1"}


def test_rows_say_missing_where_there_is_no_manifest() -> None:
    frame = coverage_frame(days(BTC, "c.g"), [BTC], DAY, DAY + timedelta(days=3))
    assert frame["status"].to_list() == ["complete", "missing", "gaps"]
    assert frame["rows"].to_list() == [100, 0, 100]
    assert frame["missing_trades"].to_list() == [0, None, 3]


def test_the_command_maps_the_lake_from_its_first_to_its_last_day(marketdata: Command, home: Path) -> None:
    a_lake(home)
    result = marketdata("coverage", "--format", "map", columns=80)
    assert (result.code, result.stderr) == (0, "")
    lines = result.text.splitlines()
    assert lines[1].split() == ["01", "02", "03", "04", "05"]
    markets = [line.split()[0] for line in lines if "/5 " in line]
    assert markets == sorted(markets)
    assert len(markets) == 6
    assert "kraken:BTC/USD 2025-06-02 gaps: Reason 1." in lines


def test_a_terminal_gets_the_map_in_colour(marketdata: Command, home: Path) -> None:
    a_lake(home)
    text = marketdata("coverage", terminal=True).text
    assert "██" in text
    assert "\x1b[" in text


@pytest.mark.parametrize("form", ["csv", "json"])
def test_the_command_writes_a_row_a_day_and_market(marketdata: Command, home: Path, form: str) -> None:
    a_lake(home)
    text = marketdata("coverage", BTC, "--start", "2025-06-01", "--end", "2025-06-05", "-f", form).text
    rows = (
        list(csv.DictReader(io.StringIO(text)))
        if form == "csv"
        else [json.loads(line) for line in text.splitlines()]
    )
    assert [(row["day"], row["status"]) for row in rows] == [
        ("2025-06-01", "complete"),
        ("2025-06-02", "gaps"),
        ("2025-06-03", "unknown"),
        ("2025-06-04", "missing"),
    ]
    assert {row["exchange"] + ":" + row["symbol"] for row in rows} == {"kraken:BTC/USD"}


def test_a_market_that_the_lake_lacks_is_named_with_the_nearest(marketdata: Command, home: Path) -> None:
    a_lake(home)
    result = marketdata("coverage", "kraken:BTC/USDD")
    assert result.code == 2
    assert "'kraken:BTC/USD'" in result.error


def test_an_empty_lake_says_how_to_fill_it(marketdata: Command, home: Path) -> None:
    result = marketdata("coverage")
    assert result.code == 1
    assert "marketdata backfill" in result.error
    missing = marketdata("coverage", "--start", "2025-06-01", "--end", "2025-06-03", "-f", "csv")
    assert missing.code == 0
    assert missing.text.count(",missing,") == 12


def test_a_damaged_file_is_named(marketdata: Command, home: Path) -> None:
    lake = a_lake(home)
    Path(lake.path("trades", BTC, DAY)).write_bytes(b"PAR1 and no more")
    result = marketdata("coverage")
    assert (result.code, result.stdout) == (1, b"")
    assert "part-0.parquet" in result.error


def test_the_evidence_of_each_day_is_a_paragraph(marketdata: Command, home: Path) -> None:
    lake = a_lake(home)
    put_exchange_candles(lake, volume=1.0)
    text = marketdata("coverage", BTC, "--evidence", "-f", "text", columns=100).text
    paragraphs = text.strip().split("\n\n")
    assert [line.partition(": ")[0] for line in (p.splitlines()[0] for p in paragraphs)] == [
        "kraken:BTC/USD 2025-06-01 complete",
        "kraken:BTC/USD 2025-06-02 gaps",
        "kraken:BTC/USD 2025-06-03 unknown",
    ]
    assert "  + ids              Ids 1 to 1440 follow one another." in paragraphs[0]
    assert "  - volume           The exchange's own candles (1m) of the day have volume 1;" in paragraphs[0]
    assert "  - ids              3 ids are missing: 5 to 7." in paragraphs[1]


@pytest.mark.parametrize("form", ["csv", "json"])
def test_the_evidence_is_a_row_a_fact(marketdata: Command, home: Path, form: str) -> None:
    a_lake(home)
    text = marketdata(
        "coverage", "--evidence", "--start", DAY, "--end", DAY + timedelta(days=2), "-f", form
    ).text
    rows = (
        list(csv.DictReader(io.StringIO(text)))
        if form == "csv"
        else [json.loads(line) for line in text.splitlines()]
    )
    assert [(row["day"], row["kind"], row["verdict"]) for row in rows] == [
        ("2025-06-01", "ids", "agrees"),
        ("2025-06-01", "asked", "agrees"),
        ("2025-06-02", "ids", "contradicts"),
        ("2025-06-02", "asked", "agrees"),
    ]


def test_days_that_are_not_held_have_no_evidence(marketdata: Command, home: Path) -> None:
    a_lake(home)
    result = marketdata("coverage", BTC, "--evidence", "--start", "2024-01-01", "--end", "2024-01-02")
    assert result.code == 1
    assert "holds none of these days" in result.error


def put_exchange_candles(lake: Lake, volume: float) -> None:
    """The exchange's own candles of the first day: one, with this volume."""
    minute = lake.read_candles(BTC, "1m", *day_window(DAY))[:1].select(EXCHANGE_CANDLE_SCHEMA.names())
    facts = {"served": "whole", "from": f"{DAY}T00:00:00+00:00"}
    candles = minute.with_columns(pl.lit(volume).alias("volume"))
    lake.write_candles(BTC, DAY, "1m", candles, kind="exchange_candles", facts=facts)
