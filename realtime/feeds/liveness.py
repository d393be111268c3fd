"""Whether a socket lives: a quiet market is no dead feed (pure).

Two kinds of evidence. A socket that should beat and does not is dead. A market without trades is asked for
by REST now and then: when there are trades that the socket does not bring, within a while, it is dead too,
whatever else it says.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from marketdata.market import Market


@dataclass(frozen=True, slots=True)
class LivenessRules:
    """What is expected of a venue's socket, in seconds.

    Attributes:
        silence: no frame at all for so long, heartbeats and pongs included: it is dead.
        probe: no trade of a market for so long: REST is asked.
        delay: how long the socket may take to bring what REST has shown.
    """

    silence: float
    probe: float
    delay: float = 5.0


class Liveness:
    """The evidence about one socket."""

    def __init__(self, markets: Iterable[Market], rules: LivenessRules, now: float) -> None:
        """The socket was opened now."""
        self._rules = rules
        self._frame = now
        self._looked = dict.fromkeys(markets, now)
        # Since when REST is asked about them.
        self._probing: dict[Market, float] = {}
        self._suspect: dict[Market, float] = {}

    def frame(self, now: float) -> None:
        """Something was received that shows that the socket lives."""
        self._frame = now

    def trades(self, market: Market, now: float) -> None:
        """Trades of a market were received, new or not."""
        self._frame = self._looked[market] = now
        self._suspect.pop(market, None)

    def to_probe(self, now: float) -> list[Market]:
        """Markets to ask REST about now; each once in a while."""
        due = [market for market, looked in self._looked.items() if now - looked >= self._rules.probe]
        self._looked.update(dict.fromkeys(due, now))
        self._probing.update(dict.fromkeys(due, now))
        return due

    def probed(self, market: Market, now: float, *, missed: bool) -> None:
        """REST was asked about a market; whether it had trades that the socket had not brought.

        A socket that has brought some since the market was due for the question was only slower than REST.
        """
        if market in self._probing:
            asked = self._probing.pop(market)
            if missed and self._looked[market] <= asked:
                self._suspect.setdefault(market, now)

    def dead(self, now: float) -> str | None:
        """Why the socket is to be given up, if it is."""
        if now - self._frame >= self._rules.silence:
            return "silent"
        for since in self._suspect.values():
            if now - since >= self._rules.delay:
                return "trades not pushed"
        return None
