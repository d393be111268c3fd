"""Markets, and every spelling of a symbol in one place.

A market is an exchange and a unified ccxt symbol, written ``kraken:BTC/USD``. Its slug
``kraken:BTC-USD`` is for paths and partition keys only. Exchanges spell the same symbol in their own
ways (``XBT/USD``, ``XXBTZUSD``, ``XBTUSD``, ``BTCUSDT``); no other module knows about that.

:func:`market_from_spelling` reads any of them, :func:`spelling` writes one. Both work offline; with ccxt's
market table they are certain where two currencies written together could be split in two ways.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote

from marketdata.errors import UnknownName, UsageError

_EXCHANGE = re.compile(r"[a-z][a-z0-9_]{0,40}")
# What ccxt uses in symbols: BTC/USD, BTC/USDT:USDT, BTC/USD:BTC-250926-60000-C, $PAC/USDT, 1INCH/EUR
_SYMBOL = re.compile(r"[^\s/|:\\]{1,40}/[^\s/|:\\]{1,40}(:[^\s/|:\\]{1,60})?")
# File systems take names of 255 bytes; ``symbol=`` and a temporary suffix need room too.
_LONGEST_SLUG = 200


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
        if len(self.symbol_slug) > _LONGEST_SLUG:
            msg = f"Symbol {self.symbol!r} is too long for the name of a folder."
            raise UsageError(msg, hint=f"At most {_LONGEST_SLUG} bytes once written as {self.symbol_slug!r}.")

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


Dialect = Literal["rest", "archive", "csv", "ws", "ws_v2"]

# Kraken's own codes -> ccxt's. The letters X (crypto) and Z (fiat) stand before the codes of its first years.
_KRAKEN_CODES = {
    "XBT": "BTC",
    "XDG": "DOGE",
    "LUNA": "LUNC",
    "LUNA2": "LUNA",
    "UST": "USTC",
    # Augur's two tokens: ccxt calls the second one REP, and so would it the first (XREP).
    "REP": "REPV1",
    "REPV2": "REP",
    "FEE": "KFEE",
}
_CODES_KRAKEN = {theirs: ours for ours, theirs in _KRAKEN_CODES.items()}
_KRAKEN_LETTERS = {
    "X": "ETC ETH ICN LTC MLN NMC REP XBT XDG XLM XMR XRP XVN ZEC",
    "Z": "AUD CAD EUR GBP JPY KRW USD",
}
_KRAKEN_LETTER = {code: letter for letter, codes in _KRAKEN_LETTERS.items() for code in codes.split()}
_KRAKEN_LEGACY = {letter + code: code for code, letter in _KRAKEN_LETTER.items()}
# Base -> quotes of the pairs whose REST id has such letters. Pairs listed later do without: a closed list.
_KRAKEN_LEGACY_PAIRS = {
    "ETC": "ETH XBT EUR USD",
    "ETH": "XBT CAD EUR GBP JPY USD",
    "EUR": "USD",
    "GBP": "USD",
    "ICN": "ETH XBT",
    "LTC": "XBT EUR JPY USD",
    "MLN": "ETH XBT EUR USD",
    "REP": "ETH XBT EUR USD",
    "USD": "CAD JPY",
    "XBT": "CAD EUR GBP JPY USD",
    "XDG": "XBT",
    "XLM": "XBT AUD EUR GBP USD",
    "XMR": "XBT EUR USD",
    "XRP": "XBT CAD EUR JPY USD",
    "ZEC": "XBT EUR USD",
}
# The one id where only the second half carries the letter.
_KRAKEN_ODD = {"USDTZUSD": ("USDT", "USD")}


def _longest_first(codes: str) -> tuple[str, ...]:
    return tuple(sorted(codes.split(), key=lambda code: (-len(code), code)))


# Currencies that others are priced in, to split what is written together. Each exchange has its own: TUSD
# is one on Binance, on Kraken "BATUSD" is BAT in dollars.
_QUOTES = {
    "kraken": _longest_first(
        "USD EUR GBP CAD JPY CHF AUD AED XBT BTC ETH USDT USDC DAI DOT PYUSD USDG RLUSD USDQ EURQ EURR USDR"
    ),
    "binance": _longest_first(
        "USDT USDC FDUSD TUSD BUSD USDP USDS USDSB USD1 PAX DAI VAI UST EURI AEUR U BTC ETH BNB XRP TRX DOGE "
        "DOT SOL EUR GBP AUD TRY BRL RUB UAH NGN ZAR IDRT BIDR BVND BKRW IDR PLN RON ARS JPY MXN CZK COP"
    ),
}


def market_from_spelling(exchange: str, text: str, table: Mapping[str, Any] | None = None) -> Market:
    """Return the market an exchange writes ``text``.

    Args:
        exchange: ccxt id.
        text: for Kraken a REST id (``XXBTZUSD``), plain name or CSV file stem (``XBTUSD``), WebSocket v1
            (``XBT/USD``) or v2 name (``BTC/USD``); for Binance an id (``BTCUSDT``); for any exchange the
            unified symbol itself.
        table: ccxt's market table (symbol -> market), which makes the answer certain.

    Raises:
        UnknownName: the two currencies cannot be told apart, or the table has no such market.
        UsageError: it is the name of a Kraken dark pool, which is a market of its own without public trades.
    """
    if exchange == "kraken" and text.endswith(".d"):
        msg = f"{text!r} is a dark pool of Kraken, which has no public trades."
        raise UsageError(msg, hint=f"Its public market is {text.removesuffix('.d')!r}.")
    if table is not None:
        return _from_table(exchange, text, table)
    if "/" in text:
        base, _, quoted = text.partition("/")
        return Market(exchange, f"{_unified(exchange, base)}/{_unified(exchange, quoted)}")
    halves = _split(exchange, text)
    if halves is None:
        hint = "Write base, slash, quote, for example 'BTC/USD'."
        raise UnknownName(text, kind=f"symbol of {exchange}", known=(), hint=hint)
    return Market(exchange, f"{_unified(exchange, halves[0])}/{_unified(exchange, halves[1])}")


def spelling(market: Market, dialect: Dialect, table: Mapping[str, Any] | None = None) -> str:
    """Return how the exchange writes ``market``.

    Args:
        market: the market.
        dialect: ``rest`` (id in REST requests), ``archive`` (file names of Binance's archive), ``csv`` (file
            stem of Kraken's downloads), ``ws`` (Kraken v1, Binance streams) or ``ws_v2`` (Kraken v2).
        table: ccxt's market table (symbol -> market); decides about ``rest`` where given.

    Raises:
        UsageError: the exchange has no such dialect, or only ccxt's market table knows it.
    """
    if dialect == "rest" and table is not None and market.symbol in table:
        return str(table[market.symbol]["id"])
    written: str | None = None
    if ":" not in market.symbol and market.exchange == "kraken":
        base, quoted = (_CODES_KRAKEN.get(code, code) for code in (market.base, market.quote))
        by_dialect = {
            "rest": _kraken_id(base, quoted),
            "csv": base + quoted,
            "ws": f"{base}/{quoted}",
            "ws_v2": market.symbol,
        }
        written = by_dialect.get(dialect)
    elif ":" not in market.symbol and market.exchange == "binance":
        joined = market.base + market.quote
        written = {"rest": joined, "archive": joined, "ws": joined.lower()}.get(dialect)
    if written is None:
        msg = f"{market} has no spelling {dialect!r}."
        raise UsageError(msg, hint="Only ccxt's market table knows its id." if dialect == "rest" else None)
    return written


def _kraken_id(base: str, quoted: str) -> str:
    """``XBT``, ``USD`` -> ``XXBTZUSD``; ``ADA``, ``USD`` -> ``ADAUSD``."""
    for name, halves in _KRAKEN_ODD.items():
        if halves == (base, quoted):
            return name
    if quoted in _KRAKEN_LEGACY_PAIRS.get(base, "").split():
        return _KRAKEN_LETTER[base] + base + _KRAKEN_LETTER[quoted] + quoted
    return base + quoted


def _unified(exchange: str, code: str) -> str:
    """A currency in ccxt's words."""
    if exchange != "kraken":
        return code
    return _KRAKEN_CODES.get(plain := _KRAKEN_LEGACY.get(code, code), plain)


def _split(exchange: str, text: str) -> tuple[str, str] | None:
    """Split ``BTCUSDT`` into base and quote, both in the exchange's own words."""
    if exchange == "kraken":
        if text in _KRAKEN_ODD:
            return _KRAKEN_ODD[text]
        first, second = text[:4], text[4:]
        if first in _KRAKEN_LEGACY and second in _KRAKEN_LEGACY:
            return first, second
    for code in _QUOTES.get(exchange, ()):
        if text.endswith(code) and len(text) > len(code):
            return text.removesuffix(code), code
    return None


def _from_table(exchange: str, text: str, table: Mapping[str, Any]) -> Market:
    names: dict[str, str] = {}
    for symbol, entry in table.items():
        info = entry.get("info") or {}
        for name in (symbol, entry.get("id"), entry.get("altname"), entry.get("wsId"), info.get("wsname")):
            if name:
                names.setdefault(str(name), symbol)
    if text in names:
        return Market(exchange, names[text])
    raise UnknownName(text, kind=f"symbol of {exchange}", known=names)
