"""Programs by the tests that they pass: HumanEval's rows and MBPP's. They run where the kernel confines them."""

from __future__ import annotations

from datakit.label import Verify
from pipelines.suites.answering import AnswerSuite

CODE = AnswerSuite(
    name="code",
    about="programs that are run against tests (HumanEval, Chen et al. 2021, arXiv:2107.03374; MBPP, arXiv:2108.07732)",
    formats=("code",),
    verify=(Verify(kind="code"),),
    figures={"correct": "programs that pass their tests (pass@1)"},
)
