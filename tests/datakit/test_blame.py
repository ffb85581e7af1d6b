"""A user's function that raises is blamed with its own line, whatever of ours or of a library stands around it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.clients import PythonScorer
from datakit.label import Reward
from datakit.run.shapes import failed
from schemas import SAMPLES


@pytest.mark.parametrize(
    ("body", "line"), [("1 / 0", 3), ("__import__('json').loads('{')", 3), ("[None for _ in response][9]", 3)]
)
def test_the_line_of_the_function_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, line: int
) -> None:
    (tmp_path / "judge_of_mine.py").write_text(f"\ndef score(response):\n    return {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "judge_of_mine", raising=False)
    importlib.invalidate_caches()
    scorer = PythonScorer("judge_of_mine:score", SAMPLES.selecting("response"))
    with pytest.raises(Exception) as caught:  # noqa: PT011
        scorer.score(pa.table({"response": ["a"]}))
    error = failed(Reward(), caught.value, "row 0", "here")
    assert error.found.endswith(f"(line {line} of {tmp_path / 'judge_of_mine.py'})")
