"""How services run."""

import threading

import pytest

from marketdata.errors import PermanentError, TransientError
from realtime.health import Health
from realtime.services.runtime import forever
from realtime.services.supervisor import supervise


def test_what_may_pass_is_tried_again_and_said_meanwhile() -> None:
    stop, health, states = threading.Event(), Health(), list[object]()
    health.ready()

    def turn() -> None:
        states.append(health.state()["ready"])
        if len(states) <= 2:
            msg = "no broker"
            raise TransientError(msg)
        if len(states) == 4:
            stop.set()

    forever(turn, stop, health, pause_s=0.0)
    assert states == [True, False, False, True]


def test_what_cannot_pass_ends_the_service() -> None:
    def turn() -> None:
        msg = "refused"
        raise PermanentError(msg)

    with pytest.raises(PermanentError):
        forever(turn, threading.Event(), Health())


def test_a_service_that_is_used_wrongly_is_not_started_again_and_again() -> None:
    assert supervise([("candles", ["candles", "--no-such-option"])], threading.Event()) == 2
