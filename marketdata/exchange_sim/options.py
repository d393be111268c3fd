"""Settings of a local exchange as they are written on a command line."""

from datetime import UTC, datetime
from typing import Any

import orjson

from marketdata.errors import UsageError
from marketdata.exchange_sim.config import SimConfig


def read_options(*, now: str | None, faults: str | None, **fields: Any) -> SimConfig:
    """A configuration of fields of :class:`SimConfig`, two of them as text: ISO 8601 and a JSON list.

    Raises:
        UsageError: one of the two cannot be read.
    """
    try:
        time = None if now is None else datetime.fromisoformat(now)
        specs = () if faults is None else tuple(orjson.loads(faults))
    except (ValueError, TypeError) as error:
        msg = f"--now or --faults cannot be read: {error}."
        raise UsageError(
            msg, hint='--now 2025-06-11T12:00:00Z, --faults \'[{"kind": "ws_cut", "times": 1}]\'.'
        ) from error
    if time is not None and time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return SimConfig(now=time, faults=specs, **fields)
