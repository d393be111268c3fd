"""What is committed with an offset, as text (pure).

A restart reads from the committed offset. The text beside it says up to where the messages had been handled,
and the state of each market then: messages before that are replayed in silence, those behind it are new.
"""

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from marketdata.errors import CorruptFile, MarketDataError
from marketdata.market import Market

_VERSION = "candles/1 "


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a partition stands.

    Attributes:
        offset: the first message a restart must read again.
        position: the first message that had not been handled.
        states: what :meth:`realtime.candles.CandleCore.state` said of each market.
    """

    offset: int
    position: int
    states: Mapping[Market, str] = field(default_factory=dict)

    def text(self) -> str:
        """Position and states: what the offset does not say. Letters and digits, about 40 bytes a market."""
        markets = {str(market): orjson.Fragment(state) for market, state in self.states.items()}
        body = orjson.dumps({"position": self.position, "markets": markets})
        return _VERSION + base64.b85encode(zlib.compress(body, 9)).decode()

    @classmethod
    def parse(cls, offset: int, text: str) -> "Checkpoint":
        """Read what :meth:`text` has written; no text is a group that has committed an offset only.

        Raises:
            CorruptFile: it is something else.
        """
        if not text:
            return cls(offset, offset)
        try:
            version, _, packed = text.partition(" ")
            if version != _VERSION.strip():
                raise ValueError(version)  # noqa: TRY301 - one answer to all that is wrong
            body = orjson.loads(zlib.decompress(base64.b85decode(packed)))
            states = {
                Market.parse(name): orjson.dumps(state).decode() for name, state in body["markets"].items()
            }
            return cls(offset, int(body["position"]), states)
        except (ValueError, TypeError, KeyError, AttributeError, binascii.Error, zlib.error, MarketDataError):
            msg = f"The committed offset {offset} carries {text[:60]!r}, no state of the candle service."
            raise CorruptFile(msg, hint="Choose another --group, or delete the group's offsets.") from None
