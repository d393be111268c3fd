"""The daily report says what the lake and the ledger hold, in Markdown and in HTML that stands alone."""

from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from marketdata import drawing, report, reporting
from marketdata.finding import FINDING_SCHEMA
from marketdata.lake import Lake, ledger, paths, reconciliation
from marketdata.market import Market
from marketdata.reconcile import DIFFERENCE_SCHEMA
from marketdata.settings import Settings
from tests.cli.ledgers import MARKETS, a_story
from tests.lake.world import BTC, manifest_of, trades_of

DAY = date(2026, 6, 18)
NOW = datetime(2026, 6, 19, 0, 45, tzinfo=UTC)
VOID = {"br", "meta", "rect", "circle", "line", "link"}


class Strict(HTMLParser):
    """Reads a page and keeps what is open; knows which things it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        assert tag != "script"
        if tag not in VOID or tag in ("rect", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Closed at once."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "markets.toml"
    path.write_text(MARKETS + MARKETS.replace("BTC/USD", "ETH/USD"))
    return Settings.load(_env_file=None, home=tmp_path, markets=path)


@pytest.fixture
def lake(settings: Settings) -> Lake:
    """BTC: nine days up to DAY, of which one is absent, with drift and a refused row; nothing of ETH."""
    lake = Lake.open(settings.lake_url, settings=settings)
    for back in range(9):
        day = DAY - timedelta(days=back)
        if back != 3:
            trades = trades_of(day, 100)
            lake.write_trades(BTC, day, trades, manifest_of(BTC, day, trades, rejected={"amount <b>": 2}))
    late = dict.fromkeys(DIFFERENCE_SCHEMA, None) | {
        "open_time": datetime(2026, 6, 18, 12, tzinfo=UTC),
        "compared_with": "stream",
        "finding": "late trade",
        "close_drift": 0.75,
        "volume_drift": 1.5,
    }
    frame = pl.DataFrame([late], schema=DIFFERENCE_SCHEMA)
    explained = late | {"compared_with": "exchange", "close_drift": 9.0, "state": "explained"}
    frame = pl.concat([frame, pl.DataFrame([explained], schema=DIFFERENCE_SCHEMA)])
    reconciliation.write(lake, BTC, DAY, frame, {"sides": {"stream": {}, "exchange": {}}})
    before = DAY - timedelta(days=1)
    reconciliation.write(lake, BTC, before, DIFFERENCE_SCHEMA.to_frame(), {"sides": {"exchange": {}}})
    odd = [("price outlier", late["open_time"], late["open_time"], 7, 12.0, True, "Far off.")]
    findings = pl.DataFrame(odd, schema=FINDING_SCHEMA, orient="row")
    lake.write_findings(BTC, DAY, findings, facts={})
    noon = datetime(2026, 6, 18, 12, tzinfo=UTC)
    ledger.append(lake, a_story(date(2026, 6, 16), noon))
    ledger.append(lake, a_story(date(2026, 6, 1), noon - timedelta(days=5)))
    return lake


def test_the_report_says_what_the_lake_and_the_ledger_hold(settings: Settings, lake: Lake) -> None:
    facts = reporting.gather(settings, lake, DAY, now=NOW)
    btc, eth = facts.markets
    assert (btc.market, btc.state, btc.rows) == (BTC, "complete", 100)
    assert (btc.late, btc.close_drift, btc.volume_drift) == (1, 0.75, 1.5)
    assert (dict(btc.rejected), dict(btc.findings)) == ({"amount <b>": 2}, {"price outlier": 1})
    assert [value for _, value in btc.drifts if value is not None] == [0.0, 0.75]
    (before, _) = reporting.gather(settings, lake, DAY - timedelta(days=1), now=NOW).markets
    assert (before.late, before.close_drift) == (None, 0.0)
    assert (eth.state, eth.rows) == ("none", 0)
    states = [state for state, _ in facts.calendars[BTC].values()]
    assert (len(states), states.count("complete"), states.count("missing")) == (9, 8, 1)
    told = facts.cases_of_the_day()
    assert {name: len(cases) for name, cases in told.items()} == {"opened": 1, "repaired": 1, "given up": 0}


def test_the_page_is_whole_fetches_nothing_and_escapes_what_others_wrote(
    settings: Settings, lake: Lake
) -> None:
    facts, place = reporting.write(settings, lake, DAY, now=NOW)
    text = Path(place).read_text("utf-8")
    page = Strict()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.fetched == []
    assert "url(" not in text
    assert "amount <b>" in "".join(page.text)
    assert "prefers-color-scheme:dark" in text
    assert place.endswith("/reports/date=2026-06-18/report.html")
    assert text == report.html(facts)


def test_the_markdown_has_a_row_a_market_and_the_cases_of_the_day(settings: Settings, lake: Lake) -> None:
    lines = report.markdown(reporting.gather(settings, lake, DAY, now=NOW)).splitlines()
    assert lines[0] == "### 2026-06-18: 1 of 1 markets complete, 1 beyond 0.5 % drift, 0 open cases now"
    assert "| kraken:BTC/USD | complete | 100 | - | - | 2 | 1 | 1 | 0.75 % | 1.5 % |" in lines
    assert sum(line.startswith("| kraken:ETH/USD | none |") for line in lines) == 1
    assert any("trades incomplete: repaired, tried once" in line for line in lines)
    assert "**Rejected rows** 2 amount &lt;b>" in lines


def test_a_damaged_day_is_told_and_does_not_stop_the_report(settings: Settings, lake: Lake) -> None:
    path = Path(lake.path("trades", BTC, DAY))
    path.write_bytes(path.read_bytes()[:300])
    Path(lake.path("findings", BTC, DAY)).write_bytes(b"no parquet")
    (btc, _) = reporting.gather(settings, lake, DAY, now=NOW).markets
    assert btc.state == "damaged"
    assert "is cut" in btc.reason


def test_an_empty_lake_has_a_report_too(settings: Settings) -> None:
    lake = Lake.open(settings.lake_url, settings=settings)
    facts = reporting.gather(settings, lake, DAY, now=NOW)
    assert "no market was collected" in report.markdown(facts)
    assert report.html(facts).endswith("</html>\n")


def test_the_same_facts_are_the_same_page(settings: Settings, lake: Lake) -> None:
    first = reporting.write(settings, lake, DAY, now=NOW)[1]
    body = Path(first).read_bytes()
    reporting.write(settings, lake, DAY, now=NOW)
    assert Path(first).read_bytes() == body
    assert lake.storage.files("reports") == [paths.report_key(DAY)]


def test_a_calendar_has_a_cell_a_day_and_its_weeks_begin_on_monday() -> None:
    first, last = date(2026, 6, 3), date(2026, 6, 14)
    drawn = drawing.calendar({date(2026, 6, 8): ("gaps", "why & how")}, first, last)
    assert drawn.count("<rect") == 12
    assert '<rect class="gaps" x="43.5" y="16.5"' in drawn
    assert "<title>2026-06-08 why &amp; how</title>" in drawn


def test_bars_beyond_the_limit_are_marked_and_cut() -> None:
    days = [date(2026, 6, 1) + timedelta(days=n) for n in range(3)]
    drawn = drawing.strip([(days[0], 0.2), (days[1], None), (days[2], 80.0)], 0.5)
    assert (drawn.count('class="within"'), drawn.count('class="beyond"')) == (1, 1)
    assert 'height="44.0"' in drawn
    assert "not compared" in drawn


def test_a_market_that_is_not_in_the_file_is_not_in_the_report(settings: Settings, lake: Lake) -> None:
    other = Market("kraken", "XMR/USD")
    trades = trades_of(DAY, 10)
    lake.write_trades(other, DAY, trades, manifest_of(other, DAY, trades))
    assert other not in [each.market for each in reporting.gather(settings, lake, DAY, now=NOW).markets]
