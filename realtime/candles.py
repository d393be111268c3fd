"""Live candles in event time (pure): batches of trades in, running and final candles out.

Time comes from the trades. The machine's clock is an argument: only its differences count, for how long a
market has been quiet and how often running candles go out, and a coarse limit for trades of the future. It
should not jump: count a monotonic clock on from the time of the start. Per market:

- the **watermark** is the time of the newest trade less ``delay``: a window whose end it has reached is
  closed, and its candle goes out as final;
- a trade that is late, but inside the ``grace`` behind the window's end, re-issues the candle with a
  revision one higher;
- behind the grace a window is sealed: what comes then goes out as ``late``, for the batch repair;
- in a market without trades the newest one ages with the clock (**idle**), when the caller knows that no
  trade is waiting. The grace does not run meanwhile: a feed that was cut off brings what it missed, and the
  candles are issued again. It ends after ten minutes of ``silence``.

A trade counts once, by its id. The candles are those of :mod:`marketdata.fold`: trades are folded at the
narrowest interval, wider candles are merged from it. ``docs/streaming-candles.md`` states the laws.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import polars as pl

from marketdata.errors import UsageError
from marketdata.interval import Interval, to_us
from marketdata.market import Market
from realtime.windows import FUTURE, UPDATE_SCHEMA, Rules, Update, Windows

__all__ = ["FUTURE", "UPDATE_SCHEMA", "CandleCore", "Rules", "Update"]


class CandleCore:
    """Candles of many markets. Not for several threads at once."""

    def __init__(
        self,
        intervals: Sequence[str | Interval] = ("1s", "10s", "1m"),
        rules: Rules | None = None,
        *,
        of_market: Mapping[Market, Rules] | None = None,
    ) -> None:
        """Serve these intervals; ``of_market`` has the rules of single markets.

        Raises:
            UnknownName: there is no such interval.
            UsageError: none is named, or the narrowest does not divide the others.
        """
        self.intervals = tuple(sorted({Interval.parse(interval) for interval in intervals}))
        if not self.intervals:
            msg = "No interval is named."
            raise UsageError(msg, hint="Name at least one, such as 1m.")
        for interval in self.intervals:
            if not self.intervals[0].divides(interval):
                msg = f"{interval} is not a whole number of {self.intervals[0]}."
                raise UsageError(msg, hint="Let the narrowest interval divide the others.")
        self._rules, self._of_market = rules or Rules(), dict(of_market or {})
        self._markets: dict[Market, Windows] = {}

    @property
    def markets(self) -> tuple[Market, ...]:
        """Markets seen so far."""
        return tuple(self._markets)

    def add(
        self,
        market: Market,
        trades: pl.DataFrame,
        now: datetime,
        *,
        offset: int | None = None,
        replay: bool = False,
    ) -> Update:
        """Count trades.

        Args:
            trades: TRADE_SCHEMA with ids; in any order, repeated or not.
            now: the machine's time.
            offset: where the batch stands in its source; see :meth:`needed_offset`.
            replay: the trades had been handled before the state given to :meth:`resume` was saved: they
                build the windows that may still change, and nothing goes out.
        """
        return self._of(market).add(trades, to_us(now), offset=offset, replay=replay)

    def tick(self, now: datetime, idle: Iterable[Market] = ()) -> list[Update]:
        """Let time pass: running candles that were held back, and windows of quiet markets.

        Args:
            idle: markets of which no trade is waiting to be handled; a market that lags behind must not be
                closed by the clock.
        """
        quiet = frozenset(idle)
        updates = [state.tick(to_us(now), idle=name in quiet) for name, state in self._markets.items()]
        return [update for update in updates if not update.is_empty]

    def complete(self, market: Market, history: pl.DataFrame, now: datetime) -> Update:
        """Complete the candles that had begun before the first trade, by the trades before it.

        Args:
            history: TRADE_SCHEMA, every trade from :meth:`wants_history_from` to the first one seen; those
                that were seen count once.
        """
        return self._of(market).complete(history, to_us(now))

    def wants_history_from(self, market: Market) -> int | None:
        """From when trades are missing in the first candles, microseconds; ``None``: none are."""
        return self._of(market).wants_history_from()

    def first_seen(self, market: Market) -> int | None:
        """Time of the first trade, microseconds, as long as what opened before it may be partial."""
        return self._of(market).first_seen()

    def first_id(self, market: Market) -> int | None:
        """Its id: the history of the first candles must reach it. ``None``: any history will do."""
        return self._of(market).first_id()

    def watermark(self, market: Market) -> int | None:
        """Up to where windows are closed, microseconds; ``None``: nothing has come yet."""
        return self._of(market).watermark()

    def needed_offset(self, market: Market) -> int | None:
        """The first offset that a restart must read again; ``None``: nothing before what comes next."""
        return self._of(market).needed_offset()

    def state(self, market: Market) -> str:
        """What a restart must know beside the trades of the windows that may still change, as one line."""
        return self._of(market).state()

    def resume(self, market: Market, state: str) -> None:
        """Go on where :meth:`state` was taken: what was final then stays as it is.

        Raises:
            CorruptFile: it is no state.
        """
        self._of(market).resume(state)

    def forget(self, market: Market) -> None:
        """Drop a market, which another instance serves from now on."""
        self._markets.pop(market, None)

    def _of(self, market: Market) -> Windows:
        state = self._markets.get(market)
        if state is None:
            rules = self._of_market.get(market, self._rules)
            state = self._markets[market] = Windows(market, self.intervals, rules)
        return state
