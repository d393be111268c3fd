"""Code blocks of the documents."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block and where it stands."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> list[Block]:
    text = document.read_text("utf-8")
    return [
        Block(document, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in _FENCE.finditer(text)
    ]


def commands(document: Path, program: str = "marketdata") -> list[str]:
    """Lines that call a program, in a block of any kind; without prompt and comment."""
    found: list[str] = []
    for block in blocks(document):
        for line in block.text.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*$", "", line.removeprefix("$ ").strip())
            if command.startswith(f"{program} "):
                found.append(command)
    return found
