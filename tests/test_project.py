"""The project as a thing people clone: versions, lock files, documents."""

import re
import subprocess
import tomllib

import marketdata
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def tracked_files() -> list[str]:
    out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [name for name in out.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_version_is_the_same_everywhere_and_in_the_changelog() -> None:
    version = PROJECT["project"]["version"]
    assert marketdata.__version__ == version
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == version


def test_every_locked_package_has_a_hash_and_no_registry_is_named() -> None:
    for name in ("run", "dev", "tools"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
        packages = re.findall(r"^[A-Za-z0-9][^=\s]*==", text, re.MULTILINE)
        assert packages
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) >= len(packages)
        assert "://" not in text
        assert "index-url" not in text


def test_what_runs_is_what_was_tested() -> None:
    def pins(name: str) -> set[str]:
        text = (ROOT / "requirements" / name).read_text("utf-8")
        return {line.split()[0] for line in text.splitlines() if "==" in line}

    assert pins("run.txt") <= pins("dev.txt")


def test_links_between_documents_lead_somewhere() -> None:
    pages = [ROOT / name for name in tracked_files() if name.endswith(".md")]
    targets = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if "://" not in target and not target.startswith("data:")
    ]
    assert targets
    broken = [f"{page.name}: {target}" for page, target in targets if not (page.parent / target).exists()]
    assert broken == []
