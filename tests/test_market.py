"""Markets, slugs and every exchange's spelling of a symbol."""

import gzip
import json
from pathlib import Path
from typing import Any

import ccxt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from marketdata.errors import UnknownName, UsageError
from marketdata.market import Market, market_from_spelling, spelling, symbol_from_slug

CODES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=2, max_size=8)
SYMBOL_TEXT = st.text(max_size=60) | st.from_regex(r"[A-Z.%$-]{1,8}/[A-Za-z0-9.%-]{1,8}", fullmatch=True)


@pytest.fixture(scope="module")
def asset_pairs(captures: Path) -> dict[str, Any]:
    """Kraken's AssetPairs of 2021-04-17."""
    with gzip.open(captures / "kraken/ws_v1_cryptofeed/KRAKEN.0.gz", "rt") as file:
        pairs: dict[str, Any] = json.loads(file.readline().partition(": ")[2])["result"]
    return pairs


@pytest.mark.parametrize("text", ["XBT/USD", "XXBTZUSD", "XBTUSD", "BTC/USD"])
def test_all_of_krakens_spellings_of_bitcoin_in_dollars_are_one_market(text: str) -> None:
    assert market_from_spelling("kraken", text) == Market("kraken", "BTC/USD")


@pytest.mark.parametrize(
    ("exchange", "text", "symbol"),
    [
        ("kraken", "XDGUSD", "DOGE/USD"),
        ("kraken", "XXDGXXBT", "DOGE/BTC"),
        ("kraken", "XETHXXBT", "ETH/BTC"),
        ("kraken", "XTZUSD", "XTZ/USD"),
        ("kraken", "USDTZUSD", "USDT/USD"),
        ("kraken", "BATUSD", "BAT/USD"),
        ("kraken", "ETH2.SETH", "ETH2.S/ETH"),
        ("binance", "BTCUSDT", "BTC/USDT"),
        ("binance", "BTCTUSD", "BTC/TUSD"),
        ("binance", "FDUSDTRY", "FDUSD/TRY"),
        ("binance", "1INCHBTC", "1INCH/BTC"),
    ],
)
def test_what_is_written_together_is_split_where_the_exchange_means_it(
    exchange: str, text: str, symbol: str
) -> None:
    assert market_from_spelling(exchange, text).symbol == symbol


@pytest.mark.fixtures
def test_every_pair_kraken_listed_is_read_and_written_in_all_its_spellings(
    asset_pairs: dict[str, Any],
) -> None:
    listed = {name: pair for name, pair in asset_pairs.items() if not name.endswith(".d")}
    for name, pair in listed.items():
        market = market_from_spelling("kraken", name)
        assert market_from_spelling("kraken", pair["altname"]) == market
        assert market_from_spelling("kraken", pair["wsname"]) == market
        written = (spelling(market, "rest"), spelling(market, "csv"), spelling(market, "ws"))
        assert written == (name, pair["altname"], pair["wsname"])
    assert len(listed) == 293
    assert len({market_from_spelling("kraken", name) for name in listed}) == len(listed)


@pytest.mark.fixtures
def test_symbols_of_kraken_are_those_of_ccxt(asset_pairs: dict[str, Any]) -> None:
    kraken = ccxt.kraken()
    kraken.publicGetAssetPairs = lambda _params: {"error": [], "result": asset_pairs}
    theirs = {entry["id"]: entry["symbol"] for entry in kraken.fetch_markets()}
    assert len(theirs) == 304
    differing = {
        name: symbol
        for name, symbol in theirs.items()
        if not name.endswith(".d") and market_from_spelling("kraken", name).symbol != symbol
    }
    # ccxt calls both of Augur's tokens REP, so it has two pairs under one symbol; here the old one is REPV1.
    assert differing == {
        "XREPXETH": "REP/ETH",
        "XREPXXBT": "REP/BTC",
        "XREPZEUR": "REP/EUR",
        "XREPZUSD": "REP/USD",
    }


@pytest.mark.fixtures
def test_symbols_of_binance_are_those_of_its_exchange_info(captures: Path) -> None:
    path = captures / "binance/rest_btcusdt_2021-10-22/http_spot_market_exchange_info.json"
    entries = json.loads(path.read_text())["symbols"]
    assert entries
    for entry in entries:
        market = market_from_spelling("binance", entry["symbol"])
        assert (market.base, market.quote) == (entry["baseAsset"], entry["quoteAsset"])
        assert spelling(market, "rest") == spelling(market, "archive") == entry["symbol"]


def test_a_dark_pool_of_kraken_is_no_public_market() -> None:
    with pytest.raises(UsageError, match="XXBTZUSD'"):
        market_from_spelling("kraken", "XXBTZUSD.d")


