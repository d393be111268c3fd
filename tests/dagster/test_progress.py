"""Progress in a run's log."""

from datetime import date

from marketdata.backfill import Progress
from marketdata.errors import TransientError
from marketdata.market import Market
from marketdata_dagster.progress import ProgressLog

BTC = Market.parse("kraken:BTC/USD")
DAY = date(2025, 6, 8)


def progress(fraction: float) -> Progress:
    return Progress(BTC, DAY, 12, 12_000, 3, fraction, 4_000.0, 3.0, "goes on after page 9")


def test_the_log_says_pages_rows_rate_and_percent() -> None:
    lines: list[str] = []
    now = [0.0]
    log = ProgressLog(lines.append, 2, clock=lambda: now[0])
    now[0] = 2.0
    log.page(progress(0.37))
    assert lines == [
        "0 of 2 days, 12,000 trades, 6,000 trades/s\n"
        "kraken:BTC/USD 2025-06-08: 37% of the day, 12 pages, 12,000 trades, 4,000 trades/s, 3 rejected, "
        "goes on after page 9"
    ]


def test_the_log_is_written_every_five_seconds_however_many_pages_come() -> None:
    lines: list[str] = []
    now = [0.0]
    log = ProgressLog(lines.append, 1, clock=lambda: now[0])
    for tenth in range(120):
        now[0] = tenth / 10
        log.page(progress(tenth / 120))
    assert len(lines) == 3


def test_a_failed_day_is_named_at_once() -> None:
    lines: list[str] = []
    log = ProgressLog(lines.append, 2, clock=lambda: 0.0)
    log.day(((BTC, DAY), TransientError("kraken answers 503.")))
    assert lines == ["kraken:BTC/USD 2025-06-08 failed: kraken answers 503."]
