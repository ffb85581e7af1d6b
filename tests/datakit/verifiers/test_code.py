"""label.verify of kind code: which part of a response is the program, and whether it passes the tests of its row."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from datakit.confined import program
from datakit.label import Verify
from datakit.verifiers.code import parts_of
from schemas import Column, Schema
from schemas.errors import ConfigError
from tests.datakit.verifiers.rows import verdicts

needs_sandbox = pytest.mark.skipif(bool(program._barred()), reason="this machine cannot confine a program")
PROMPT = 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """The sum of all."""\n'
TEST = "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n"
TASK = {"prompt": PROMPT, "entry_point": "total", "test": TEST}
GOLD = json.dumps(TASK)
WHOLE = "def total(numbers: List[int]) -> int:\n    return sum(numbers)\n"
BODY = "    return sum(numbers)\n"


@needs_sandbox
def test_programs_go_on_with_the_prompt_or_stand_in_a_fence() -> None:
    rows = [
        (BODY, GOLD),
        (f"{BODY}\n\ndef other():\n    retur\n", GOLD),
        (f"Here:\n```python\n{WHOLE}```\nIt adds them.", GOLD),
        (f"```\nprint(1)\n```\nthen\n```py\n{WHOLE}\n```", GOLD),
        (WHOLE, GOLD),
        ("    return 3\n", GOLD),
        ("", GOLD),
        (BODY, "no JSON"),
        (BODY, json.dumps({**TASK, "entry_point": "total; x"})),
        (BODY, None),
    ]
    right, read = zip(*verdicts("code", rows, seconds=5), strict=True)
    assert right == (1, 1, 1, 1, 1, 0, 0, -1, -1, -1)
    assert read[0] is None and read[5] == "AssertionError: " and read[6].startswith("AssertionError")


@needs_sandbox
def test_tests_without_an_entry_point_are_run_as_they_are() -> None:
    gold = json.dumps({"test": "assert add(1, 2) == 3\nassert add(0, 0) == 0"})
    answers = ["def add(a, b):\n    return a + b", "```python\ndef add(a, b): return 3\n```", "import sys; sys.exit(0)"]
    made = verdicts("code", [(answer, gold) for answer in answers], seconds=5)
    assert [right for right, _ in made] == [1, 0, 0] and made[2][1] == "SystemExit: 0"


def test_what_follows_the_function_is_cut_where_the_response_goes_on_with_the_prompt() -> None:
    continued = parts_of("    a = 1\n\n    # so\n# then\n    return a\nprint(total([]))\n", TASK)
    assert continued == [PROMPT + "    a = 1\n\n    # so\n# then\n    return a", TEST, "check(total)"]
    assert parts_of(f"import os\n{WHOLE}x = 1\n", TASK)[:2] == [PROMPT, f"import os\n{WHOLE}x = 1\n"]


def test_bounds_of_the_limits_are_settings() -> None:
    for settings in ({"seconds": 0.5}, {"memory": 1}, {"processes": 0}):
        with pytest.raises(ConfigError):
            Verify(kind="code", settings=settings)


def test_a_machine_that_cannot_confine_refuses_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Schema("answers", 1, tuple(Column(name, pa.string(), name) for name in ("response", "answer")))
    barred: Any = lambda: "[Errno 1] unshare: Operation not permitted"  # noqa: E731
    monkeypatch.setattr(program, "_barred", barred)
    with pytest.raises(ConfigError) as raised:
        Verify(kind="code").gives(rows)
    assert raised.value.slug == "no-sandbox"
    assert "correct" in Verify(kind="number").gives(rows), "other kinds need none"
