"""The long tail: parameters that `make test` leaves out and `make test-slow` runs, beside kin that stay."""

from __future__ import annotations

from typing import Any

import pytest


def late(*values: Any, id: str | None = None) -> Any:
    """One set of parameters, for the tail alone: another of the same test shows the same fault sooner."""
    return pytest.param(*values, id=id, marks=pytest.mark.slow)
