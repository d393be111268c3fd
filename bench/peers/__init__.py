"""Peers: other programs that do the same work in the same run, in a virtual environment of their own.

Each script here is started with that environment's Python, says which peers it has and their versions in its
first line, and then, for every name it reads, does the work once and prints the seconds it took. So peers and
our own code take turns on the same machine at the same time.
"""

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_FOLDER = _ROOT / ".venv-bench"
_LOCK = _ROOT / "bench" / "requirements-peers.txt"
_PYTHON = _FOLDER / "bin" / "python"


class Peers:
    """Peers that wait for their turn."""

    def __init__(self, process: "subprocess.Popen[str] | None", versions: dict[str, str]) -> None:
        """Keep the process; ``versions`` by name of the peer, empty when there is none."""
        self._process, self.versions = process, versions

    def seconds(self, name: str) -> float:
        """Let one peer do its work once."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextmanager
def started(script: str, *arguments: str) -> Iterator[Peers]:
    """Start the peers of ``bench/peers/<script>.py``; without them, say so in one line and go on."""
    if not _installed():
        print("Peers are absent: bench/requirements-peers.txt could not be installed into .venv-bench.")
        yield Peers(None, {})
        return
    command = [str(_PYTHON), "-W", "ignore", str(Path(__file__).with_name(f"{script}.py")), *arguments]
    with _running(command, _ROOT) as peers:
        yield peers


@contextmanager
def started_node(folder: str, script: str, *arguments: str) -> Iterator[Peers]:
    """The same for ``bench/peers/<folder>/<script>``, which Node.js runs with the packages locked there."""
    place = _node_packages(folder)
    if place is None:
        print(f"Peers are absent: the packages of bench/peers/{folder} need Node.js and npm.")
        yield Peers(None, {})
        return
    with _running(["node", str(Path(__file__).parent / folder / script), *arguments], place) as peers:
        yield peers


@contextmanager
def _running(command: list[str], place: Path) -> Iterator[Peers]:
    process = subprocess.Popen(
        command,
        cwd=place,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        if not first:
            print(f"Peers are absent: {Path(command[-2]).name} does not start.")
        yield Peers(process, json.loads(first) if first else {})
    finally:
        process.kill()
        process.wait()


def _node_packages(folder: str) -> Path | None:
    """Where the packages lie; they are installed from the lock file when they are not."""
    place, source = _FOLDER / folder, Path(__file__).parent / folder
    lock = source / "package-lock.json"
    done = place / ".peers"
    if done.is_file() and done.read_text("utf-8") == lock.read_text("utf-8"):
        return place
    place.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(source / name, place / name)
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    try:
        subprocess.run(install, cwd=place, check=True, timeout=300, stdout=sys.stderr)
    except (OSError, subprocess.SubprocessError):
        return None
    done.write_text(lock.read_text("utf-8"), "utf-8")
    return place


def _installed() -> bool:
    """Whether the environment is there; it is made from the lock file when it is not."""
    done = _FOLDER / ".peers"
    if done.is_file() and done.read_text("utf-8") == _LOCK.read_text("utf-8"):
        return True
    print("Installing the peers into .venv-bench, once ...")
    try:
        if not _PYTHON.exists():
            venv.create(_FOLDER, with_pip=True)
        install = [str(_PYTHON), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(_LOCK)]
        subprocess.run(install, check=True, timeout=900, stdout=sys.stderr)
    except (OSError, subprocess.SubprocessError):
        return False
    done.write_text(_LOCK.read_text("utf-8"), "utf-8")
    return True
