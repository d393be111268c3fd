"""Logs of a process that runs one test after the other."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def kept() -> Iterator[None]:
    """Put back afterwards what a service sets up for its process: later tests do not log as it does."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configured, before = structlog.is_configured(), structlog.get_config()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
        if configured:
            structlog.configure(**before)
