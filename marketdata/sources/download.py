"""Whole files over HTTP: streamed to disk in bounded memory, hashed on the way, tried again when cut."""

import hashlib
from collections.abc import Callable
from typing import IO, TypeVar

import requests

from marketdata.errors import ExchangeRefused, MalformedResponse, RateLimited, TransientError
from marketdata.settings import Settings
from marketdata.sources.pace import LONGEST_OBEYED, Clock, parse_retry_after, pause_before_retry

T = TypeVar("T")

_CHUNK = 1 << 20
_RATE_LIMITED = frozenset({418, 429})
_WORTH_ANOTHER_TRY = frozenset({408, 425})


class Downloader:
    """Asks for files; safe to use from several threads.

    Args:
        settings: timeout and attempts.
        clock: time, sleep and chance; the real ones by default.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self._settings = settings

    def text(self, url: str, check: Callable[[str], object] = bool) -> str | None:
        """The text of a small file; ``None`` when there is none (404).

        ``check`` says whether it is such a file; what a proxy puts in its place is asked for again.

        Raises:
            TransientError: still failing, or no such file, after the attempts of the settings.
            ExchangeRefused: the server said no.
        """

        def ask() -> str | None:
            with self._get(url) as response:
                if response.status_code == 404:
                    return None
                text = response.text
            if not check(text):
                msg = f"{url} is not what it should be: {text[:80]!a}."
                raise MalformedResponse(msg)
            return text

        return self._again(ask, url)

    def save(self, url: str, target: IO[bytes]) -> str | None:
        """Write a file to ``target`` and return the sha256 of its bytes; ``None`` when there is none (404).

        Raises:
            TransientError: still failing or cut after the attempts of the settings.
            ExchangeRefused: the server said no.
        """

        def ask() -> str | None:
            target.seek(0)
            target.truncate()
            digest = hashlib.sha256()
            with self._get(url) as response:
                if response.status_code == 404:
                    return None
                for chunk in response.iter_content(_CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
            target.flush()
            return digest.hexdigest()

        return self._again(ask, url)

    def _get(self, url: str) -> requests.Response:
        """An answer with status 200 or 404, its body not yet read."""
        response = requests.get(url, stream=True, timeout=self._settings.request_timeout_s)
        status = response.status_code
        if status in {200, 404}:
            return response
        with response:
            wait = parse_retry_after(response.headers.get("Retry-After"), self.clock.now())
        if status in _RATE_LIMITED:
            msg = f"{url} asks for fewer requests (status {status})."
            raise RateLimited(msg, retry_after=wait)
        if status >= 500 or status in _WORTH_ANOTHER_TRY:
            msg = f"{url} failed (status {status})."
            raise TransientError(msg, retry_after=wait)
        msg = f"{url} was refused (status {status})."
        raise ExchangeRefused(msg)

    def _again(self, ask: Callable[[], T], url: str) -> T:
        tried = 0
        while True:
            tried += 1
            try:
                return _in_our_words(ask, url)
            except TransientError as error:
                pause = pause_before_retry(error, tried, self.clock)
                if tried >= self._settings.request_attempts or pause > LONGEST_OBEYED:
                    msg = f"{error.message} Tried {tried} times."
                    hint = "Run it again later; what is fetched is kept."
                    raise type(error)(msg, hint=hint, retry_after=error.retry_after) from error
                self.clock.sleep(pause)


def _in_our_words(ask: Callable[[], T], url: str) -> T:
    try:
        return ask()
    except requests.Timeout as error:
        msg = f"{url} did not answer in time."
        raise TransientError(msg) from error
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
    ) as error:
        msg = f"{url!r} is no URL that can be asked."
        raise ExchangeRefused(msg, hint="Check the base URL in the settings.") from error
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
        msg = f"The answer of {url} was cut."
        raise TransientError(msg) from error
    except requests.RequestException as error:
        msg = f"{url} could not be reached."
        raise TransientError(msg) from error
