"""Which entries of the ledger somebody is told of (pure): what stays broken, dead feeds, and drift."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import polars as pl

from marketdata.alerts import Alert, Severity, link
from marketdata.ledger import Event, State
from marketdata.market import Market
from marketdata.settings import Settings

FEED, DEAD, DRIFT = "feed", "dead", "drift"
_ASSETS = {"store": "store_trades", "stream": "reconciliation", FEED: "trades"}


def of_entries(settings: Settings, entries: pl.DataFrame) -> Iterator[Alert]:
    """The alerts that entries deserve, each under the entry's own key.

    Args:
        settings: for links.
        entries: LEDGER_SCHEMA.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry in entries.iter_rows(named=True):
        # All markets of a dead feed are told of together: they share its socket.
        together = (entry["exchange"], entry["start"], entry["event"], entry["reason"] == DEAD)
        groups.setdefault(together if entry["reason"] == DEAD else (entry["entry_id"],), []).append(entry)
    for first, *others in groups.values():
        found = _severity_and_title(first)
        if found is not None:
            severity, title = found
            market = Market(first["exchange"], first["symbol"])
            about = "stream" if first["reason"] == DRIFT else first["subject"]
            asset = _ASSETS.get(about, about)
            yield Alert(
                key=_key(first),
                title=title,
                text=f"{first['detail']} Its story: marketdata repairs --case {first['case']}",
                severity=severity,
                link=link(settings, market, asset, first["start"].date()),
                covers=tuple(_key(each) for each in others),
            )


def _key(entry: dict[str, Any]) -> str:
    return f"ledger {entry['entry_id']}"


def _severity_and_title(entry: dict[str, Any]) -> tuple[Severity, str] | None:
    market = f"{entry['exchange']}:{entry['symbol']}"
    if entry["state"] == State.EXHAUSTED:
        attempts = f"{entry['attempt']} attempt{'' if entry['attempt'] == 1 else 's'}"
        what = f"{market} {_when(entry)}: {entry['subject']} {entry['reason']}"
        return Severity.ERROR, f"{what}, given up after {attempts}"
    if entry["reason"] == DEAD and entry["event"] == Event.FINDING:
        return Severity.ERROR, f"{entry['exchange']}: the feed is dead"
    if entry["reason"] == DEAD and entry["state"] == State.REPAIRED:
        return Severity.INFO, f"{entry['exchange']}: the feed is back"
    if entry["reason"] == DRIFT and entry["event"] == Event.FINDING:
        return Severity.ERROR, f"{market} {_when(entry)}: stream and history drift apart"
    return None


def _when(entry: dict[str, Any]) -> str:
    """A whole day by its date, anything else with its time."""
    start: datetime = entry["start"]
    whole = start.time() == entry["end"].time() == start.min.time()
    return f"{start:%Y-%m-%d}" if whole else f"{start:%Y-%m-%d %H:%M} UTC"
