"""``marketdata report``: the daily report of a UTC day, as a file in the lake."""

import webbrowser
from datetime import timedelta
from pathlib import Path

from marketdata import reporting
from marketdata.cli.context import context
from marketdata.cli.failures import say
from marketdata.cli.times import parse_time
from marketdata.errors import BadRange


def run_report(day: str | None, *, browse: bool) -> int:
    """Write the report, print where it lies, and show it."""
    here = context()
    wanted = (here.now - timedelta(days=1) if day is None else parse_time(day, "--day")).date()
    if wanted > here.now.date():
        msg = f"--day {wanted} is in the future."
        raise BadRange(msg, hint=f"Today is {here.now.date()} (UTC).")
    facts, place = reporting.write(here.settings, here.lake, wanted, now=here.now)
    say(f"{wanted}: {reporting.sentence(facts.markets)}")
    print(place)
    if browse:
        webbrowser.open(place if "://" in place else Path(place).as_uri())
    return 0
