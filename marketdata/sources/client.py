"""One exchange through ccxt: base URLs, one rate limit a process, retries, and errors in our words.

ccxt signs, knows the market table and names the errors. What it lacks is added here: its sync rate limiter
and its session are not safe for threads, it answers a page of HTML with status 200 as if it were data, and
it never retries. So every thread has a ccxt object of its own, all of them wait at one limiter, and every
request goes through :meth:`Client.ask`, the only place that tries again.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import ccxt

from marketdata.errors import (
    ExchangeRefused,
    MalformedResponse,
    MarketDataError,
    RateLimited,
    TransientError,
    UnknownName,
    UsageError,
)
from marketdata.market import Market, market_from_spelling, spelling
from marketdata.settings import Settings
from marketdata.sources.pace import LONGEST_OBEYED, Clock, RateLimiter, parse_retry_after, pause_before_retry

T = TypeVar("T")

# What may be shown of a query; anything else could be a secret.
_SHOWN = {"pair", "since", "count", "symbol", "fromId", "startTime", "endTime", "limit", "interval", "asset"}
_RATE_LIMITED = frozenset({418, 429})
_WORTH_ANOTHER_TRY = frozenset({408, 425})


class Client:
    """One exchange, for all threads of this process."""

    def __init__(self, exchange: str, settings: Settings, clock: Clock | None = None) -> None:
        """Build for a ccxt id; base URLs, pause, timeout and attempts are in ``settings``.

        Raises:
            UnknownName: ccxt has no such exchange; carries the nearest id.
        """
        if exchange not in ccxt.exchanges:
            raise UnknownName(exchange, kind="exchange", known=ccxt.exchanges)
        self.exchange = exchange
        self.clock = clock or Clock()
        self._settings = settings
        self._local = threading.local()
        self._building = threading.Lock()
        self._loading = threading.Lock()
        self._loaded: Any = None
        interval = settings.request_interval_ms
        self._fixed_cost = interval is not None
        if interval is None:
            interval = self._exchange().rateLimit
        self._limiter = RateLimiter(interval / 1000, self.clock)

    def get(self, endpoint: str, params: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Call a raw endpoint by ccxt's name for it (``publicGetTrades``) and read its JSON.

        ``read`` gets the decoded body and raises :class:`MalformedResponse` when it is not what the endpoint
        serves; then the endpoint is asked again.
        """
        return self.ask(lambda exchange: getattr(exchange, endpoint)(dict(params)), read)

    def ask(self, request: Callable[[Any], Any], read: Callable[[Any], T]) -> T:
        """Send ``request`` with this thread's ccxt object until ``read`` accepts the answer.

        Raises:
            TransientError: still failing after the attempts of the settings; says how many there were.
            PermanentError, UnknownName: at once.
        """
        exchange = self._exchange()
        attempts = self._settings.request_attempts
        tried = 0
        while True:
            tried += 1
            try:
                return read(self._send(exchange, request))
            except TransientError as error:
                pause = pause_before_retry(error, tried, self.clock)
                if pause > LONGEST_OBEYED:
                    msg = f"{error.message} It asks to wait {pause:.0f} s."
                    raise type(error)(msg, hint="Come back then.", retry_after=pause) from error
                if tried >= attempts:
                    times = "once" if tried == 1 else f"{tried} times"
                    msg = f"{error.message} Tried {times}."
                    hint = error.hint or "Run it again later; what is fetched is kept."
                    raise type(error)(msg, hint=hint, retry_after=error.retry_after) from error
                if isinstance(error, RateLimited):
                    self._limiter.hold(pause)
                self.clock.sleep(pause)

    def markets(self) -> Mapping[str, Any]:
        """ccxt's market table, symbol -> market; asked for once a process."""
        with self._loading:
            if self._loaded is None:
                self._loaded = self.ask(_load_markets, self._read_markets)
        table: Mapping[str, Any] = self._loaded.markets
        return table

    def market_id(self, market: Market) -> str:
        """The exchange's id of a market, as REST requests want it.

        Raises:
            UnknownName: the exchange does not list it; carries the nearest symbol.
        """
        table = self.markets()
        if market.symbol not in table:
            raise self._unknown(market, table)
        ids = [
            name
            for name, entries in self._loaded.markets_by_id.items()
            for entry in entries
            if entry["symbol"] == market.symbol
        ]
        if len(ids) > 1:  # Kraken once listed dark pools (XXBTZUSD.d) beside the public market
            try:
                ours = spelling(market, "rest")
            except UsageError:
                ours = ""
            if ours in ids:
                return ours
        return str(table[market.symbol]["id"])

    def timeframes(self) -> list[str]:
        """Names of the candle widths the exchange serves, in ccxt's words."""
        return list(self._exchange().timeframes or ())

    def close(self) -> None:
        """Close the connection of the calling thread; other threads' close when they end."""
        exchange = getattr(self._local, "exchange", None)
        if exchange is not None:
            exchange.close()
            del self._local.exchange

    def _unknown(self, market: Market, table: Mapping[str, Any]) -> UnknownName:
        known: list[str] = list(table)
        try:
            meant = market_from_spelling(self.exchange, market.symbol).symbol
        except MarketDataError:
            pass
        else:
            if meant in table:
                known = [meant]
        return UnknownName(market.symbol, kind=f"symbol of {self.exchange}", known=known)

    def _exchange(self) -> Any:
        """The calling thread's ccxt object."""
        exchange = getattr(self._local, "exchange", None)
        if exchange is None:
            with self._building:  # ccxt's constructor writes to its class
                exchange = _build(self.exchange, self._settings)
            exchange.throttle = self._wait
            exchange.on_rest_response = self._note
            self._local.exchange = exchange
        if self._loaded is not None and exchange.markets is not self._loaded.markets:
            exchange.set_markets_from_exchange(self._loaded)
        return exchange

    def _wait(self, cost: float | None = None) -> None:
        self._limiter.wait(1.0 if cost is None or self._fixed_cost else cost)

    def _note(
        self, status: int, _reason: str, _url: str, _method: str, headers: Any, body: str, *_: Any
    ) -> str:
        """ccxt's hook for every answer: keep what its exceptions leave out."""
        self._local.status, self._local.headers = status, headers
        return body

    def _send(self, exchange: Any, request: Callable[[Any], Any]) -> Any:
        self._local.status, self._local.headers = None, {}
        exchange.last_request_url = None
        try:
            return request(exchange)
        except ccxt.BaseError as error:
            raise self._translate(error, exchange) from error
        except (TypeError, KeyError, IndexError, AttributeError, ValueError, ArithmeticError) as error:
            # ccxt reads fields of an answer without looking whether they are there.
            msg = f"{self.exchange} served a body ccxt cannot read at {_shown_url(exchange)}."
            raise MalformedResponse(msg) from error

    def _translate(self, error: Exception, exchange: Any) -> MarketDataError:
        """One of ccxt's errors in our words."""
        status: int | None = self._local.status
        wait = parse_retry_after(self._local.headers.get("Retry-After"), self.clock.now())
        url = _shown_url(exchange)
        said = " ".join(str(error).removeprefix(self.exchange).split())[:200]
        if isinstance(error, ccxt.DDoSProtection | ccxt.RateLimitExceeded) or status in _RATE_LIMITED:
            msg = f"{self.exchange} asks for fewer requests at {url}{_status(status)}."
            return RateLimited(msg, retry_after=wait)
        refused = status is not None and 400 <= status < 500 and status not in _WORTH_ANOTHER_TRY
        if isinstance(error, ccxt.OperationFailed) and not refused:
            if status is None:
                why = (
                    "did not answer in time"
                    if isinstance(error, ccxt.RequestTimeout)
                    else "could not be reached"
                )
                return TransientError(f"{self.exchange} {why} at {url}.")
            return TransientError(f"{self.exchange} failed at {url}{_status(status)}.", retry_after=wait)
        if status is not None and status >= 500:
            return TransientError(f"{self.exchange} failed at {url}{_status(status)}.", retry_after=wait)
        if isinstance(error, ccxt.BadSymbol):
            known = list(self._loaded.markets) if self._loaded is not None else []
            return UnknownName(said, kind=f"symbol of {self.exchange}", known=known)
        return ExchangeRefused(f"{self.exchange} refused {url}{_status(status)}: {said}")

    def _read_markets(self, exchange: Any) -> Any:
        if not exchange.markets:
            msg = f"{self.exchange} served no market table at {_shown_url(exchange)}."
            raise MalformedResponse(msg)
        return exchange


