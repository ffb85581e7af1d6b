"""A workspace in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datakit.catalog.workspaces import Maker


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    (tmp_path / "quiver-data").mkdir()
    return Maker(tmp_path / "quiver-data")
