"""What the ledger tells of a partition, for the metadata of its checks."""

import logging
from collections.abc import Callable
from datetime import date

import dagster as dg

from marketdata import recording, story
from marketdata.errors import MarketDataError
from marketdata.lake import Lake
from marketdata.ledger import LEDGER_SCHEMA
from marketdata.manifest import day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata_dagster.metadata import Metadata

LEDGER = "ledger"
_LOG = logging.getLogger(__name__)


def of_day(settings: Settings, lake: Lake, market: Market, day: date) -> dg.MetadataValue:
    """The cases of a market and day as Markdown."""
    told = teller(settings, lake)(market, day)
    return told.get(LEDGER, dg.MetadataValue.md(story.markdown(LEDGER_SCHEMA.to_frame())))


def teller(settings: Settings, lake: Lake) -> Callable[[Market, date], Metadata]:
    """For many days: the ledger is read once. Days of which it has nothing get no metadata.

    A ledger that cannot be read is said in the log and fails nothing.
    """
    try:
        entries = recording.entries(settings, lake)
    except MarketDataError as error:
        _LOG.warning("the ledger cannot be read: %s", error)
        entries = LEDGER_SCHEMA.to_frame()

    def told(market: Market, day: date) -> Metadata:
        if entries.is_empty():
            return {}
        mine = story.of_stretch(entries, str(market), *day_window(day))
        return {} if mine.is_empty() else {LEDGER: dg.MetadataValue.md(story.markdown(mine))}

    return told
