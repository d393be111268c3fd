"""Alerts: to the log, and to a webhook where one is set. Each goes out once; one that fails is not lost.

An alert first waits in a file of the lake. It leaves that place when the webhook has answered with 2xx, so
whoever sends next, of this process or another, also sends what waits.
"""

import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import date
from enum import StrEnum
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import orjson

from marketdata.errors import MarketDataError, PermanentError, TransientError
from marketdata.lake import Lake, files, paths
from marketdata.market import Market
from marketdata.settings import Settings

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 10.0
# A call of send() stays short, and Slack takes about one message a second; the others follow next time.
MOST_AT_ONCE = 20
_LOCK_S = 15.0
# What Slack takes in one block.
_LONGEST = 2_900
# This message was refused; elsewhere the webhook is at fault, and the next message would fare no better.
_REFUSED = {400, 413, 422}


class Severity(StrEnum):
    """How soon somebody should look."""

    ERROR = "error"  # data is wrong or lacking, and nothing will repair it by itself
    WARNING = "warning"  # a repair is on its way, or a figure is out of its bounds
    INFO = "info"  # good news


@dataclass(frozen=True, slots=True)
class Alert:
    """One message.

    Attributes:
        key: one that has gone out under this key does not go out again.
        title: what is wrong, in one line; ``text``: the facts, in few.
        link: where to look; ``None`` when no URL of Dagster's UI is known.
        covers: keys of what is told here together; those do not go out again either.
    """

    key: str
    title: str
    text: str
    severity: Severity = Severity.ERROR
    link: str | None = None
    covers: tuple[str, ...] = ()


def send(settings: Settings, lake: Lake, alerts: Iterable[Alert] = ()) -> int:
    """Send these alerts, but for those that went out before, and those that an earlier call could not send.

    No error of the webhook is raised: it is said in the log, without the URL, and tried again next time.

    Returns:
        How many went out: accepted by the webhook, or written to the log where none is set.

    Raises:
        StorageError: the lake cannot be written.
    """
    waiting = _waiting(lake)
    told = _keys(waiting.values())
    for alert in alerts:
        if alert.key not in told and not _is_sent(lake, alert.key):
            level = {Severity.ERROR: logging.ERROR, Severity.WARNING: logging.WARNING}
            where = f" {alert.link}" if alert.link else ""
            _LOG.log(level.get(alert.severity, logging.INFO), "%s: %s%s", alert.title, alert.text, where)
            _put(lake, paths.alert_key(_digest(alert.key), sent=False), asdict(alert))
            told |= {alert.key, *alert.covers}
    try:
        # Two processes that look at the same file would both send it.
        with _alone(lake):
            return _deliver(settings, lake)
    except TransientError as error:
        _LOG.warning("alerts wait: %s", error)
        return 0


def news(lake: Lake, keys: Iterable[str]) -> set[str]:
    """Those of the keys under which nothing has gone out, and nothing waits."""
    told = _keys(_waiting(lake).values())
    return {key for key in keys if key not in told and not _is_sent(lake, key)}


def link(settings: Settings, market: Market, asset: str, day: date) -> str | None:
    """Where Dagster's UI shows the partition of an asset; ``None`` when no URL of it is known."""
    if settings.dagster_url is None:
        return None
    key = quote(f"{day.isoformat()}|{market.symbol_slug}", safe="")
    return f"{settings.dagster_url}/assets/{market.exchange}/{asset}?partition={key}"


def payload(alert: Alert) -> dict[str, Any]:
    """What the webhook is sent: ``text`` for everyone, ``blocks`` for who can show them."""
    head = f"*{_escaped(alert.severity.value.upper())}* {_escaped(alert.title)}"
    body = f"{head}\n{_escaped(alert.text)}"[:_LONGEST]
    if alert.link is not None:
        body += f"\n<{alert.link}|Open it in Dagster>"
    plain = f"{alert.severity.value.upper()} {alert.title}: {alert.text}"[:_LONGEST]
    return {
        "text": plain if alert.link is None else f"{plain} {alert.link}",
        "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": body}}],
    }


def _deliver(settings: Settings, lake: Lake) -> int:
    """Send what waits, the oldest first."""
    sent = 0
    for name, alert in list(_waiting(lake).items())[:MOST_AT_ONCE]:
        if not _is_sent(lake, alert.key):
            if settings.alert_webhook is not None:
                refusal = _post(settings.alert_webhook.get_secret_value(), payload(alert))
                if refusal is not None:
                    _LOG.warning("the webhook did not take an alert, which waits: %s", refusal.what)
                    if not refusal.of_this_alone:
                        break
                    _put(lake, name, asdict(alert))  # to the end of those that wait
                    continue
            sent += 1
        for key in (alert.key, *alert.covers):
            _put(lake, paths.alert_key(_digest(key), sent=True), {"key": key})
        lake.storage.delete(name)
    return sent


@dataclass(frozen=True, slots=True)
class _Refusal:
    what: str
    of_this_alone: bool  # others may be taken


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A webhook that sends elsewhere is not followed: the elsewhere would be told the secret's path."""

    def redirect_request(self, *_: Any) -> None:
        """Not followed; the answer stands as a failure."""


def _post(url: str, body: dict[str, Any]) -> _Refusal | None:
    """Post JSON; ``None`` when the answer is 2xx. Nothing that is returned or raised has the URL in it."""
    request = urllib.request.Request(  # noqa: S310 - the settings have checked that it is http or https
        url, data=orjson.dumps(body), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return _Refusal(f"HTTP {error.code}", of_this_alone=error.code in _REFUSED)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        number = getattr(reason, "errno", None)
        said = os.strerror(number) if isinstance(number, int) and number > 0 else type(reason).__name__
        return _Refusal(said, of_this_alone=False)


def _waiting(lake: Lake) -> dict[str, Alert]:
    """The alerts that wait by the key of their file, the oldest first."""
    listed = lake.storage.listed(paths.ALERTS_WAITING)
    found: dict[str, Alert] = {}
    for name in sorted(listed, key=lambda name: (listed[name], name)):
        body = _get(lake, name)
        if body is not None:
            covers = tuple(body.pop("covers"))
            found[name] = Alert(**body | {"severity": Severity(body["severity"]), "covers": covers})
    return found


def _keys(alerts: Iterable[Alert]) -> set[str]:
    return {key for alert in alerts for key in (alert.key, *alert.covers)}


def _is_sent(lake: Lake, key: str) -> bool:
    return lake.storage.size(paths.alert_key(_digest(key), sent=True)) is not None


def _alone(lake: Lake) -> Any:
    if not lake.storage.is_local:
        return nullcontext()
    return files.lock(lake.storage.local(f"{paths.ALERTS}/{paths.LOCK}"), patience_s=_LOCK_S)


def _put(lake: Lake, key: str, body: dict[str, Any]) -> None:
    files.put(lake.storage, key, lambda stream: stream.write(orjson.dumps(body)))


def _get(lake: Lake, key: str) -> dict[str, Any] | None:
    """What a file says; ``None`` when another process has sent it and removed it."""
    try:
        with lake.storage.errors(key), lake.storage.fs.open_input_file(lake.storage.full(key)) as file:
            found: dict[str, Any] = orjson.loads(file.read())
            return found
    except MarketDataError:
        if lake.storage.size(key) is None:
            return None
        raise
    except orjson.JSONDecodeError as error:
        msg = f"{lake.storage.show(key)!r} is no alert: {error}."
        raise PermanentError(msg, hint="Remove it.") from error


def _digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:32]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
