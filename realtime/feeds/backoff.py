"""How long to wait before the next connection (pure)."""

from collections.abc import Callable

_FIRST_S, _LONGEST_S = 0.25, 30.0
# A connection that held so long was a good one.
_STABLE_S = 30.0


class Backoff:
    """Pauses that double, with a random part, so that clients that failed together come back apart."""

    def __init__(
        self,
        random: Callable[[], float],
        *,
        first: float = _FIRST_S,
        longest: float = _LONGEST_S,
        stable: float = _STABLE_S,
    ) -> None:
        """``random`` is in [0, 1)."""
        self._random, self._first, self._longest, self._stable = random, first, longest, stable
        self._failures = 0

    def after(self, held: float) -> float:
        """Seconds to wait after a connection that held for ``held`` seconds (0: it could not be opened)."""
        if held >= self._stable:
            self._failures = 0
        longest = min(self._longest, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return longest * (0.5 + self._random() / 2)
