"""A least-recently-used cache that is bounded by the size of what it holds, and computes a value once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class SizedCache(Generic[Value]):
    """Values by key. Their sizes sum to at most ``limit``, but the newest value always stays."""

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        """``limit`` and the results of ``size`` are in the same unit, whatever it is."""
        self._limit, self._size = limit, size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    @property
    def used(self) -> int:
        """Sum of the sizes held."""
        return self._used

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of ``key``; ``make`` runs at most once at a time for a key."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            value = make()
            with self._lock:
                self._put(key, value)
                self._making.pop(key, None)
            return value

    def peek(self, key: Hashable) -> Value | None:
        """The value of ``key`` if it is held."""
        with self._lock:
            return self._values.get(key)

    def _put(self, key: Hashable, value: Value) -> None:
        self._values[key] = value
        self._used += self._size(value)
        while self._used > self._limit and len(self._values) > 1:
            _, old = self._values.popitem(last=False)
            self._used -= self._size(old)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self._used = 0
