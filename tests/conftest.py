"""What all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of captured exchange data; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("MARKETDATA_FIXTURES", ROOT.parent / "shared" / "data"))
    if not (folder / "MANIFEST.md").is_file():
        pytest.skip(f"captured exchange data is not at {folder}; set MARKETDATA_FIXTURES")
    return folder
