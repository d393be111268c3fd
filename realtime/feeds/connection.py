"""One connection through ccxt.pro, which is used as it is, and what it hides.

What ccxt 4.5 does with frames, and what is done about it here:

- **A frame it cannot handle ends its receive loop**, and the socket stays open and silent. So its handler is
  guarded: such a frame is refused with its reason, kept, and the next one is read.
- **Trades lie in a cache of 1,000** a symbol, and older ones fall out of it when the reader is slow. The
  cache is made larger here, and emptied at each look; one that is full is told to the caller.
- **A call for several symbols returns the trades of one**, though others may have come at the same moment;
  those are seen at their next trade. So each look takes the caches of all.
- **What comes while nobody waits is seen at the next trade**. So caches are looked at until all are empty.
- **A connection that ends while nobody waits is opened again by the next call**, and nobody is told that
  something may have been missed. Here that call raises: it is the end of the connection.
- **Coinbase's trades of a market in USDC come as those of the market in USD**, and lie in its cache. Here
  they are looked for there.
- **Kraken's refusal of a subscription reaches nobody**. Its frame is looked for here.
- **It gives a connection up that answers no pings, whatever else it brings**, after three of them; some
  exchanges do not answer, and are asked by ccxt every half hour. Here each frame is an answer.
- Heartbeats and pongs reach nobody; each frame counts here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from json import JSONDecodeError
from typing import Any, Protocol

import ccxt
import ccxt.pro
from aiohttp import WSMsgType

from marketdata.errors import ExchangeRefused, TransientError, UnknownName, UsageError
from marketdata.settings import Settings

# Trades of a symbol that ccxt may hold between two looks.
CACHE_ROWS = 20_000
_SYMBOLS_A_CALL = 100
# Bybit refuses a subscription of more with "args size >10", and with it the connection is given up.
_FEWER_A_CALL = dict.fromkeys(("bybit", "bybiteu", "bybitid"), 10)
_PING_MS = 10_000
# So long the other side may take to say that it has closed.
_CLOSE_S = 0.5
# Frames of text that are no JSON and part of the protocol somewhere.
_WORDS = frozenset({"ping", "pong", "o", "h", "2", "3", "connected"})
_POLL = "Poll its candles: marketdata stream feed --poll."
# So much of a frame is kept.
_LONGEST_KEPT = 10_000

Rows = list[dict[str, Any]]


class TakeRows(Protocol):
    """Takes a symbol's new trades."""

    def __call__(self, symbol: str, rows: Rows, *, lost: bool) -> Awaitable[None]:
        """``lost``: others before them may be missing."""
        ...


