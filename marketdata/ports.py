"""Free ports of the loopback interface, for servers that are told their port before they listen."""

import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST, _HIGHEST, _TRIES = 15_000, 32_000, 200
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on and that no other caller in this process was given.

    A server takes seconds to start. In that time the system hands ports of its ephemeral range to outgoing
    connections, so these lie below it, where a port is free until somebody asks for just that one.

    Raises:
        OSError: no port is free.
    """
    return [free_port() for _ in range(count)]


def free_port() -> int:
    """One of :func:`free_ports`."""
    highest = min(_HIGHEST, _first_ephemeral()) - 1
    for _ in range(_TRIES if highest > _LOWEST else 0):
        port = random.randint(_LOWEST, highest)  # noqa: S311 - so that two processes rarely choose the same
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _first_ephemeral() -> int:
    """The first port that the system gives away by itself; where it does not say, IANA's."""
    try:
        return int(_EPHEMERAL.read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 49_152
