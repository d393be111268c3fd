"""Markets, and every spelling of a symbol in one place.

A market is an exchange and a unified ccxt symbol, written ``kraken:BTC/USD``. Its slug
``kraken:BTC-USD`` is for paths and partition keys only. Exchanges spell the same symbol in their own
ways (``XBT/USD``, ``XXBTZUSD``, ``XBTUSD``, ``BTCUSDT``); no other module knows about that.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from marketdata.errors import UsageError

_EXCHANGE = re.compile(r"[a-z][a-z0-9_]{0,40}")
# What ccxt uses in symbols: BTC/USD, BTC/USDT:USDT, BTC/USD:BTC-250926-60000-C, $PAC/USDT, 1INCH/EUR
_SYMBOL = re.compile(r"[^\s/|:\\]{1,40}/[^\s/|:\\]{1,40}(:[^\s/|:\\]{1,60})?")


@dataclass(frozen=True, slots=True, order=True)
class Market:
    """One symbol on one exchange."""

    exchange: str
    symbol: str

    def __post_init__(self) -> None:
        """Refuse what could not be an exchange id or a unified symbol; paths are built from these."""
        if not _EXCHANGE.fullmatch(self.exchange):
            msg = f"Exchange {self.exchange!r} is not a ccxt id."
            raise UsageError(msg, hint="Write it in lower case, for example 'kraken'.")
        if not _SYMBOL.fullmatch(self.symbol) or not self.symbol.isprintable():
            msg = f"Symbol {self.symbol!r} is not a unified symbol."
            raise UsageError(msg, hint="Write base, slash, quote, for example 'BTC/USD'.")

    @classmethod
    def parse(cls, text: "str | Market") -> "Market":
        """Return the market written ``exchange:BASE/QUOTE`` (or its slug, ``exchange:BASE-QUOTE``).

        Raises:
            UsageError: there is no exchange or no symbol in it.
        """
        if isinstance(text, Market):
            return text
        exchange, colon, symbol = text.partition(":")
        if not colon or not symbol:
            msg = f"Market {text!r} does not say exchange and symbol."
            raise UsageError(msg, hint="Write it as exchange:BASE/QUOTE, for example 'kraken:BTC/USD'.")
        return cls(exchange, symbol if "/" in symbol else symbol_from_slug(symbol))

    def __str__(self) -> str:
        """Return ``kraken:BTC/USD``."""
        return f"{self.exchange}:{self.symbol}"

    @property
    def base(self) -> str:
        """What is traded."""
        return self.symbol.partition("/")[0]

    @property
    def quote(self) -> str:
        """What it is priced in."""
        return self.symbol.partition("/")[2].partition(":")[0]

    @property
    def symbol_slug(self) -> str:
        """The symbol as a path segment, ``BTC-USD``; reversible and the same on every file system."""
        return quote(self.symbol.replace("%", "%25").replace("-", "%2D"), safe="/%$.").replace("/", "-")

    @property
    def slug(self) -> str:
        """``kraken:BTC-USD``, for paths and partition keys."""
        return f"{self.exchange}:{self.symbol_slug}"


def symbol_from_slug(slug: str) -> str:
    """Return the symbol of a path segment: ``BTC-USD`` -> ``BTC/USD``."""
    return unquote(slug.replace("-", "/"))
