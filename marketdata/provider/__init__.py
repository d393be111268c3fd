"""The reading side for everyone: candles, trades and what is known of them, from the store or the lake.

::

    from marketdata import Provider

    with Provider() as provider:
        hours = provider.candles("kraken:BTC/USD", "1h", "2025-06-01", "2025-07-01")
        newest = provider.latest_candles("kraken:BTC/USD", "1m", 200)

The store is read where ``MARKETDATA_DATABASE_URL`` is set, else the lake; the results are equal.
``docs/provider.md`` shows every call.
"""

from marketdata.provider.asynchronous import AsyncProvider
from marketdata.provider.provider import Provider
from marketdata.reading import DataRange

__all__ = ["AsyncProvider", "DataRange", "Provider"]
