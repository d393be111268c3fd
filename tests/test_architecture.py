"""Imports point one way, and the pure rooms stay pure. Walks the source; nothing is imported."""

import ast
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PURE = (
    "errors",
    "market",
    "interval",
    "trade",
    "pieces",
    "candle",
    "manifest",
    "fold",
    "completeness",
    "finding",
    "quality",
    "outage",
    "rolling",
    "thresholds",
    "profile",
    "reconcile",
    "venues",
)
PURE_LIBRARIES = {"polars", "numpy", "orjson"}
# Modules of the standard library that read the world; a pure room takes what they would say as an argument.
WORLD = {
    "os",
    "io",
    "time",
    "random",
    "socket",
    "subprocess",
    "pathlib",
    "tempfile",
    "threading",
    "asyncio",
    "logging",
}
CLOCK_CALLS = {"now", "utcnow", "today"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module a file imports, also inside functions and for type checkers only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("marketdata", {"marketdata_dagster", "realtime", "dagster", "dagster_graphql", "tests", "bench"}),
        ("marketdata_dagster", {"realtime", "tests", "bench"}),
        ("realtime", {"marketdata_dagster", "dagster", "tests", "bench"}),
    ],
)
def test_imports_point_one_way(package: str, forbidden: set[str]) -> None:
    files = modules(package)
    assert files
    wrong = {str(path.relative_to(ROOT)): bad for path in files if (bad := roots(path) & forbidden)}
    assert wrong == {}


def test_only_the_bus_knows_kafka() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for package in ("marketdata", "marketdata_dagster", "realtime")
        for path in modules(package)
        if "confluent_kafka" in roots(path) and "bus" not in path.relative_to(ROOT).parts
    ]
    assert wrong == []


@pytest.mark.parametrize("name", PURE)
def test_a_pure_room_imports_polars_and_the_standard_library_only(name: str) -> None:
    path = ROOT / "marketdata" / f"{name}.py"
    names = imported(path)
    own = {n.split(".")[1] for n in names if n.startswith("marketdata.")}
    assert own <= set(PURE), f"{name} imports an impure room"
    foreign = {n.partition(".")[0] for n in names} - {"marketdata"}
    assert foreign <= PURE_LIBRARIES | set(sys.stdlib_module_names)
    assert not foreign & WORLD


@pytest.mark.parametrize("name", PURE)
def test_a_pure_room_never_looks_at_the_clock_or_opens_a_file(name: str) -> None:
    tree = ast.parse((ROOT / "marketdata" / f"{name}.py").read_text("utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = {f.attr for f in calls if isinstance(f, ast.Attribute)}
    plain = {f.id for f in calls if isinstance(f, ast.Name)}
    assert not named & CLOCK_CALLS
    assert not plain & {"open", "print", "input"}


def test_the_walk_sees_a_wrong_arrow(tmp_path: Path) -> None:
    guilty = tmp_path / "guilty.py"
    guilty.write_text("def f():\n    from dagster import asset\n    return asset\n")
    assert "dagster" in roots(guilty)
