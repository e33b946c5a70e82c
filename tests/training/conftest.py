"""Fixtures of the engine's tests."""

from __future__ import annotations

import pytest
from standin import make_cells

from celbo.data.cells import CellData


@pytest.fixture
def cells() -> CellData:
    """Return 150 cells of two kinds."""
    return make_cells()
