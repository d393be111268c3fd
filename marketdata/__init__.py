"""Every public trade of the markets you track, proved complete, as one definition of a candle."""

__version__ = "0.1.0"
