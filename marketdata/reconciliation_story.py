"""What the ledger is told of a day that was reconciled: a case for each class of findings, one of drift."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from marketdata.comparing import Compared, imported, proved, why
from marketdata.ledger import Entry, Event, State
from marketdata.manifest import Manifest, Status, day_window
from marketdata.reconcile import CLASSES, EXCHANGE, EXTRA, STREAM, Side

SUBJECTS = {STREAM: "stream", EXCHANGE: "candles"}
REPAIRED, EXPLAINED, WRONG = "repaired", "explained", "wrong"


@dataclass(frozen=True, slots=True)
class Story:
    """What the ledger is told of a day.

    Attributes:
        first, found: how the day compared before the trades were asked for once more, and after.
        differences: DIFFERENCE_SCHEMA with their states.
        published: corrected candles that live readers were told of.
        asked: whether the day's trades were asked for once more.
        left: (side, class) that were left wrong when the day was compared before.
    """

    first: Compared
    found: Compared
    differences: pl.DataFrame
    published: int
    asked: bool
    left: Collection[tuple[str, str]]
    at: datetime
    run_id: str

    def entries(self, alert_percent: float, *, new: Mapping[str, bool]) -> Iterator[Entry]:
        """One case for each class of findings, and one where candles have drifted.

        Args:
            new: by side, whether something else was found than before.
        """
        if new[STREAM]:
            for kind, count in self.found.stream.counts.items():
                yield from self._stream(kind, count)
            yield from self._drift(STREAM, self.found.stream, alert_percent)
        if new[EXCHANGE]:
            for kind in CLASSES:
                if self.first.exchange.counts.get(kind) or self.found.exchange.counts.get(kind):
                    yield from self._exchange(kind)
            if not proved(self.found.manifest):
                yield from self._drift(EXCHANGE, self.found.exchange, alert_percent)
        for side, kind in sorted(self.left):
            sides = [each.stream if side == STREAM else each.exchange for each in (self.first, self.found)]
            if new[side] and not any(kind in each.counts for each in sides):
                told = "Nothing differs any more."
                yield self._entry(Event.OUTCOME, State.REPAIRED, side, kind, told, attempt=1)

    def _entry(self, event: Event, state: State, side: str, reason: str, detail: str, **more: Any) -> Entry:
        manifest = self.found.manifest
        about = (manifest.market, SUBJECTS[side], reason, *day_window(manifest.day), detail)
        return Entry(self.at, event, state, *about, run_id=self.run_id, **more)

    def _stream(self, kind: str, count: int) -> Iterator[Entry]:
        mine = self.differences.filter((pl.col("compared_with") == STREAM) & (pl.col("finding") == kind))
        wrong = int((mine["state"] == WRONG).sum())
        before: dict[str, Any] = {"candles": count, "equal": self.found.stream.equal}
        if kind != EXTRA:
            before["trades"] = int(mine["said_trades"].sum())
        example = f"{mine['open_time'][0]:%H:%M}"
        text = f"{count:,} candles of the stream: {kind}, the first at {example}."
        yield self._entry(Event.FINDING, State.OPEN, STREAM, kind, text, before=before)
        if wrong < count:
            text = f"{count - wrong:,} put right in the store; {self.published:,} told to live readers."
            yield self._entry(Event.REPAIR, State.OPEN, STREAM, kind, text, attempt=1, before=before)
        after: dict[str, Any] = {"candles": wrong, "equal": self.found.stream.equal}
        if kind != EXTRA:
            after["trades"] = int(mine["true_trades"].sum())
        if wrong:
            text = f"{wrong:,} wait: the batch itself is not proved to have all trades of the day."
            yield self._entry(Event.OUTCOME, State.OPEN, STREAM, kind, text, attempt=1, after=after)
        else:
            text = "The store equals the fold of the day's trades."
            yield self._entry(Event.OUTCOME, State.REPAIRED, STREAM, kind, text, attempt=1, after=after)

    def _exchange(self, kind: str) -> Iterator[Entry]:
        was, left = (side.exchange.counts.get(kind, 0) for side in (self.first, self.found))
        manifest = self.found.manifest
        before = {"candles": was, "equal": self.first.exchange.equal, "trades": self.first.manifest.rows}
        after = {"candles": left, "equal": self.found.exchange.equal, "trades": manifest.rows}
        text = f"{was:,} candles beside the exchange's own: {kind}."
        if left and proved(manifest):
            told = f"{text} {why(manifest)}"
            yield self._entry(
                Event.FINDING, State.INFORMATION, EXCHANGE, kind, told, before=before, after=after
            )
            return
        yield self._entry(Event.FINDING, State.OPEN, EXCHANGE, kind, text, before=before)
        if self.asked:
            told = "The day's trades were asked for once more."
            yield self._entry(Event.REPAIR, State.OPEN, EXCHANGE, kind, told, attempt=1, before=before)
        state, told = self._left(left, manifest)
        yield self._entry(Event.OUTCOME, state, EXCHANGE, kind, told, attempt=1, after=after)

    def _left(self, left: int, manifest: Manifest) -> tuple[State, str]:
        if not left:
            return State.REPAIRED, "They are equal now."
        if manifest.not_served:
            return State.NOT_SERVED, why(manifest)
        if manifest.status is not Status.COMPLETE:
            return State.OPEN, f"The day is not complete: {manifest.reason}"
        if imported(manifest):
            return State.EXHAUSTED, "The trades were imported from a file, which is not replaced by itself."
        return State.EXHAUSTED, "The exchange's trades and its candles disagree; somebody has to look."

    def _drift(self, name: str, side: Side, alert_percent: float) -> Iterator[Entry]:
        if not side.drift.beyond(alert_percent):
            return
        figures = {key: round(value, 4) for key, value in asdict(side.drift).items()}
        text = (
            f"A close has drifted by up to {side.drift.close_max:.3g} %, the volume of the day by"
            f" {side.drift.volume_day:.3g} %; the limit is {alert_percent:g} %."
        )
        yield self._entry(Event.FINDING, State.INFORMATION, name, "drift", text, before=figures)
