"""Misbehaviour on demand: which requests it meets, and what it does to an answer.

A fault is a JSON object::

    {"kind": "429", "match": "/kraken/0/public/Trades", "times": 2, "retry_after": 0.2}

``match`` is a regular expression searched in ``path?query`` (form fields included). Of the requests that
match, the first ``skip`` are spared, and then ``times`` are hit (all of them when absent), each with
``probability``. Choices depend on ``seed`` and the number of the request only.

Faults whose kind begins with ``ws_`` meet frames instead of requests; ``match`` is searched in
``/kraken/v2 trade update BTC/USD``, that is path, channel, snapshot or update, and symbol.
"""

import random
import re
import threading
from collections.abc import Container, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from marketdata.errors import UnknownName, UsageError

Kind = Literal[
    "latency",  # waits `seconds`, then answers
    "timeout",  # waits `seconds` (30), then gives up as a proxy does, with 504
    "429",  # with Retry-After: `retry_after`
    "418",  # likewise: banned
    "500",
    "502",  # with a page of HTML
    "html",  # a page of HTML with status 200
    "reply",  # answers `status` and `body`
    "cut",  # sends half of the body that Content-Length announces, then closes
    "repeat",  # the page served before this one, once more
    "shuffle",  # rows out of order
    "garbage",  # spoils `rows` rows: see GARBAGE
    "drop",  # leaves rows out: `ids`, or a `fraction` of all; with `once` only when first asked for
    "checksum",  # an archive's checksum that does not fit
    "ws_drop",  # a frame is never sent
    "ws_repeat",  # a frame is sent twice
    "ws_reorder",  # a frame is sent after the next one of its kind, or after a second
    "ws_corrupt",  # a frame is cut somewhere, and is no JSON any more
    "ws_garbage",  # spoils `rows` rows of a frame: see GARBAGE
    "ws_stray",  # before the frame another one, `body` as it is: what a proxy on the way has to say
    "ws_stall",  # the socket stays open and says nothing for `seconds`; `lost`: nor later what it kept back
    "ws_cut",  # the connection ends, without a word or with close code `code`
    "ws_refuse",  # a connection is refused with `status` (503 below 400)
]
KINDS: tuple[str, ...] = Kind.__args__  # type: ignore[attr-defined]
# Faults of frames and sockets; all others are of requests.
FRAME_KINDS = frozenset(kind for kind in KINDS if kind.startswith("ws_"))
REQUEST_KINDS = frozenset(KINDS) - FRAME_KINDS
# What row faults do to rows of a page, and to the rows of an archive file.
ROW_KINDS = frozenset({"shuffle", "garbage", "drop"})
Garbage = Literal["negative_price", "zero_amount", "absent_field", "void", "wrong_type", "future_time"]
GARBAGE: tuple[Garbage, ...] = Garbage.__args__  # type: ignore[attr-defined]


class Fault(BaseModel):
    """One kind of misbehaviour and whom it meets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    match: str = ""
    times: Annotated[int | None, Field(ge=0)] = None
    skip: Annotated[int, Field(ge=0)] = 0
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    seed: int = 0
    seconds: Annotated[float, Field(ge=0, le=600)] = 30.0
    retry_after: Annotated[float, Field(ge=0)] = 1.0
    status: Annotated[int, Field(ge=200, le=599)] = 200
    body: Any = None
    rows: Annotated[int, Field(ge=1)] = 3
    garbage: tuple[Garbage, ...] = GARBAGE
    # Whether a spoiled row stands in for the true one, or beside it.
    insert: bool = False
    ids: tuple[tuple[int, int], ...] = ()
    fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    once: bool = False
    # Whether what a stalled socket kept back is never sent.
    lost: bool = False
    code: Annotated[int | None, Field(ge=1000, le=4999)] = None

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            msg = f"not a regular expression: {error}"
            raise ValueError(msg) from None
        return value


def parse_faults(specs: Iterable[Any]) -> list[Fault]:
    """Read faults from JSON objects.

    Raises:
        UsageError: one is not a fault; names the field.
    """
    faults = []
    for spec in specs:
        if not isinstance(spec, Mapping):
            msg = f"A fault is an object, not {spec!r}."
            raise UsageError(msg, hint='For example {"kind": "429", "match": "/Trades", "times": 1}.')
        if (kind := spec.get("kind")) not in KINDS:
            raise UnknownName(str(kind), kind="kind of fault", known=KINDS)
        try:
            faults.append(Fault.model_validate(dict(spec)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            msg = f"Fault {kind!r}: {name} is not usable: {first['msg'].lower()}."
            raise UsageError(msg) from None
    return faults


class FaultBook:
    """The faults in force and how often each has met a request. Safe to use from several threads."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        """Start with these faults."""
        self._lock = threading.Lock()
        self._entries: list[_Entry] = [_Entry(fault) for fault in faults]

    def add(self, faults: Iterable[Fault]) -> None:
        """Put more faults in force."""
        with self._lock:
            self._entries += [_Entry(fault) for fault in faults]

    def clear(self) -> None:
        """Behave again."""
        with self._lock:
            self._entries = []

    def counts(self) -> list[dict[str, Any]]:
        """Each fault with the number of requests it ``matched`` and was ``applied`` to."""
        with self._lock:
            return [
                {
                    **entry.fault.model_dump(exclude_unset=True),
                    "matched": entry.matched,
                    "applied": entry.applied,
                }
                for entry in self._entries
            ]

    def __bool__(self) -> bool:
        """Whether any fault is in force."""
        return bool(self._entries)

    @property
    def frames(self) -> bool:
        """Whether any fault of frames is in force."""
        return any(entry.fault.kind in FRAME_KINDS for entry in self._entries)

    def watches(self, kind: str, target: str) -> bool:
        """Whether a fault of ``kind`` could meet this request, now or later; counts nothing."""
        with self._lock:
            return any(entry.fault.kind == kind and entry.meets(target) for entry in self._entries)

    def standing(self, target: str) -> list["Hit"]:
        """The row faults on an archive file: these hold as long as they are in force, and count nothing."""
        with self._lock:
            return [
                Hit(entry.fault, random.Random(f"{entry.fault.seed}/{target}"), entry.seen)  # noqa: S311
                for entry in self._entries
                if entry.fault.kind in ROW_KINDS and entry.meets(target)
            ]

    def hits(self, target: str, kinds: Container[str] = REQUEST_KINDS) -> list["Hit"]:
        """The faults of these kinds that this request or frame meets, counted."""
        with self._lock:
            found = (entry.hit(target) for entry in self._entries if entry.fault.kind in kinds)
            return [hit for hit in found if hit is not None]


class Hit:
    """A fault that meets a request, with its own random numbers."""

    __slots__ = ("chance", "fault", "seen")

    def __init__(self, fault: Fault, chance: random.Random, seen: set[int]) -> None:
        """``seen`` is the fault's memory of ids already left out once."""
        self.fault, self.chance, self.seen = fault, chance, seen


class _Entry:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.matched = self.applied = 0
        self.seen: set[int] = set()
        self._pattern = re.compile(fault.match)

    def meets(self, target: str) -> bool:
        return self._pattern.search(target) is not None

    def hit(self, target: str) -> Hit | None:
        if not self.meets(target):
            return None
        self.matched += 1
        fault = self.fault
        if self.matched <= fault.skip or (fault.times is not None and self.applied >= fault.times):
            return None
        chance = random.Random(f"{fault.seed}/{self.matched}")  # noqa: S311
        if chance.random() >= fault.probability:
            return None
        self.applied += 1
        return Hit(fault, chance, self.seen)
