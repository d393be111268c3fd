"""A local exchange that speaks the real REST payloads of Kraken and Binance, for demos and tests.

Its market is synthetic (or served from captured files) and says so. ``docs/local-exchange.md`` shows its use.
"""

from marketdata.exchange_sim.app import create_app
from marketdata.exchange_sim.config import SimConfig
from marketdata.exchange_sim.serve import RunningExchange, Urls, serve, write_port_file

__all__ = ["RunningExchange", "SimConfig", "Urls", "create_app", "serve", "write_port_file"]
