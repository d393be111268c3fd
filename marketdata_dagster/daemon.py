"""``python -m marketdata_dagster.daemon run``: Dagster's daemon, looking at backfills every two seconds.

Dagster looks at a running backfill every 30 seconds and has no setting for it; each backfill waits for that
at its start and at its end, so a week that loads in twenty seconds took a minute and more.
"""

import sys

from dagster import DagsterInstance
from dagster._daemon import controller
from dagster._daemon.cli import create_dagster_daemon_cli

from marketdata.settings import Settings
from marketdata_dagster.defs.partitions import by_exchange

BACKFILL_EVERY_S = 2


def main() -> None:
    """Run the command line of Dagster's daemon."""
    # Read inside the backfill loop at its start, so it must be set before the daemon runs.
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_EVERY_S
    if "run" in sys.argv:
        _limit_pools()
    create_dagster_daemon_cli()()


def _limit_pools() -> None:
    """Give each exchange's pool its limit before the first run; Dagster does so only after it."""
    with DagsterInstance.get() as instance:
        for exchange in by_exchange(Settings.load().tracked):
            instance.event_log_storage.initialize_concurrency_limit_to_default(exchange)


if __name__ == "__main__":
    main()
