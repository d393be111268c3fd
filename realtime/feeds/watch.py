"""Whether a feed lives, for people: what the ledger is told when nothing comes for long (pure).

Reconnecting is the feed's own business, see :mod:`realtime.feeds.liveness`; a feed is dead when that has not
helped for a while: no frame of whatever kind, heartbeats included.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from marketdata.ledger import Entry, Event, State
from marketdata.market import Market

SUBJECT, REASON = "feed", "dead"


class Watch:
    """When each feed was last heard."""

    def __init__(
        self,
        feeds: Mapping[str, Sequence[Market]],
        dead_after: timedelta,
        now: datetime,
        *,
        known: Mapping[str, Sequence[datetime]] | None = None,
        run_id: str = "feed",
    ) -> None:
        """The feeds begin now.

        Args:
            feeds: the markets by exchange.
            known: since when feeds were dead that are not said to be back: of a service before this one.
        """
        self._feeds, self._dead_after, self._run_id = dict(feeds), dead_after, run_id
        self._heard = dict.fromkeys(feeds, now)
        self._begun = now
        self._dead = {name: list(since) for name, since in (known or {}).items() if name in feeds and since}

    def look(self, frames: Mapping[str, datetime | None], now: datetime) -> list[Entry]:
        """What is new about the feeds.

        Args:
            frames: when each feed received something last.
        """
        return [entry for name in self._feeds for entry in self._one(name, frames.get(name), now)]

    def _one(self, name: str, frame: datetime | None, now: datetime) -> Iterator[Entry]:
        # What was heard later than now was heard before the clock was set back.
        if frame is not None and (frame > self._heard[name] or self._heard[name] > now):
            self._heard[name] = frame
        heard = self._heard[name]
        if name not in self._dead:
            if now - heard >= self._dead_after:
                self._dead[name] = [heard]
                told = f"Nothing was received from {name} for {_seconds(now - heard)}; it connects again."
                yield from self._entries(name, heard, now, State.OPEN, told)
        elif heard > max(self._begun, *self._dead[name]):
            for since in self._dead.pop(name):
                told = f"Frames come again, after {_seconds(heard - since)}."
                yield from self._entries(name, since, now, State.REPAIRED, told)

    def _entries(self, name: str, since: datetime, now: datetime, state: State, told: str) -> Iterator[Entry]:
        event = Event.FINDING if state is State.OPEN else Event.OUTCOME
        for market in self._feeds[name]:
            yield Entry(now, event, state, market, SUBJECT, REASON, since, since, told, run_id=self._run_id)


def _seconds(length: timedelta) -> str:
    return f"{length.total_seconds():,.0f} s"
