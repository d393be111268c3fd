"""The containers as far as they can be checked without an engine: structure, secrets, and every command."""

import os
import re
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

import marketdata
from marketdata.settings import Settings
from tests.conftest import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "command" in service}


def test_compose_accepts_the_file() -> None:
    program = shutil.which("docker-compose")
    if program is None:
        if os.environ.get("MARKETDATA_REQUIRE_REAL_PARTS"):
            pytest.fail("docker-compose is required here, but it is not installed")
        pytest.skip("docker-compose is not installed")
    environment = {"PATH": os.environ["PATH"], "MARKETDATA_POSTGRES_PASSWORD": "only-for-this-test"}
    read = subprocess.run(
        [program, "--file", str(ROOT / "docker-compose.yml"), "config"],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    services = yaml.safe_load(read.stdout)["services"]
    wanted = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert wanted <= set(services) <= set(SERVICES)  # newer ones leave out what no profile asks for
    without = subprocess.run(
        [program, "--file", str(ROOT / "docker-compose.yml"), "config"],
        capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, timeout=300, check=False,
    )  # fmt: skip
    assert without.returncode != 0
    assert "set it to a password of your own" in without.stderr


def test_services_depend_on_services_and_mount_volumes_that_exist() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= set(SERVICES) - {name}
        mounted = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert mounted <= set(COMPOSE["volumes"])


def test_no_service_has_a_default_password() -> None:
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            if "PASSWORD" in variable or "DATABASE_URL" in variable:
                assert re.search(r"\$\{MARKETDATA_POSTGRES_PASSWORD:\?[^}]+\}", value)


def test_every_setting_reaches_the_containers() -> None:
    """One that is left out is ignored in silence: alerts went nowhere, whatever webhook was set."""
    # The broker of the containers asks nobody who he is.
    of_other_brokers = {"security_protocol", "sasl_mechanism", "username", "password", "ca_file"}
    names = set(Settings.model_fields) - {f"kafka_{name}" for name in of_other_brokers}
    wanted = {f"MARKETDATA_{name.upper()}" for name in names}
    for service in OURS.values():
        assert set(service["environment"]) == wanted
        for variable, value in service["environment"].items():
            assert "${MARKETDATA_" not in value or variable in value or "POSTGRES_PASSWORD" in value


def test_a_database_is_healthy_when_others_reach_it_and_not_while_it_is_being_made() -> None:
    """The image makes a new database with a server that listens on a socket alone, and restarts it.

    What begins meanwhile finds nobody, and the step that brings the schema is not begun again.
    """
    for name in ("postgres", "timescaledb"):
        _, command = SERVICES[name]["healthcheck"]["test"]
        assert command.startswith("pg_isready -h 127.0.0.1 ")


def test_published_ports_are_bound_to_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_carries_the_version() -> None:
    assert {service["image"] for service in OURS.values()} == {f"marketdata:{marketdata.__version__}"}


def test_the_image_copies_what_is_there() -> None:
    text = (ROOT / "deploy/docker/Dockerfile").read_text("utf-8")
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, _target = line.split()
        missing = [source for source in sources if not (ROOT / source).exists()]
        assert missing == []


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_command_knows_the_options_it_is_given(name: str, tmp_path: Path) -> None:
    command = OURS[name]["command"]
    program = [sys.executable, *command[1:3]] if command[0] == "python" else [_script(command[0])]
    arguments = command[len(program) :]
    subcommand = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    environment = {**os.environ, "MARKETDATA_HOME": str(tmp_path), "COLUMNS": "200", "DAGSTER_HOME": ""}
    shown = subprocess.run(
        [sys.executable, "-m", "marketdata_dagster.run", *program, *subcommand, "--help"],
        capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    for option in (argument for argument in arguments if argument.startswith("--")):
        assert option in shown.stdout
    assert (tmp_path / "dagster" / "dagster.yaml").is_file()


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    environment = {**os.environ, "MARKETDATA_HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-m", "marketdata_dagster.run", "no-such-command"],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == ["error: 'no-such-command' cannot be run: No such file or directory."]
