"""Where services go on that were down: behind what the store has, where nothing else knows."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog

from marketdata.errors import MarketDataError
from marketdata.market import Market
from marketdata.settings import Settings
from realtime.feeds.base import Position

_LOG = structlog.stdlib.get_logger(__name__)
# What is older is the gap sensor's: the first live trade should not wait for hours of history.
LONGEST = timedelta(hours=12)


def trades(settings: Settings, markets: Iterable[Market], now: datetime) -> dict[Market, Position]:
    """The last trade of each market that the store has, if it is of the last twelve hours.

    Only of exchanges whose ids count up by one: elsewhere a position is more than the last row. A store that
    is away is no reason not to begin.
    """
    if settings.database_url is None:
        return {}
    from marketdata.sources import trade_source  # ccxt takes a second to import  # noqa: PLC0415
    from marketdata.store import live_tables  # the store is an optional part  # noqa: PLC0415

    wanted = [market for market in markets if trade_source(market, now.date(), settings, now).sequential_ids]
    try:
        found = live_tables.newest_trades(settings, now - LONGEST)
    except MarketDataError as error:
        _LOG.warning("the store does not say where to go on", error=str(error))
        return {}
    return {market: Position(*found[market]) for market in wanted if market in found}


def candles(settings: Settings, markets: Iterable[Market], now: datetime) -> dict[Market, datetime]:
    """The open time of each market's last candle in the store, if it is of the last twelve hours."""
    from marketdata.store import live_tables  # noqa: PLC0415

    try:
        found = live_tables.newest_candles(settings, now - LONGEST)
    except MarketDataError as error:
        _LOG.warning("the store does not say where to go on", error=str(error))
        return {}
    return {market: found[market] for market in markets if market in found}
