"""A person in the UI: a real headless Chromium clicks a backfill and looks at what came of it.

``MARKETDATA_SCREENSHOTS=docs/images`` writes the pictures of the documentation.
"""

import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from marketdata.lake import Lake
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata_dagster.demo_repair import cut_in_half
from marketdata_dagster.stack import LocalStack
from tests.dagster.quiet import stop_what_the_clock_starts

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.daemon]

CHROMIUM = Path(os.environ.get("MARKETDATA_CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MARKETS = [("kraken", "BTC/USD"), ("kraken", "ETH/USD"), ("kraken", "SOL/USD"), ("binance", "BTC/USDT")]
SYMBOLS = ("BTC-USD", "SOL-USD")
MADE = ("trades", "candles", "exchange_candles", "quality", "reconciliation")
LAST = datetime.now(UTC).date() - timedelta(days=1)
FIRST = LAST - timedelta(days=2)
SINCE = LAST - timedelta(days=9)
DAMAGED = LAST - timedelta(days=1)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    home = tmp_path_factory.mktemp("ui")
    markets = home / "markets.toml"
    markets.write_text(
        "".join(
            f'[[market]]\nexchange = "{exchange}"\nsymbol = "{symbol}"\nsince = {SINCE}\n\n'
            for exchange, symbol in MARKETS
        )
    )
    settings = Settings.load(home=home, markets=markets)
    # What is damaged is repaired; days are fetched where somebody clicks, for what is to be seen is counted.
    quick = {"MARKETDATA_REQUEST_INTERVAL_MS": "0", "MARKETDATA_REPAIR_DAYS": "0"}
    with LocalStack(settings, environment=quick) as running:
        stop_what_the_clock_starts(running.graphql)
        yield running


@pytest.fixture(scope="module")
def page(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator["sync_api.Page"]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there; install Chromium or set MARKETDATA_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": 1600, "height": 900},
            timezone_id="UTC",
        )
        context.set_default_timeout(120_000)
        sync_api.expect.set_options(timeout=120_000)
        yield context.new_page()
        context.close()


def picture(page: "sync_api.Page", name: str) -> None:
    """Keep what is to be seen, when that was asked for."""
    folder = os.environ.get("MARKETDATA_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_a_clicked_backfill_of_several_days_and_symbols_ends_green(
    stack: LocalStack, page: "sync_api.Page"
) -> None:
    page.goto(f"{stack.urls.webserver}/locations/__repository__@marketdata/asset-groups/kraken")
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_placeholder("ex:").fill(f"[{FIRST}...{LAST}]")
    dialog.get_by_placeholder("ex:").press("Enter")
    dialog.get_by_text("Select a partition or create one").click()
    for symbol in SYMBOLS:
        page.get_by_role("menuitem").filter(has_text=symbol).first.click()
    dialog.get_by_text("Launch runs to materialize").first.click()
    picture(page, "launch")
    dialog.get_by_role("button", name="Launch").click()
    page.goto(f"{stack.urls.webserver}/runs?view=backfills")
    page.locator('a[href*="/runs/b/"]').first.click()
    sync_api.expect(page.get_by_text("100% completed")).to_have_count(len(MADE), timeout=500_000)
    # The head of a column, and the badge, which follows when the daemon and the page have looked again.
    sync_api.expect(page.get_by_text("Succeeded", exact=True)).to_have_count(2)
    picture(page, "backfill")


def test_the_partition_shows_a_picture_numbers_and_rows(stack: LocalStack, page: "sync_api.Page") -> None:
    key = f"{LAST}%7CBTC-USD"
    page.goto(f"{stack.urls.webserver}/assets/kraken/trades?view=partitions&partition={key}")
    sync_api.expect(page.get_by_text("Materialized", exact=True)).to_be_visible()
    image = page.locator('img[src^="data:image/png"]').first
    sync_api.expect(image).to_be_visible()
    assert image.evaluate("picture => picture.naturalWidth") >= 280
    sync_api.expect(page.get_by_text("status", exact=True)).to_be_visible()
    sync_api.expect(page.get_by_text("complete", exact=True)).to_be_visible()
    sync_api.expect(page.get_by_role("columnheader", name="trade_id")).to_be_visible()
    picture(page, "partition")


@pytest.mark.parametrize(
    ("asset", "check"),
    [("trades", "every_trade_is_there"), ("candles", "candles_agree_with_the_exchange")],
)
def test_the_checks_are_passed_for_every_partition(
    stack: LocalStack, page: "sync_api.Page", asset: str, check: str
) -> None:
    page.goto(f"{stack.urls.webserver}/assets/kraken/{asset}?view=checks&checkDetail={check}")
    sync_api.expect(page.get_by_text("Passed", exact=True).first).to_be_visible()
    picture(page, f"check-{asset}")
    page.get_by_text("Partitions", exact=True).last.click()
    sync_api.expect(page.get_by_text("(6)")).to_be_visible()
    # Below the bar stands the last day once more.
    page.get_by_text(str(LAST), exact=True).filter(visible=True).last.click()
    page.get_by_text("BTC-USD", exact=True).filter(visible=True).last.click()
    sync_api.expect(page.get_by_text(f"{LAST}|BTC-USD").first).to_be_visible()
    picture(page, f"check-{asset}-partitions")


def test_the_asset_graph_shows_both_exchanges(stack: LocalStack, page: "sync_api.Page") -> None:
    page.goto(f"{stack.urls.webserver}/locations/__repository__@marketdata/asset-groups/kraken")
    sync_api.expect(page.get_by_text("exchange_candles").first).to_be_visible()
    picture(page, "assets")


def test_the_run_tells_its_progress_in_the_log(stack: LocalStack, page: "sync_api.Page") -> None:
    runs = stack.graphql.ask("{ runsOrError { ... on Runs { results { id } } } }")["runsOrError"]["results"]
    page.goto(f"{stack.urls.webserver}/runs/{runs[0]['id']}?logs=trades%2Fs")
    sync_api.expect(page.get_by_text("3 of 3 days", exact=False).first).to_be_visible()
    picture(page, "run")


def look_at_the_check(stack: LocalStack, page: "sync_api.Page", found: str) -> None:
    """Open the check of the damaged day, once so many partitions are as they should be."""
    until = time.monotonic() + 400
    while True:  # the page does not look again by itself
        page.goto(f"{stack.urls.webserver}/assets/kraken/trades?view=checks&checkDetail=every_trade_is_there")
        sync_api.expect(page.get_by_text("Execution history")).to_be_visible()
        page.get_by_text("Partitions", exact=True).last.click()
        sync_api.expect(page.get_by_text(re.compile(r"^Passed \(\d+\)$"))).to_be_visible()
        if page.get_by_text(found, exact=True).is_visible():
            break
        assert time.monotonic() < until, page.get_by_text("Failed (").all_text_contents()
        page.wait_for_timeout(3000)
    page.get_by_text(str(DAMAGED), exact=True).filter(visible=True).last.click()
    page.get_by_text("BTC-USD", exact=True).filter(visible=True).last.click()
    sync_api.expect(page.get_by_text(f"{DAMAGED}|BTC-USD").first).to_be_visible()


def switch(stack: LocalStack, page: "sync_api.Page", *, on: bool) -> None:
    """Switch the sensor of gaps on or off, on its page."""
    page.goto(f"{stack.urls.webserver}/locations/__repository__@marketdata/sensors/gaps")
    box = page.locator("input[type=checkbox]").first
    sync_api.expect(box).to_be_checked(checked=not on)
    box.locator("xpath=..").click()
    sync_api.expect(box).to_be_checked(checked=on)


def test_a_damaged_day_fails_its_check_and_the_sensors_run_repairs_it(
    stack: LocalStack, page: "sync_api.Page"
) -> None:
    # Off for as long as somebody looks at the damage: the sensor would be quicker than the eye.
    switch(stack, page, on=False)
    lake = Lake.open(stack.settings.lake_url)
    damage = cut_in_half(lake, Market.parse("kraken:BTC/USD"), DAMAGED)
    look_at_the_check(stack, page, "Failed (1)")
    sync_api.expect(page.get_by_text(f"its manifest speaks of {damage.rows:,}")).to_be_visible()
    picture(page, "check-failed")
    switch(stack, page, on=True)
    sync_api.expect(page.get_by_text("1 run requested").first).to_be_visible(timeout=400_000)
    picture(page, "sensor")
    look_at_the_check(stack, page, f"Passed ({3 * len(SYMBOLS)})")
    picture(page, "check-repaired")
    manifest = lake.manifest(damage.market, damage.day)
    assert manifest is not None
    assert manifest.content_hash == damage.content


def test_the_daily_report_is_made_and_read_in_the_ui_and_as_a_page(
    stack: LocalStack, page: "sync_api.Page"
) -> None:
    page.goto(f"{stack.urls.webserver}/assets/report?view=partitions&partition={LAST}")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Launch 1 run").click()
    sync_api.expect(page.get_by_text("Materialized (1)")).to_be_visible(timeout=400_000)
    page.goto(f"{stack.urls.webserver}/assets/report?view=partitions&partition={LAST}")
    sync_api.expect(page.get_by_text("markets complete", exact=True)).to_be_visible()
    picture(page, "report-in-the-ui")
    page.goto((Path(stack.settings.lake_url) / "reports" / f"date={LAST}" / "report.html").as_uri())
    sync_api.expect(page.locator("svg").first).to_be_visible()
    picture(page, "report")
