"""online.version: the version of the policy that draws stands on every row."""

from __future__ import annotations

from typing import Any

from datakit.apply import apply
from datakit.online import StepVersion
from tests.datakit.fakes import Example, prompts
from tests.datakit.online.policies import own

EXAMPLES = [Example(StepVersion(), (prompts(4),), own())]


def test_every_row_names_the_weights_that_drew_it(put: Any, tmp_path: Any) -> None:
    made = apply(StepVersion(), put(prompts(4)), str(tmp_path / "made"), resources=own()).read()
    assert made["weight_version"].to_pylist() == [7] * 4
