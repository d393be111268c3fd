"""The error tree. Every error names the value, what was expected and what to do.

::

    MarketDataError                 the command exits 1
    ├── UsageError                  the caller asked for something that cannot be; exits 2
    │   ├── UnknownName             exchange, symbol, interval, format: carries the nearest match
    │   └── BadRange                reversed, empty or future dates
    ├── TransientError              a retry may help; carries ``retry_after`` seconds when the source said so
    │   ├── RateLimited             429, 418, "EAPI:Rate limit exceeded"
    │   └── MalformedResponse       status 200 with HTML, a cut body, a page that does not continue the cursor
    └── PermanentError              a retry cannot help
        ├── ExchangeRefused         the exchange understood and said no
        ├── ChecksumMismatch        an archive whose bytes are not what its publisher says
        ├── CorruptFile             a cut or foreign Parquet, zip or CSV file
        ├── NoData                  what was asked for is not held: a market without data, too few candles
        └── StorageError            the lake cannot be written: permissions, full disk, bucket
"""

from collections.abc import Iterable
from difflib import get_close_matches


class MarketDataError(Exception):
    """Base of every error this library raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the sentence and, apart from it, what the reader can do."""
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message} {hint}")


class UsageError(MarketDataError):
    """The caller asked for something that cannot be."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is not in the set of known names; says the nearest one."""

    def __init__(self, value: str, *, kind: str, known: Iterable[str], hint: str | None = None) -> None:
        """Name the value, and the nearest of ``known`` (compared without regard to case)."""
        self.kind, self.value = kind, value
        by_fold = {name.casefold(): name for name in known}
        near = get_close_matches(value.casefold(), by_fold, n=1, cutoff=0.5)
        self.nearest = by_fold[near[0]] if near else None
        if self.nearest is not None:
            suggestion = f"Did you mean {self.nearest!r}?"
        elif 0 < len(by_fold) <= 12:
            suggestion = f"Known: {', '.join(sorted(by_fold.values()))}."
        else:
            suggestion = None
        hints = " ".join(part for part in (suggestion, hint) if part)
        super().__init__(f"Unknown {kind} {value!r}.", hint=hints or None)


class BadRange(UsageError):
    """A range of time that is reversed, empty or lies in the future."""


class TransientError(MarketDataError):
    """A retry may help."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None) -> None:
        """Keep the pause the source asked for, in seconds, if it asked for one."""
        self.retry_after = retry_after
        super().__init__(message, hint=hint)


class RateLimited(TransientError):
    """The exchange asks for fewer requests."""


class MalformedResponse(TransientError):
    """An answer that is not what the endpoint serves; proxies and cut connections make these."""


class PermanentError(MarketDataError):
    """A retry cannot help."""


class ExchangeRefused(PermanentError):
    """The exchange understood the request and said no."""


class ChecksumMismatch(PermanentError):
    """An archive whose bytes are not what its publisher says they are."""


class CorruptFile(PermanentError):
    """A cut or foreign file where a Parquet, zip or CSV file of ours was expected."""


class NoData(PermanentError):
    """What was asked for is not held: a market without data, fewer candles than are needed."""


class StorageError(PermanentError):
    """The lake cannot be written or read: permissions, a full disk, a missing bucket."""
