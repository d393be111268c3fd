"""What an endpoint answers: the part between the market and HTTP."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from marketdata.exchange_sim.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body of one response."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json; charset=utf-8"


Parameters = Mapping[str, str]
Endpoint = Callable[[Exchange, Parameters], Answer]


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer with a JSON body."""
    return Answer(orjson.dumps(value), status)
