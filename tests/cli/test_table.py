"""Tables for people: whatever the width, no figure is cut into another one."""

import io
import re
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from rich.table import Table
from rich.text import Text

from marketdata.cli.gaps import Gap, table_of
from marketdata.cli.table import TableSink, draw
from marketdata.manifest import day_window
from tests.cli.conftest import Command
from tests.cli.lakes import BTC, DAY, open_lake, put_day, some_trades

WIDTHS = [20, 60, 80, 100, 140]
LONG = "The source says nothing of the time from 00:00:00 to 15:27:13 (UTC)."


def rows_of(text: str) -> list[dict[str, str]]:
    """The cells of each row by their column; the last line is the count."""
    whole = re.sub(r"(\d{4}-\d\d-\d\d) (?=\d)", r"\1T", text)
    names, *rows = [line.split() for line in whole.splitlines() if line.strip() and "──" not in line][:-1]
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("command", ["candles", "trades"])
def test_every_digit_is_shown_at_any_width(
    marketdata: Command, home: Path, command: str, columns: int
) -> None:
    long = [pl.col("price") * 1e-8, pl.col("amount") + 1_234_567_890.123_456_7]
    put_day(open_lake(home), BTC, DAY, some_trades(DAY, 20).with_columns(long))
    arguments = [command, BTC, "--start", "2025-06-01", "--end", "2025-06-02", "-f", "table"]
    whole = rows_of(marketdata(*arguments, columns=200).text)
    shown = rows_of(marketdata(*arguments, columns=columns).text)
    left_out = whole[0].keys() - shown[0].keys()
    assert left_out <= {"candles": {"vwap", "trades"}, "trades": {"fills"}}[command]
    assert shown == [{name: cell for name, cell in row.items() if name not in left_out} for row in whole]
    assert len(shown) == 20


@pytest.mark.parametrize("columns", WIDTHS)
def test_long_text_goes_over_several_lines_beside_whole_figures(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    file = io.BytesIO()
    sink = TableSink(file, 20)
    sink.write(pl.DataFrame({"day": [DAY], "rows": [1_234_567_890], "reason": [LONG]}))
    sink.close()
    text = file.getvalue().decode()
    assert "2025-06-01" in text
    assert "1,234,567,890" in text
    assert "…" not in text
    body = "".join(line[30:].strip() for line in text.splitlines()[2:-1])
    assert body.replace(" ", "").endswith(LONG.replace(" ", ""))
    assert max(map(len, text.splitlines())) <= max(columns, 45)


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_summary_shows_its_figures_and_totals_at_any_width(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table = Table("status", show_footer=True)
    table.add_column("market", no_wrap=True)
    table.add_column("rows", footer="12,345,678,901", justify="right", no_wrap=True)
    table.add_row(Text("complete"), str(BTC), "9,876,543,210")
    file = io.BytesIO()
    draw(table, file)
    text = file.getvalue().decode()
    assert str(BTC) in text
    assert "12,345,678,901" in text
    assert "9,876,543,210" in text


def test_a_gap_is_told_whole_where_the_terminal_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    start, _ = day_window(DAY)
    file = io.BytesIO()
    draw(table_of([Gap(BTC, start, start + timedelta(days=1), "candle", "drifted further", LONG)]), file)
    words = " ".join(file.getvalue().decode().split())
    assert "candle drifted further" in words
    assert LONG in words
