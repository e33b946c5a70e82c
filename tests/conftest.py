"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real counts, or skip: the project never needs it."""
    named = os.environ.get("CELBO_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "INDEX.md").exists():
        pytest.skip("no folder of real counts: set CELBO_TEST_DATA")
    return folder
