"""What a command of `quiver` prints, asked in this process."""

from __future__ import annotations

import pytest

from quiver import console


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Its output; AssertionError where it does not end well."""
    assert console.run(words) == 0
    return capsys.readouterr().out
