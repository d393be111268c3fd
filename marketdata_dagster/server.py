"""``python -m marketdata_dagster.server``: Dagster's code server, whose runs start in half a second.

Dagster starts the process of a run from nothing, and four of five seconds are then spent on importing
Dagster. Here a small process that has imported Dagster and ccxt, and has no thread of theirs, is forked for
each run. Polars and Arrow start threads when they are imported, so each run imports them itself.
"""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

from dagster._cli import api
from dagster._grpc import server as grpc_server

_PRELOAD = [
    "dagster._grpc.impl",
    "dagster._core.execution.plan.execute_plan",
    "dagster._core.executor.in_process",
    "dagster._core.storage.event_log.sqlite",
    "dagster._core.storage.runs.sqlite",
    "dagster._core.storage.schedules.sqlite",
    "dagster_postgres",
    "pydantic_settings",
    "numpy",
    "ccxt",
    "marketdata_dagster.forked",
]


def main() -> None:
    """Serve; takes the arguments of ``dagster api grpc``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    # One thread that numpy would start for linear algebra, which nobody here needs.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Days are worked on side by side and two exchanges at once: more threads only wake each other up (a tenth
    # of what a run of quiet days computes).
    os.environ.setdefault("POLARS_MAX_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    forkserver.ensure_running()
    _use(context)
    api.grpc_command(sys.argv[1:], prog_name="python -m marketdata_dagster.server")


def _use(context: ForkServerContext) -> None:
    servicer = grpc_server.DagsterApiServer
    begin = servicer.__init__

    def patched(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self._mp_ctx = context

    servicer.__init__ = patched  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
