"""uvicorn's WebSocket protocol with what a local exchange needs beyond ASGI.

Three more messages: ``frames`` (bytes of whole frames, many in one write), ``mute`` (whether the socket
answers pings) and ``abort`` (the connection ends without a word).
"""

from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_TEXT = 0x81


def frame(payload: bytes) -> bytes:
    """A whole text frame as a server sends it: unmasked, uncompressed."""
    size = len(payload)
    if size < 126:
        return bytes((_TEXT, size)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


class FramesProtocol(WebSocketsSansIOProtocol):
    """A connection that also takes frames ready for the wire."""

    _mute = False

    async def send(self, message: Any) -> None:
        """Send an ASGI message or one of ours.

        Raises:
            ClientDisconnected: the connection has ended.
        """
        if "frames" in message:
            await self.writable.wait()
            if self.disconnected or self.close_sent:
                raise ClientDisconnected
            self.transport.write(message["frames"])
        elif "mute" in message:
            self._mute = message["mute"]
        elif "abort" in message:
            self.transport.abort()
        else:
            await super().send(message)

    def handle_ping(self) -> None:
        """Answer a ping, unless the socket plays dead."""
        if self._mute:
            self.conn.data_to_send()
        else:
            super().handle_ping()
