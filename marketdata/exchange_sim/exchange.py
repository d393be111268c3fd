"""The state that all endpoints share: the clock, the markets, and what is kept in memory."""

from collections.abc import Iterable

from marketdata.errors import UsageError
from marketdata.exchange_sim.cache import SizedCache
from marketdata.exchange_sim.candles import CandleRoom
from marketdata.exchange_sim.capture_frames import captured_tapes
from marketdata.exchange_sim.config import Clock, SimConfig
from marketdata.exchange_sim.listing import Listing
from marketdata.exchange_sim.load import MINUTE_NS, LoadTape
from marketdata.exchange_sim.market import Columns
from marketdata.exchange_sim.tape import IdRanges, Reader, SyntheticTape, Tape


class Exchange:
    """Both venues. Memory: what the limits of the config say, plus one request."""

    def __init__(self, config: SimConfig) -> None:
        """List the markets; captured and given ones replace computed ones of the same name.

        Raises:
            UsageError: a capture cannot be read, or ``not_served`` names a market that is not listed.
        """
        self.config = config
        self.clock = Clock(config.now, config.offset, config.speed)
        self.days: SizedCache[Columns] = SizedCache(config.day_rows, len)
        self.candles = CandleRoom(config.candle_bytes)
        self.archives: SizedCache[bytes] = SizedCache(config.archive_bytes, len)
        tapes = list(self._computed(config))
        if config.captures is not None:
            tapes += captured_tapes(config.captures)
        tapes += config.tapes
        self._readers = {tape.listing.market: Reader(tape, self.clock.now_ns) for tape in tapes}
        self._names = {
            (listing.exchange, name): listing.market
            for listing in (reader.listing for reader in self._readers.values())
            for name in listing.names
        }
        for market, ranges in config.not_served.items():
            self.hide(market, ranges)

    def _computed(self, config: SimConfig) -> Iterable[Tape]:
        if config.load is None:
            return (SyntheticTape(listing, config.seed, self.days) for listing in config.listings)
        begin = self.clock.now_ns() // MINUTE_NS * MINUTE_NS
        return (LoadTape(listing, config.seed, config.load, begin) for listing in config.listings)

    def hide(self, market: str, ranges: IdRanges) -> None:
        """Serve these ids (inclusive ranges) of a market as trades nowhere from now on."""
        if market not in self._readers:
            msg = f"Market {market!r} is not listed here."
            raise UsageError(msg, hint=f"Listed: {', '.join(sorted(self._readers))}.")
        self._readers[market].not_served = tuple(ranges)
        self.archives.clear()

    def listings(self, exchange: str) -> Iterable[Listing]:
        """What one exchange lists."""
        return (reader.listing for reader in self._readers.values() if reader.listing.exchange == exchange)

    def reader(self, exchange: str, name: str) -> Reader | None:
        """The market that a request means by ``name``."""
        market = self._names.get((exchange, name))
        return None if market is None else self._readers[market]
