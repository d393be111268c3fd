"""A small lake with something wrong in it, and a ledger that tells what was done about it."""

import os
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from marketdata.lake import Lake, ledger
from marketdata.ledger import Entry, Event, State
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from tests.cli.lakes import BTC, open_lake, put_day

TODAY = datetime.now(UTC).date()
MARKETS = '[[market]]\nexchange = "kraken"\nsymbol = "BTC/USD"\nsince = 2024-01-01\n'


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def entry(
    event: Event,
    state: State,
    *,
    day: date,
    at: datetime,
    reason: str = "incomplete",
    market: Market = BTC,
    **more: object,
) -> Entry:
    start, end = day_window(day)
    given = {"subject": "trades", "detail": "3 trades are missing: ids 5 to 7."} | more
    return Entry(at=at, event=event, state=state, market=market, reason=reason, start=start, end=end, **given)  # type: ignore[arg-type]


def a_story(day: date, at: datetime, *, ends: State = State.REPAIRED, attempts: int = 1) -> list[Entry]:
    """Found, tried so often, and how it ended."""
    story = [entry(Event.FINDING, State.OPEN, day=day, at=at, before={"rows": 1437, "missing": 3})]
    for attempt in range(1, attempts + 1):
        then = at + attempt * timedelta(minutes=5)
        story.append(
            entry(
                Event.REPAIR, State.OPEN, day=day, at=then, attempt=attempt,
                detail="Asked for again.", run_id=f"run-{attempt}",
            )
        )  # fmt: skip
        state = ends if attempt == attempts else State.FAILED
        good = state is State.REPAIRED
        story.append(
            entry(
                Event.OUTCOME,
                state,
                day=day,
                at=then + timedelta(seconds=40),
                attempt=attempt,
                detail="Every id from the first to the last is there." if good else "3 trades are missing.",
                before={"rows": 1437, "missing": 3},
                after={"rows": 1440, "missing": 0} if good else {"rows": 1437, "missing": 3},
                run_id=f"run-{attempt}",
            )
        )
    return story


def a_world(home: Path) -> Lake:
    """Ten days: two absent, one with gaps, one damaged, one with stale candles; and three stories."""
    home.mkdir(parents=True, exist_ok=True)
    lake = open_lake(home)
    for days in (10, 9, 8, 5, 4, 3, 2, 1):
        put_day(lake, BTC, ago(days))
    fold_facts(lake, *(ago(days) for days in (10, 9, 8, 4, 3, 2, 1)))
    put_day(lake, BTC, ago(8), status=Status.GAPS, reason="3 trades are missing: ids 5 to 7.")
    fold_facts(lake, ago(8))
    cut = Path(lake.path("trades", BTC, ago(4)))
    cut.write_bytes(cut.read_bytes()[:500])
    for day in (ago(n) for n in (10, 9, 8, 5, 4, 3, 2, 1)):
        old(lake, day)
    noon = datetime.now(UTC) - timedelta(hours=3)
    ledger.append(lake, a_story(ago(8), noon, ends=State.EXHAUSTED, attempts=2))
    ledger.append(lake, a_story(ago(2), noon))
    ledger.append(lake, a_story(ago(9), noon - timedelta(days=30)))
    return lake


def old(lake: Lake, day: date) -> None:
    """Make the day's file one of an hour ago: what is made of it is no longer on its way."""
    at = time.time() - 3600
    os.utime(lake.path("trades", BTC, day), (at, at))


def fold_facts(lake: Lake, *days: date) -> None:
    """Say of these days' candles that they are of the trades that the lake holds."""
    for day in days:
        manifest = lake.manifest(BTC, day)
        assert manifest is not None
        candles = lake.read_candles(BTC, "1m", *day_window(day))
        lake.write_candles(BTC, day, "1m", candles, facts={"trades": manifest.content_hash})
