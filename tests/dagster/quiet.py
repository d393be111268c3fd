"""A platform that starts nothing by itself, whatever the time of the day is."""

import time

from marketdata.errors import MarketDataError
from marketdata_dagster.graphql import GraphQL

_FOUND = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
    schedules { name scheduleState { id status } } sensors { name sensorState { id status } } } } } }"""
_SCHEDULE = "mutation Stop($id: String!) { done: stopRunningSchedule(id: $id) { __typename } }"
_SENSOR = "mutation Stop($id: String!) { done: stopSensor(id: $id) { __typename } }"


def stop_what_the_clock_starts(graphql: GraphQL) -> None:
    """Switch off the daily schedules and the sweep, which begin at times of the day.

    The daemon writes their states too, at the beginning and after a tick: what it overtakes is tried again.
    """
    until = time.monotonic() + 240
    while running := _running(graphql):
        assert time.monotonic() < until, running
        for mutation, state in running:
            try:
                graphql.ask(mutation, id=state)
            except MarketDataError:  # said by the next look
                continue
        time.sleep(1)


def _running(graphql: GraphQL) -> list[tuple[str, str]]:
    """How each of them that is on is switched off."""
    (found,) = graphql.ask(_FOUND)["repositoriesOrError"]["nodes"]
    schedules = [(_SCHEDULE, each["scheduleState"]) for each in found["schedules"]]
    sweep = [(_SENSOR, each["sensorState"]) for each in found["sensors"] if each["name"] == "sweep"]
    assert schedules
    assert sweep
    return [(mutation, each["id"]) for mutation, each in schedules + sweep if each["status"] != "STOPPED"]
