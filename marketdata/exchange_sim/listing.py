"""What the local exchange lists: symbols, their spellings, and how busy each is (pure).

``rate`` is rows a day: Kraken trades, Binance aggTrades. The six markets of ``markets.toml`` make about
two million rows in any seven days.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

LISTED_SINCE = date(2020, 1, 1)
_EPOCH_DAY = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Asset:
    """A currency: its price in US dollars wanders around ``level`` with ``volatility`` a day (log)."""

    code: str
    level: float
    volatility: float
    kraken_id: str
    kraken_name: str


@dataclass(frozen=True, slots=True)
class Listing:
    """One symbol on one exchange.

    ``tick`` and ``lot`` are decimals of the grid of prices and amounts; ``price_text`` and ``amount_text``
    the decimals that trades are printed with. ``names`` are the spellings that a request may use, the
    first of them is the one that answers use.
    """

    exchange: str
    symbol: str
    names: tuple[str, ...]
    base: Asset
    quote: Asset
    tick: int
    lot: int
    price_text: int
    rate: int = 2_000
    fills: float = 1.0
    amount_text: int = 8
    order_value: float = 900.0
    first_day: int = LISTED_SINCE.toordinal() - _EPOCH_DAY

    @property
    def id(self) -> str:
        """The exchange's own spelling, the key of its answers."""
        return self.names[0]

    @property
    def market(self) -> str:
        """``kraken:BTC/USD``."""
        return f"{self.exchange}:{self.symbol}"


def day_number(day: date) -> int:
    """Days since 1970-01-01."""
    return day.toordinal() - _EPOCH_DAY


def day_of(number: int) -> date:
    """The UTC day of that many days since 1970-01-01."""
    return date.fromordinal(number + _EPOCH_DAY)


def ns_of(time: datetime) -> int:
    """Nanoseconds since the epoch of an aware datetime."""
    delta = time - datetime(1970, 1, 1, tzinfo=UTC)
    return ((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1_000


_ASSETS = {
    asset.code: asset
    for asset in (
        Asset("USD", 1.0, 0.0, "ZUSD", "USD"),
        Asset("EUR", 1.12, 0.003, "ZEUR", "EUR"),
        Asset("USDT", 1.0, 0.0002, "USDT", "USDT"),
        Asset("USDC", 1.0, 0.0001, "USDC", "USDC"),
        Asset("BTC", 78_000.0, 0.020, "XXBT", "XBT"),
        Asset("ETH", 3_000.0, 0.027, "XETH", "ETH"),
        Asset("SOL", 150.0, 0.033, "SOL", "SOL"),
        Asset("XRP", 1.0, 0.033, "XXRP", "XRP"),
        Asset("ADA", 0.6, 0.035, "ADA", "ADA"),
        Asset("DOGE", 0.2, 0.038, "XXDG", "XDG"),
        Asset("LTC", 95.0, 0.028, "XLTC", "LTC"),
        Asset("DOT", 6.0, 0.035, "DOT", "DOT"),
        Asset("BNB", 620.0, 0.022, "BNB", "BNB"),
        Asset("GRT", 0.15, 0.040, "GRT", "GRT"),
    )
}


def asset(code: str) -> Asset:
    """The currency of that unified code; an unknown one is worth about a dollar."""
    return _ASSETS.get(code) or Asset(code, 1.0, 0.03, code, code)


def kraken_listing(
    symbol: str, tick: int, price_text: int, *, rate: int = 2_000, order_value: float = 900.0
) -> Listing:
    """A Kraken pair; the old currencies carry X and Z in its key (``XXBTZUSD``), the new do not."""
    base, quote = (asset(code) for code in symbol.split("/"))
    altname = base.kraken_name + quote.kraken_name
    prefixed = len(base.kraken_id) > len(base.kraken_name) and len(quote.kraken_id) > len(quote.kraken_name)
    key = base.kraken_id + quote.kraken_id if prefixed else altname
    wsname = f"{base.kraken_name}/{quote.kraken_name}"
    names = tuple(dict.fromkeys((key, altname, wsname, symbol)))
    return Listing(
        "kraken", symbol, names, base, quote, tick, 8, price_text, rate=rate, order_value=order_value
    )


def binance_listing(symbol: str, tick: int, lot: int, *, rate: int = 2_000, fills: float = 1.25) -> Listing:
    """A Binance spot symbol; ``fills`` is the mean number of raw trades in an aggTrade."""
    base, quote = (asset(code) for code in symbol.split("/"))
    return Listing(
        "binance", symbol, (base.code + quote.code,), base, quote, tick, lot, 8, rate=rate, fills=fills
    )


LISTINGS: tuple[Listing, ...] = (
    kraken_listing("BTC/USD", 1, 5, rate=46_000, order_value=1_800.0),
    kraken_listing("ETH/USD", 2, 5, rate=28_000, order_value=1_200.0),
    kraken_listing("SOL/USD", 2, 5, rate=11_000),
    kraken_listing("XRP/USD", 5, 8, rate=9_000),
    kraken_listing("BTC/EUR", 1, 5, rate=12_000),
    kraken_listing("ETH/EUR", 2, 5),
    kraken_listing("ETH/BTC", 5, 5),
    kraken_listing("LTC/USD", 2, 5),
    kraken_listing("ADA/USD", 6, 8),
    kraken_listing("DOGE/USD", 7, 9),
    kraken_listing("DOT/USD", 4, 8, rate=400),
    kraken_listing("USDT/USD", 5, 8),
    binance_listing("BTC/USDT", 2, 5, rate=96_000, fills=1.35),
    binance_listing("ETH/USDT", 2, 4, rate=64_000, fills=1.30),
    binance_listing("XRP/USDT", 4, 1, rate=41_000),
    binance_listing("SOL/USDT", 2, 3, rate=30_000),
    binance_listing("BNB/USDT", 2, 3),
    binance_listing("ADA/USDT", 4, 1),
    binance_listing("DOGE/USDT", 5, 0),
    binance_listing("LTC/USDT", 2, 3),
    binance_listing("ETH/BTC", 5, 4),
    binance_listing("BTC/USDC", 2, 5),
    binance_listing("BTC/EUR", 2, 5, rate=400),
)


def of_exchange(listings: tuple[Listing, ...], exchange: str) -> Iterator[Listing]:
    """The listings of one exchange."""
    return (listing for listing in listings if listing.exchange == exchange)
