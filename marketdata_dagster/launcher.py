"""A run launcher that knows whether a run's process is alive.

Dagster's own launcher leaves that to the code server that started the process. When the server is gone too
(a restart, a reboot, the machine killed), such a run would stay "started" for ever. Here run monitoring asks
about the process itself, marks the run as failed within seconds, and the retry goes on where it stopped.
"""

import os
from pathlib import Path

from dagster import DagsterEventType, DagsterRun
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

# Dagster starts a run's process by multiprocessing's spawn, and the command line says so. A process id that
# was given to another program since does not count.
_SPAWNED = b"multiprocessing"
_LOCAL = {None, "", "localhost", "127.0.0.1", "::1"}
_PATIENCE_S = 5


class WatchfulRunLauncher(DefaultRunLauncher):
    """The default launcher, plus an answer to the question whether a run's process lives."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether run monitoring may ask."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a started run lives; "running" where nobody can tell."""
        client: DagsterGrpcClient | None = self._get_grpc_client_for_termination(  # type: ignore[no-untyped-call]
            run.run_id
        )
        if client is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "No code server is named.")
        if client.host not in _LOCAL:
            return self._ask(client, run.run_id)
        pid = self._process_of(run.run_id)
        if pid is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "The run has not told its process id.")
        if is_worker(pid):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"Process {pid} of the run is gone.")

    def _ask(self, client: DagsterGrpcClient, run_id: str) -> CheckRunHealthResult:
        """Ask a code server on another machine."""
        try:
            answer = client.can_cancel_execution(
                CanCancelExecutionRequest(run_id=run_id), timeout=_PATIENCE_S
            )
        except DagsterUserCodeUnreachableError:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "The code server does not answer.")
        if deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "The code server does not know the run.")

    def _process_of(self, run_id: str) -> int | None:
        """The id of the process that started last for this run."""
        events = self._instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT)
        for event in reversed(events):
            found = event.get_dagster_event().engine_event_data.metadata.get("pid")
            if found is not None:
                return int(str(found.value))
        return None


def is_worker(pid: int) -> bool:
    """Whether that process lives and is one that Dagster has started for a run."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False
    status = Path(f"/proc/{pid}/cmdline")
    if not Path("/proc/self").exists():
        return True
    try:
        return _SPAWNED in status.read_bytes()
    except OSError:
        return False
