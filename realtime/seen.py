"""Which trade ids have been counted (pure)."""

from typing import Any

import numpy as np

Ids = np.ndarray[Any, np.dtype[np.int64]]


class Seen:
    """Ids as sorted runs without a hole: sequential ids are one run, however many they are.

    Ids that have holes make a run each, so the lowest runs are forgotten beyond ``keep``. Ids rise with time
    at every source, so what is forgotten is long final.
    """

    def __init__(self, keep: int = 1 << 18) -> None:
        """Forget the lowest runs when there are more than ``keep``."""
        self._keep = keep
        self._first: Ids = np.empty(0, np.int64)
        self._last: Ids = np.empty(0, np.int64)

    def __len__(self) -> int:
        """Number of runs."""
        return len(self._first)

    def unseen(self, ids: Ids) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which of these ids are new, each at its first place only; they count as seen from now on."""
        if not len(ids):
            return np.zeros(0, np.bool_)
        rising = bool((ids[1:] > ids[:-1]).all())
        if rising and (not len(self._last) or ids[0] > self._last[-1]):
            self._add(ids)
            return np.ones(len(ids), np.bool_)
        values, places = (ids, np.arange(len(ids))) if rising else np.unique(ids, return_index=True)
        at = np.searchsorted(self._first, values, side="right") - 1
        known = (
            (at >= 0) & (values <= self._last[at]) if len(self._first) else np.zeros(len(values), np.bool_)
        )
        fresh = np.zeros(len(ids), np.bool_)
        fresh[places[~known]] = True
        if not known.all():
            self._add(values[~known])
        return fresh

    def _add(self, ids: Ids) -> None:
        """Add rising ids that are not there."""
        breaks = np.flatnonzero(np.diff(ids) != 1)
        first = ids[np.concatenate(([0], breaks + 1))]
        last = ids[np.append(breaks, len(ids) - 1)]
        if len(self._last) and first[0] == self._last[-1] + 1:
            self._last[-1], first, last = last[0], first[1:], last[1:]
        elif len(self._last) and first[0] < self._last[-1]:
            first = np.concatenate((self._first, first))
            order = np.argsort(first, kind="stable")
            first, last = first[order], np.concatenate((self._last, last))[order]
            apart = first[1:] != last[:-1] + 1
            self._first = first[np.concatenate(([True], apart))]
            self._last = last[np.append(apart, True)]
            first = last = first[:0]
        if len(first):
            self._first, self._last = np.concatenate((self._first, first)), np.concatenate((self._last, last))
        if len(self._first) > self._keep:
            self._first, self._last = self._first[-self._keep :], self._last[-self._keep :]