def _load_markets(exchange: Any) -> Any:
    exchange.load_markets(reload=True)
    return exchange


def _status(status: int | None) -> str:
    return "" if status is None or status == 200 else f" (status {status})"


def _shown_url(exchange: Any) -> str:
    """The URL last asked, without what may be secret."""
    parts = urlsplit(exchange.last_request_url or "")
    query = urlencode([(key, value) for key, value in parse_qsl(parts.query) if key in _SHOWN])
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, query, "")) or "its API"


def _build(name: str, settings: Settings) -> Any:
    """A ccxt object that asks the URLs of the settings."""
    exchange = getattr(ccxt, name)(
        {
            "timeout": settings.request_timeout_s * 1000,
            "enableRateLimit": True,
            "enableLastHttpResponse": False,
        }
    )
    if name == "kraken" and settings.kraken_url:
        exchange.urls["api"]["public"] = settings.kraken_url.rstrip("/")
    if name == "binance":
        # Spot only, and nothing that wants a key.
        exchange.options["fetchMarkets"] = {"types": ["spot"]}
        exchange.options["fetchCurrencies"] = False
        exchange.options["fetchMargins"] = False
        # As in its archive, so that a day is the same from either.
        exchange.headers = {"X-MBX-TIME-UNIT": "MICROSECOND"}
        if settings.binance_url:
            exchange.urls["api"]["public"] = settings.binance_url.rstrip("/") + "/api/v3"
    return exchange
