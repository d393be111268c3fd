"""A fetch killed by SIGKILL at any point goes on where it stopped and ends in the identical file."""

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marketdata.fetching import fetch_day
from marketdata.lake import Lake
from tests.conftest import ROOT
from tests.lake.world import BTC, DAY, NOW, PagedSource

_PAGES = 10
_POINTS = 30

Fetch = Callable[[Path, Path, int], str]


@pytest.fixture
def fetch() -> Iterator[Fetch]:
    """Fetch the day in a process that dies at its n-th step; says ``killed`` or the number of steps."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.lake.killed"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    commands, answers = server.stdin, server.stdout

    def ask(lake: Path, log: Path, kill_at: int) -> str:
        commands.write(f"{lake} {log} {kill_at}\n")
        commands.flush()
        return answers.readline().strip()

    try:
        yield ask
    finally:
        commands.close()
        answers.close()
        server.wait(90)


def finish(folder: Path, log: Path) -> bytes:
    """Run the fetch again, here, and return the day's file."""
    lake = Lake.open(str(folder))
    fetch_day(lake, PagedSource(page_rows=300, log=log), BTC, DAY, now=NOW)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".tmp")]
    assert [path.name for path in files] == ["part-0.parquet"]
    return files[0].read_bytes()


def undisturbed(fetch: Fetch, tmp_path: Path) -> tuple[bytes, int]:
    """The file of a fetch that was not killed, and its number of steps."""
    steps = fetch(tmp_path / "whole", tmp_path / "whole.log", 0)
    assert steps.isdecimal(), steps
    assert (tmp_path / "whole.log").read_text().split() == [str(n) for n in range(_PAGES)]
    return finish(tmp_path / "whole", tmp_path / "whole.log"), int(steps)


def assert_no_page_twice(log: Path, kills: int) -> None:
    """Each page was asked for, and only those in flight when the process died more than once."""
    asked = Counter(log.read_text().split()) if log.exists() else Counter()
    assert set(asked) == {str(n) for n in range(_PAGES)}
    assert asked.total() <= _PAGES + kills


def test_a_fetch_killed_at_any_step_ends_in_the_identical_file(fetch: Fetch, tmp_path: Path) -> None:
    whole, steps = undisturbed(fetch, tmp_path)
    assert steps > _POINTS
    for point in sorted(random.Random(20250608).sample(range(1, steps + 1), _POINTS)):
        folder, log = tmp_path / f"lake-{point}", tmp_path / f"{point}.log"
        assert fetch(folder, log, point) == "killed", point
        assert finish(folder, log) == whole, point
        assert_no_page_twice(log, 1)


def test_a_fetch_killed_again_and_again_comes_to_its_end(fetch: Fetch, tmp_path: Path) -> None:
    whole, steps = undisturbed(fetch, tmp_path)
    folder, log = tmp_path / "lake", tmp_path / "log"
    kills = 0
    while fetch(folder, log, steps // 4) == "killed":
        kills += 1
        assert kills < 20
    assert kills >= 3
    assert finish(folder, log) == whole
    assert_no_page_twice(log, kills)
