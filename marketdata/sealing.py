"""One day in memory at a time, however many are being fetched.

All work on whole days of a process runs in one thread of its own: peak memory is that of one day, and the
allocators' per-thread caches exist once.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import ParamSpec, TypeVar

import pyarrow as pa

_P = ParamSpec("_P")
_T = TypeVar("_T")

_thread = ThreadPoolExecutor(1, thread_name_prefix="seal")


def _renew() -> None:
    global _thread  # noqa: PLW0603
    _thread = ThreadPoolExecutor(1, thread_name_prefix="seal")


# Threads do not survive a fork; a child that used its parent's would wait for ever.
os.register_at_fork(after_in_child=_renew)


def _run(work: Callable[[], _T]) -> _T:
    # Arrow's own allocator keeps what is freed, by thread; over many days that adds up to a second day. The
    # system's gives large buffers back at once.
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        return work()
    finally:
        pa.set_memory_pool(before)
        before.release_unused()


def sealed(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run ``work`` when no other day is being worked on; an interrupted caller still waits for its end."""
    future = _thread.submit(_run, partial(work, *args, **kwargs))
    try:
        return future.result()
    finally:
        wait([future])
