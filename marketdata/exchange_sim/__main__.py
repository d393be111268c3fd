"""``python -m marketdata.exchange_sim``: the local exchange as a process of its own."""

import argparse
import signal
import sys
from datetime import timedelta
from pathlib import Path
from types import FrameType

from marketdata.errors import MarketDataError
from marketdata.exchange_sim.config import SimConfig
from marketdata.exchange_sim.options import read_options
from marketdata.exchange_sim.serve import Urls, serve, write_port_file


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal; returns the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)

    def ready(urls: Urls) -> None:
        if options.port_file is not None:
            write_port_file(options.port_file, urls)
        print("The data of this exchange is synthetic." if options.captures is None else "Serving captures.")
        for name, url in urls.environment.items():
            print(f"export {name}={url}")
        sys.stdout.flush()

    try:
        serve(_config(options), options.host, options.port, on_ready=ready)
    except MarketDataError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m marketdata.exchange_sim", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="the port is written here when requests are answered")
    parser.add_argument("--seed", type=int, default=7, help="of the synthetic market")
    parser.add_argument(
        "--now", help="where the clock stands or starts, ISO 8601, UTC unless it says otherwise"
    )
    parser.add_argument("--speed", type=float, help="seconds of the exchange in one of the wall clock")
    parser.add_argument(
        "--load", type=float, help="trades a second of every market, instead of the synthetic ones"
    )
    parser.add_argument(
        "--heartbeat-s", type=float, default=1.0, help="pause after which a socket of Kraken beats"
    )
    parser.add_argument("--offset-s", type=float, default=0.0, help="seconds added to the clock")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="pause before each answer")
    parser.add_argument(
        "--archive-delay-h", type=float, default=24.0, help="hours from the end of a day to its archive files"
    )
    parser.add_argument("--captures", type=Path, help="folder of captured files to serve")
    parser.add_argument("--faults", help="JSON list of faults, as POST /control/faults takes it")
    return parser


def _config(options: argparse.Namespace) -> SimConfig:
    return read_options(
        seed=options.seed,
        now=options.now,
        speed=options.speed,
        load=options.load,
        offset=timedelta(seconds=options.offset_s),
        latency_ms=options.latency_ms,
        archive_delay=timedelta(hours=options.archive_delay_h),
        captures=options.captures,
        heartbeat_s=options.heartbeat_s,
        faults=options.faults,
    )


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