class Connection:
    """Sockets of one exchange to some of its markets; used once."""

    def __init__(
        self,
        exchange: str,
        symbols: Sequence[str],
        markets: Mapping[str, Any],
        settings: Settings,
        *,
        cache_rows: int = CACHE_ROWS,
    ) -> None:
        """Prepare; :meth:`run` connects. ``markets`` is ccxt's market table.

        Raises:
            UnknownName: ccxt has no sockets of such an exchange; carries the nearest id.
            UsageError: the exchange has no stream of trades.
        """
        self._name, self._symbols, self._cache_rows = exchange, list(symbols), cache_rows
        self._exchange = _build(exchange, markets, settings, cache_rows)
        # By the name of the cache that holds their trades.
        self._takers: dict[str, set[str]] = {}
        for symbol in symbols:
            for name in _cached_as(exchange, symbol):
                self._takers.setdefault(name, set()).add(symbol)
        self._frame: Callable[[str], None] = _ignore
        self._refuse: Callable[[str, str], None] = _ignore
        self._refusal: asyncio.Future[None] | None = None

    async def run(
        self,
        trades: TakeRows,
        frame: Callable[[str], None],
        refuse: Callable[[str, str], None],
    ) -> None:
        """Connect, and hand on what comes until the connection ends or this is cancelled.

        Args:
            trades: takes a symbol, its new trades as ccxt unifies them, in order of arrival, and whether
                others before them may have been lost.
            frame: is told of each frame that came: its text, or ``ping`` and ``pong``.
            refuse: takes the reason and the text of a frame that cannot be handled.

        Raises:
            TransientError: the connection could not be opened, or has ended.
            ExchangeRefused: the exchange does not want to be asked for this.
            UsageError: the exchange streams to its customers only.
        """
        self._frame, self._refuse = frame, refuse
        self._refusal = asyncio.get_running_loop().create_future()
        make, opened = self._exchange.client, set[str]()

        def client(url: str) -> Any:
            if url not in (self._exchange.clients or {}):
                if url in opened:
                    msg = "closed while its trades were taken"
                    raise ccxt.NetworkError(msg)
                opened.add(url)
            made = make(url)
            if not hasattr(made, "unguarded"):
                made.unguarded, made.handle_message = made.handle_message, self._guard(made)
            return made

        self._exchange.client = client
        watching = [asyncio.ensure_future(self._watch(part, trades)) for part in self._calls()]
        try:
            done, _ = await asyncio.wait([*watching, self._refusal], return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        except ccxt.NetworkError as error:
            msg = f"The connection to {self._name} has ended: {_said(error)}."
            raise TransientError(msg) from error
        except ccxt.BadSymbol as error:
            msg = f"{self._name} does not stream this: {_said(error)}."
            raise ExchangeRefused(msg) from error
        except ccxt.BaseError as error:
            if isinstance(error, ccxt.AuthenticationError) and not opened:  # ccxt says so without asking
                msg = f"{self._name} streams trades to its customers only: {_said(error)}."
                raise UsageError(msg, hint=_POLL) from error
            msg = f"{self._name} refused: {_said(error)}."
            raise TransientError(msg) from error
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await self._close()

    def _calls(self) -> list[list[str]]:
        """Symbols that one call may ask for."""
        most = _FEWER_A_CALL.get(self._name, _SYMBOLS_A_CALL)
        together = most if self._exchange.has.get("watchTradesForSymbols") else 1
        return [self._symbols[at : at + together] for at in range(0, len(self._symbols), together)]

    async def _watch(self, symbols: list[str], trades: TakeRows) -> None:
        params = {"name": "aggTrade"} if self._name == "binance" else {}
        if self._name == "binance":
            # The stream's name is the path of its URL: so times come in microseconds, as REST serves them.
            key = "multipleTrades::" + ",".join(symbols)
            number = len(self._exchange.options["streamBySubscriptionsHash"])
            self._exchange.options["streamBySubscriptionsHash"][key] = f"{number}?timeUnit=MICROSECOND"
        caches = [name for name, takers in self._takers.items() if not takers.isdisjoint(symbols)]
        while True:
            try:
                if self._exchange.has.get("watchTradesForSymbols"):
                    await self._exchange.watch_trades_for_symbols(symbols, params=params)
                else:
                    await self._exchange.watch_trades(symbols[0], params=params)
            except ccxt.BaseError:
                raise
            except Exception as error:
                # ccxt lets some errors of the network, and of its own reading, out as they are.
                msg = f"ccxt failed at {self._name}: {type(error).__name__}: {_said(error)}."
                raise TransientError(msg) from error
            while held := [name for name in caches if self._exchange.trades.get(name)]:
                for name in held:
                    cache = self._exchange.trades[name]
                    rows = list(cache)
                    cache.clear()
                    for symbol in self._takers[name]:
                        await trades(symbol, rows, lost=len(rows) >= self._cache_rows)

    def _guard(self, client: Any) -> Callable[[Any], None]:
        handle = client.handle_message

        def guarded(message: Any) -> None:
            text = _text(message)
            if text is not None:
                self._frame(text)
                if message.type == WSMsgType.TEXT and text[:1] not in "{[" and text.lower() not in _WORDS:
                    self._refuse("not JSON", text[:_LONGEST_KEPT])
                    return
                if '"success":false' in text and self._refusal is not None and not self._refusal.done():
                    msg = f"{self._name} refused: {text[:200]}"
                    self._refusal.set_exception(ExchangeRefused(msg))
            try:
                handle(message)
            except Exception as error:  # whatever ccxt raises here would end its receive loop
                reason = "not JSON" if isinstance(error, JSONDecodeError) else "frame not understood"
                self._refuse(reason, (text or "")[:_LONGEST_KEPT])
            if text is not None:
                client.lastPong = self._exchange.milliseconds()

        return guarded

    async def _close(self) -> None:
        closing = asyncio.ensure_future(self._exchange.close())
        answered, _ = await asyncio.wait({closing}, timeout=_CLOSE_S)
        if not answered and self._exchange.session is not None:
            # A dead socket does not answer that it is closed; aiohttp waits ten seconds for that.
            await self._exchange.session.close()
        await closing


def _build(name: str, markets: Mapping[str, Any], settings: Settings, cache_rows: int) -> Any:
    """A ccxt.pro object that asks the URLs of the settings and no REST of its own."""
    if name not in ccxt.pro.exchanges:
        raise UnknownName(name, kind="exchange with a stream", known=ccxt.pro.exchanges)
    exchange = getattr(ccxt.pro, name)({"timeout_on_exit": 0})
    if not exchange.has.get("watchTrades"):
        msg = f"{name} has no stream of trades in ccxt."
        raise UsageError(msg, hint=_POLL)
    exchange.set_markets(list(markets.values()))
    exchange.options["tradesLimit"] = cache_rows
    exchange.newUpdates = False
    exchange.streaming["keepAlive"] = min(exchange.streaming.get("keepAlive", _PING_MS), _PING_MS)
    sockets = exchange.urls["api"].get("ws")
    if name == "kraken" and settings.kraken_ws_url:
        exchange.urls["api"]["ws"] = dict.fromkeys(sockets, settings.kraken_ws_url)
    if name == "binance" and settings.binance_ws_url:
        sockets["spot"] = settings.binance_ws_url
    return exchange


def _cached_as(exchange: str, symbol: str) -> tuple[str, ...]:
    """Names of the caches that hold a symbol's trades."""
    if exchange == "coinbase" and symbol.endswith("/USDC"):
        return symbol, symbol.removesuffix("C")
    return (symbol,)


def _text(message: Any) -> str | None:
    """What a frame is for those who count it; ``None``: the end of the connection."""
    if message.type == WSMsgType.TEXT:
        return str(message.data)
    if message.type == WSMsgType.BINARY:
        return "binary"
    return {WSMsgType.PING: "ping", WSMsgType.PONG: "pong"}.get(message.type)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def _ignore(*_: str) -> None:
    """Nobody listens yet."""
