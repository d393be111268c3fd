"""What all tests share."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from marketdata import alerts
from marketdata.bus.mock import MockCluster
from marketdata.exchange_sim import RunningExchange, SimConfig
from marketdata.settings import KAFKA_VARIABLE
from marketdata.store import engine
from tests.kafka.broker import LOGS, Broker, missing, tail
from tests.webhook import Webhook

ROOT = Path(__file__).resolve().parents[1]

# TimescaleDB is in no package registry: what needs it is not run where it is not, and that is no failure.
NO_TIMESCALEDB = "no TimescaleDB"

# A law either holds or not; how long an example takes on a busy machine says nothing about it.
settings.register_profile("marketdata", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Continuous integration judges a change by the same examples each time; new ones are looked for at home.
settings.register_profile("the same each time", parent=settings.get_profile("marketdata"), derandomize=True)
settings.load_profile(
    "the same each time" if os.environ.get("MARKETDATA_REQUIRE_REAL_PARTS") else "marketdata"
)


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of captured exchange data; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("MARKETDATA_FIXTURES", ROOT.parent / "shared" / "data"))
    if not (folder / "MANIFEST.md").is_file():
        pytest.skip(f"captured exchange data is not at {folder}; set MARKETDATA_FIXTURES")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where every real part is required (continuous integration), a skipped test is a failure."""
    skipped = _unexcused(terminalreporter)
    if os.environ.get("MARKETDATA_REQUIRE_REAL_PARTS") and skipped:
        terminalreporter.section("real parts are required, but tests were skipped")
        for report in skipped:
            terminalreporter.line(f"{report.nodeid}: {report.longrepr[2]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows what the brokers of its process have said."""
    report = yield
    if report.failed:
        report.sections += [(f"the end of {log}", text) for log in LOGS if (text := tail(log))]
    return report


# Files that start all of the platform's processes: one at a time, for each fills two cores by itself.
_WHOLE = frozenset(f"tests/dagster/test_{name}.py" for name in ("browser", "end_to_end", "postgres", "stack"))


class _Scheduling(LoadFileScheduling):
    """A worker for each file at a time, and one worker for all of those that start the whole platform."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return "the whole platform" if file in _WHOLE else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests out as above where ``--dist loadfile`` is asked for."""
    return _Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the folders whose tests wait long for real parts begin, so that no worker ends with them alone."""
    waiting = ("tests/realtime/faults", "tests/dagster", "tests/docs", "tests/kafka", "tests/realtime")
    order = {folder: place for place, folder in enumerate(waiting)}

    def place(item: pytest.Item) -> int:
        if item.nodeid.partition("::")[0] in _WHOLE:
            return -1
        folder = next((name for name in waiting if item.nodeid.startswith(f"{name}/")), "")
        return order.get(folder, len(order))

    items.sort(key=place)


def _unexcused(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    return [
        report for report in reporter.stats.get("skipped", []) if NO_TIMESCALEDB not in str(report.longrepr)
    ]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn skipped tests into a failed run where every real part is required."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if (
        os.environ.get("MARKETDATA_REQUIRE_REAL_PARTS")
        and reporter
        and _unexcused(reporter)
        and not exitstatus
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """The bootstrap address of a Kafka: KAFKA_BOOTSTRAP_SERVERS, else a broker of its own, else a mock.

    Its topics are shared by the whole run: take a prefix of your own. The mock cluster inside librdkafka
    serves where there is no Java; where all real parts are required, that is a failure.
    """
    if given := os.environ.get(KAFKA_VARIABLE):
        yield given
    elif (absent := missing()) is None:
        with closing(Broker().start()) as real:
            yield real.bootstrap
    elif os.environ.get("MARKETDATA_REQUIRE_REAL_PARTS"):
        pytest.fail(f"a real Kafka broker is required here, but there is {absent}")
    else:
        warning = f"There is {absent}: Kafka's tests run on {MockCluster.what}."
        print(f"\n{warning}")
        with MockCluster() as mock:
            yield mock.bootstrap


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A webhook on loopback, whose answer and whose turn are waited for as long as a busy machine takes."""
    monkeypatch.setattr(alerts, "_TIMEOUT_S", 240.0)
    monkeypatch.setattr(alerts, "_LOCK_S", 240.0)
    running = Webhook()
    yield running
    running.close()


@pytest.fixture(scope="session", autouse=True)
def patient_connections() -> Iterator[None]:
    """A server of the tests that stands still for a while is no server that is away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_CONNECT_TIMEOUT_S", 60)
        yield


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A real broker that a test may stop, kill and start again."""
    if (absent := missing()) is not None:
        pytest.skip(f"a broker to stop and start needs Java and Maven; there is {absent}")
    with closing(Broker().start()) as real:
        yield real


@pytest.fixture
def exchange_server() -> Iterator[Callable[..., RunningExchange]]:
    """Start local exchanges, each in a thread on a free port: ``exchange_server(seed=7, now=...)``.

    Takes the fields of ``SimConfig``; the result has ``url``, ``kraken``, ``binance``, ``archive``,
    ``environment``, ``faults([...])``, ``set_clock(...)`` and ``hide(market, [(first_id, last_id)])``.
    """
    with ExitStack() as running:

        def start(**config: Any) -> RunningExchange:
            return running.enter_context(RunningExchange(SimConfig(**config)))

        yield start