@pytest.mark.parametrize(
    ("exchange", "text"), [("kraken", "QWERTY"), ("binance", "USDT"), ("bitstamp", "btcusd")]
)
def test_two_currencies_that_cannot_be_told_apart_are_an_unknown_name(exchange: str, text: str) -> None:
    with pytest.raises(UnknownName, match=text):
        market_from_spelling(exchange, text)


def test_the_market_table_of_ccxt_decides_where_there_is_one() -> None:
    table = {"A/BUSD": {"id": "ABUSD", "info": {}}, "BTC/USD": {"id": "btcusd", "info": {"wsname": "b-u"}}}
    assert market_from_spelling("binance", "ABUSD", table).symbol == "A/BUSD"
    assert market_from_spelling("bitstamp", "b-u", table).symbol == "BTC/USD"
    assert spelling(Market("bitstamp", "BTC/USD"), "rest", table) == "btcusd"
    with pytest.raises(UnknownName, match="btcusd"):
        market_from_spelling("bitstamp", "btcust", table)


def test_an_exchange_without_a_dialect_says_so() -> None:
    with pytest.raises(UsageError, match="bitstamp:BTC/USD has no spelling 'rest'"):
        spelling(Market("bitstamp", "BTC/USD"), "rest")
    with pytest.raises(UsageError, match="archive"):
        spelling(Market("kraken", "BTC/USD"), "archive")


# Kraken's own words for a currency that ccxt calls otherwise, and those with the letter of its first years.
KRAKENS_OWN = {"XBT", "XDG", "REP", "UST", "LUNA2", "REPV2", "FEE"}
UNIFIED = CODES.filter(lambda code: code not in KRAKENS_OWN and not (len(code) >= 4 and code[0] in "XZ"))


@given(UNIFIED, UNIFIED)
def test_a_pair_written_with_a_slash_is_read_as_the_same_pair(base: str, quoted: str) -> None:
    market = Market("kraken", f"{base}/{quoted}")
    assert market_from_spelling("kraken", spelling(market, "ws")) == market


@given(UNIFIED, st.sampled_from(["USD", "EUR", "BTC", "ETH", "USDT"]))
def test_a_pair_written_together_is_read_as_the_same_pair(base: str, quoted: str) -> None:
    assume(not base.endswith(("PY", "RL")))  # BASEPY + USD is BASE + PYUSD: only the market table knows
    market = Market("kraken", f"{base}/{quoted}")
    assert market_from_spelling("kraken", spelling(market, "csv")) == market
    assert market_from_spelling("kraken", spelling(market, "rest")) == market


@given(CODES, st.sampled_from(["USDT", "FDUSD", "BTC", "BNB", "TRY"]))
def test_a_pair_of_binance_is_read_as_the_same_pair(base: str, quoted: str) -> None:
    market = Market("binance", f"{base}/{quoted}")
    assert market_from_spelling("binance", spelling(market, "rest")) == market


@given(SYMBOL_TEXT)
def test_a_slug_names_one_symbol_and_is_one_harmless_path_segment(text: str) -> None:
    try:
        market = Market("kraken", text)
    except UsageError:
        return
    slug = market.symbol_slug
    assert symbol_from_slug(slug) == text
    assert Market.parse(market.slug) == market
    assert slug.isascii()
    assert slug.isprintable()
    assert not set(slug) & set('/\\:*?"<>| ')
    assert slug not in {"", ".", ".."}
    assert len(slug) <= 200


@given(SYMBOL_TEXT, SYMBOL_TEXT)
def test_two_symbols_never_share_a_slug(one: str, other: str) -> None:
    assume(one != other)
    try:
        slugs = {Market("kraken", one).symbol_slug, Market("kraken", other).symbol_slug}
    except UsageError:
        return
    assert len(slugs) == 2


@pytest.mark.parametrize(
    "symbol",
    [
        *("..", "../..//etc", "BTC", "BTC/", "/USD", "BTC/USD/EUR", "BTC /USD", "BTC|X/USD", "BTC\\X/USD"),
        *("BTC\x00/USD", "BTC\n/USD", "B\u202eC/USD", "A" * 41 + "/USD", "\N{PILE OF POO}" * 20 + "/USD"),
    ],
)
def test_what_could_leave_its_folder_is_no_symbol(symbol: str) -> None:
    with pytest.raises(UsageError):
        Market("kraken", symbol)


@pytest.mark.parametrize("symbol", ["../..", "CON/USD", "$PAC/USDT", "BTC/USDT:USDT", "A-B/C%D", "¥/€"])
def test_odd_symbols_have_harmless_slugs(symbol: str) -> None:
    market = Market("binance", symbol)
    assert Market.parse(market.slug) == market
    assert "/" not in market.slug


@pytest.mark.parametrize("text", ["kraken", "kraken:", ":BTC/USD", "Kraken:BTC/USD", "BTC/USD", ""])
def test_a_market_needs_an_exchange_and_a_symbol(text: str) -> None:
    with pytest.raises(UsageError):
        Market.parse(text)
