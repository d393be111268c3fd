"""``marketdata exchange``: the local exchange until Ctrl-C."""

from pathlib import Path

from marketdata.errors import UsageError


def run_exchange(
    port: int,
    seed: int,
    latency_ms: float,
    capture: Path | None,
    *,
    now: str | None = None,
    speed: float | None = None,
    load: float | None = None,
    faults: str | None = None,
) -> int:
    """Serve until Ctrl-C."""
    try:
        from marketdata.exchange_sim.options import read_options  # noqa: PLC0415 - it needs an extra
        from marketdata.exchange_sim.serve import Urls, serve  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in {"starlette", "uvicorn", "websockets"}:
            raise
        msg = f"The local exchange needs the package {error.name}, which is not installed."
        raise UsageError(msg, hint="Install marketdata[exchange].") from error
    if capture is not None and not capture.is_dir():
        msg = f"--capture {str(capture)!r} is not a folder."
        raise UsageError(msg, hint="Name the folder of captured payloads, or leave it out.")

    def ready(urls: Urls) -> None:
        print("A local exchange that speaks as Kraken and Binance do. Its data is synthetic.")
        if capture is not None:
            print(f"Markets captured in {capture} are served as they were recorded.")
        print("In another terminal:\n")
        for name, url in urls.environment.items():
            print(f"export {name}={url}")
        print("export MARKETDATA_REQUEST_INTERVAL_MS=0")
        print("export MARKETDATA_HOME=.marketdata-synthetic")
        print("marketdata backfill --last 7d")
        print("\nCtrl-C ends it.", flush=True)

    try:
        config = read_options(
            seed=seed, latency_ms=latency_ms, captures=capture, now=now, speed=speed, load=load, faults=faults
        )
        serve(config, port=port, on_ready=ready)
    except KeyboardInterrupt:
        print("\nThe local exchange has ended.")
    return 0
