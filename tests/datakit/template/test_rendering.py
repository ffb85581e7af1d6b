"""The one value that says how conversations become text."""

from __future__ import annotations

from datakit.template import Rendering


def test_what_is_set_wins_over_what_is_set_elsewhere() -> None:
    asked = Rendering(options={"a": 1}, date="2025-01-01")
    usual = Rendering(template="chatml", options={"a": 2, "b": 3}, date="2024-01-01", stop=("END",))
    both = Rendering(template="chatml", options={"a": 1, "b": 3}, date="2025-01-01", stop=("END",))
    assert asked.over(usual) == both
    assert both.settings == {"template": "chatml", "options": {"a": 1, "b": 3}, "date": "2025-01-01"}
