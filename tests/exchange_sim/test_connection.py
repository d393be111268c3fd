"""The sending side of a socket of the local exchange."""

import asyncio
from typing import Any

from marketdata.exchange_sim.connection import Frames, Socket
from marketdata.exchange_sim.faults import FaultBook
from marketdata.exchange_sim.frames_protocol import frame


def test_what_comes_while_a_slow_reader_is_waited_for_is_sent_before_the_end() -> None:
    async def follow() -> list[Any]:
        sent: list[Any] = []
        reads = asyncio.Event()

        async def send(message: Any) -> None:
            if not sent:
                await reads.wait()
            sent.append(message.get("frames", message))

        socket = Socket("/capture", send, FaultBook(), lambda: 0, 1_000_000)
        writing = asyncio.create_task(socket.write())
        socket.put(Frames.of("frame", [b"first"]))
        await asyncio.sleep(0.01)
        socket.put(Frames.of("frame", [b"second"]))
        socket.cut(1000)
        reads.set()
        await asyncio.wait_for(writing, 60)
        return sent

    assert asyncio.run(follow()) == [
        frame(b"first"),
        frame(b"second"),
        {"type": "websocket.close", "code": 1000},
    ]
