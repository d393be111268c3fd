"""Where the trades before the first one come from, so that the first candle is whole."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Generic, Protocol, TypeVar

import polars as pl
import structlog

from marketdata.errors import MarketDataError, NoData, PermanentError, TransientError
from marketdata.interval import from_us
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from marketdata.settings import Settings
from marketdata.trade import empty_trades
from realtime.services.partition import Wanted

_LOG = structlog.stdlib.get_logger(__name__)
_TRIES, _PAUSE_S = 5, 3.0
Owner = TypeVar("Owner")


class History(Protocol):
    """Trades that were."""

    def trades(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        """Every trade of ``[start, end)``, TRADE_SCHEMA.

        Raises:
            MarketDataError: not all of them can be had.
        """
        ...


class LakeThenExchange:
    """The lake where it has the whole days, else the exchange by REST."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is opened or asked yet."""
        self._settings = settings

    def trades(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        """See :class:`History`."""
        # These bring ccxt along, which takes a second to import: the first trades do not wait for it.
        from marketdata.lake import Lake  # noqa: PLC0415
        from marketdata.sources import trade_source  # noqa: PLC0415

        last = (end - timedelta(microseconds=1)).date()
        days = [start.date() + timedelta(days=n) for n in range((last - start.date()).days + 1)]
        lake = Lake.open(self._settings.lake_url, settings=self._settings)
        held = [lake.manifest(market, day) for day in days]
        if all(manifest is not None and manifest.status is Status.COMPLETE for manifest in held):
            return lake.read_trades(market, start, end)
        now = datetime.now(UTC)
        frames = [empty_trades()]
        for day in days:
            opens, closes = day_window(day)
            source = trade_source(market, day, self._settings, now)
            frames += [page.trades for page in source.pages(market, max(start, opens), min(end, closes))]
        found = pl.concat(frames)
        if found["trade_id"].null_count():
            msg = f"{market.exchange} serves no ids, so its history cannot be told from the stream."
            raise NoData(msg)
        return found


class NoHistory:
    """First candles stay partial."""

    def trades(self, market: Market, start: datetime, end: datetime) -> pl.DataFrame:
        """See :class:`History`."""
        msg = f"No history of {market} from {start} to {end} was asked for."
        raise NoData(msg)


class Fetcher(Generic[Owner]):
    """Asks for history in a thread, so that live trades do not wait for it.

    Who asks is told with the answer, so that nobody takes what was meant for another.
    """

    def __init__(self, history: History, *, pause_s: float = _PAUSE_S, workers: int = 2) -> None:
        """``pause_s``: between two tries."""
        self._history, self._pause_s = history, pause_s
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="history")
        self._waiting: list[tuple[Owner, Market, Future[pl.DataFrame | None]]] = []
        self._stop = threading.Event()

    def ask(self, owner: Owner, wanted: Wanted) -> None:
        """Fetch what a market lacks."""
        self._waiting.append((owner, wanted.market, self._pool.submit(self._fetch, wanted)))

    def done(self) -> list[tuple[Owner, Market, pl.DataFrame | None]]:
        """What has come since: who asked, market, and its trades; ``None`` where they could not be had."""
        ended = [one for one in self._waiting if one[2].done()]
        self._waiting = [one for one in self._waiting if not one[2].done()]
        return [(owner, market, work.result()) for owner, market, work in ended]

    def close(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, wanted: Wanted) -> pl.DataFrame | None:
        market, start, end = wanted.market, from_us(wanted.start), from_us(wanted.end)
        for again in range(_TRIES):
            try:
                found = self._history.trades(market, start, end)
                # REST may be behind the socket: then the last trades before the first one seen are missing.
                if wanted.reaches is not None and wanted.reaches not in found["trade_id"]:
                    msg = f"The history of {market} does not reach trade {wanted.reaches} yet."
                    raise TransientError(msg)
            except MarketDataError as error:
                _LOG.warning("no history yet", market=str(market), start=str(start), error=str(error))
                last = again == _TRIES - 1 or isinstance(error, PermanentError)
                if last or self._stop.wait(self._pause_s):
                    break
            else:
                return found
        return None
