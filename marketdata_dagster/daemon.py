"""``python -m marketdata_dagster.daemon run``: Dagster's daemon, with backfills that do not wait.

Dagster looks at a running backfill every 30 seconds and has no setting for it; each backfill waits for that
at its start and at its end, so a week that loads in twenty seconds took a minute and more. Here it looks
every two seconds.
"""

import logging
import sys
from collections.abc import Callable

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.execution import asset_backfill
from dagster._core.storage.tags import BACKFILL_ID_TAG, WILL_RETRY_TAG
from dagster._daemon import controller
from dagster._daemon.cli import create_dagster_daemon_cli

from marketdata.settings import Settings
from marketdata_dagster.defs.partitions import by_exchange
from marketdata_dagster.storing import PLACES, POOL

BACKFILL_EVERY_S = 2
AreComplete = Callable[[str, DagsterInstance, logging.Logger], bool]


def main() -> None:
    """Run the command line of Dagster's daemon."""
    # Read inside the backfill loop, so it must be set before the daemon runs.
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_EVERY_S
    are_complete: AreComplete = asset_backfill.backfill_runs_are_complete
    asset_backfill.backfill_runs_are_complete = wait_for_retries(are_complete)  # type: ignore[assignment]
    if "run" in sys.argv:
        limit_pools()
    create_dagster_daemon_cli()()


def limit_pools() -> None:
    """Give each exchange's pool its limit before the first run; Dagster does so only after it."""
    settings = Settings.load()
    with DagsterInstance.get() as instance:
        storage = instance.event_log_storage
        for exchange in by_exchange(settings.tracked):
            storage.initialize_concurrency_limit_to_default(exchange)
        if settings.database_url is not None:
            by_default = {pool.name: pool.from_default for pool in storage.get_pool_limits()}
            if by_default.get(POOL, True):  # a limit that somebody has set stays
                storage.set_concurrency_slots(POOL, PLACES)


def wait_for_retries(are_complete: AreComplete) -> AreComplete:
    """Let a backfill wait while it is open whether a failed run of it will be tried again.

    Dagster marks a run as failed first and notes a moment later that it will retry it. A backfill that was
    looked at in between ended as failed, and the retry went on without it.
    """

    def patient(backfill_id: str, instance: DagsterInstance, logger: logging.Logger) -> bool:
        if not are_complete(backfill_id, instance, logger):
            return False
        failed = RunsFilter(tags={BACKFILL_ID_TAG: backfill_id}, statuses=[DagsterRunStatus.FAILURE])
        return all(WILL_RETRY_TAG in run.tags for run in instance.get_runs(failed))

    return patient


if __name__ == "__main__":
    main()
