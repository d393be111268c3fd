"""``python -m marketdata_dagster.run COMMAND...``: makes the Dagster instance ready and becomes the command.

For places where each process is started by itself: containers, systemd. ``make up`` does not need it.
"""

import os
import sys

from marketdata.cli.failures import report
from marketdata.errors import MarketDataError, UsageError
from marketdata.settings import Settings
from marketdata_dagster.instance import prepare


def main(command: list[str]) -> int:
    """Replace this process by ``command`` with DAGSTER_HOME and the like set; returns only on an error."""
    try:
        if not command:
            msg = "No command is given."
            raise UsageError(msg, hint="For example: python -m marketdata_dagster.run dagster-webserver")
        _, variables = prepare(Settings.load())
        os.execvpe(command[0], command, {**os.environ, **variables})  # noqa: S606
    except MarketDataError as error:
        return report(error, debug=False)
    except OSError as error:
        return report(UsageError(f"{command[0]!r} cannot be run: {error.strerror}."), debug=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
