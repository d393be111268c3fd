"""Every public trade of the markets you track, proved complete, as one definition of a candle."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marketdata.provider import AsyncProvider, Provider

__version__ = "0.1.0"
__all__ = ["AsyncProvider", "Provider", "__version__"]


def __getattr__(name: str) -> Any:
    """Bring the provider along only when it is asked for: it needs polars, the command's help does not."""
    if name in ("AsyncProvider", "Provider"):
        from marketdata import provider  # noqa: PLC0415

        return getattr(provider, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
